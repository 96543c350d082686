"""Inception-v3 against pytorch-fid's, on random weights in the format of the published file.

`tests/golden/inception.npz` holds what pytorch-fid's network makes of them; where it is installed, it is asked again.
`python -m tests.metrics.test_inception` writes the file.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.metrics.inception import NAME, _abstract, _name, import_weights, inception_features, resize
from tests.torch_writer import torch_save

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "inception.npz"

TOLERANCE = {"pool": 1e-4, "spatial": 1e-4, "probabilities": 1e-7}
ROUNDING = {
    "probabilities": 5e-6
}  # relative: what logits of about 10 in float32 leave of their exponentials on another CPU


def random_weights() -> dict[str, np.ndarray]:
    """A state dict of pytorch-fid's network that keeps the size of activations, the same on every platform."""
    generator = np.random.PCG64(0)

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        unit = (generator.random_raw(int(np.prod(shape))) >> np.uint64(11)) * 2.0**-53
        return (low + (high - low) * unit).reshape(shape).astype(np.float32)

    leaves, _ = jax.tree.flatten_with_path(_abstract()[1])
    kernels = {_name(where).removesuffix(".kernel"): leaf.shape for where, leaf in leaves if leaf.ndim > 1}
    width, classes = kernels.pop("logits")
    state_dict = {"fc.weight": uniform(-0.01, 0.01, classes, width), "fc.bias": uniform(-1, 1, classes)}
    for layer in sorted(kernels):
        height, width, channels_in, channels_out = kernels[layer]
        bound = np.sqrt(6 / (height * width * channels_in))
        state_dict |= {
            f"{layer}.conv.weight": uniform(-bound, bound, channels_out, channels_in, height, width),
            f"{layer}.bn.weight": uniform(0.5, 1.5, channels_out),
            f"{layer}.bn.bias": uniform(-0.1, 0.2, channels_out),
            f"{layer}.bn.running_mean": uniform(-0.1, 0.1, channels_out),
            f"{layer}.bn.running_var": uniform(0.5, 1.5, channels_out),
            f"{layer}.bn.num_batches_tracked": np.zeros((), np.int64),
        }
    return state_dict


def images() -> np.ndarray:
    """Noise and a gradient, uint8 [2, 32, 32, 3]."""
    noise = (np.random.PCG64(1).random_raw(32 * 32 * 3) >> np.uint64(56)).reshape(32, 32, 3)
    ramp = np.arange(32) * 8
    return np.stack([noise, np.stack(np.broadcast_arrays(ramp, ramp[:, None], 128), -1)]).astype(np.uint8)


def pytorch_fid_features(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What pytorch-fid's network makes of `images`, in the layout of ours."""
    torch = pytest.importorskip("torch")
    inception = pytest.importorskip("pytorch_fid.inception")
    tensors = {name: torch.tensor(tensor) for name, tensor in state_dict.items()}
    seen = {}
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: tensors)
        network = inception.InceptionV3().eval()
        network.blocks[2][6].register_forward_hook(lambda _, __, output: seen.update(spatial=output))  # Mixed_6d
        (pool,) = network(torch.tensor(images()).permute(0, 3, 1, 2) / 255)
        pool = pool[..., 0, 0]
        spatial = seen["spatial"].permute(0, 2, 3, 1)[..., :7].flatten(1)
        probabilities = torch.softmax(pool @ tensors["fc.weight"].T, dim=1)
    return {"pool": pool.numpy(), "spatial": spatial.numpy(), "probabilities": probabilities.numpy()}


@pytest.fixture(scope="module")
def state_dict():
    return random_weights()


@pytest.fixture(scope="module")
def cache(state_dict, tmp_path_factory):
    """A cache folder to which the command has imported the weights."""
    folder = tmp_path_factory.mktemp("cache")
    file = torch_save(state_dict, folder / "weights.pth")
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "launch.import_inception", f"--weights={file}"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and str(folder / "ssd_jax" / f"{NAME}.npz") in result.stdout, result.stderr
    return folder


@pytest.fixture(scope="module")
def features(cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        feature_set = inception_features()
    assert feature_set.name == NAME
    return jax.jit(lambda function, images: function(images))(feature_set.function, images())


def assert_close(features, reference):
    assert features.keys() == reference.keys()
    for name, expected in reference.items():
        assert features[name].shape == expected.shape and features[name].dtype == np.float32
        np.testing.assert_allclose(features[name], expected, rtol=ROUNDING.get(name, 0), atol=TOLERANCE[name], err_msg=name)


def test_features_are_those_of_the_golden_file(features):
    with np.load(GOLDEN) as golden:
        assert_close(features, dict(golden))


def test_features_are_those_of_pytorch_fid(features, state_dict):
    assert_close(features, pytorch_fid_features(state_dict))


@pytest.mark.parametrize("size", [32, 299, 450])
def test_resize_is_linear_between_two_pixels(size):
    image = np.arange(size * size * 3, dtype=np.uint8).reshape(size, size, 3) ** 2
    at = np.clip((np.arange(299) + 0.5) * size / 299 - 0.5, 0, size - 1)
    near, share = at.astype(int), at % 1
    weights = np.zeros((299, size))
    weights[np.arange(299), near] += 1 - share
    weights[np.arange(299), np.minimum(near + 1, size - 1)] += share
    expected = np.einsum("ih,jw,hwc->ijc", weights, weights, image / 255, optimize=True)
    np.testing.assert_allclose(resize(jnp.asarray(image[None]))[0], expected, atol=1e-4)  # positions are float32


def test_missing_weights_say_where_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError) as error:
        inception_features()
    for part in (str(tmp_path), "pt_inception-2015-12-05-6726825d.pth", "mseitzer/pytorch-fid", "launch.import_inception"):
        assert part in str(error.value)


@pytest.mark.parametrize("content", [b"", b"text", "other.npz"])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "weights.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, mu=np.zeros(3))
    with pytest.raises(InputError, match="does not hold the weights"):
        inception_features(path)


def test_weights_of_another_network_are_refused(state_dict, tmp_path):
    others = {
        "1 tensors differ (fc.weight is (1000, 2048) instead of (1008, 2048)": {"fc.weight": np.zeros((1000, 2048), "f4")},
        "AuxLogits.fc.weight is (1000, 768) instead of absent": {"AuxLogits.fc.weight": np.zeros((1000, 768), "f4")},
    }
    for message, tensors in others.items():
        path = torch_save({**state_dict, **tensors}, tmp_path / "other.pth")
        with pytest.raises(InputError, match=re.escape(message)):
            import_weights(path, tmp_path / "weights.npz")
    path = torch_save({"model": {}, "step": 3}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="holds another network"):
        import_weights(path, tmp_path / "weights.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["other.pth"]


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, allow_pickle=False, **pytorch_fid_features(random_weights()))
