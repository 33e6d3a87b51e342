"""
What README and pages show: their blocks, and a short form of every command, which runs in the time a test has.

Run as a program it reads command lines (JSON) from its input and runs them one after the other in one process, which saves
starting each.
"""

import json
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
ENVS = ("dmc/cheetah-run-v0", "dmc/quadruped-walk-v0", "HalfCheetah-v5", "Hopper-v5")
SHORT_ENV = "Pendulum-v1"

NET = "policy_kwargs:dict(net_arch=[8])"
GENERATOR = "generator:dict(denoiser_kwargs=dict(width=16, n_blocks=1), train_steps=30, dynamics_steps=30)"
# Steps, and settings that stand before those of the command itself.
TRAIN: dict[str, tuple[int, list[str]]] = {
    "redq": (200, ["learning_starts:100", "gradient_steps:1", "n_critics:2", NET]),
    "pgrsac": (
        320,
        [
            "learning_starts:100",
            "gradient_steps:1",
            "retrain_every:150",
            "num_samples:300",
            "replay_buffer_kwargs:dict(warmup=50, max_outside=1.0)",
            GENERATOR,
            NET,
        ],
    ),
    "hybrid_sac": (
        120,
        [  # an episode and a bit
            "learning_starts:10",
            "batch_size:16",
            NET,
        ],
    ),
    "sac": (200, ["learning_starts:100", NET]),
    "ddpg": (200, ["learning_starts:100", NET]),
}
OFFLINE: tuple[int, list[str]] = (40, ["compile:False", NET])
PAPER: tuple[int, list[str]] = (20, ["num_samples:300", NET])
GEMS: tuple[int, list[str]] = (640, ["learning_starts:64", "gradient_steps:1", "n_envs:8", "compile:False", NET])
VIDEO = {"--video-width": "64", "--video-height": "64", "--video-freq": "100"}
OPTIONS: dict[str, dict[str, str]] = {
    "collect": {"--episodes": "2", "--n-envs": "1"},
    "enjoy": {"-n": "20"},
    "record-video": {"--episodes": "1", "--width": "64", "--height": "64"},
    "upsample": {"--num-samples": "150", "--train-steps": "60", "--relevance-steps": "5"},
    "gems build": {"--preset": "tiny"},
    "gems collect": {"--users": "9"},
    "demos": {"--episodes": "2"},
    "classifier record": {"--episodes": "4"},
    "classifier train": {"--steps": "3"},
    **{f"benchmark {verb}": {} for verb in ("status", "stop", "resume")},
    "benchmark": {"--jobs": "1"},
}
FLAGS = {"gems build": "--no-compile"}


@dataclass(frozen=True)
class Block:
    """
    A fenced block of a page.

    :param page: file name
    :param line: where it begins
    :param language: as it says; nothing for commands
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Command lines without comments; a backslash joins two, and ``python -m sb3_pgr`` is ``sb3-pgr``."""
        lines = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in self.text.replace("\\\n", "").splitlines())
        return [re.sub(r"^python -m sb3_pgr[ .]", "sb3-pgr ", line) for line in lines if line]


def blocks(language: str | None = None) -> list[Block]:
    """Of all pages, or those in a language."""
    found = []
    for name, path in PAGES.items():
        text = path.read_text()
        for match in re.finditer(r"^```([^\n`]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            found.append(Block(name, text.count("\n", 0, match.start()) + 1, match[1], match[2]))
    return [block for block in found if language is None or block.language == language]


def spans(page: str) -> list[str]:
    """Code within the text of a page."""
    text = re.sub(r"^```.*?^```$", "", PAGES[page].read_text(), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def short_python(block: str) -> str:
    """A python block that learns for a moment."""
    block = re.sub(r"\b(learn|fit)\(\d+_\d+", r"\1(30", block)
    block = re.sub(r"buffer_size=\d+_\d+", "buffer_size=100", block)
    for env in ("HalfCheetah-v5", "dmc/cheetah-run-v0"):
        block = block.replace(f'"MlpPolicy", "{env}"', f'"MlpPolicy", "{SHORT_ENV}"')
        block = block.replace(f'    "{env}"', f'    "{SHORT_ENV}"')
    return block


def short_command(line: str) -> list[str]:
    """The arguments of ``sb3-pgr`` in a short form of a command line: the same verbs, options and files, and less to do."""
    for env in ENVS:
        line = line.replace(env, SHORT_ENV).replace(env.replace("/", "-"), SHORT_ENV)
    program, *argv = shlex.split(line)
    assert program == "sb3-pgr", line
    if argv[0] == "train":
        return _short_train(argv)
    verbs = next((key for key in OPTIONS if argv[: key.count(" ") + 1] == key.split()), argv[0])
    options = dict(OPTIONS.get(verbs, {}))
    if argv[0] == "dataset":
        argv = [re.sub(r":\d+$", ":300", argument) for argument in argv]  # rows of each source
    if "paper" in argv:
        options |= {"--num-samples": "20", "--train-steps": "2"}
    n_verbs = verbs.count(" ") + 1
    return _with_options(argv, options, n_verbs, [FLAGS[verbs]] if verbs in FLAGS else [])


def _short_train(argv: list[str]) -> list[str]:
    if "--resume" in argv:
        return [*argv, "-n", "400"]
    algo, offline = argv[argv.index("--algo") + 1], "--dataset" in argv
    gems = any("gems/" in argument for argument in argv)
    steps, params = OFFLINE if offline else GEMS if gems else PAPER if "pgrsac_paper.yml" in argv else TRAIN[algo]
    if "-optimize" in argv:
        argv, params = [*argv, "--no-optim-plots"], ["learning_starts:190"]
    if "-params" in argv:
        start = argv.index("-params")
        argv, params = argv[:start], params + [given for given in argv[start + 1 :] if given != "compile:True"]
    episodes = "8" if gems else "1"
    options = {"-n": str(steps), "--eval-freq": str(steps // 2), "--eval-episodes": episodes, "--num-threads": "1"}
    if offline:
        options |= {"--final-episodes": "2"}
    if algo == "hybrid_sac":
        options |= {"--log-interval": "1"}
    if "images" in " ".join(argv):
        options |= {"-n": "30", "--eval-freq": "-1"}
    if "--video-freq" in argv:
        options |= VIDEO
    if "-optimize" in argv:
        options |= {"--n-trials": "1", "--n-evaluations": "1"}
    return [*_with_options(argv, options, 1), "-params", *params]


def _with_options(argv: list[str], options: dict[str, str], n_verbs: int, flags: list[str] | None = None) -> list[str]:
    """With these values in place of those that are there; the verbs stay in front."""
    rest = argv[n_verbs:]
    for name, value in options.items():
        if name in rest:
            rest[rest.index(name) + 1] = value
        else:
            rest = [name, value, *rest]
    return [*argv[:n_verbs], *(flags or []), *rest]


def _said_otherwise(argv: list[str]) -> int | None:
    """What a command may exit with that has nothing wrong with it."""
    if argv[:2] == ["dataset", "check"]:
        return 1  # it found something
    if argv[0] == "upsample" and "paper" in argv:
        return 2  # two steps make no generator, so it writes no file; nightly.py runs it whole
    return None


def run_all(commands: list[list[str]]) -> None:
    """One after the other, in this process; exits where one fails."""
    from sb3_pgr.__main__ import main

    done: set[tuple[str, ...]] = set()
    for argv in commands:
        if tuple(argv) in done:
            continue
        done.add(tuple(argv))
        print(f"\n$ sb3-pgr {shlex.join(argv)}", flush=True)
        sys.argv = ["sb3-pgr", *argv]
        try:
            main()
        except SystemExit as stopped:
            if stopped.code and stopped.code != _said_otherwise(argv):
                print(f"FAILED ({stopped.code}): sb3-pgr {shlex.join(argv)}", flush=True)
                raise


if __name__ == "__main__":
    run_all(json.load(sys.stdin))
