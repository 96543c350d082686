"""--config of the commands: a shipped config by its name or a file of one's own, any field of which can be set.

NAME:ARGUMENT hands its get_config() an argument, as ml_collections has it: celeba64:published.

define_config("openmoji32")  # beside the other flags of a command; without a default --config must be given
config = read_config()       # in its main()
"""

import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from ssd_jax.config import AnyConfig, Config, any_from_config_dict, of_denoiser
from ssd_jax.errors import InputError, brief, unknown_name

# The shipped configs, and the package that they are: `configs` in the repository, `ssd_jax.configs` once installed.
FOLDER = Path(__file__).parents[2] / "configs"
PACKAGE = f"{__name__.removesuffix('launch.common.config_flag')}configs"

FIELD = re.compile(r"--?(no)?config\.(?P<path>[^=]*)")  # of the config, as the command line sets it
WRONG_VALUE = re.compile(r"flag --config\.(?P<path>[^=]*)=(?P<value>.*?): ", re.DOTALL)  # as absl says it

FIRST = flags.FlagValues()  # the flags that are read before all others: what they name defines what comes after
FIELDS = flags.FlagValues()  # the config that was chosen, and the fields of it that the command line sets
for _values in (FIRST, FIELDS):
    _values.set_gnu_getopt()  # leaves flags it does not know, and what follows them, for later


def define_config(default: str | None = None) -> None:
    """Defines the flag --config.

    Args:
        default: name of a shipped config; None if the command line must name one.
    """
    told = f"One of {', '.join(shipped())}; or a Python file of your own.{' (required)' * (default is None)}"
    flags.DEFINE_string("config", default, told, flag_values=FIRST)


def read_config() -> Config:
    """The validated config, with the fields that the command line sets. Raises InputError if it is bad."""
    return of_denoiser(read_any_config())


def read_any_config() -> AnyConfig:
    """`read_config` of a config that may be an autoencoder's."""
    return any_from_config_dict(FIELDS.config)


def parse_fields(name: str | None, argv: list[str]) -> list[str]:
    """Loads the config `name`, sets the fields that `argv` sets, and returns the rest of it.

    Raises:
        InputError: if there is no such config.
        AttributeError, KeyError, TypeError, ValueError: of ml_collections, if a field or its value is wrong.
    """
    if name is None:
        raise InputError(f"--config is missing: give a Python file or one of: {', '.join(shipped())}")
    config = load_config(name)
    for argument in argv[: argv.index("--") if "--" in argv else None]:
        if written := FIELD.match(argument):
            check_field(config, written["path"])
    config_flags.DEFINE_config_dict("config", config, flag_values=FIELDS, sys_argv=argv)
    try:
        return FIELDS(argv, known_only=True)
    except flags.IllegalFlagValueError as error:
        if not (written := WRONG_VALUE.match(str(error))):
            raise
        *sections, field = written["path"].split(".")
        fields: Any = config
        for section in sections:
            fields = fields[section]
        kind = fields.get_type(field).__name__
        raise InputError(f"{written['path']} is {brief(written['value'])}, but must be of type {kind}") from error


def check_field(config: ConfigDict, path: str) -> None:
    """Raises InputError unless `path`, as in --config.PATH=VALUE, is a field of the config."""
    section, *rest = path.split(".")
    if section not in config:
        raise unknown_name("config section", section, config)
    fields = config[section]
    if not isinstance(fields, ConfigDict):
        raise InputError(f"config section {section} is {brief(fields)}, but must hold fields with their values")
    while rest:
        name, bracket, _ = rest.pop(0).partition("[")
        if name not in fields:
            raise unknown_name(f"config field of {section}", name, fields)
        section, fields = f"{section}.{name}", fields[name]
        if not isinstance(fields, ConfigDict):
            if rest or bracket:
                raise InputError(f"config field {path!r} does not exist; {section} is set as a whole")
            return
    some = next(iter(fields))
    raise InputError(f"config section {section} is set field by field: --config.{section}.{some}=...")


def shipped() -> list[str]:
    """Names of the shipped configs."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def load_config(name: str) -> ConfigDict:
    """What `get_config()` of a shipped config or of a Python file returns, `get_config(ARGUMENT)` for NAME:ARGUMENT.

    Raises:
        InputError: if there is none, or it cannot be loaded.
    """
    file, colon, argument = (name, "", "") if Path(name).is_file() else name.partition(":")
    path = _path(file)
    try:
        get_config = getattr(_module(path), "get_config", None)
        config = get_config(*([argument] if colon else [])) if callable(get_config) else None
    except InputError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f", line {frame.lineno}" for frame in frames if Path(frame.filename).resolve() == path]
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(f"config {name!r} fails{''.join(lines[-1:])}: {message}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"config {name!r} must have a function get_config() that returns to_config_dict(Config(...))")
    return config


def _path(name: str) -> Path:
    """The file of a config. Raises InputError if there is none."""
    if name in shipped():
        return FOLDER.resolve() / f"{name}.py"
    path = Path(name).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"config is {name!r}, but must be a Python file that exists or one of: {', '.join(shipped())}")
    return path


def _module(path: Path) -> ModuleType:
    """The module in a file. Shipped configs are modules of their package, so that they can import each other."""
    if path.parent == FOLDER.resolve():
        return importlib.import_module(f"{PACKAGE}.{path.stem}")
    spec = importlib.util.spec_from_file_location("own_config", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
