"""The service: its images are the library's, what waits is drawn together, errors are told, and it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import urlopen

import jax
import numpy as np
import pytest

import ssd_jax
from launch.common import serving
from launch.common.serving import Batcher, Server, Unavailable, batch_sizes, parse_request, served
from ssd_jax.config import DataConfig, ProcessConfig, SampleConfig
from ssd_jax.errors import SEED_LIMIT, InputError
from ssd_jax.files.decode import decode
from tests.commands import ROOT
from tests.conftest import FAST_COMPILE
from tests.documents import write_fresh
from tests.pixels import PixelsConfig

CLASSES = ("cats", "dogs", "birds")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    data, process = DataConfig(classes=CLASSES, channels=3), ProcessConfig(image_size=8, num_levels=2, num_timesteps=50)
    model = PixelsConfig(num_classes=len(CLASSES), label_dropout=0.1)
    sample = SampleConfig(solver="dpmpp_2m_sde", num_steps=6, guidance=2.0)
    write_fresh(folder := tmp_path_factory.mktemp("run") / "run", ssd_jax.Config(data, process, model, sample=sample))
    return folder


@pytest.fixture(scope="module")
def trained(workdir):
    return ssd_jax.load(workdir)


@pytest.fixture(scope="module")
def batcher(trained):
    """Draws, but no thread of its own has begun."""
    return Batcher(trained, 4)


def asked_for(address: str) -> tuple[int, bytes]:
    """Status and content of an answer."""
    try:
        with urlopen(address, timeout=60) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()


def refused(address: str) -> tuple[int, str, str | None]:
    """Status, text and Retry-After of an answer that is an error."""
    with pytest.raises(HTTPError) as error:
        urlopen(address, timeout=60)
    with error.value as answer:
        return answer.code, answer.read().decode(), answer.headers["Retry-After"]


def test_sizes_of_batches():
    assert [batch_sizes(largest) for largest in (1, 2, 4, 5, 64)] == [[1], [1, 2], [1, 4], [1, 4, 5], [1, 4, 16, 64]]


def test_samples_that_start_from_images_are_not_served():
    process = ProcessConfig(image_size=8, num_levels=1, num_timesteps=20, noise_schedule="constant", blur=2.0)
    experiment = ssd_jax.build(ssd_jax.Config(process=process, model=PixelsConfig()))
    heat = ssd_jax.Trained(experiment, experiment.denoiser(experiment.init_parameters(jax.random.key(0))), 1)
    with pytest.raises(InputError, match="x_T-1 of this process is not noise .* which a service has not; train with"):
        Batcher(heat, 4)


def test_images_are_those_of_the_library_whatever_they_are_drawn_with(trained, batcher):
    queries = ["label=dogs&seed=3", "", f"label=2&seed={SEED_LIMIT - 1}"]
    drawn = batcher.draw([parse_request(trained, query) for query in queries])
    assert drawn.shape == (3, 8, 8, 3)
    for image, (seed, label) in zip(drawn, [(3, "dogs"), (0, None), (SEED_LIMIT - 1, 2)], strict=True):
        alone = trained.sample(jax.random.key(seed), 1, label=label)[0]
        np.testing.assert_allclose(image, alone, atol=1e-5)


def test_requests_that_wait_are_drawn_together_and_nothing_compiles(trained, monkeypatch):
    batcher, batches, compiled, begun = Batcher(trained, 5), [], [], threading.Event()  # a size of its own
    draw = batcher.draw

    def watched(requests):
        batches.append(len(requests))
        begun.wait(60)
        return draw(requests)

    with served(batcher) as address:
        monkeypatch.setattr(batcher, "draw", watched)
        jax.monitoring.register_event_duration_secs_listener(
            lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
        )
        with ThreadPoolExecutor(9) as pool:
            asked = [pool.submit(asked_for, f"{address}/sample?label=cats&seed={i}") for i in range(9)]
            while len(batcher._waiting) + sum(batches) < 9:
                time.sleep(0.01)
            begun.set()
            pictures = [decode(each.result(60)[1], 3) for each in asked]
        assert sum(batches) == 9 and max(batches) == 5 and len(batches) <= 4
        assert not compiled
        jax.jit(lambda x: x + 1)(np.ones(3))
        assert compiled  # by which it would have shown
    expected = [trained.sample(jax.random.key(i), 1, label="cats") for i in range(9)]
    for picture, image in zip(pictures, expected, strict=True):
        assert np.abs(picture.astype(int) - trained.encoding.decode(np.asarray(image))[0]).max() <= 1  # of rounding


def test_errors_are_a_line(trained):
    with served(Batcher(trained, 1)) as address:
        with urlopen(address) as answer:
            assert "label=NAME&seed=NUMBER" in answer.read().decode()
        for query, told in {
            "label=fish": "label is 'fish', but must be one of the classes cats, dogs, birds",
            "label=": "label is '', but must be one of",
            "label=3": "0..2",
            "seed=-1": f"seed is '-1', but must be a whole number in 0..{SEED_LIMIT - 1}",
            f"seed={SEED_LIMIT}": "must be a whole number",
            "seed=x%0Ay": "seed is 'x\\ny', but must be",
            "sed=1": "parameter is 'sed', but must be one of: label, seed",
        }.items():
            status, text, _ = refused(f"{address}/sample?{query}")
            assert status == 400 and told in text and len(text.splitlines()) == 1, text
        assert refused(f"{address}/samples")[:2] == (404, "path is '/samples', but must be / or /sample\n")


def test_a_full_queue_is_told(trained, monkeypatch):
    monkeypatch.setattr(serving, "CAPACITY", 2)
    waiting = Batcher(trained, 1)  # nobody draws
    for _ in range(2):
        waiting.submit(parse_request(trained, ""))
    server = Server(0, waiting)
    server.server_activate()
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    status, text, retry_after = refused(f"http://127.0.0.1:{server.server_port}/sample")
    assert (status, text, retry_after) == (503, "2 requests wait already; ask again later\n", str(serving.RETRY_AFTER))
    thread.join()
    server.server_close()


def test_when_the_service_ends_what_is_being_drawn_is_answered_and_what_waits_is_told(trained, monkeypatch):
    batcher, drawing, waiting = Batcher(trained, 1), threading.Event(), threading.Event()
    draw = batcher.draw
    with ThreadPoolExecutor(2) as pool:
        with served(batcher) as address:
            monkeypatch.setattr(batcher, "draw", lambda requests: (drawing.set(), waiting.wait(60), draw(requests))[-1])
            first = pool.submit(asked_for, f"{address}/sample")
            assert drawing.wait(60)
            second = pool.submit(asked_for, f"{address}/sample")
            while not batcher._waiting:
                time.sleep(0.01)
            threading.Timer(0.2, waiting.set).start()  # once the end has begun
        assert first.result(60)[0] == 200
        assert second.result(60) == (503, b"the service ends\n")
    with pytest.raises(Unavailable):
        batcher.submit(parse_request(trained, ""))


def test_a_failing_batch_is_told_and_the_service_goes_on(trained, monkeypatch, caplog):
    batcher = Batcher(trained, 1)
    draw, failures = batcher.draw, [MemoryError("no room")]
    with served(batcher) as address:
        monkeypatch.setattr(batcher, "draw", lambda requests: _raise(failures.pop()) if failures else draw(requests))
        status, text, _ = refused(f"{address}/sample")
        assert status == 500 and "log of the service" in text
        assert urlopen(f"{address}/sample", timeout=60).status == 200
    assert "a batch of 1 requests failed" in caplog.text and "no room" in caplog.text


def _raise(error: Exception):
    raise error


def test_a_port_that_is_taken(batcher):
    server = Server(0, batcher)
    server.server_activate()
    with pytest.raises(InputError, match=f"port is {server.server_port}, which cannot be had: Address already in use"):
        Server(server.server_port, batcher)
    server.server_close()


@pytest.mark.nightly
def test_the_command_ends_by_sigterm(workdir):
    arguments = [f"--workdir={workdir}", "--port=0", "--batch=1", "--import=tests.pixels"]
    env = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FAST_COMPILE}
    command = subprocess.Popen(
        [sys.executable, "-m", "launch.serve", *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert command.stdout is not None
    address = command.stdout.readline().strip()
    assert urlopen(address, timeout=60).headers["Content-Type"] == "image/png"
    command.send_signal(signal.SIGTERM)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 143 and errors.splitlines()[-1] == "ended by SIGTERM"
