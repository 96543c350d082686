"""A server of Google Cloud Storage on 127.0.0.1, in memory: gcp-storage-emulator, with the generations that it leaves out.

python -m tests.bucket  # prints its port, and serves the empty buckets `bucket` and `locked` until its stdin ends
"""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCKED = "locked"  # a bucket that nobody may write to


@contextmanager
def served() -> Iterator[dict[str, str]]:
    """The environment in which gs:// is such a server, in a process of its own."""
    command = [sys.executable, "-m", "tests.bucket"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None and server.stdin is not None
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"
        yield {
            "STORAGE_EMULATOR_HOST": address,
            "TENSORSTORE_GCS_HTTP_URL": address,
            "FSSPEC_GCS_TOKEN": "anon",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # which asks a server that is not emulated, for a minute
            "EPATH_USE_TF": "false",
        }
        server.stdin.close()


def _with_generations(handler: Callable) -> Callable:
    """The handler of a request, changing only the generation that it asks for, and telling the one that there is.

    TensorStore needs the latter, and whoever writes at the same time as others the former.
    """

    def handle(request, response, storage, *args, **kwargs) -> None:
        bucket, name = request.params.get("bucket_name"), request.params.get("object_id")
        if name is None and "name" in request.query:
            name = request.query["name"][0]
        if name is None and request.query.get("uploadType") == ["multipart"]:
            name = request.data["meta"]["name"]
        if name is None:
            return handler(request, response, storage, *args, **kwargs)
        wanted = request.query.get("ifGenerationMatch")
        if wanted and wanted[0] != _generation(storage, bucket, name):
            response.status = HTTPStatus.PRECONDITION_FAILED
            return
        if bucket == LOCKED and request.method != "GET":
            response.status = HTTPStatus.FORBIDDEN
            response.json({"error": {"message": "no storage.objects.create access"}})
            return
        handler(request, response, storage, *args, **kwargs)
        response["x-goog-generation"] = _generation(storage, bucket, name)

    return handle


def _no_move(request, response, storage, *args, **kwargs) -> None:
    """Objects cannot be moved, only copied and deleted: said so that nobody tries again and again."""
    response.status = HTTPStatus.METHOD_NOT_ALLOWED


def _generation(storage, bucket: str, name: str) -> str:
    """Of an object; "0" if it is not there."""
    from gcp_storage_emulator.exceptions import NotFound

    try:
        return storage.get_file_obj(bucket, name)["generation"]
    except NotFound:
        return "0"


def main() -> None:
    from gcp_storage_emulator import server, storage
    from gcp_storage_emulator.handlers import buckets

    logging.disable(logging.CRITICAL)
    server.HANDLERS = tuple(
        (pattern, {method: _with_generations(handler) for method, handler in handlers.items()})
        for pattern, handlers in ((".*/moveTo/.*", {"POST": _no_move}), *server.HANDLERS)
    )
    kept = storage.Storage(use_memory_fs=True)
    for name in ("bucket", LOCKED):
        buckets.create_bucket(name, kept)
    serving = server.server.HTTPServer(("127.0.0.1", 0), partial(server.RequestHandler, kept))
    print(serving.server_port, flush=True)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
