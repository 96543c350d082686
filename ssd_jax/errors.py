"""The one exception that means: what the user gave cannot be used."""


class InputError(ValueError):
    """A config, file, shape or label cannot be used.

    The message is one line that names the value, what is allowed and what to do; the commands in `launch/` print it
    without a traceback and exit with status 2.
    """


def unknown_name(what: str, name: object, known) -> InputError:
    """The error for a `name` that is not among the `known` ones (any iterable of strings)."""
    return InputError(f"{what} is {name!r}, but must be one of: {', '.join(known)}")
