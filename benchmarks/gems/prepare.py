"""
Makes what the specifications beside it read, as far as it is missing.

    python benchmarks/gems/prepare.py models                              # of six worlds, about 8 minutes each
    sb3-pgr benchmark benchmarks/gems/online.yml -o build/gems_online
    python benchmarks/gems/prepare.py datasets                            # of three worlds; the agents are those of seed 0
    sb3-pgr benchmark benchmarks/gems/offline.yml -o build/gems_offline

Models go where environments look for them (``$SB3_PGR_MODELS``, by default ``~/.cache/sb3_pgr``), datasets to
``build/gems_datasets``.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from sb3_pgr.envs.gems.model_files import BELIEF, models_folder

HERE = Path(__file__).parent
DATASETS, AGENTS = Path("build/gems_datasets"), Path("build/gems_online")
WORLDS = [(items, world) for items in ("focused", "diffuse") for world in ("topdown", "mix", "divpen")]
MIXTURES = {
    "logging": ["logging"],
    "privileged": ["logging", "--observations", "privileged", "--through-decoder"],
    "mixed": ["random", "logging", "medium", "expert"],
}


def models() -> list[list[str]]:
    """Commands that build them."""
    missing = [name for name in WORLDS if not (models_folder(*name) / BELIEF).is_file()]
    return [["gems", "build", "--env", f"gems/{items}_{world}-v0"] for items, world in missing]


def datasets(tasks: list[str]) -> list[list[str]]:
    """
    Commands that record them.

    :param tasks: names of datasets, ``<items>_<world>_<mixture>``
    """
    commands = []
    for task in tasks:
        world, _, mixture = task.rpartition("_")
        if (DATASETS / f"{task}.npz").is_file():
            continue
        command = ["gems", "collect", "--env", f"gems/{world}_latent-v0", "--behaviour", *MIXTURES[mixture]]
        if "expert" in MIXTURES[mixture]:
            run = AGENTS / world / "sac_gems" / "seed_0" / "redq" / f"gems-{world}_latent-v0_1"
            if not run.is_dir():
                sys.exit(f"There is no {run}; first: sb3-pgr benchmark {HERE / 'online.yml'} -o {AGENTS}")
            command += ["--run", str(run)]
        commands.append([*command, "-o", str(DATASETS / f"{task}.npz")])
    return commands


def main() -> None:
    import yaml

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["models", "datasets"])
    what = parser.parse_args().what
    tasks = list(yaml.safe_load((HERE / "offline.yml").read_text())["tasks"])
    for command in models() if what == "models" else datasets(tasks):
        print(f"sb3-pgr {' '.join(command)}", flush=True)
        status = subprocess.run([sys.executable, "-m", "sb3_pgr", *command], check=False).returncode
        if status:
            sys.exit(status)


if __name__ == "__main__":
    main()
