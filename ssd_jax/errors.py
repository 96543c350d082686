"""The one exception that means: what the user gave cannot be used; and the checks that raise it."""


class InputError(ValueError):
    """A config, file, shape or label cannot be used.

    The message is one line that names the value, what is allowed and what to do; the commands in `launch/` print it
    without a traceback and exit with status 2.
    """


def unknown_name(what: str, name: object, known) -> InputError:
    """The error for a `name` that is not among the `known` ones (any iterable of strings)."""
    return InputError(f"{what} is {name!r}, but must be one of: {', '.join(map(str, known))}")


def check_name(name: str, value: object, known, hint: str = "") -> None:
    """Raises InputError, with a `hint` at its end, unless `value`, called `name`, is among the `known` ones."""
    if value not in known:
        raise InputError(f"{unknown_name(name, value, known)}{hint}")


HOW_TO_REGISTER = "; one of your own must be registered by a module that is imported before: --import MODULE"


def check_range(name: str, value, *, low, high=None, open_low: bool = False) -> None:
    """Raises InputError unless low <= value (low < value if open_low), and value < high if there is one."""
    if not (value > low if open_low else value >= low) or (high is not None and not value < high):
        bounds = f"{'>' if open_low else '>='} {low}" + (f" and < {high}" if high is not None else "")
        raise InputError(f"{name} is {value}, but must be {bounds}")
