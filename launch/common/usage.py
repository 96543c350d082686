"""What --help of a command prints: its docstring, and its own flags with their defaults; no library's."""

import shlex
import shutil
import sys
import textwrap

from absl import flags
from flax.traverse_util import flatten_dict

from ssd_jax.errors import InputError, unknown_name

from .config_flag import FIELDS, FIRST

OURS = __name__.removesuffix("common.usage")  # where the names of modules begin whose flags are ours
COLUMN = 26  # where it begins to say what a flag means


def usage() -> str:
    """The help of the command that runs."""
    parts = [str(sys.modules["__main__"].__doc__).strip()]
    parts += ["\n".join([f"{title}:", *map(_described, members)]) for title, members in _groups().items() if members]
    if "config" in FIRST:
        parts.append(_fields())
    return "\n\n".join(parts)


def unknown_flag(name: str) -> InputError:
    """The error for a flag that the command does not have."""
    known = [flag.name for members in _groups().values() for flag in members]
    return unknown_name("flag", f"--{name}", [f"--{each}" for each in known])


def _groups() -> dict[str, list[flags.Flag]]:
    """The command's own flags, those that it shares with some others, and every command's."""
    by_module = flags.FLAGS.flags_by_module_dict()
    spec = sys.modules["__main__"].__spec__
    command = spec.name.removesuffix(".__main__").rpartition(".")[2] if spec else "flags"
    own = by_module.get(sys.argv[0], [])  # by which absl knows the main module
    shared = {name.rpartition(".")[2].replace("_", " "): of for name, of in by_module.items() if name.startswith(OURS)}
    config = [FIRST["config"]] if "config" in FIRST else []
    return {command: own, **shared, "config": config, "every command": [FIRST["import"], FIRST["help"]]}


def _described(flag: flags.Flag) -> str:
    """One flag: its name, what it means and its default."""
    text = " ".join(str(flag.help).split())
    if flag.default is not None and flag.default != []:
        default = str(flag.default_as_str).strip("'")
        text += f" (default: {default})"
    elif not all(validator.checker(None) for validator in flag.validators):
        text += " (required)"
    name = f"  --{'[no]' * (flag.boolean and flag.name != 'help')}{flag.name}"
    lines = textwrap.wrap(text, shutil.get_terminal_size().columns - COLUMN)
    head = [name] if len(name) >= COLUMN - 1 else [name.ljust(COLUMN) + lines.pop(0)]
    return "\n".join([*head, *(" " * COLUMN + line for line in lines)])


def _fields() -> str:
    """How to set fields of the config, and which there are if it is known."""
    told = "ssd_jax/config.py says what each means"
    if "config" not in FIELDS:
        return f"fields of the config: set by --config.SECTION.FIELD=VALUE, listed by --config NAME --help; {told}"
    values = flatten_dict(FIELDS.config.to_dict(), sep=".")
    fields = {name: "" if value is None else f"={shlex.quote(str(value))}" for name, value in values.items()}
    return "\n".join([f"fields of the config ({told}):", *(f"  --config.{name}{value}" for name, value in fields.items())])
