"""What a run was told: its ``run.json``, command and configuration, as far as they can be read."""

import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as SafeLoader  # ten times as fast; PyYAML may have been built without it
except ImportError:
    from yaml import SafeLoader

from sb3_pgr.common.run_files import RUN_FILE

LONGEST = 50_000  # characters of a file that are shown


@dataclass
class Settings:
    """
    :param env_id: environment, if known
    :param seed: of the training, if known
    :param n_timesteps: that were wanted, if known
    :param wants_scores: whether its last act is to evaluate the last policy
    :param hyperparams: of the algorithm, empty if not known
    :param machine: ``cpu``, ``cores`` and ``gpu``, as far as noted
    :param versions: of packages, as far as noted
    :param texts: files as they are, by name
    :param problems: what could not be read, and why
    """

    env_id: str | None = None
    seed: int | None = None
    n_timesteps: int | None = None
    wants_scores: bool = False
    hyperparams: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_settings(run: Path) -> Settings:
    """From ``run.json``, and from RL Zoo's ``<env>/command.txt``, ``config.yml`` and ``args.yml``."""
    settings = Settings()
    _read_run_file(run, settings)
    inner = next(iter(sorted(path.parent for path in run.glob("*/config.yml"))), None)
    if inner is None:
        settings.problems.append("config.yml is missing: the configuration is not known in full")
        return settings
    arguments = _read_yaml(inner / "args.yml", settings)
    config = _read_yaml(inner / "config.yml", settings)
    for name in ("command.txt", "config.yml", "args.yml"):
        try:
            settings.texts[name] = shortened((inner / name).read_text(errors="replace"))
        except OSError as error:
            settings.problems.append(f"{name} cannot be read ({error.strerror})")
    settings.env_id = str(arguments["env"]) if "env" in arguments else None
    settings.hyperparams = settings.hyperparams or config
    if arguments.get("env_kwargs"):
        settings.hyperparams = settings.hyperparams | {"env_kwargs": arguments["env_kwargs"]}
    if settings.seed is None:
        settings.seed = _whole(arguments.get("seed"))
    wanted = [_whole(source.get("n_timesteps")) for source in (arguments, config, settings.hyperparams)]
    settings.n_timesteps = next((steps for steps in wanted if steps is not None and steps > 0), None)
    return settings


def shortened(text: str) -> str:
    """Not more than the page can show, and what was cut said."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n... ({len(text) - LONGEST:,} more characters)"


def read_json(path: Path) -> dict[str, Any]:
    """
    :raises ValueError: if it is not a JSON object
    :raises FileNotFoundError: if there is no such file
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is damaged ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is damaged (it holds a {type(content).__name__}, not an object)")
    return content


def _read_run_file(run: Path, settings: Settings) -> None:
    try:
        content = read_json(run / RUN_FILE)
    except FileNotFoundError:
        settings.problems.append(f"{RUN_FILE} is missing: seed, settings and machine are not known for certain")
        return
    except ValueError as error:
        settings.problems.append(f"{error}: seed, settings and machine are not known for certain")
        return
    settings.texts[RUN_FILE] = shortened(json.dumps(content, indent=1))
    settings.seed = _whole(content.get("seed"))
    argv = content["argv"] if isinstance(content.get("argv"), list) else []
    settings.wants_scores = _wants_scores(argv)
    settings.hyperparams, settings.machine, settings.versions = (
        content[name] if isinstance(content.get(name), dict) else {} for name in ("hyperparams", "machine", "versions")
    )


def _wants_scores(argv: list[Any]) -> bool:
    """Whether a run ends with scores: online if episodes are asked for."""
    parts = [part for whole in map(str, argv) for part in whole.split("=", 1)]
    if "--dataset" in parts:
        return True
    episodes = [after for name, after in pairwise(parts) if name == "--final-episodes"]
    return bool(episodes) and episodes[-1] != "0"


class _Loader(SafeLoader):
    """Reads what ``yaml.dump`` made of python objects without making any: an ordered dict is a dict, all else is text."""


def _ordered_dict(loader: _Loader, node: yaml.Node) -> dict[Any, Any]:
    assert isinstance(node, yaml.SequenceNode)
    pairs = loader.construct_sequence(node, deep=True)
    return {str(key): value for key, value in (pairs[0] if pairs else [])}


def _as_text(loader: _Loader, suffix: str, node: yaml.Node) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) and node.value else suffix


_PYTHON = "tag:yaml.org,2002:python/"
_Loader.add_constructor(f"{_PYTHON}object/apply:collections.OrderedDict", _ordered_dict)
_Loader.add_multi_constructor(_PYTHON, _as_text)


def _read_yaml(path: Path, settings: Settings) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(), _Loader)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AssertionError, TypeError, yaml.YAMLError) as error:
        settings.problems.append(f"{path.name} is damaged ({' '.join(str(error).split())})")
        return {}
    return content if isinstance(content, dict) else {}


def _whole(value: Any) -> int | None:
    """RL Zoo's files write ``!!float 1e6`` for a million."""
    return int(value) if type(value) is int or (type(value) is float and value.is_integer()) else None
