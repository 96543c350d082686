"""Runs on latents: prepared by an autoencoder that is then kept with them."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import ssd_jax
from launch.common.spectra import measured
from ssd_jax.data.encoding import LatentEncoding
from ssd_jax.data.protocol import image_batches
from ssd_jax.data.sources import DataConfig, make_source
from ssd_jax.errors import InputError
from ssd_jax.files.images import read_image, write_png
from ssd_jax.interop.onnx_stages import exportable
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.run.autoencoder import load_autoencoder, of_images
from ssd_jax.run.latents import planned
from ssd_jax.run.trained import Trained
from tests.commands import launch
from tests.latents import autoencoder_in, config_of, latents_in, pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return latents_in(tmp_path_factory.mktemp("latents"))


def test_latents_are_those_of_the_autoencoder_and_encoded_to_mean_0_and_deviation_1(folder):
    trained = load_autoencoder(folder / "vae")
    source = make_source(DataConfig(source="array_record", folder=str(folder / "latents")), (16, 16))
    found = np.concatenate(list(image_batches(source)))
    expected = trained.to_latents((16, 16)).encode(pictures())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    mean, deviation = expected.mean((0, 1, 2)), expected.std((0, 1, 2))
    encoding = LatentEncoding((8, 8), trained.autoencoder, tuple(mean.tolist()), tuple(deviation.tolist()))
    x0 = np.asarray(encoding.encode(found))
    np.testing.assert_allclose(x0.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(x0.std((0, 1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(encoding.encode(pictures()), x0, atol=1e-4)
    np.testing.assert_array_equal(encoding.decode(x0[:8]), trained.reconstruct(pictures()[:8]))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"autoencoder": None}, r"holds latents of the autoencoder [0-9a-f]{16}, but none is named"),
        ({"autoencoder": "other"}, r"holds latents of the autoencoder .*other' is [0-9a-f]{16}; prepare the data with it"),
        ({"data": "images"}, r"but the data are images; make latents of them, python -m launch.prepare --latents"),
        ({"evaluate_every": 1}, r"train.evaluate_num is 4096, but the data are latents"),
    ],
)
def test_what_does_not_go_together(folder, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        ssd_jax.train(config_of(folder, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_sizes_and_data_of_the_callers_are_refused(folder, tmp_path):
    config = config_of(folder)
    with pytest.raises(InputError, match=r"process.shape is \(16, 16\), but the latents in .* are \(8, 8\); set"):
        ssd_jax.train(replace(config, process=replace(config.process, shape=(16, 16))), tmp_path / "run")
    with pytest.raises(InputError, match="but the data are images"):
        ssd_jax.train(config, tmp_path / "run", source=pictures())
    with pytest.raises(InputError, match=r"pictures are 15x16x3, but the autoencoder takes 3 channels and sides"):
        load_autoencoder(folder / "vae").to_latents((15, 16))
    with pytest.raises(InputError, match="data.channels is 1, but the autoencoder is of images of 3"):
        of_images(load_autoencoder(folder / "vae").autoencoder, DataConfig(channels=1))


def test_what_a_run_will_be_is_known_before_it(folder):
    experiment = planned(config_of(folder))
    assert experiment.encoding.picture_shape == (16, 16, 3) and experiment.encoding.channels == 2
    spectrum = measured(experiment, len(pictures()))
    latents = load_autoencoder(folder / "vae").to_latents((16, 16)).encode(pictures())
    variance = (latents.var(axis=0) / latents.var(axis=(0, 1, 2))).mean()  # each number's over that of its channel
    assert spectrum.shape == (8, 8) and spectrum.mean() == pytest.approx(variance, rel=1e-3)
    with pytest.raises(InputError, match="holds latents of the autoencoder .*, but none is named"):
        planned(config_of(folder, autoencoder=None))


def test_what_makes_no_pictures_says_so(folder):
    trained = Trained(planned(config_of(folder)), object.__new__(Denoiser), 0)
    with pytest.raises(InputError, match="the model draws latents, of which ONNX makes no pictures; draw with"):
        exportable(trained)


@pytest.mark.nightly
def test_a_run_on_latents_draws_pictures_and_keeps_its_autoencoder(folder, tmp_path):
    workdir, config = tmp_path / "run", config_of(folder, steps=4, checkpoint_every=2, sample_every=4)
    ssd_jax.train(replace(config, train=replace(config.train, steps=2)), workdir)
    ssd_jax.train(config, workdir)
    assert read_image(workdir / "samples" / "step_0000004.png").shape[0] % 16
    trained = ssd_jax.load(workdir)
    assert "16x16x3 as latents of 8x8x2" in str(trained)
    x0 = trained.sample(jax.random.key(0), 8, num_steps=4)
    drawn = trained.encoding.decode(x0)
    assert x0.shape == (8, 8, 8, 2) and drawn.shape == (8, 16, 16, 3) and drawn.dtype == np.uint8
    assert trained.config.encoding.digest == load_autoencoder(workdir / "autoencoder").digest
    np.savez(tmp_path / "real.npz", images=pictures())
    evaluate = ("launch.evaluate", f"--workdir={workdir}", f"--reference={tmp_path}/real.npz", "--num=8", "--num_steps=4")
    result = launch(*evaluate)
    assert result.returncode == 0 and "low_pass" in result.stdout, result.stderr
    write_png(tmp_path / "mask.png", np.full((16, 16, 1), 255, np.uint8))
    write_png(tmp_path / "image.png", pictures()[0])
    edit = ("launch.edit", f"--workdir={workdir}", f"--image={tmp_path}/image.png", "--num_steps=4", "--num=2")
    result = launch(*edit, f"--mask={tmp_path}/mask.png", f"--out={tmp_path}/painted")
    assert result.returncode == 2 and "--mask gives pixels, but the model draws latents" in result.stderr
    result = launch(*edit, "--strength=0.5", f"--out={tmp_path}/varied")
    assert result.returncode == 0 and read_image(tmp_path / "varied" / "000000.png").shape == (16, 16, 3), result.stderr
    autoencoder_in(tmp_path / "another", 2)
    (workdir / "autoencoder").rename(tmp_path / "before")
    (tmp_path / "another").rename(workdir / "autoencoder")
    with pytest.raises(InputError, match="but the run was trained on latents of .*; restore that folder"):
        ssd_jax.load(workdir)
