"""Reading a command line that another program will parse."""

import importlib
import sys

from sb3_pgr.zoo.errors import UsageError


def option(argv: list[str], *flags: str) -> str | None:
    """
    The last value given to an option; an empty text if it stands at the end.

    :param argv: arguments
    :param flags: the option's names
    """
    value = None
    for i, argument in enumerate(argv):
        name, _, joined = argument.partition("=")
        if name in flags:
            value = joined or (argv[i + 1] if i + 1 < len(argv) else "")
    return value


def values(argv: list[str], *flags: str) -> list[str]:
    """All values after an option that takes several, up to the next option."""
    found: list[str] = []
    for i, argument in enumerate(argv):
        if argument in flags:
            for value in argv[i + 1 :]:
                if value.startswith("-"):
                    break
                found.append(value)
    return found


def with_packages(argv: list[str]) -> list[str]:
    """``--env module:id`` as ``--env id --gym-packages module``, which RL Zoo understands, and who reads a run later."""
    module, _, env_id = (option(argv, "--env") or "").rpartition(":")
    if not module:
        return argv
    packages, kept, skipping = [*values(argv, "--gym-packages"), module], list[str](), False
    for argument in argv:
        skipping = argument == "--gym-packages" or (skipping and not argument.startswith("-"))
        kept += [] if skipping else [argument]
    return [*kept, "--env", env_id, "--gym-packages", *dict.fromkeys(packages)]


def import_gym_packages(names: list[str]) -> None:
    """
    Import packages that register environments; the current folder is looked in too, as RL Zoo does.

    :raises UsageError: if there is no such package
    """
    sys.path.append("")
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UsageError(f"--gym-packages: there is no package '{error.name}'.") from None
