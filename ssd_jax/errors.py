"""The one exception that means: what the user gave cannot be used; and the checks that raise it."""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import types
import typing
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

MAX_TEXT = 4096  # characters of a name, or of a path on Linux
MAX_BITS = 128  # of a whole number
MAX_ENTRIES = 1024  # of a tuple in a config
SEED_LIMIT = INDEX_LIMIT = 2**32  # seeds and indices of images are 32 bits in JAX's keys; larger ones would wrap


class InputError(ValueError):
    """A config, file, shape or label cannot be used.

    The message is one line that names the value, what is allowed and what to do; the commands in `launch/` print it
    without a traceback and exit with status 2.
    """


def brief(value: object) -> str:
    """A value as messages show it: its repr on one line, shortened."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # ints of thousands of digits, and whatever users' classes do
        text = f"a {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:60]} ... {text[-20:]}"


def unknown_name(what: str, name: object, known: Iterable[object]) -> InputError:
    """The error for a `name` that is not among the `known` ones (any iterable of strings)."""
    names = [str(each) for each in known]
    near = difflib.get_close_matches(name if isinstance(name, str) else brief(name), names, 1)
    suggested = f" (did you mean {near[0]}?)" if near else ""
    return InputError(f"{what} is {brief(name)}, but must be one of: {', '.join(names)}{suggested}")


def check_name(name: str, value: object, known, hint: str = "") -> None:
    """Raises InputError, with a `hint` at its end, unless `value`, called `name`, is among the `known` ones."""
    if value not in known:
        raise InputError(f"{unknown_name(name, value, known)}{hint}")


# Of values that are made by another function, by their type.
HOW_TO_MAKE = {
    "Config": "; ssd_jax.config.from_config_dict(...) makes one of a ConfigDict or a dict",
    "Plan": "; ssd_jax.plan_steps(process, ...) makes one",
    "ScaleSpaceProcess": "; ssd_jax.make_process(config.process) makes one",
    "NoiseSource": "; ssd_jax.sampling.noise.seeded(key, indices) makes one",
}
HOW_TO_REGISTER = "; one of your own must be registered by a module that is imported before: --import MODULE"


def check_range(name: str, value, *, low, high=None, open_low: bool = False) -> None:
    """Raises InputError unless low <= value (low < value if open_low), and value < high if there is one.

    What is no finite real number is refused, and so is a float that is out of range as the float32 that devices get.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(f"{name} is {brief(value)}, but must be a number")
    whole = isinstance(value, numbers.Integral)
    with np.errstate(over="ignore", under="ignore"):
        rounded = value if whole else np.float32(float(value))
    for each in (value, rounded):
        if not (
            (whole or math.isfinite(each)) and (each > low if open_low else each >= low) and (high is None or each < high)
        ):
            bounds = f"{'>' if open_low else '>='} {low}" + (f" and < {high}" if high is not None else " and finite")
            as_float32 = "" if each is value else f" ({each} in float32)"
            raise InputError(f"{name} is {brief(value)}{as_float32}, but must be {bounds}")


def check_seed(name: str, value) -> None:
    """Raises InputError unless a seed has 32 bits."""
    check_range(name, value, low=0, high=SEED_LIMIT)


def as_type(name: str, value: object, kind: Any) -> Any:
    """`value`, called `name`, as the annotation `kind`; only lossless conversions are made.

    Those are int to float, list to tuple, NumPy's scalars to Python's, and a key of JAX's older kind to the newer.

    Raises:
        InputError: for a value of another type; text of more than a line.
    """
    try:
        return _converted(value, kind)
    except TypeError as error:
        raise InputError(f"{name} is {brief(value)}, but must be {error}") from None


def _converted(value: Any, kind: Any) -> Any:
    """Raises TypeError, saying what the value must be, if it is not."""
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    kinds = of if origin in (typing.Union, types.UnionType) else (kind,)
    how = next((HOW_TO_MAKE[each.__name__] for each in kinds if getattr(each, "__name__", "") in HOW_TO_MAKE), "")
    wrong = TypeError(f"of type {type_name(kind)}{how}")
    if origin in (typing.Union, types.UnionType):
        if isinstance(value, str) and not value and Path in of:  # which Path takes for the current folder
            raise TypeError("a path; '.' is the current folder")
        for each in of:
            try:
                return _converted(value, each)
            except TypeError as error:
                wrong = error if isinstance(value, str) and each is str else wrong
        raise wrong
    if dtypes := getattr(kind, "dtypes", None):  # of jaxtyping
        return _key(value) if dtypes == ("prng_key",) else _array(value, dtypes, wrong)
    if kind is str and isinstance(value, str):
        if len(value) > MAX_TEXT or any(unicodedata.category(each) in ("Cc", "Zl", "Zp") for each in value):
            raise TypeError(f"one line of at most {MAX_TEXT} characters, without control characters")
        return str(value)
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral if kind is int else numbers.Real):
            raise wrong
        if isinstance(value, numbers.Integral) and int(value).bit_length() > MAX_BITS:
            raise TypeError(f"a number of at most {MAX_BITS} bits")
        convert: Any = kind
        return convert(value)
    if kind is bool and isinstance(value, np.bool_):
        return bool(value)
    if origin is tuple and isinstance(value, (list, tuple)):
        each = (of[0],) * len(value) if ... in of else of
        if len(value) != len(each):
            raise wrong
        if len(value) > MAX_ENTRIES:
            raise TypeError(f"of at most {MAX_ENTRIES} entries")
        try:
            return tuple(map(_converted, value, each))
        except TypeError:
            raise wrong from None
    if origin is Sequence and isinstance(value, (list, tuple, range)):
        items = [_converted(item, of[0]) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    allowed = {None: type(None), np.ndarray: (np.ndarray, jax.Array)}.get(kind, origin or kind)
    if isinstance(allowed, (type, tuple)) and not isinstance(value, allowed):
        raise wrong
    if origin is Sequence and isinstance(value, str):
        raise wrong
    return value


def _array(value: Any, dtypes: Any, wrong: TypeError) -> Any:
    if isinstance(value, (list, tuple)):
        with contextlib.suppress(ValueError):  # rows of different lengths
            value = np.asarray(value)
    if not isinstance(value, (np.ndarray, jax.Array)) or (isinstance(dtypes, tuple) and str(value.dtype) not in dtypes):
        raise wrong
    return value


def _key(value: Any) -> jax.Array:
    if isinstance(value, (np.ndarray, jax.Array)) and value.dtype == np.uint32 and value.ndim == 1:
        with contextlib.suppress(TypeError, ValueError):
            value = jax.random.wrap_key_data(jnp.asarray(value))
    if not (isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.shape == ()):
        raise TypeError("one key, such as jax.random.key(0)")
    return value


def type_name(kind: Any) -> str:
    """An annotation as messages show it."""
    if of := typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else ():
        return " or ".join(dict.fromkeys(map(type_name, of)))
    if kind in (None, type(None)):
        return "None"
    if isinstance(kind, type) and getattr(kind, "dtypes", None):
        return f"{kind.__name__.partition('[')[0]} array"
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


def field_types(cls: Any) -> dict[str, Any]:
    """The types of all arguments of a dataclass, by name."""
    kinds, (_, *names) = typing.get_type_hints(cls), inspect.signature(cls.__init__).parameters
    return {name: kinds[name].type if isinstance(kinds[name], dataclasses.InitVar) else kinds[name] for name in names}


def checked_fields(section: str, cls: Any, values: dict) -> dict[str, Any]:
    """The arguments of the dataclass of a `section`, by name, each of its type.

    Raises:
        InputError: for unknown names, wrong types and numbers that are not finite.
    """
    kinds, checked = field_types(cls), {}
    for name, value in values.items():
        if name not in kinds:
            raise unknown_name(f"config field of {section}", name, kinds)
        value = checked[name] = as_type(f"{section}.{name}", value, kinds[name])
        if not all(math.isfinite(each) for each in (value if isinstance(value, tuple) else [value]) if type(each) is float):
            raise InputError(f"{section}.{name} is {brief(value)}, but must be finite")
    return checked


def _required(cls: Any) -> list[str]:
    """The fields of a dataclass that have no default."""
    none = dataclasses.MISSING
    return [each.name for each in dataclasses.fields(cls) if each.default is none and each.default_factory is none]


def section(name: str) -> Callable[[type[T]], type[T]]:
    """Decorates a dataclass, e.g. the `name` section of a config: its arguments are `checked_fields`, from Python too."""

    def decorate(cls: type[T]) -> type[T]:
        init = cls.__init__

        @functools.wraps(init)
        def checked(self, *args, **kwargs):
            fields = list(field_types(cls))
            if len(args) > len(fields) or any(field in kwargs for field in fields[: len(args)]):
                raise InputError(f"{cls.__name__} takes each of its fields once: {', '.join(fields)}")
            given = checked_fields(name, cls, dict(zip(fields, args, strict=False)) | kwargs)
            if missing := [field for field in _required(cls) if field not in given]:
                raise InputError(f"{cls.__name__} lacks {', '.join(missing)}; its fields are {', '.join(fields)}")
            init(self, **given)

        setattr(cls, "__init__", checked)  # noqa: B010
        return cls

    return decorate


def checked_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a public function: arguments that are unknown, missing or of another type become InputErrors."""
    signature = inspect.signature(function)
    kinds = {name: parameter.annotation for name, parameter in signature.parameters.items()}

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            names = [name for name in kinds if name != "self"]
            for name in kwargs:
                if name not in names:
                    raise unknown_name(f"argument of {function.__name__}", name, names) from None
            raise InputError(f"{function.__name__}: {error}; its arguments are {', '.join(names)}") from None
        for name, value in bound.arguments.items():
            if kinds[name] is not inspect.Parameter.empty:
                bound.arguments[name] = as_type(name, value, kinds[name])
        return function(*bound.args, **bound.kwargs)

    return checked


def one_line(message: object, length: int = 200) -> str:
    """What a library or a file says, fit for a line of an error: printable, its white space single, cut to `length`."""
    text = " ".join(str(message).split())
    return "".join(each if each.isprintable() else "?" for each in text[: 4 * length])[:length]


def few(names: Iterable[object], limit: int = 8) -> str:
    """Names for a message, in a line whatever they hold: at most `limit` of them, and how many more there are."""
    told = [name if name.isprintable() else ascii(name) for name in map(str, names)]
    more = len(told) - limit
    return ", ".join(told[:limit]) + (f" and {more} more" if more > 0 else "")
