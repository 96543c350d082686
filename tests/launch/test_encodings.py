"""Grey, transparent and rectangular images through the whole house: training, grids, sampling, editing, evaluation."""

import json
from dataclasses import replace

import cv2
import jax
import numpy as np
import pytest

import ssd_jax
from ssd_jax.config import Config, DataConfig, FlexiUNetConfig, ProcessConfig, SampleConfig, TrainConfig, config_json
from ssd_jax.data import make_source
from ssd_jax.errors import InputError
from ssd_jax.files.images import read_image, write_png
from tests.commands import launch

SHAPE = (8, 16)


def config(channels: int | None, **data) -> Config:
    return Config(
        data=DataConfig(channels=channels, **data),
        process=ProcessConfig(shape=SHAPE, num_levels=2, num_timesteps=20),
        model=FlexiUNetConfig(widths=(8, 16), attention_levels=(), num_heads=2),
        train=TrainConfig(steps=2, batch_size=24, warmup_steps=1, log_every=1, sample_every=100),
        sample=SampleConfig(num=4, num_steps=4),
    )


@pytest.fixture(scope="module", params=[1, 4], ids=["grey", "transparent"])
def run(request, tmp_path_factory):
    """A trained run with so many channels, rectangular."""
    workdir = tmp_path_factory.mktemp("run")
    ssd_jax.train(config(request.param), workdir)
    return request.param, workdir


@pytest.mark.nightly
def test_training_and_sampling(run):
    channels, workdir = run
    trained = ssd_jax.load(workdir)
    assert (trained.encoding.shape, trained.encoding.channels) == (SHAPE, channels)
    samples = trained.sample(jax.random.key(0), 2)
    assert samples.shape == (2, *SHAPE, channels) and trained.encoding.decode(samples).dtype == np.uint8
    assert read_image(workdir / "samples" / "step_0000002.png").shape[-1] == (1 if channels == 1 else 3)


@pytest.mark.nightly
def test_commands(run, tmp_path):
    channels, workdir = run
    result = launch("launch.sample", f"--workdir={workdir}", "--num=5", "--animation=gif", f"--out={tmp_path}/drawn")
    assert result.returncode == 0, result.stderr
    assert np.load(tmp_path / "drawn" / "samples.npz")["images"].shape == (5, *SHAPE, channels)
    picture = read_image(tmp_path / "drawn" / "000001.png", channels=channels)
    np.testing.assert_array_equal(picture, np.load(tmp_path / "drawn" / "samples.npz")["images"][1])
    assert (tmp_path / "drawn" / "animation.gif").stat().st_size > 100

    image = np.full((*SHAPE, channels), 200, np.uint8)
    mask = np.zeros((*SHAPE, 1), np.uint8)
    mask[:, 8:] = 255
    write_png(tmp_path / "image.png", image)
    write_png(tmp_path / "mask.png", mask)
    files = [f"--image={tmp_path}/image.png", f"--mask={tmp_path}/mask.png"]
    result = launch("launch.edit", f"--workdir={workdir}", "--num=2", *files, f"--out={tmp_path}/painted")
    assert result.returncode == 0, result.stderr
    painted = read_image(tmp_path / "painted" / "000001.png", channels=channels)
    assert (painted[:, :8] == 200).all() and (painted[:, 8:] != 200).any()

    result = launch("launch.evaluate", f"--workdir={workdir}", "--num=12")
    assert result.returncode == 0 and "drawn by dpmpp_2m, 4 calls, guidance 1" in result.stdout, result.stderr
    (line,) = map(json.loads, (workdir / "evaluations.jsonl").read_text().splitlines())
    assert line["num_steps"] == 4 and np.isfinite(line["results"]["random_convolutions-0"]["frechet"])


def test_analysis_of_rectangular_images(tmp_path):
    (tmp_path / "own.py").write_text(
        "from ssd_jax.config import config_from_json, to_config_dict\n"
        f"def get_config():\n    return to_config_dict(config_from_json({config_json(config(1))!r}))\n"
    )
    result = launch("launch.analyze", f"--config={tmp_path}/own.py", "--images=64")
    assert result.returncode == 0 and "stay1" in result.stdout, result.stderr


def colours(folder, images):
    for name, image in images.items():
        cv2.imwrite(str(folder / name), image)
    return DataConfig(source="folder", folder=str(folder))


def test_a_folder_has_the_channels_of_its_images(tmp_path):
    red = np.full((16, 32, 3), (0, 0, 255), np.uint8)  # BGR
    clear = np.concatenate([red, np.zeros((16, 32, 1), np.uint8)], axis=-1)
    grey = np.full((16, 32), 70, np.uint8)
    for name, images, expected in (
        ("grey", {"a.png": grey, "b.png": grey}, 1),
        ("rgb", {"a.png": grey, "b.png": red}, 3),
        ("mixed", {"a.png": clear, "b.png": red}, 3),
        ("transparent", {"a.png": clear, "b.png": clear}, 4),
    ):
        (tmp_path / name).mkdir()
        data = colours(tmp_path / name, images)
        source = make_source(data, SHAPE)
        assert source.channels == expected, name
        item = source[0]
        assert item is not None and item["image"].shape == (*SHAPE, expected)
        rgb = make_source(replace(data, channels=3, background=(0, 0, 250)), SHAPE)[0]
        seen = {"grey": (70, 70, 70), "rgb": (70, 70, 70)}.get(name, (0, 0, 250))  # never the hidden red
        assert rgb is not None
        np.testing.assert_array_equal(rgb["image"][0, 0], seen)
    with pytest.raises(InputError, match="data.channels is 4, but none of 2 images of .*rgb.* is transparent"):
        make_source(DataConfig(source="folder", folder=str(tmp_path / "rgb"), channels=4), SHAPE)
