"""Small models of a small GeMS catalogue, built once for all tests."""

from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

from sb3_pgr.envs.gems.build import Preset, build_models
from sb3_pgr.envs.gems.world import make_engine

TINY = Preset(users=60, epochs=2, belief_users=120, belief_epochs=2)


@lru_cache
def tiny_models() -> tuple[Path, dict]:
    """Folder of the models of focused items, and what building them returned."""
    folder = Path(mkdtemp(prefix="gems-"))
    return folder, build_models(make_engine("focused", "topdown"), folder, TINY, compile=False)
