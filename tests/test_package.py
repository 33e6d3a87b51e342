"""What is built is what stands in the tree."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built through an sdist, from the files git knows, as a release would be."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(out), str(source)], check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_wheel_holds_every_module_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    expected = {name for name in tracked if re.fullmatch(r"sb3_pgr/.*\.(py|jinja|js|css)|sb3_pgr/py\.typed", name)}
    for folder in ("envs", "zoo_configs"):
        expected |= {f"sb3_pgr/{name}" for name in tracked if re.fullmatch(rf"{folder}/.*\.(py|yml|xml)", name)}
    assert packed == expected


def test_wheel_works_alone(wheel, tmp_path):
    """Unpacked elsewhere, with the tree out of sight."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import sb3_pgr, sb3_pgr.envs, gymnasium; from importlib import resources; "
        "assert (resources.files('sb3_pgr.zoo_configs') / 'redq.yml').is_file(); "
        "gymnasium.make('dmc/cheetah-run-v0').reset(); sb3_pgr.REDQ; print(sb3_pgr.__file__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(tmp_path / "sb3_pgr" / "__init__.py")


def test_version_is_in_the_changelog():
    from sb3_pgr import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
