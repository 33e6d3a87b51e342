"""The six published worlds by name."""

from functools import lru_cache
from typing import Any

from sb3_pgr.envs.gems.engine import GemsConfig, GemsEngine
from sb3_pgr.envs.gems.items import Items, draw_items

ITEM_SEEDS = {"focused": 0, "diffuse": 1}
WORLDS: dict[str, dict[str, Any]] = {
    "topdown": {},
    "mix": {"click_model": "mixed"},
    "divpen": {"click_model": "mixed", "diversity_penalty": 3.0},
}


def make_engine(items: str | Items, world: str, **changes: Any) -> GemsEngine:
    """
    :param items: ``"focused"``, ``"diffuse"``, or a catalogue
    :param world: ``"topdown"``, ``"mix"`` or ``"divpen"``
    :param changes: numbers of ``GemsConfig`` that are to differ
    :raises ValueError: if a name is not known
    """
    if world not in WORLDS:
        raise ValueError(f"world={world!r} must be one of {', '.join(WORLDS)}.")
    if isinstance(items, str) and items not in ITEM_SEEDS:
        raise ValueError(f"items={items!r} must be one of {', '.join(ITEM_SEEDS)}, or Items.")
    return GemsEngine(_catalogue(items) if isinstance(items, str) else items, GemsConfig(**WORLDS[world] | changes))


@lru_cache
def _catalogue(kind: str) -> Items:
    return draw_items(seed=ITEM_SEEDS[kind])
