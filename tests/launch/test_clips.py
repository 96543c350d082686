"""A model of clips, with the network of `tests.run.test_own_network`: what the commands draw, show and refuse."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest

from ssd_jax.build import build
from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.files.clips import clip_shape, read_clip, write_clip
from ssd_jax.files.images import write_png
from ssd_jax.interop.bundle import write_model
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.run.suitability import check_is_of_images
from ssd_jax.run.trained import Trained
from tests.commands import launch
from tests.run.test_own_network import config

SHAPE = (4, 8, 8)
OWN = "--import=tests.run.test_own_network"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Weights as they begin, of clips with opacity."""
    workdir, start = tmp_path_factory.mktemp("clips"), config(2)
    process = ProcessConfig(shape=SHAPE, num_levels=2, num_timesteps=20)
    experiment = build(replace(start, data=replace(start.data, channels=4), process=process))
    parameters = experiment.init_parameters(jax.random.key(0))
    write_model(Trained(experiment, experiment.denoiser(parameters), 0), workdir)
    return workdir


@pytest.mark.nightly  # two commands; `tests.launch.test_folders` has what they do with files
def test_clips_are_drawn_into_files_of_their_own(run, tmp_path):
    out = tmp_path / "out"
    arguments = ["launch.sample", f"--workdir={run}", "--num_steps=4", "--batch=2", OWN, f"--out={out}"]
    done = launch(*arguments, "--num=3")
    assert done.returncode == 0 and f"{out}/000000.webp .., {out}/grid.webp" in done.stdout, done.stderr
    drawn = np.load(out / "samples.npz")["images"]
    assert drawn.shape == (3, *SHAPE, 4) and drawn.std() > 10
    for i in range(3):
        np.testing.assert_array_equal(read_clip(out / f"{i:06d}.webp"), drawn[i])
    first = (out / "000000.webp").stat().st_mtime_ns
    (out / "000001.webp").write_bytes((out / "000001.webp").read_bytes()[:-9])
    (out / "000002.webp").unlink()
    done = launch(*arguments, "--num=3")
    assert done.returncode == 0 and (out / "000000.webp").stat().st_mtime_ns == first, done.stderr
    np.testing.assert_array_equal(np.load(out / "samples.npz")["images"], drawn)
    assert clip_shape(out / "grid.webp")[0] == 4


@pytest.mark.nightly  # three commands
@pytest.mark.parametrize(
    ("command", "what"),
    [
        (["launch.sample", "--num=1", "--animation=gif"], "--animation"),
        (["launch.serve"], "a service"),
    ],
)
def test_what_is_of_images_alone_says_so(run, tmp_path, command, what):
    out = [] if command[0] == "launch.serve" else [f"--out={tmp_path}/out"]
    done = launch(*command, *out, f"--workdir={run}", OWN)
    said = f"the model draws arrays of shape {SHAPE}, but {what}"
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.nightly  # four commands
def test_what_follows_the_first_frames_is_drawn(run, tmp_path):
    given = np.random.default_rng(0).integers(1, 256, (3, 8, 8, 4), np.uint8)  # nothing that cannot be seen
    write_clip(tmp_path / "given.webp", given)
    edit = ["launch.edit", f"--workdir={run}", OWN, "--num=2", "--num_steps=4", f"--image={tmp_path}/given.webp"]
    done = launch(*edit, "--keep_frames=2", f"--out={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    drawn = [read_clip(tmp_path / "out" / f"00000{i}.webp") for i in range(2)]
    for clip in drawn:
        assert clip.shape == (*SHAPE, 4)
        np.testing.assert_array_equal(clip[:2], given[:2])
    assert np.abs(drawn[0][2:].astype(int) - drawn[1][2:]).max() > 10
    for flags, message in (
        (
            "--keep_frames=4",
            "--keep_frames is 4, but the model draws arrays of shape .*of the file 3 are there",
        ),
        ("--strength=0.5", "the clip has 3 frames, but the model draws 4; give a longer one"),
    ):
        done = launch(*edit, flags, f"--out={tmp_path}/other")
        assert done.returncode == 2 and re.search(message, done.stderr) and "Traceback" not in done.stderr, done.stderr
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    done = launch(*edit[:-1], f"--image={tmp_path}/broken.gif", "--keep_frames=1", f"--out={tmp_path}/other")
    assert done.returncode == 2 and "broken.gif' cannot be read: it is" in done.stderr, done.stderr
    write_png(tmp_path / "one.png", given[0])
    done = launch(*edit[:-1], f"--image={tmp_path}/one.png", "--keep_frames=1", f"--out={tmp_path}/other")
    assert "but an image is given; give a GIF, MP4 or animated WebP file" in done.stderr, done.stderr


@pytest.mark.nightly
def test_the_quickstart_says_so_before_anything_is_made(tmp_path):
    clips = ["--config.data.source=clips", "--config.process.shape=(4,8,8)"]
    done = launch("launch.quickstart", f"--workdir={tmp_path}/out", *clips)
    assert done.returncode == 2 and "process.shape is (4, 8, 8), but" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.nightly
def test_videos_are_prepared(tmp_path):
    for i in range(3):
        path = tmp_path / "given" / "ab"[i % 2] / f"{i}.webp"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, np.random.default_rng(i).integers(0, 256, (4 + 4 * i, 8, 8, 3), np.uint8))
    video = ["--config.data.source=video", f"--config.data.folder={tmp_path}/given"]
    prepare = ["launch.prepare", "--config=clips16", *video, f"--out={tmp_path}/made"]
    done = launch(
        *prepare, "--config.process.shape=(4,8,8)", "--config.process.num_levels=1", "--config.process.thresholds=()"
    )
    assert done.returncode == 0 and "6 images of 4x8x8x3" in done.stdout and "classes: a 4, b 2" in done.stdout, done.stderr


def test_a_model_knows_whether_it_is_of_images():
    process = ProcessConfig(shape=SHAPE, num_levels=2, num_timesteps=20)
    for settings, message in ((config(2), None), (replace(config(2), process=process), "but a page takes images of")):
        trained = Trained(build(settings), object.__new__(Denoiser), 0)
        if message is None:
            check_is_of_images(trained.experiment, "a page")
        else:
            with pytest.raises(InputError, match=message):
                check_is_of_images(trained.experiment, "a page")
