"""A page that draws in the browser, on the visitor's machine: assembled from a model's ONNX graphs, and served here.

npm ci --prefix launch/page
python -m launch.demo
python -m launch.demo --workdir runs/x --onnx exported/x --port 8080
python -m launch.demo --out site

The page has no server code: --out writes its files for any static host, and nothing is asked of another. Graphs are those
of `launch.export_onnx`; pictures are those of the library, of the same seed. The first line gets onnxruntime-web, which
launch/page/package-lock.json pins.
"""

import contextlib
import errno
import pathlib
import shutil
import tempfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from absl import flags

from ssd_jax.errors import InputError, few
from ssd_jax.files.paths import check_new, new_folder, to_local_path, to_path
from ssd_jax.interop.page import write_page_data

from .common import report, run_flags
from .common.command import run

WORKDIR = flags.DEFINE_string("workdir", "docs/models/emoji", "Folder of a trained run, or of its weights.")
ONNX = flags.DEFINE_string("onnx", None, "Folder of its graphs; onnx in the workdir if not given.")
OUT = flags.DEFINE_string("out", None, "Writes the page here instead of serving it; must be empty or new.")
PORT = flags.DEFINE_integer("port", 8000, "Of 127.0.0.1; 0 is any free one.", lower_bound=0, upper_bound=65535)

PAGE = pathlib.Path(__file__).parent / "page"
RUNTIME = PAGE / "node_modules" / "onnxruntime-web" / "dist"
# Of onnxruntime-web: what loads each of its builds, WASM alone and with WebGPU, and the builds.
RUNTIME_FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)


class Handler(SimpleHTTPRequestHandler):
    """Files as browsers want them, whatever this machine says of their types; without a line for each."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *_) -> None:
        pass


def main() -> None:
    check_runtime()
    if OUT.value is not None:
        if PORT.present:
            raise InputError("--port is given, but --out writes the page and serves nothing; leave one out")
        out = to_path(OUT.value)
        check_new(out)
        with new_folder(out) as folder:
            print(report.plain(assemble(folder)))
        print(f"{out}: for any static host")
        return
    with tempfile.TemporaryDirectory() as scratch, server(pathlib.Path(scratch)) as serving:
        print(report.plain(assemble(pathlib.Path(scratch))))
        print(f"http://127.0.0.1:{serving.server_port}/ shows the page; Ctrl-C ends it", flush=True)
        serving.serve_forever()


def check_runtime() -> None:
    """Raises InputError unless onnxruntime-web is there."""
    missing = [name for name in RUNTIME_FILES if not (RUNTIME / name).is_file()]
    if missing:
        raise InputError(f"onnxruntime-web is not installed ({few(missing)}); npm ci --prefix {PAGE}")


def assemble(folder: pathlib.Path) -> list[report.Row]:
    """Writes the page into a folder that is there; says what it consists of and how large that is.

    Raises:
        InputError: if the model cannot be shown, or its graphs are not there.
    """
    trained = run_flags.load(WORKDIR.value)
    graphs = to_local_path(ONNX.value if ONNX.value is not None else str(pathlib.Path(WORKDIR.value) / "onnx"))
    for path in PAGE.iterdir():
        if path.suffix in (".html", ".css", ".js"):
            shutil.copy(path, folder)
    (folder / "ort").mkdir()
    for name in RUNTIME_FILES:
        shutil.copy(RUNTIME / name, folder / "ort")
    write_page_data(trained, graphs, folder)
    parts = {
        "page": [path for path in folder.iterdir() if path.is_file()],
        "graphs and weights": [*(folder / "graphs").iterdir()],
        "plans, one of which is loaded": [*(folder / "plans").iterdir()],
        "onnxruntime-web, WASM": [folder / "ort" / name for name in RUNTIME_FILES[:3]],
        "onnxruntime-web, WebGPU": [folder / "ort" / name for name in RUNTIME_FILES[3:]],
    }
    return [{"part": part, "MB": sum(path.stat().st_size for path in paths) / 1e6} for part, paths in parts.items()]


def server(folder: pathlib.Path) -> contextlib.AbstractContextManager[ThreadingHTTPServer]:
    """Of a folder's files, for this machine only. Raises InputError if the port is taken."""
    try:
        return ThreadingHTTPServer(("127.0.0.1", PORT.value), partial(Handler, directory=str(folder)))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise InputError(f"--port is {PORT.value}, but that is taken or not yours; choose another, or 0 for any") from error


if __name__ == "__main__":
    run(main)
