"""Lists the commands, or runs one: python -m launch NAME --flag=value; once installed, ssd-jax NAME --flag=value.

The same as python -m launch.NAME. Imports nothing that takes time: a list is there at once.
"""

import ast
import os
import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def commands() -> dict[str, Path]:
    """The file of every command by its name: modules of this folder and of studies/, and folders with a __main__.py."""
    files = [path for path in (*FOLDER.glob("*.py"), *FOLDER.glob("studies/*.py")) if not path.stem.startswith("_")]
    named = {path.stem: path for path in files} | {path.parent.name: path for path in FOLDER.glob("*/__main__.py")}
    return dict(sorted(named.items()))


def summary(path: Path) -> str:
    """The first line of a file's docstring."""
    return str(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))).splitlines()[0]


def main() -> None:
    """Does what the command line says; exits with status 2 and one line on stderr if there is no such command."""
    program, *arguments = sys.argv
    if not arguments or arguments[0] in ("--help", "-h"):
        print("\n".join(["Commands; NAME --help tells more:", *(f"  {n:<18}{summary(p)}" for n, p in commands().items())]))
        return
    name, *rest = arguments
    if name not in commands():
        print(f"error: command is {name!r}, but must be one of: {', '.join(commands())}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [program, *rest]
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd()  # as python -m has it: modules of the user's are found in the current folder
    module = commands()[name].relative_to(FOLDER).with_suffix("").parts
    runpy.run_module(".".join([str(__package__), *module]), run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
