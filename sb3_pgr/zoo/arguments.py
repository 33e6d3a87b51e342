"""Reading a command line that another program will parse."""


def option(argv: list[str], *flags: str, after: int = 0) -> str | None:
    """
    The last value given to an option; an empty text if it stands at the end.

    :param argv: arguments
    :param flags: the option's names
    :param after: look from this position on
    """
    value = None
    for i, argument in enumerate(argv):
        name, _, joined = argument.partition("=")
        if name in flags and i >= after:
            value = joined or (argv[i + 1] if i + 1 < len(argv) else "")
    return value
