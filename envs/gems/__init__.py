"""GeMS: a world of users who browse slates of items, get bored, and drift (Deffayet et al. 2023)."""

from sb3_pgr.envs.gems.engine import GemsConfig, GemsEngine, Outcome
from sb3_pgr.envs.gems.items import Items, draw_items

__all__ = ["GemsConfig", "GemsEngine", "Items", "Outcome", "draw_items"]
