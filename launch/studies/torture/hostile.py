"""Files made by somebody who means harm, or by a broken disk: each is refused in one line, and takes little memory."""

import io
import pickle
import struct
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from ssd_jax.errors import InputError
from ssd_jax.files.images import read_image
from ssd_jax.files.json_file import read_json
from ssd_jax.files.torch_file import read_torch_file
from ssd_jax.metrics import load_statistics
from ssd_jax.run.workdir import load_config

from .memory import forget_peak, peak, resident

ALLOWED = 200 << 20  # bytes above twice a file's honest size


class Hostile(NamedTuple):
    """A file, and what reads it; honest, its size is that of what it really holds."""

    name: str
    content: bytes
    read: Callable[[Path], Any]
    honest: int


def run(count: int, seed: int) -> dict[str, Any]:
    """Reads about `count` hostile files.

    Returns:
        How many were read, refused in a line, or ended in a traceback; the most memory above that of the idle process, MiB,
        and how many took more than twice their honest size and 200 MiB; what went wrong, a line each.
    """
    outcomes, faults, most, too_much = Counter(), [], 0, 0
    files = list(_files(count, np.random.default_rng(seed)))
    with tempfile.TemporaryDirectory() as folder:
        for each in tqdm(files, "files"):
            path = Path(folder, each.name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(each.content)
            forget_peak()
            idle = resident()
            try:
                each.read(path)
                outcomes["read"] += 1
            except (InputError, FileNotFoundError) as error:
                outcomes["refused"] += 1
                if "\n" in str(error):
                    faults.append(f"{each.name}: more than a line")
            except BaseException as error:
                outcomes["traceback"] += 1
                faults.append(f"{each.name}: {type(error).__name__}: {str(error)[:100]}")
            taken = max(peak() - idle, 0)
            most = max(most, taken)
            if taken > 2 * each.honest + ALLOWED:
                too_much += 1
                faults.append(f"{each.name}: {taken >> 20} MiB")
            path.unlink()
    return {"files": len(files), **outcomes, "most MiB": most >> 20, "too much memory": too_much, "faults": faults}


def _files(count: int, generator: np.random.Generator) -> Iterator[Hostile]:
    """Bombs, and then honest files that were cut or changed until there are `count`."""
    bombs = list(_bombs())
    yield from bombs
    honest = list(_honest())
    for i in range(count - len(bombs)):
        each = honest[i % len(honest)]
        content = bytearray(each.content)
        if generator.random() < 0.4:
            content = content[: generator.integers(len(content))]
        else:
            for place in generator.integers(len(content), size=generator.integers(1, 20)):
                content[place] = generator.integers(256)
        yield each._replace(name=f"changed{i}-{each.name}", content=bytes(content))


def _honest() -> Iterator[Hostile]:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for suffix in ("png", "jpeg", "webp"):
        content = io.BytesIO()
        picture.save(content, suffix)
        yield Hostile(f"image.{suffix}", content.getvalue(), read_image, 64 * 64 * 3)
    content = io.BytesIO()
    np.savez(content, mu=np.zeros(4), sigma=np.eye(4))
    yield Hostile("statistics.npz", content.getvalue(), load_statistics, len(content.getvalue()))
    yield Hostile("config.json", b'{"process": {"gamma": 0.5}, "train": {"steps": 5}}', _config, 50)
    yield Hostile("model.pt", _zip({"a/data.pkl": pickle.dumps({"model": {}, "step": 3}, 2)}), read_torch_file, 500)


def _bombs() -> Iterator[Hostile]:
    zeros = bytes(256 << 20)
    yield from (_sized(f"png{side}", _png(side, side), read_image) for side in (10_000, 20_000, 100_000, 2**31 - 1))
    yield _sized("gif-as-png", b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(20), read_image)
    yield _sized("bomb.npz", _zip({"mu.npy": _npy((32 << 20,)) + zeros, "sigma.npy": _npy((1, 1))}), load_statistics)
    yield _sized("shape.npz", _zip({"mu.npy": _npy((10**12,)), "sigma.npy": _npy((10**6, 10**6))}), load_statistics)
    yield _sized("pickle.npz", _zip({"mu.npy": _npy((1,), "|O") + pickle.dumps([1])}), load_statistics)
    yield _sized("bomb.pt", _zip({"a/data.pkl": zeros}), read_torch_file)
    yield _sized("storage.pt", _zip({"a/data.pkl": pickle.dumps({}, 2), "a/data/0": zeros}), read_torch_file)
    yield _sized("legacy.pt", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) * 4, read_torch_file)
    yield _sized("code.pt", _zip({"a/data.pkl": b"cos\nsystem\n(S'true'\ntR."}), read_torch_file)
    yield _sized("memo.pt", _zip({"a/data.pkl": b"\x80\x02}r\xff\xff\xff\x7f."}), read_torch_file)
    yield _sized("deep.pt", _zip({"a/data.pkl": b"(" * 10**6 + b"l" * 10**6 + b"."}), read_torch_file)
    for name, text in (
        ("deep", "[" * 10**6),
        ("deep objects", '{"a":' * 10**6),
        ("infinite", '{"process": {"gamma": Infinity}}'),
        ("huge number", '{"train": {"steps": ' + "9" * 10**6 + "}}"),
        ("code", '{"process": {"operator": "os:system"}}'),
        ("other", '[{"process": null}]'),
        ("null", '{"process": null}'),
        ("format", '{"format": {"a": []}}'),
    ):
        yield _sized(f"{name}.json", text.encode(), read_json)
        yield _sized(f"{name}/config.json".replace(" ", "-"), text.encode(), _config)


def _sized(name: str, content: bytes, read: Callable[[Path], Any]) -> Hostile:
    """A file that holds nothing but its bytes."""
    return Hostile(name, content, read, len(content))


def _config(path: Path) -> Any:
    if path.name != "config.json":
        path.rename(path.with_name("config.json"))
    try:
        return load_config(path.parent)
    finally:
        if path.name != "config.json":
            path.with_name("config.json").rename(path)


def _zip(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _npy(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    """The header of an array."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def _png(width: int, height: int) -> bytes:
    """A picture of one colour, as many rows of it as fit into a few megabytes of zeros."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = bytes(min((3 * width + 1) * height, 400 << 20))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
