"""Autoencoders of diffusers against its own module's results, which `make_autoencoder_kl.py` wrote."""

import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ssd_jax.errors import InputError
from ssd_jax.interop.diffusers_vae import WEIGHTS, import_diffusers_autoencoder, read_diffusers_autoencoder
from ssd_jax.network.autoencoder import Autoencoder

GOLDEN = Path(__file__).parents[1] / "golden" / "autoencoder_kl"


def nhwc(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy that can be changed."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "vae"))


def rewrite(folder: Path, change) -> None:
    tensors = change(load_file(folder / WEIGHTS[1]))
    save_file({name: np.ascontiguousarray(each) for name, each in tensors.items()}, folder / WEIGHTS[1])


def test_computes_what_diffusers_does():
    autoencoder = read_diffusers_autoencoder(GOLDEN)
    arrays = {name: nhwc(each) for name, each in np.load(GOLDEN / "outputs.npz").items()}
    moments = jax.jit(Autoencoder.encode)(autoencoder, arrays["pictures"])
    both = jnp.concatenate([moments.mean, moments.log_variance], axis=-1)
    np.testing.assert_allclose(both, arrays["moments"], rtol=0, atol=1e-5)
    decoded = jax.jit(Autoencoder.decode)(autoencoder, arrays["latents"])
    np.testing.assert_allclose(decoded, arrays["decoded"], rtol=0, atol=1e-5)


def test_names_of_older_files_are_read(folder):
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(tensors):
        return {re.sub(r"to_(q|k|v|out\.0)", lambda found: older[found[0]], name): each for name, each in tensors.items()}

    rewrite(folder, renamed)
    old, new = read_diffusers_autoencoder(folder), read_diffusers_autoencoder(GOLDEN)
    jax.tree.map(np.testing.assert_array_equal, old, new)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"_class_name": "AutoencoderDC"}, r"is of a 'AutoencoderDC', but only diffusers' AutoencoderKL"),
        ({"act_fn": "gelu"}, "says 'act_fn': 'gelu', but must be 'silu' here"),
        ({"use_post_quant_conv": False}, "'use_post_quant_conv': False, but must be True"),
        ({"wavelets": 3}, "says 'wavelets': 3, but is not known here"),
        ({"in_channels": 5}, "'out_channels': 3, but must be 5"),
        ({"norm_num_groups": 3}, "model.num_groups is 3, but must divide.*norm_num_groups"),
        ({"block_out_channels": "8"}, "down_block_types"),
        ({"layers_per_block": 2}, "does not fit its config.json: .*resnets.2.conv1.bias is missing; download"),
        ({"latent_channels": 3}, r"has shape \(16, 4, 3, 3\), which makes .*, not"),
        ({"mid_block_add_attention": False}, "20 tensors have no place: decoder.mid_block.attentions"),
    ],
)
def test_configs_that_cannot_be(folder, change, message):
    (folder / "config.json").write_text(json.dumps(json.loads((GOLDEN / "config.json").read_text()) | change))
    with pytest.raises(InputError, match=message) as raised:
        read_diffusers_autoencoder(folder)
    assert "\n" not in str(raised.value)


def test_folders_that_hold_none(folder):
    with pytest.raises(InputError, match="config.json' cannot be read"):
        read_diffusers_autoencoder(folder / "nowhere")
    (folder / WEIGHTS[1]).write_bytes(b"12345678{")
    with pytest.raises(InputError, match=r"fp16.safetensors' cannot be read: .*; download it again"):
        read_diffusers_autoencoder(folder)
    (folder / WEIGHTS[1]).unlink()
    with pytest.raises(InputError, match="holds neither diffusion_pytorch_model.safetensors nor"):
        read_diffusers_autoencoder(folder)


def test_weights_in_float32_come_first(folder):
    tensors = {name: each.astype(np.float32) for name, each in load_file(folder / WEIGHTS[1]).items()}
    save_file(tensors | {"quant_conv.bias": np.full(8, 7, np.float32)}, folder / WEIGHTS[0])
    assert read_diffusers_autoencoder(folder).parameters["to_moments"]["bias"].tolist() == [7] * 8


def test_an_imported_one_is_a_folder_of_weights(tmp_path):
    workdir = tmp_path / "imported"
    trained = import_diffusers_autoencoder(GOLDEN, workdir)
    jax.tree.map(
        np.testing.assert_array_equal, trained.autoencoder.parameters, read_diffusers_autoencoder(GOLDEN).parameters
    )
    assert sorted(each.name for each in workdir.iterdir()) == ["config.json", "model.safetensors"] and trained.step == 0
    with pytest.raises(InputError, match="is not an empty folder"):
        import_diffusers_autoencoder(GOLDEN, workdir)
