"""Code blocks of the documents, and what runs them, for `tests.forks.forked`."""

import importlib
import re
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.forks import module as run_module

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w+)(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S)
TITLE = re.compile(r'title="([^"]+)"')
SEPARATORS = ("\n", "&&", ";", "|")


@dataclass(frozen=True)
class Block:
    """Of a document: its language, the line above it, the file that it is (```python title="own.py"), if any."""

    language: str
    line: int
    title: str | None
    text: str


def blocks(document: Path, language: str) -> list[Block]:
    """The fenced blocks of a language, in order."""
    text = document.read_text()
    found = []
    for match in FENCE.finditer(text):
        if match["language"] == language:
            title = TITLE.search(match["info"])
            inner = re.sub(f"^{match['indent']}", "", match["text"], flags=re.M)
            found.append(Block(language, text[: match.start()].count("\n") + 1, title and title[1], inner))
    return found


def commands(block: Block) -> list[list[str]]:
    """The commands of a bash block, word by word, without comments and settings of the environment."""
    text = re.sub(r"(^|\s)#[^\n]*", r"\1", block.text).replace("\\\n", " ")
    words = shlex.shlex(text, posix=True, punctuation_chars=";&|\n")
    words.whitespace, words.whitespace_split, words.commenters = " \t", True, ""
    found: list[list[str]] = [[]]
    for word in words:
        if word.strip("\n") in ("", *SEPARATORS):
            found.append([])
        elif found[-1] or not re.match(r"[A-Z_]+=", word):
            found[-1].append(word)
    return [command for command in found if command]


def launched(command: list[str]) -> tuple[str, list[str]] | None:
    """The module and the arguments of a command of ours; None for others."""
    for start in (["python", "-m", "launch"], ["ssd-jax"]):
        if command[: len(start)] == start:
            return command[len(start)], command[len(start) + 1 :]
    if Path(command[0]).name == "python" and command[1] == "-m" and command[2].startswith("launch."):
        return command[2].removeprefix("launch."), command[3:]
    return None


def command(module: str, *arguments: str) -> None:
    """python -m launch.MODULE, where the network of the test's runs is known."""
    importlib.import_module("tests.pixels")
    run_module(f"launch.{module}", *arguments)


def parse(module: str, arguments: list[str]) -> None:
    """python -m launch.MODULE but for main(): flags are parsed, modules of --import imported, the config is validated."""
    from absl import app

    from launch.common.config_flag import FIELDS, read_any_config

    def stand_in(main, flags_parser) -> None:
        left = flags_parser(sys.argv)
        assert len(left) == 1, f"unexpected arguments {left[1:]}"
        if "config" in FIELDS:
            read_any_config()

    app.run = stand_in
    run_module(f"launch.{module}", *arguments)


def python(path: str, blocks: list[tuple[int, str]], steps: int) -> None:
    """The python blocks of a page, one session; training takes so many steps of 16 images; 0 leaves fresh weights."""
    import ssd_jax
    from ssd_jax.data.sources import make_split, recorded

    importlib.import_module("tests.pixels")
    train = ssd_jax.train

    def shortly(config, workdir, *, source=None) -> None:
        short = replace(config.train, steps=steps or 1, batch_size=16, warmup_steps=1, sample_every=100, cosine_decay=False)
        config = replace(config, train=short)
        if steps:
            return train(config, workdir, source=source)
        data = make_split(config.data, config.process.shape, source).training
        labelled = config.model.num_classes > 0
        write_fresh(Path(workdir), replace(config, data=recorded(config.data, data, labelled=labelled, from_python=True)))

    ssd_jax.train = shortly
    names: dict[str, Any] = {"__name__": "__main__"}
    for line, text in blocks:
        exec(compile("\n" * line + text, path, "exec"), names)


def write_fresh(workdir: Path, config: Any) -> None:
    """A run of no training at all."""
    import jax

    import ssd_jax
    from ssd_jax.files.paths import new_folder
    from ssd_jax.interop.bundle import write_model
    from ssd_jax.run.trained import Trained

    experiment = ssd_jax.build(config)
    parameters = experiment.init_parameters(jax.random.key(0))
    with new_folder(workdir) as folder:
        write_model(Trained(experiment, experiment.denoiser(parameters), 1), folder)
