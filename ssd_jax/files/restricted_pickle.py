"""A pickle machine that makes containers, numbers and strings, and nothing else that it was not given.

It knows what a pickle of containers needs, keeps to a number of operations, and hashes only what is hashed at once: the one
of the standard library can be made to take any memory or time by a file of a few bytes.
"""

import io
import pickletools
from collections.abc import Callable
from typing import Any

OPERATIONS = 500_000  # of a pickle; each takes at most some hundred bytes of memory
ARGUMENTS = 8  # of a call that anything looks at: copying many of them takes time
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT")
STRINGS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
BYTES_OF_PYTHON_2 = ("BINSTRING", "SHORT_BINSTRING")


def unpickle(file: io.BytesIO, named: Callable[[str], Any], persistent: Callable[[Any], Any]) -> Any:
    """What the pickle that begins where `file` stands holds; afterwards `file` stands behind it.

    Args:
        file: holds the pickle.
        named: gives what stands for a "module.name", which the pickle may call or use as a value.
        persistent: gives what stands for a persistent id.

    Raises:
        ValueError, IndexError, KeyError, TypeError: if it is damaged, or does what this machine does not.
    """
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks under each mark
    memo: dict[int, Any] = {}
    for count, (operation, of_operation, _) in enumerate(pickletools.genops(file)):
        argument: Any = of_operation
        if count == OPERATIONS:
            raise ValueError(f"it takes more than {OPERATIONS} operations")
        name: str = operation.name
        match name:
            case "PROTO" | "FRAME":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(CONSTANTS[name])
            case _ if name in NUMBERS:
                stack.append(_number(argument))
            case _ if name in STRINGS:
                stack.append(argument)
            case _ if name in BYTES_OF_PYTHON_2:
                stack.append(argument.encode("latin-1").decode())
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                start = len(stack) - int(name[-1])
                stack[start:] = [tuple(stack[start:])]
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE" | "APPENDS" | "SETITEMS":
                items, stack = stack, below.pop()
                if name == "TUPLE":
                    stack.append(tuple(items))
                elif name == "APPENDS":
                    _list(stack[-1]).extend(items)
                else:
                    for i in range(0, len(items), 2):
                        set_item(stack[-1], items[i], items[i + 1])
            case "APPEND":
                item = stack.pop()
                _list(stack[-1]).append(item)
            case "SETITEM":
                key, item = stack[-2:]
                del stack[-2:]
                set_item(stack[-1], key, item)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(named(".".join(argument.split(" "))))
            case "STACK_GLOBAL":
                stack[-2:] = [named(".".join(stack[-2:]))]
            case "BINPERSID":
                stack.append(persistent(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack[-1] = stack[-1](*arguments[:ARGUMENTS])
            case "BUILD":  # attributes, of dicts: they say nothing of tensors
                stack.pop()
            case "STOP":
                return stack.pop()
            case _:
                raise ValueError(f"it uses {name}, which containers of tensors do not need")
    raise ValueError("it has no end")


def set_item(of: Any, key: Any, value: Any) -> None:
    """of[key] = value. Raises TypeError unless `of` is a dict, and the key a string, number or None."""
    if not isinstance(of, dict) or not isinstance(key, str | int | float | None):
        raise TypeError(f"a {type(of).__name__} has a {type(key).__name__} for a key")
    of[key] = value


def _list(value: Any) -> list:
    if not isinstance(value, list):
        raise TypeError(f"a {type(value).__name__} is used as a list")
    return value


def _number(value: Any) -> int | float:
    if isinstance(value, int) and value.bit_length() > 64:
        raise ValueError(f"it holds a number of {value.bit_length()} bits")
    return value
