"""Checks hyper-parameters before anything is built: names, and types where they are plain."""

import difflib
import inspect
import types
import typing
from collections.abc import Iterable
from typing import Any

from sb3_pgr.zoo.errors import UsageError

# Keys that RL Zoo takes out before it calls the constructor.
ZOO_KEYS = frozenset(
    "n_timesteps n_envs policy env_wrapper vec_env_wrapper callback normalize frame_stack monitor_kwargs env_kwargs "
    "noise_type noise_std".split()
)
# RL Zoo gives these itself, or turns text into an object.
GIVEN = frozenset({"self", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"})
SCHEDULES = frozenset({"learning_rate", "clip_range", "clip_range_vf", "delta_std"})
EVALUATED = frozenset({"policy_kwargs", "replay_buffer_kwargs", "replay_buffer_class", "train_freq"})
PLAIN = (bool, int, float, str, type(None))


def check_hyperparams(algorithm: type, hyperparams: dict[str, Any], overrides: Iterable[str], source: str) -> None:
    """
    :param algorithm: the class whose constructor takes them
    :param hyperparams: names and values, as read from YAML and ``-params``
    :param overrides: the names that came from ``-params``
    :param source: the YAML file, named in messages
    :raises UsageError: naming the hyper-parameter, where it stands, and what is accepted
    """
    overrides = set(overrides)
    parameters = inspect.signature(algorithm).parameters
    accepted = (set(parameters) - GIVEN) | ZOO_KEYS
    for name, value in hyperparams.items():
        where = "-params" if name in overrides else source
        if name not in accepted:
            nearest = difflib.get_close_matches(name, accepted, n=1)
            hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
            names = ", ".join(sorted(accepted))
            raise UsageError(f"{where}: {algorithm.__name__} has no hyper-parameter '{name}'.{hint} Accepted: {names}.")
        if name in SCHEDULES:
            _check_schedule(name, value, where)
        elif name not in EVALUATED | ZOO_KEYS:
            _check_type(name, value, parameters[name].annotation, where)
    for name in ("n_timesteps", "n_envs"):
        if name in hyperparams and not _is_number(hyperparams[name]):
            raise UsageError(f"{source}: {name} must be a number, not {hyperparams[name]!r}.{_float_hint(hyperparams[name])}")


def check_keywords(owner: type, keywords: dict[str, Any], name: str) -> None:
    """
    :param owner: the class whose constructor takes them
    :param keywords: names and values
    :param name: what the user calls this dictionary, e.g. ``policy_kwargs``
    :raises UsageError: on a keyword that the constructor does not take
    """
    accepted: set[str] = set()
    for base in owner.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
            accepted |= {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                break
    for keyword in keywords:
        if keyword not in accepted:
            nearest = difflib.get_close_matches(keyword, accepted, n=1)
            hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
            names = ", ".join(sorted(accepted - {"self", "args"}))
            raise UsageError(f"{name}: {owner.__name__} has no parameter '{keyword}'.{hint} Accepted: {names}.")


def _check_type(name: str, value: Any, annotation: Any, where: str) -> None:
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    allowed = typing.get_args(annotation) if union else (annotation,)
    if not all(kind in PLAIN for kind in allowed):
        return  # classes, schedules and the like: the constructor decides
    if type(value) in allowed or (type(value) is int and float in allowed):
        return
    kinds = " or ".join("None" if kind is type(None) else kind.__name__ for kind in allowed)
    raise UsageError(f"{where}: {name} must be {kinds}, not {value!r} ({type(value).__name__}).{_float_hint(value)}")


def _check_schedule(name: str, value: Any, where: str) -> None:
    if _is_number(value):
        return
    prefix, _, number = value.partition("_") if isinstance(value, str) else ("", "", "")
    try:
        if prefix != "lin":
            raise ValueError
        float(number)
    except ValueError:
        message = f"{where}: {name} must be a number or 'lin_<number>', not {value!r}."
        raise UsageError(message + _float_hint(value)) from None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _float_hint(value: Any) -> str:
    """YAML 1.1 reads 3e-4 as text."""
    if isinstance(value, str):
        try:
            return f" YAML reads it as text; write {float(value)!r}, or 3.0e-4 for 3e-4."
        except ValueError:
            pass
    return ""
