"""Weights in one file: what is read is what was written, or an error."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

import ssd_jax
from ssd_jax.config import DenoiserConfig
from ssd_jax.errors import InputError
from ssd_jax.interop.bundle import write_model
from ssd_jax.run.digest import named
from ssd_jax.run.quantization import rounded
from tests.conftest import tiny_config
from tests.networks import random_trained


def config(classes: tuple[str, ...] = (), **sections):
    tiny = tiny_config()
    data, model = replace(tiny.data, channels=3, classes=classes or None), replace(tiny.model, num_classes=len(classes))
    return replace(tiny, data=data, model=model, **sections)


def arrays(trained) -> dict[str, np.ndarray]:
    return {name: np.array(leaf) for name, leaf in named(trained.network.parameters).items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of weights, not to be changed."""
    folder = tmp_path_factory.mktemp("weights")
    write_model(random_trained(config()), folder)
    return folder


@pytest.mark.parametrize("given", [config(), config(("a", "b"), denoiser=DenoiserConfig(parameterisation="v"))])
def test_weights_come_back_bit_for_bit(given, tmp_path):
    trained = random_trained(given)
    write_model(trained, tmp_path / "made")
    for name in os.listdir(tmp_path / "made"):  # as the cache of the Hub has files
        (tmp_path / "blobs").mkdir(exist_ok=True)
        shutil.move(tmp_path / "made" / name, tmp_path / "blobs" / name)
        (tmp_path / "made" / name).symlink_to(f"../blobs/{name}")
    found = ssd_jax.load(tmp_path / "made")
    assert found.step == 7 and found.config == trained.config and found.digest == trained.digest
    assert found.experiment.statistics == trained.experiment.statistics
    for name, array in arrays(trained).items():
        np.testing.assert_array_equal(arrays(found)[name], array)


@pytest.mark.parametrize("kind, size", [(None, 4), ("float16", 2), ("int8", 1)])
def test_rounded_weights_are_read_as_what_is_computed_with(kind, size, tmp_path):
    trained = random_trained(config())
    write_model(trained, tmp_path, kind)
    found = named(ssd_jax.load(tmp_path).network.parameters)
    for name, array in named(rounded(trained.network.parameters, kind)).items():
        np.testing.assert_array_equal(found[name], array)
    numbers = sum(array.size for array in found.values() if array.ndim > 1)
    assert numbers * size < (tmp_path / "model.safetensors").stat().st_size < numbers * size * 1.3 + 20_000


def test_a_changed_byte_anywhere_is_noticed(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file, whole = tmp_path / "model.safetensors", (folder / "model.safetensors").read_bytes()
    header = int.from_bytes(whole[:8], "little")
    places = [0, 3, 8, 60, header // 2, header, 8 + header, 9 + header + (len(whole) - header) // 2, len(whole) - 1]
    for place in places:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"model\.safetensors' (is damaged|cannot be used)"):
            ssd_jax.load(tmp_path)
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"model\.safetensors' is damaged"):
            ssd_jax.load(tmp_path)


def test_files_of_others_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="holds no weights of ssd_jax"):
        ssd_jax.load(tmp_path)


def test_another_config_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "config.json").read_text()
    for before, after, name in [
        ('"gamma": 0.5', '"gamma": 0.6', "process.gamma"),
        ('"num_heads": 2', '"num_heads": 4', "model.num_heads"),
    ]:
        assert before in text
        (tmp_path / "config.json").write_text(text.replace(before, after))
        with pytest.raises(InputError, match=f"cannot be used: it was written with {name}"):
            ssd_jax.load(tmp_path)


def test_there_is_one_checkpoint_and_one_average(folder):
    assert ssd_jax.load(folder, step=7).step == 7
    with pytest.raises(InputError, match="step is given, but .* one average, of step 7"):
        ssd_jax.load(folder, step=8)
    with pytest.raises(InputError, match="ema_width is given"):
        ssd_jax.load(folder, ema_width=0.1)


def test_training_cannot_go_on_from_weights_alone(folder):
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)
    with pytest.raises(InputError, match="holds weights alone"):
        ssd_jax.train(config(), folder, source=images)
    assert not (folder / "checkpoints").exists()
