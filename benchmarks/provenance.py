"""What a result file says about where it comes from."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PEERS = ("sbx-rl", "jax", "torchrl", "cpprb", "ray")


def provenance(seeds: Sequence[int] = ()) -> dict[str, Any]:
    """Command, seeds, machine and versions."""
    from sb3_pgr.common.provenance import PACKAGES, machine, versions

    return {
        "command": " ".join(["python", _script(), *map(_anywhere, sys.argv[1:])]),
        "seeds": list(seeds),
        "machine": machine(),
        "versions": versions((*PACKAGES, *PEERS)),
    }


def _script() -> str:
    here = Path(__file__).parent.resolve()
    script = Path(sys.argv[0]).resolve()
    return str("benchmarks" / script.relative_to(here)) if script.is_relative_to(here) else script.name


def _anywhere(argument: str) -> str:
    """An absolute path without its folders, which mean nothing on another machine."""
    return Path(argument).name if Path(argument).is_absolute() else argument
