"""What commands for robot tasks share."""

import argparse
import ast
from typing import Any

import gymnasium as gym

from sb3_pgr.envs import resolve_env_id
from sb3_pgr.zoo.errors import UsageError


def add_env_kwargs(parser: argparse.ArgumentParser) -> None:
    """``--env-kwargs NAME:VALUE ...``, as ``train`` has it."""
    what = "of the environment: image_size:128"
    parser.add_argument("--env-kwargs", nargs="+", type=_pair, default=[], metavar="NAME:VALUE", help=what)


def _pair(text: str) -> tuple[str, Any]:
    name, colon, value = text.partition(":")
    if not (name.isidentifier() and colon):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME:VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def make_task(env_id: str, **kwargs: Any) -> gym.Env:
    """
    :raises UsageError: if there is nothing to draw with, a package is missing, or an argument is wrong
    """
    try:
        return gym.make(resolve_env_id(env_id), **kwargs)
    except (RuntimeError, ValueError, TypeError, ModuleNotFoundError) as error:
        raise UsageError(str(error)) from None
