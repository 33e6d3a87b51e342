"""An import only ever points down (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALGORITHMS = ("redq", "td3_bc", "cql", "iql", "bcq", "bc", "hybrid_sac")
BELOW_ALGORITHMS = {"common", "buffers", "generative", "offline", "rewards"}
MAY_IMPORT: dict[str, set[str]] = {
    "common": set(),
    "buffers": {"common"},
    "offline": {"common", "buffers"},
    "generative": {"common", "buffers", "envs.simulator"},
    "rewards": {"common", "buffers", "offline"},
    **dict.fromkeys(ALGORITHMS, BELOW_ALGORITHMS),
    "pgrsac": {*BELOW_ALGORITHMS, "redq"},
    "report": {"common", "offline", "generative"},
    "zoo": {*BELOW_ALGORITHMS, *ALGORITHMS, "pgrsac", "report", "envs"},
    "envs": set(),
}


def imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, without ``sb3_pgr.``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("sb3_pgr.") for name in names if name.startswith("sb3_pgr.")}


def test_every_package_has_a_floor():
    packages = {path.parent.name for path in ROOT.glob("sb3_pgr/*/__init__.py")}
    assert packages - set(MAY_IMPORT) == set()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_down(package):
    folder = ROOT / "envs" if package == "envs" else ROOT / "sb3_pgr" / package
    allowed = MAY_IMPORT[package] | {package, "version"}
    for path in folder.rglob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            prefixes = {".".join(parts[:i]) for i in range(1, len(parts) + 1)}
            assert prefixes & allowed, f"{path.relative_to(ROOT)} imports sb3_pgr.{name}"
