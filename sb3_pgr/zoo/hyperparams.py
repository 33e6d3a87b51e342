"""Checks hyper-parameters before anything is built: names, and types where they are plain."""

import difflib
import inspect
import types
import typing
from collections.abc import Iterable
from typing import Any

from rl_zoo3.utils import get_class_by_name

from sb3_pgr.zoo.errors import UsageError

# Keys that RL Zoo takes out before it calls the constructor.
ZOO_KEYS = frozenset(
    "n_timesteps n_envs policy env_wrapper vec_env_wrapper callback normalize frame_stack monitor_kwargs env_kwargs "
    "noise_type noise_std".split()
)
# RL Zoo gives these itself, or turns text into an object.
GIVEN = frozenset({"self", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"})
SCHEDULES = frozenset({"learning_rate", "actor_learning_rate", "clip_range", "clip_range_vf", "delta_std"})
EVALUATED = frozenset({"policy_kwargs", "replay_buffer_kwargs", "replay_buffer_class"})
PLAIN = (bool, int, float, str, type(None))
CLASSES = frozenset({"env_wrapper", "vec_env_wrapper", "callback"})  # names of classes, with arguments or without
COUNTS = frozenset({"n_timesteps", "n_envs", "train_freq"})


def check_hyperparams(algorithm: type, hyperparams: dict[str, Any], overrides: Iterable[str], source: str) -> None:
    """
    :param algorithm: the class whose constructor takes them
    :param hyperparams: names and values, as read from YAML and ``-params``
    :param overrides: the names that came from ``-params``
    :param source: the YAML file, named in messages
    :raises UsageError: naming each wrong hyper-parameter, where it stands, and what is accepted
    """
    overrides = set(overrides)
    problems = [
        f"{'-params' if name in overrides else source}: {problem}"
        for name, problem in hyperparam_problems(algorithm, hyperparams)
    ]
    if problems:
        raise UsageError("\n".join(problems))


def hyperparam_problems(algorithm: type, hyperparams: dict[str, Any]) -> list[tuple[str, str]]:
    """
    :return: names of those that are wrong, and why
    """
    parameters = inspect.signature(algorithm).parameters
    accepted = (set(parameters) - GIVEN) | ZOO_KEYS
    found = []
    for name, value in hyperparams.items():
        if name not in accepted:
            problem = f"{algorithm.__name__} has no hyper-parameter '{name}'." + _instead(name, accepted)
        elif name in SCHEDULES:
            problem = _schedule_problem(name, value)
        elif name in CLASSES:
            problem = _class_problem(name, value)
        elif name in COUNTS:
            problem = _count_problem(name, value)
        elif name not in EVALUATED | ZOO_KEYS:
            problem = _type_problem(name, value, parameters[name].annotation)
        else:
            continue
        found += [(name, problem)] if problem else []
    return found


def check_keywords(owner: type, keywords: dict[str, Any], name: str) -> None:
    """
    :param owner: the class whose constructor takes them
    :param keywords: names and values
    :param name: what the user calls this dictionary, e.g. ``policy_kwargs``
    :raises UsageError: on keywords that the constructor does not take
    """
    problems = keyword_problems(owner, keywords, name)
    if problems:
        raise UsageError("\n".join(problems))


def keyword_problems(owner: type, keywords: dict[str, Any], name: str) -> list[str]:
    """What ``check_keywords`` would say, one text a keyword."""
    accepted: set[str] = set()
    for base in owner.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
            accepted |= {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                break
    known = accepted - {"self", "args"}
    return [
        f"{name}: {owner.__name__} has no parameter '{keyword}'." + _instead(keyword, known)
        for keyword in keywords
        if keyword not in accepted
    ]


def _instead(name: str, accepted: set[str]) -> str:
    nearest = difflib.get_close_matches(name, accepted, n=1)
    return (f" Did you mean '{nearest[0]}'?" if nearest else "") + f" Accepted: {', '.join(sorted(accepted))}."


def _type_problem(name: str, value: Any, annotation: Any) -> str:
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    allowed = typing.get_args(annotation) if union else (annotation,)
    if not all(kind in PLAIN for kind in allowed):
        return ""  # classes, schedules and the like: the constructor decides
    if type(value) in allowed or (type(value) is int and float in allowed):
        return ""
    kinds = " or ".join("None" if kind is type(None) else kind.__name__ for kind in allowed)
    hint = _float_hint(value) if float in allowed else _whole_hint(value) if int in allowed else ""
    return f"{name} must be {kinds}, not {value!r} ({type(value).__name__}).{hint}"


def _schedule_problem(name: str, value: Any) -> str:
    if _is_number(value):
        return ""
    prefix, _, number = value.partition("_") if isinstance(value, str) else ("", "", "")
    try:
        if prefix != "lin":
            raise ValueError
        float(number)
    except ValueError:
        return f"{name} must be a number or 'lin_<number>', not {value!r}.{_float_hint(value)}"
    return ""


def _class_problem(name: str, value: Any) -> str:
    """Of one class or a list of them, each with a mapping of arguments or without."""
    for item in value if isinstance(value, list) else [value]:
        named = next(iter(item), "") if isinstance(item, dict) else item
        if isinstance(named, str):
            try:
                get_class_by_name(named)
            except (ImportError, AttributeError, ValueError):
                return f"{name}: there is no class {named}; name it with its module, as in gymnasium.wrappers.RescaleAction."
    return ""


def _count_problem(name: str, value: Any) -> str:
    number = value[0] if name == "train_freq" and isinstance(value, list | tuple) and value else value
    if not _is_number(number):
        return "" if name == "train_freq" else f"{name} must be a number, not {value!r}.{_float_hint(value)}"
    return "" if number >= 1 else f"{name} must be at least 1, not {value!r}."


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _whole_hint(value: Any) -> str:
    """Of 1e3 where only whole numbers are taken."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return ""
    return f" Write {int(number)}." if number.is_integer() else ""


def _float_hint(value: Any) -> str:
    """YAML 1.1 reads 3e-4 as text."""
    if isinstance(value, str):
        try:
            return f" YAML reads it as text; write {float(value)!r}, or 3.0e-4 for 3e-4."
        except ValueError:
            pass
    return ""
