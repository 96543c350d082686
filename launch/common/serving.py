"""Serving: a queue of requests, a thread that draws what waits batch by batch, and HTTP around both."""

import logging
import re
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

import ssd_jax
from ssd_jax.compilation import several_at_a_time
from ssd_jax.errors import SEED_LIMIT, InputError, brief, unknown_name
from ssd_jax.files.images import png
from ssd_jax.run.suitability import check_is_of_images, check_prior_is_noise
from ssd_jax.sampling.noise import NoiseSource, seeded

logger = logging.getLogger("ssd_jax")

CAPACITY = 256  # requests that may wait
RETRY_AFTER = 10  # seconds that a client is told to wait
SILENCE = 10  # seconds that a client may take to say what it wants: the end of the service waits for it
HELP = "GET /sample?label=NAME&seed=NUMBER: a PNG, the same whenever it is asked for; both may be left out\n"


class Unavailable(Exception):
    """A request that cannot be taken now."""


@dataclass(frozen=True, eq=False)
class Request:
    """An image that is asked for: image 0 of a seed.

    Attributes:
        seed: 0 .. SEED_LIMIT - 1.
        label: its own, int [1] or float32 [1, size]; None for a model without labels.
        image: x_0 once it is drawn, float32 [*shape, channels].
    """

    seed: int
    label: Num[np.ndarray, "1 *vector"] | None
    image: Future[np.ndarray] = field(default_factory=Future)


def parse_request(trained: ssd_jax.Trained, query: str) -> Request:
    """The request that label=..&seed=.. asks for; the first label and seed 0 if not given. Raises InputError."""
    given = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(given.keys() - {"label", "seed"}):
        raise unknown_name("parameter", unknown[0], ["label", "seed"])
    seed = given.get("seed", "0")
    if not re.fullmatch("[0-9]{1,10}", seed) or int(seed) >= SEED_LIMIT:
        raise InputError(f"seed is {brief(seed)}, but must be a whole number in 0..{SEED_LIMIT - 1}")
    return Request(int(seed), trained.labels(given.get("label"), 1))


def batch_sizes(largest: int) -> list[int]:
    """1, 4, 16 .. below `largest`, and `largest`: few, as each is compiled for every stage."""
    return [*(4**i for i in range(largest.bit_length()) if 4**i < largest), largest]


def noise_of(requests: Sequence[Request]) -> NoiseSource:
    """The noise of image 0 of every request's seed."""
    each = [seeded(jax.random.key(request.seed), np.zeros(1, int)) for request in requests]
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *each)


def labels_of(requests: Sequence[Request]) -> Num[np.ndarray, "batch *vector"] | None:
    """The labels of requests, int [batch] or float32 [batch, size]; None for a model without labels."""
    found = [request.label for request in requests if request.label is not None]
    return np.concatenate(found) if found else None


class Batcher:
    """Draws requested images as the run samples, those that wait together in one batch, oldest first.

    A batch has one of `batch_sizes`, filled up with its last request, so that nothing compiles after `start`. What an image
    is does not depend on its batch.
    """

    def __init__(self, trained: ssd_jax.Trained, largest: int):
        """For batches of at most `largest` images. Raises InputError for a process that does not end in noise."""
        check_prior_is_noise(trained.experiment, "a service")
        check_is_of_images(trained.experiment, "a service")
        self.trained, self.sizes = trained, batch_sizes(largest)
        self._plan, self._denoise = trained.plan(), trained.guided()
        self._waiting: deque[Request] = deque()
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="batcher")

    def start(self) -> None:
        """Compiles the programs of all sizes, then begins to draw."""
        one = parse_request(self.trained, "")
        several_at_a_time({str(size): partial(self.draw, [one] * size) for size in self.sizes}, "compiling")
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queues a request, whose `image` will be set. Raises Unavailable if it cannot be taken."""
        with self._changed:
            if self._closed:
                raise Unavailable("the service ends")
            if len(self._waiting) >= CAPACITY:
                raise Unavailable(f"{CAPACITY} requests wait already; ask again later")
            self._waiting.append(request)
            self._changed.notify()

    def close(self) -> None:
        """Finishes the batch that is being drawn and tells the requests that wait that they will not be."""
        with self._changed:
            self._closed = True
            for request in self._waiting:
                request.image.set_exception(Unavailable("the service ends"))
            self._waiting.clear()
            self._changed.notify()
        if self._thread.ident is not None:  # it has begun
            self._thread.join()

    def draw(self, requests: Sequence[Request]) -> Float[np.ndarray, "batch ..."]:
        """Their images, x_0, float32 [batch, *shape, channels]."""
        size = next(size for size in self.sizes if size >= len(requests))
        filled = [*requests, *[requests[-1]] * (size - len(requests))]
        noise, label, channels = noise_of(filled), labels_of(filled), self.trained.encoding.channels
        *_, last = ssd_jax.iterate(self._denoise, self._plan, noise, label=label, channels=channels)
        return np.asarray(last.x)[: len(requests)]

    def _work(self) -> None:
        while batch := self._next_batch():
            try:
                images = self.draw(batch)
            except Exception as error:
                logger.exception("a batch of %d requests failed", len(batch))
                for request in batch:
                    request.image.set_exception(error)
            else:
                for request, image in zip(batch, images, strict=True):
                    request.image.set_result(image)

    def _next_batch(self) -> list[Request]:
        """The requests that have waited longest, once there are any; none when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), self.sizes[-1]))]


class Server(ThreadingHTTPServer):
    """Answers on a port of this machine, a thread for each connection; closing it waits for the answers that are due."""

    daemon_threads = False
    request_queue_size = CAPACITY

    def __init__(self, port: int, batcher: Batcher):
        """Takes the port, 0 for any that is free; clients are refused until `server_activate`. Raises InputError."""
        super().__init__(("127.0.0.1", port), Handler, bind_and_activate=False)
        self.batcher = batcher
        try:
            self.server_bind()
        except OSError as error:
            self.server_close()
            raise InputError(f"port is {port}, which cannot be had: {error.strerror}; choose another one") from error


@contextmanager
def served(batcher: Batcher, port: int = 0) -> Iterator[str]:
    """Yields the address of a service, once all is compiled; then ends it: what is being drawn is answered, the rest told.

    Raises InputError if the port cannot be had.
    """
    server = Server(port, batcher)
    answering = threading.Thread(target=server.serve_forever, name="server")
    try:
        batcher.start()
        server.server_activate()
        answering.start()
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        batcher.close()
        if answering.ident is not None:  # it has begun
            server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers one request; errors are a line of text."""

    server: Server
    timeout = SILENCE

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        with suppress(ConnectionError):  # the client has gone
            if address.path == "/sample":
                self._sample(address.query)
            elif address.path == "/":
                self._answer(200, HELP)
            else:
                self._answer(404, f"path is {brief(address.path)}, but must be / or /sample\n")

    def _sample(self, query: str) -> None:
        batcher = self.server.batcher
        try:
            request = parse_request(batcher.trained, query)
        except InputError as error:
            return self._answer(400, f"{error}\n")
        try:
            batcher.submit(request)
            picture = batcher.trained.encoding.decode(request.image.result()[None])[0]
        except Unavailable as error:
            self._answer(503, f"{error}\n", {"Retry-After": str(RETRY_AFTER)})
        except Exception:
            self._answer(500, "the image could not be drawn; the log of the service says why\n")
        else:
            self._answer(200, png(picture), {"Content-Type": "image/png"})

    def _answer(self, status: int, body: str | bytes, headers: dict[str, str] | None = None) -> None:
        body = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        fields = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body))} | (headers or {})
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: what is asked for is nobody's news."""
