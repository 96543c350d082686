"""Rounded weights are within half a step of what they were."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.run.quantization import quantize, rounded


def kernel(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.mark.parametrize("shape, axis", [((3, 3, 5, 8), -1), ((8, 5, 3, 3), 0), ((7, 4), -1)])
def test_int8_is_nearest_output_by_output(shape, axis):
    weights = kernel(*shape) * np.moveaxis(
        np.arange(shape[axis], dtype=np.float32).reshape(-1, *[1] * (len(shape) - 1)), 0, axis
    )
    found = quantize(weights, "int8", axis)
    by_output = [np.moveaxis(each, axis, 0).reshape(shape[axis], -1) for each in (weights, found.numbers, found.restored())]
    largest = np.abs(by_output[0]).max(1, keepdims=True)
    assert found.numbers.dtype == np.int8 and not by_output[2][0].any()
    assert (np.abs(by_output[1].astype(int)).max(1)[1:] == 127).all()
    assert (np.abs(by_output[2] - by_output[0]) <= largest / 127 * 0.501).all()


def test_rounded_are_kernels_alone():
    parameters = {"layer": {"kernel": jnp.asarray(kernel(6, 4)), "bias": jnp.asarray(kernel(4))}}
    for kind, step in {"float16": 2**-11, "int8": 1 / 127}.items():
        found = rounded(parameters, kind)
        np.testing.assert_array_equal(found["layer"]["bias"], parameters["layer"]["bias"])
        difference = np.abs(found["layer"]["kernel"] - parameters["layer"]["kernel"])
        assert 0 < difference.max() <= step * np.abs(parameters["layer"]["kernel"]).max()
    assert rounded(parameters, None) is parameters
    with pytest.raises(InputError, match="quantize is 'int4', but must be one of: float16, int8"):
        rounded(parameters, "int4")


@pytest.mark.parametrize("value", [1e6, np.nan])
def test_what_float16_cannot_hold_is_refused(value):
    with pytest.raises(InputError, match="quantize is 'float16', but a weight is above 65504 or no number"):
        quantize(np.full((3, 2), value, np.float32), "float16")
