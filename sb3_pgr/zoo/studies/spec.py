"""The specification of a study: tasks x algorithms x parameter grids x seeds."""

import itertools
import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml

from sb3_pgr.envs import resolve_env_id
from sb3_pgr.hybrid_sac import HybridSAC
from sb3_pgr.offline.algorithm import OfflineAlgorithm
from sb3_pgr.offline.readers import env_id_of
from sb3_pgr.zoo.arguments import import_gym_packages
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.hyperparams import hyperparam_problems, keyword_problems
from sb3_pgr.zoo.registry import resolve_algorithm
from sb3_pgr.zoo.studies.run import FILES, Run

DEFAULTS = {
    "eval_freq": 10_000,
    "eval_episodes": 10,
    "final_episodes": 100,
    "checkpoint_freq": 10_000,
    "video_freq": 0,
}
OPTIONAL, PACKAGES = (
    ("save_freq", "n_eval_envs"),
    "gym_packages",
)  # no argument of a run unless given, so that studies begun before it go on
MAY_BE_ZERO = ("checkpoint_freq", "video_freq", "save_freq")
LONGEST_NAME = 200  # bytes; with endings, file systems take 255
VEC_ENV, VEC_ENVS = "vec_env", ("dummy", "subproc")
REQUIRED = ("tasks", "algorithms", "seeds", "n_timesteps")


class _UniqueKeys(yaml.SafeLoader):
    """Of two keys of one name, YAML's own loader drops the first without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"there are two '{key.value}'", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_spec(path: Path) -> dict[str, Any]:
    """
    :raises UsageError: listing everything that is wrong with it
    """
    try:
        spec = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        raise UsageError(f"There is no file {path}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from None
    problems = _problems(spec)
    if problems:
        raise UsageError("\n".join([f"{path}: {len(problems)} problem(s)", *(f"  - {problem}" for problem in problems)]))
    return spec


def runs_of(spec: dict[str, Any], threads: int = 1) -> list[Run]:
    """
    All runs of a specification, seed by seed, so that a cut leaves whole comparisons behind.

    :param spec: without problems
    :param threads: of each run
    """
    spec = DEFAULTS | spec
    common = ["-n", str(spec["n_timesteps"]), "--num-threads", str(threads), "--verbose", "0"]
    for name in (*DEFAULTS, *(name for name in OPTIONAL if spec.get(name))):
        common += [f"--{name.replace('_', '-')}", str(spec[name])]
    if spec.get(PACKAGES):
        common += ["--gym-packages", *spec[PACKAGES]]
    runs = []
    for seed in spec["seeds"]:
        for arm, settings in arms_of(spec["algorithms"]).items():
            settings = dict(settings)
            algo = settings.pop("algo")
            options = {name: settings.pop(name) for name in (*FILES, VEC_ENV) if name in settings}
            params = [f"{name}:{value!r}" for name, value in settings.items()]
            for task, where in spec["tasks"].items():
                arguments = ["--algo", algo, *_flags(_place(where) | options), *common]
                runs.append(Run(task, arm, seed, (*arguments, *(["-params", *params] if params else []))))
    return runs


def arms_of(algorithms: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by name of the arm, ``algo`` among them; each combination of a ``grid`` is an arm of its own."""
    arms = {}
    for arm, settings in algorithms.items():
        settings = {"algo": arm} | (settings or {})
        grid = settings.pop("grid", {})
        for values in itertools.product(*grid.values()):
            chosen = dict(zip(grid, values))
            name = "_".join([arm, *(f"{key}={value}" for key, value in chosen.items())])
            arms[name.replace("/", "-").replace(" ", "")] = settings | chosen
    return arms


def _problems(spec: Any) -> list[str]:
    if not isinstance(spec, dict):
        return ["it must be a mapping"]
    known = {*DEFAULTS, *OPTIONAL, PACKAGES, *REQUIRED}
    found = [f"unknown key '{key}'; there are {', '.join(sorted(known))}" for key in spec.keys() - known]
    found += [f"{key} is missing" for key in REQUIRED if spec.get(key) in (None, [], {}, "")]
    found += _package_problems(spec)
    seeds = [] if spec.get("seeds") is None else spec["seeds"]
    right = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not right or len(set(seeds)) < len(seeds):
        found.append(f"seeds must be a list of different whole numbers from 0 on, not {seeds!r}")
    for key in ("n_timesteps", *DEFAULTS, *OPTIONAL):
        least = 0 if key in MAY_BE_ZERO else 1
        if key in spec and (type(spec[key]) is not int or spec[key] < least):
            found.append(f"{key} must be a whole number of at least {least}, not {spec[key]!r}")
    tasks, algorithms = spec.get("tasks") or {}, spec.get("algorithms") or {}
    for name, value in (("tasks", tasks), ("algorithms", algorithms)):
        if not isinstance(value, dict):
            return [*found, f"{name} must be a mapping, not {value!r}"]
        if wrong := [key for key in value if not isinstance(key, str)]:  # YAML takes off, on, yes and no for truth values
            return [*found, *(f"{name}: {key!r} must be text; put it in quotes" for key in wrong)]
    offline: set[bool] = set()
    for arm, settings in algorithms.items():
        found += [f"algorithms: {arm}: {problem}" for problem in _arm_problems(arm, settings, offline)]
    for name, keys in (("tasks", tasks), ("algorithms", algorithms)):
        folders = [folder for key in keys for folder in _folders(name, key, keys[key])]
        found += [f"{name}: two names stand for the folder {folder}" for folder in set(folders) if folders.count(folder) > 1]
        long = [folder for folder in folders if len(folder.encode()) > LONGEST_NAME]
        found += [f"{name}: the name {folder} has more than {LONGEST_NAME} bytes" for folder in long]
    for task, where in tasks.items():
        found += [f"tasks: {task}: {problem}" for problem in _task_problems(where, offline)]
    return found


def _package_problems(spec: dict[str, Any]) -> list[str]:
    """Of those that register environments, which are imported here too."""
    names = spec.get(PACKAGES) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return [f"{PACKAGES} must be a list of names, not {names!r}"]
    try:
        import_gym_packages(names)
    except UsageError as error:
        return [str(error).replace("--gym-packages", PACKAGES)]
    return []


def _folders(kind: str, key: str, value: Any) -> list[str]:
    """That runs of a task, or of an algorithm with its grid, are written to."""
    if kind == "tasks" or not isinstance(value, dict | None):
        return [key.replace("/", "-")]
    grid = (value or {}).get("grid", {})
    return list(arms_of({key: value})) if _is_grid(grid) else []


def _is_grid(grid: Any) -> bool:
    return isinstance(grid, dict) and all(
        isinstance(key, str) and isinstance(values, list) and values for key, values in grid.items()
    )


def _arm_problems(arm: str, settings: Any, offline: set[bool]) -> list[str]:
    if settings is not None and not isinstance(settings, dict):
        return [f"must be a mapping of settings, not {settings!r}"]
    grid = (settings or {}).get("grid", {})
    texts = {name: (settings or {}).get(name, "") for name in ("algo", "policy")}
    if wrong := [f"{name} must be text, not {value!r}" for name, value in texts.items() if not isinstance(value, str)]:
        return wrong
    if not _is_grid(grid):
        return [f"grid must be a mapping of lists of values, not {grid!r}"]
    try:
        algorithm = resolve_algorithm((settings or {}).get("algo", arm))
    except UsageError as error:
        return [str(error)]
    if not issubclass(algorithm, HybridSAC):  # which learns with a dataset and without
        offline.add(issubclass(algorithm, OfflineAlgorithm))
    found: list[str] = []
    for chosen in arms_of({arm: settings}).values():
        chosen = {name: value for name, value in chosen.items() if name != "algo"}
        vec_env = chosen.pop(VEC_ENV, VEC_ENVS[0])
        problems = [text for _, text in hyperparam_problems(algorithm, chosen)]
        if "n_timesteps" in chosen:
            problems.append("n_timesteps is of the whole study, beside tasks and seeds")
        problems += [f"{name} must be finite numbers, not {value!r}" for name, value in chosen.items() if _not_finite(value)]
        policies = algorithm.policy_aliases
        policy = policies.get(chosen.get("policy", "MlpPolicy"))
        if "policy" in chosen and policy is None:
            problems.append(f"there is no policy {chosen['policy']!r}; there are {', '.join(policies)}")
        if policy is not None and isinstance(chosen.get("policy_kwargs"), dict):
            problems += keyword_problems(policy, chosen["policy_kwargs"], "policy_kwargs")
        if vec_env not in VEC_ENVS:
            problems.append(f"{VEC_ENV} must be {' or '.join(VEC_ENVS)}, not {vec_env!r}")
        read = [str(chosen[name]) for name in FILES if name in chosen]
        problems += [f"there is no file {path}" for path in read if not Path(path).exists()]
        found += [problem for problem in problems if problem not in found]
    return found


def _not_finite(value: Any) -> bool:
    """Whether there is a NaN or an infinity in it, which a command line cannot hand on."""
    if isinstance(value, dict | list):
        return any(_not_finite(part) for part in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and not math.isfinite(value)


def _task_problems(where: Any, offline: set[bool]) -> list[str]:
    where = _place(where)
    if not isinstance(where, dict) or not where or where.keys() - {"dataset", "env"}:
        return [f"must be an environment id, or a mapping of dataset and env, not {where!r}"]
    found = []
    if "env" in where:
        try:
            resolve_env_id(where["env"])
        except Exception as error:
            found.append(str(error))
    if "dataset" in where:
        found += _dataset_problems(str(where["dataset"]), "env" in where)
    if "dataset" in where and False in offline:
        found.append("it is a dataset, but not all algorithms learn from one")
    if "dataset" not in where and True in offline:
        found.append("it has no dataset, but some algorithms learn from one")
    return found


def _dataset_problems(name: str, has_env: bool) -> list[str]:
    if Path(name).exists():
        env_id = None if has_env else env_id_of(name)
        if env_id is not None and env_id not in gym.registry:
            return [f"{name} is from {env_id}, which is not registered here; {PACKAGES} lists what registers it"]
        return []
    if Path(name).suffix:
        return [f"there is no file {name}"]
    try:
        import minari
    except ModuleNotFoundError:
        return [f"{name} is no file; if it is a Minari dataset: pip install 'sb3_pgr[offline]'"]

    known = minari.list_local_datasets()
    return [] if name in known else [f"{name} is neither a file nor a Minari dataset on this machine"]


def _place(where: Any) -> Any:
    return {"env": where} if isinstance(where, str) else where


def _flags(options: dict[str, Any]) -> list[str]:
    return [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
