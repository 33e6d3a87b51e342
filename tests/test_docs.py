"""Everything in README and pages that looks runnable is run, shortened; what is too long for that is in ``nightly.py``."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import documented
import nightly
import pytest
import yaml
from documented import PAGES, ROOT, blocks, short_command, short_python, spans

PYTHON = blocks("python")
YAML = blocks("yaml")
COMMANDS = [block for block in blocks() if block.language in ("", "bash")]
SETTING = """
import gymnasium as gym
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from sb3_pgr import REDQ, GenerativeReplayBuffer, TensorReplayBuffer
"""
# What a block of its page builds upon.
GIVEN = {
    "env": 'env = make_vec_env("Pendulum-v1")\n',
    "model": 'model = SAC("MlpPolicy", "Pendulum-v1", learning_starts=10, replay_buffer_class=TensorReplayBuffer)\n',
    "demonstrations": 'demonstrations = SAC("MlpPolicy", "Pendulum-v1", learning_starts=100, '
    "replay_buffer_class=TensorReplayBuffer).learn(20).replay_buffer\n",
}
IMAGES = """
import numpy as np
class Images(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 255, (36, 36, 4), np.uint8), gym.spaces.Box(-1, 1, (1,))
    def reset(self, seed=None, options=None):
        return self.observation_space.sample(), {}
    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}
env = Images()
"""

NIGHTLY_ONLY = {step.command for step in nightly.STEPS if not step.short}
# Pages whose commands are run in one folder, in this order, each group after commands that they take for granted.
DATA = [
    "collect --env Pendulum-v1 --random --episodes 4 --n-envs 2 -o data.npz",
    "dataset convert data.npz a.npz",
    "dataset convert data.npz b.npz",
    "dataset convert data.npz build/offline_datasets/halfcheetah-medium-replay.npz",
]
GROUPS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "online": (DATA, ("README.md", "pgr.md", "redq.md", "running.md", "coming_from.md", "report.md")),
    "offline": (
        [*DATA, "train --algo sac --env Pendulum-v1 -n 200 --eval-freq -1 -params learning_starts:100"],
        ("bcq.md", "offline.md", "bc.md", "cql.md", "iql.md", "td3_bc.md", "datasets.md"),
    ),
    "worlds": ([], ("getting_started.md", "gems.md")),
    "robots": ([], ("robots.md", "hybrid_sac.md")),
    "studies": ([], ("studies.md",)),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset of three episodes on a file."""
    from stable_baselines3 import SAC

    from sb3_pgr.offline.readers import load_dataset, save_npz

    path = tmp_path_factory.mktemp("data") / "data.npz"
    agent = SAC("MlpPolicy", "Pendulum-v1", learning_starts=1_000, buffer_size=600)
    save_npz(load_dataset(agent.learn(450).replay_buffer), path)
    return path


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_runs(block, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(data, "data.npz")
    if "random.npz" in block.text:  # what the command above it makes
        from stable_baselines3.common.env_util import make_vec_env

        from sb3_pgr.offline.collection import collect
        from sb3_pgr.offline.readers import save_npz

        save_npz(collect(make_vec_env("HalfCheetah-v5"), episodes=2), "random.npz")
    given = "".join(code for name, code in GIVEN.items() if re.search(rf"\b{name}\b", block.text))
    exec(SETTING + given + (IMAGES if "CnnPolicy" in block.text else "") + short_python(block.text), {})


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_is_accepted(block, data, tmp_path, monkeypatch):
    """Specifications by the reader of ``benchmark``, where their files exist; settings by that of ``train``."""
    from rl_zoo3 import ALGOS

    from sb3_pgr.zoo import benchmark
    from sb3_pgr.zoo.errors import UsageError
    from sb3_pgr.zoo.hyperparams import check_hyperparams
    from sb3_pgr.zoo.registry import register

    register()
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(block.text)
    if "tasks" in content:
        for task in content["tasks"].values():
            if isinstance(task, dict) and "dataset" in task:
                Path(task["dataset"]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(data, task["dataset"])
        Path("spec.yml").write_text(block.text)
        monkeypatch.setattr(sys, "argv", ["sb3-pgr", "spec.yml", "-o", "out", "--report"])
        with pytest.raises(UsageError, match=r"None of the .* has finished"):  # it was understood
            benchmark.main()
        return
    algo = re.search(r"--algo (\w+)", block.text)
    assert algo and algo[1] in ALGOS, f"{block}: say in a comment what it is for, e.g. `sb3-pgr train --algo redq ...`"
    for settings in content.values():
        check_hyperparams(ALGOS[algo[1]], settings, (), str(block))


def shortened_spec(text: str) -> str:
    """One short run of a specification."""
    spec = yaml.safe_load(text)
    short = {"seeds": [0], "n_timesteps": 30, "eval_freq": 30, "eval_episodes": 1, "final_episodes": 1}
    for key in ("tasks", "algorithms"):
        short[key] = dict([next(iter(spec[key].items()))])
    return yaml.safe_dump(spec | short)


def commands_of(page: str) -> list[str]:
    """Those that the library's own program runs."""
    own = (line for block in COMMANDS if block.page == page for line in block.commands)
    return [line for line in own if line.startswith("sb3-pgr ") and line not in NIGHTLY_ONLY]


@pytest.mark.parametrize("group", GROUPS)
def test_commands_run(group, tmp_path):
    before, pages = GROUPS[group]
    for path in ROOT.glob("benchmarks/*/*.yml"):
        if "algorithms" in yaml.safe_load(path.read_text()):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(shortened_spec(path.read_text()))
    for name, page in (("spec.yml", "offline.md"), ("study.yml", "studies.md")):
        (tmp_path / name).write_text(shortened_spec(next(block.text for block in YAML if block.page == page)))
    argvs = [line.split() for line in before] + [short_command(line) for page in pages for line in commands_of(page)]
    folders = {"SB3_PGR_MODELS": str(tmp_path / "models"), "MINARI_DATASETS_PATH": str(tmp_path / "minari")}
    environment = {**os.environ, **folders, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, documented.__file__],
        input=json.dumps(argvs), cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-6_000:]}\n{done.stderr[-6_000:]}"


def test_no_command_is_left_out():
    grouped = [page for _, pages in GROUPS.values() for page in pages]
    assert len(set(grouped)) == len(grouped)
    own = {page for page in PAGES if commands_of(page)}
    assert own == set(grouped), "every page with commands of ours belongs to one group"
    known = {step.command for step in nightly.STEPS}
    for block in COMMANDS:
        for line in block.commands:
            if line.startswith("python tests/nightly.py"):
                nightly.parser().parse_args(shlex.split(line)[2:])
            else:
                assert line.startswith("sb3-pgr ") or line in known, f"{block}: {line!r} is run by no test, nor by nightly.py"
    for page in PAGES:
        for span in spans(page):
            if re.match(r"python benchmarks/|pip install .*(sb3_pgr|-e )", span):
                assert span in known, f"{page}: {span!r} is not run by nightly.py"


def test_no_block_is_left_out():
    for block in blocks():
        assert block.language in ("", "bash", "python", "yaml", "text", "{toctree}", "{eval-rst}"), (
            f"{block}: {block.language}"
        )
        programs = [line for line in block.commands if re.match(r"(sb3-pgr|python|make|pip) ", line)]
        assert block.language != "text" or not programs, f"{block}: commands are not text"
    for name, path in PAGES.items():
        fences = re.findall(r"^\s*(?:```|~~~)", path.read_text(), re.MULTILINE)
        assert len(fences) == 2 * len([block for block in blocks() if block.page == name]), (
            f"{name}: blocks start at the margin"
        )


def test_commands_in_the_text_exist():
    from sb3_pgr.__main__ import VERBS

    for page in PAGES:
        for span in spans(page):
            match = re.match(r"sb3-pgr ([a-z][a-z-]*)", span)
            assert match is None or match[1].replace("-", "_") in VERBS, f"{page}: {span}"


def test_nightly_commands_are_documented():
    shown = {line for block in COMMANDS for line in block.commands} | {span for page in PAGES for span in spans(page)}
    assert [step.command for step in nightly.STEPS if step.command not in shown] == []
    listed = subprocess.run([sys.executable, nightly.__file__, "--list"], capture_output=True, text=True, check=True).stdout
    assert listed.splitlines() == [step.command for step in nightly.STEPS]


def test_extras_and_targets_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for step in nightly.STEPS:
        program, _, rest = step.command.partition(" ")
        if program == "pip":
            assert set(re.findall(r"\[(\w+)\]", rest)) <= set(extras), step.command
        if program == "make":
            assert set(rest.split()) <= set(targets), step.command
        if program == "python":
            assert (ROOT / rest.split()[0]).is_file(), step.command


ALGORITHMS = ("pgr", "redq", "hybrid_sac", "td3_bc", "iql", "cql", "bcq", "bc")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm_pages_have_one_form(name):
    headings = re.findall(r"^## (.*)", PAGES[f"{name}.md"].read_text(), re.MULTILINE)
    form = ["Can I use?", "Example", "Results", "How to replicate", "Parameters", "What differs"]
    found = [heading for heading in headings if heading.startswith(tuple(form))]
    assert len(found) == len(form) and all(heading.startswith(start) for heading, start in zip(found, form, strict=True))


def test_links_lead_to_files():
    for name, path in PAGES.items():
        text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", text):
            assert (path.parent / target).exists(), f"{name}: {target}"


def test_public_names_are_in_the_reference():
    import sb3_pgr

    text = PAGES["api.md"].read_text()
    assert [name for name in sb3_pgr.__all__ if name != "__version__" and f" sb3_pgr.{name}\n" not in text] == []
