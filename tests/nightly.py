"""
Runs the documented commands that are too long for the tests: they install, build, or measure for hours.

    python tests/nightly.py --list           # what there is
    python tests/nightly.py                  # everything, one after the other
    python tests/nightly.py --only "make"    # those whose command holds this text

Each runs in a copy of the tree (files that git knows or would add), so that results under ``benchmarks/results`` are written
there and nothing changes here. The copy gets an environment of its own by ``make setup``, whose programs come first in
``PATH``. Outputs go to ``<copy>/nightly/<number>.log``; the exit status is 1 if any command failed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Step:
    """
    A documented command.

    :param command: as README and pages have it
    :param first: what it needs, as shell commands; the pages say it in words
    :param run: what is run in its place, where the command has a part that the reader fills in
    :param short: whether the tests run it too, in a short form
    """

    command: str
    first: str = ""
    run: str = ""
    short: bool = False


def peer(name: str, packages: str) -> str:
    """Makes an environment for what we are compared with."""
    return f"python -m venv build/{name} && build/{name}/bin/pip install -q {packages}"


GEMS_BUILD = "sb3-pgr gems build --env gems/focused_topdown-v0"
GEMS_TRAIN = "sb3-pgr train --algo redq --env gems/focused_topdown_latent-v0 --seed"
DEMONSTRATIONS = "sb3-pgr demos robots/pick_cube-v0 --episodes 20 -o build/robots/pick_cube.npz"
CLASSIFIER = (
    "sb3-pgr classifier record robots/pick_cube_images-v0 --episodes 60 -o build/robots/frames && "
    "sb3-pgr classifier train --success-dir build/robots/frames/success --failure-dir build/robots/frames/failure "
    "--image-keys front wrist -o build/robots/classifier.pt"
)
ON_GPU = "python benchmarks/pgr_study/study.py levers_gpu --device cuda --jobs 14"
OTHER_VENV = "python -m venv build/other && . build/other/bin/activate"

# A small study for the commands that need one, the size of which is not what they are about.
SMALL_STUDY = "{tasks: {p: Pendulum-v1}, algorithms: {redq: {}}, seeds: [0, 1], n_timesteps: 300, final_episodes: 2}"
STUDY = f"echo '{SMALL_STUDY}' > study.yml"
STORAGE = "sb3-pgr benchmark study.yml -o out3 --engine ray --storage"
HEAD = '{ ray start --head --port 6379 --num-cpus 4 --num-gpus 1 --block & } && trap "kill $!" EXIT && sleep 30'

# The cheap ones first.
STEPS = (
    Step("make format lint type"),
    Step("make docs"),
    Step("make demo"),
    Step("make test"),
    Step('pip install -e ".[zoo]"', OTHER_VENV),
    Step("pip install -e '.[zoo,export]'", OTHER_VENV),
    Step('pip install -e ".[robots]"', OTHER_VENV),
    Step('pip install -e ".[zoo,robots]"', OTHER_VENV),
    Step('pip install -e ".[offline]"', OTHER_VENV),
    Step("pip install -e '.[zoo,ray]'", OTHER_VENV),
    Step("sb3-pgr benchmark study.yml -o out --engine ray", STUDY),
    Step(
        "sb3-pgr benchmark study.yml -o out2 --engine ray --address 127.0.0.1:6379 --cpus 2 --gpus 0.25", f"{STUDY} && {HEAD}"
    ),
    Step(f"{STORAGE} s3://bucket/study", STUDY, f'{STORAGE} "file://$PWD/build/storage"'),
    Step("python benchmarks/paper_preset.py"),
    Step("python benchmarks/generated_ends.py"),
    Step("python benchmarks/generated_rewards.py"),
    Step("python benchmarks/gems_world.py"),
    Step("python benchmarks/gems_speed.py", GEMS_BUILD),
    Step("python benchmarks/gems_confounding.py", GEMS_BUILD),
    Step("python benchmarks/report_speed.py"),
    Step("python benchmarks/buffer_speed.py"),
    Step("python benchmarks/ppo_drop_in.py"),
    Step("python benchmarks/robots/experts.py"),
    Step("python benchmarks/robots/memory.py"),
    Step("python benchmarks/robots/fooled.py build/robots/classifier.pt", CLASSIFIER),
    Step(
        "python benchmarks/update_speed.py",
        peer("sbx", "sbx-rl"),
        "python benchmarks/update_speed.py --sbx-python build/sbx/bin/python",
    ),
    Step(
        "python benchmarks/offline_speed.py --peer-python <python of an environment with d3rlpy>",
        peer("d3rlpy", "d3rlpy==2.8.1"),
        "python benchmarks/offline_speed.py --peer-python build/d3rlpy/bin/python",
    ),
    Step("python benchmarks/generator_quality.py"),
    Step("python benchmarks/offline_agents.py"),  # whose policies are here already: nothing to do
    Step("python benchmarks/offline_datasets.py"),
    Step(
        "python benchmarks/offline_quality.py --peer-python <python of an environment with d3rlpy>",
        peer("d3rlpy", "d3rlpy==2.8.1"),
        "python benchmarks/offline_quality.py --peer-python build/d3rlpy/bin/python",
    ),
    Step("python benchmarks/offline_synther.py"),
    Step("python benchmarks/learning.py"),
    Step("python benchmarks/cluster_failures.py"),
    Step("python benchmarks/scheduling_overhead.py"),
    Step(
        "python benchmarks/gems_agents.py logs/redq/gems-*",
        " && ".join([GEMS_BUILD, *(f"{GEMS_TRAIN} {seed}" for seed in range(3))]),
    ),
    Step("python benchmarks/gems/prepare.py models"),
    Step("sb3-pgr benchmark benchmarks/gems/online.yml -o build/gems_online"),
    Step("python benchmarks/gems/prepare.py datasets"),
    Step("sb3-pgr benchmark benchmarks/gems/offline.yml -o build/gems_offline"),
    Step("sb3-pgr benchmark benchmarks/gems/cql_bcq.yml -o build/gems_cql_bcq"),
    Step("sb3-pgr benchmark benchmarks/robots/pick_cube.yml -o build/robots/pick_cube", DEMONSTRATIONS, short=True),
    Step("python benchmarks/refit_speed.py"),
    Step("python benchmarks/pgr_study/study.py whole_run --jobs 1"),
    Step("python benchmarks/pgr_study/study.py learning"),
    Step("python benchmarks/pgr_study/study.py levers"),
    Step("python benchmarks/pgr_study/study.py levers --run dmc/cheetah-run-v0 generator_off 0"),
    Step("python benchmarks/pgr_study/study.py confirmation --run dmc/cheetah-run-v0 default 0"),
    Step("python benchmarks/pgr_study/fallen.py"),
    Step("python benchmarks/pgr_study/study.py unseen"),
    Step("python benchmarks/pgr_study/targets.py unseen"),
    Step("python benchmarks/pgr_study/asked_for.py"),
    Step(ON_GPU, run=f"! nvidia-smi -L || {ON_GPU}"),
    Step(
        "sb3-pgr upsample data.npz --num-samples 1000000 --relevance curiosity --generator paper --train-steps 100000",
        "sb3-pgr collect --env HalfCheetah-v5 --random --episodes 100 -o data.npz",
        short=True,
    ),
)


def copy_tree(target: Path) -> None:
    """The files that git knows, or would add."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def run(step: Step, tree: Path, log: Path) -> bool:
    """Whether it succeeded."""
    environment = {**os.environ, "PATH": f"{tree / '.venv/bin'}{os.pathsep}{os.environ['PATH']}", "VENV": ".venv"}
    environment |= {"RAY_TMPDIR": str(tree / "ray")}  # Ray would join a cluster that somebody else runs on this machine
    line = " && ".join(filter(None, [step.first, step.run or step.command]))
    started = time.monotonic()
    with open(log, "w") as output:
        done = subprocess.run(["bash", "-c", line], cwd=tree, stdout=output, stderr=subprocess.STDOUT, env=environment)
    minutes = (time.monotonic() - started) / 60
    print(f"{'ok' if done.returncode == 0 else 'FAILED':7} {minutes:7.1f} min  {step.command}  ({log})", flush=True)
    return done.returncode == 0


def parser() -> argparse.ArgumentParser:
    """Of this script."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--list", action="store_true", help="only print the commands")
    result.add_argument("--only", default="", metavar="TEXT", help="those that hold it")
    result.add_argument("--tree", type=Path, help="folder of the copy (default: a temporary one, which stays)")
    return result


def main() -> None:
    """Run what is asked for."""
    args = parser().parse_args()
    steps = [step for step in STEPS if args.only in step.command]
    if args.list:
        print("\n".join(step.command for step in steps))
        return
    tree = args.tree or Path(tempfile.mkdtemp(prefix="nightly-"))
    copy_tree(tree)
    logs = tree / "nightly"
    logs.mkdir(exist_ok=True)
    if not run(Step("make setup"), tree, logs / "setup.log"):
        sys.exit(1)
    succeeded = [run(step, tree, logs / f"{number:02}.log") for number, step in enumerate(steps, 1)]
    sys.exit(not all(succeeded))


if __name__ == "__main__":
    main()
