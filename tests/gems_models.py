"""Small models of a small GeMS catalogue, built once for all tests."""

from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

from sb3_pgr.envs.gems.build import PRESETS, build_models
from sb3_pgr.envs.gems.world import make_engine


@lru_cache
def tiny_models() -> tuple[Path, dict]:
    """Folder of the models of focused items, and what building them returned."""
    folder = Path(mkdtemp(prefix="gems-"))
    return folder, build_models(make_engine("focused", "topdown"), folder, PRESETS["tiny"], compile=False)
