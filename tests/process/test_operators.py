import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.process.dct import dct_basis
from ssd_jax.process.operators import OPERATORS, SeparableOperator, box, haar, heat, heat_each, ideal
from tests.gaussians import dense

SHAPES = [(8,), (8, 8), (4, 12), (4, 6, 8)]


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_adjoint(name, shape):
    operator = OPERATORS[name](shape)
    x = jax.random.normal(jax.random.key(0), (2, *operator.in_shape, 3))
    y = jax.random.normal(jax.random.key(1), (2, *operator.out_shape, 3))
    scale = jnp.linalg.norm(x) * jnp.linalg.norm(y)
    np.testing.assert_allclose(jnp.vdot(operator.apply(x), y), jnp.vdot(x, operator.adjoint(y)), atol=1e-6 * scale)


@pytest.mark.parametrize("name", OPERATORS)
def test_singular_directions_rebuild_the_matrix(name):
    operator = OPERATORS[name]((4, 8))
    left, right, m = np.kron(*operator.left), np.kron(*operator.right), operator.singular_values.ravel()
    kept = operator.in_range.ravel()
    np.testing.assert_allclose(left * m[kept] @ right[:, kept].T, dense(operator), atol=1e-12)
    np.testing.assert_allclose(operator.lambda_max, np.linalg.norm(dense(operator), 2) ** 2, rtol=1e-12)


def test_directions_of_what_is_diagonal_in_the_dct_are_its_waves():
    """Also where singular values are equal, and with gains below zero; sorted by size, then by frequency."""
    np.testing.assert_allclose(ideal((8,)).right[0].T, dct_basis(8), atol=1e-15)
    gains = np.array([0.5, -2.0, 0.5, 1.0])
    operator = SeparableOperator((dct_basis(4).T * gains @ dct_basis(8)[:4],))
    np.testing.assert_allclose(operator.singular_values[:4], [2.0, 1.0, 0.5, 0.5], rtol=1e-12)
    np.testing.assert_allclose(operator.right[0].T, dct_basis(8)[[1, 3, 0, 2, 4, 5, 6, 7]], atol=1e-15)
    rebuilt = operator.left[0] * operator.singular_values[:4] @ operator.right[0][:, :4].T
    np.testing.assert_allclose(rebuilt, operator.matrices[0], atol=1e-14)


def test_box_averages_blocks():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(box((4, 4)).apply(x)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])


@pytest.mark.parametrize(("name", "method"), [("bilinear", "bilinear"), ("bicubic", "bicubic"), ("lanczos", "lanczos3")])
def test_resizes_are_the_antialiased_ones(name, method):
    x = jax.random.normal(jax.random.key(0), (2, 16, 12, 3))
    expected = jax.image.resize(x, (2, 8, 6, 3), method, antialias=True)
    np.testing.assert_allclose(OPERATORS[name]((16, 12)).apply(x), expected, atol=1e-6)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_on_the_device_is_as_exact_as_float32_can_be(name, shape):
    operator = OPERATORS[name](shape)
    x = np.asarray(jax.random.normal(jax.random.key(0), (3, *shape, 1)))
    exact = x.astype(np.float64).reshape(3, -1) @ dense(operator).T
    got = np.asarray(jax.jit(operator.apply)(x), np.float64).reshape(3, -1)
    assert np.linalg.norm(got - exact) <= 1e-6 * np.linalg.norm(exact)


@pytest.mark.parametrize("name", OPERATORS)
def test_constants_are_scaled_by_the_dc_gain_and_bounds_hold(name):
    operator = OPERATORS[name]((16, 16))
    gain = 2.0 if name in ("haar", "dct") else 1.0
    np.testing.assert_allclose(operator.apply(jnp.ones((1, 16, 16, 1))), gain, rtol=1e-5)
    signs = np.sign(operator.matrices[0][3])
    worst = operator.apply(jnp.float32(np.outer(signs, signs)[None, ..., None]))
    assert gain - 1e-6 <= operator.bound and float(jnp.abs(worst).max()) <= operator.bound * (1 + 1e-6)


def test_orthonormal_operators():
    for name in ("haar", "dct"):
        matrix = dense(OPERATORS[name]((8, 4)))
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(8), atol=1e-12)
    np.testing.assert_allclose(haar((8,)).matrices[0], np.sqrt(2) * box((8,)).matrices[0])


def test_ideal_keeps_low_frequencies_and_no_others():
    basis, half = dct_basis(16), dct_basis(8)
    spectrum = half @ ideal((16,)).matrices[0] @ basis.T
    np.testing.assert_allclose(spectrum, np.eye(8, 16) / np.sqrt(2), atol=1e-12)


def test_heat_is_gaussian_blur_and_a_semigroup():
    n, variance = 64, 9.0
    centre = heat((n,), variance / 2).matrices[0][n // 2]
    offsets = np.arange(n) - n // 2
    expected = np.exp(-(offsets**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    np.testing.assert_allclose(centre, expected, atol=1e-6)
    np.testing.assert_allclose((heat((8,), 1.0) @ heat((8,), 2.0)).matrices[0], heat((8,), 3.0).matrices[0], atol=1e-12)
    x = jax.random.normal(jax.random.key(0), (2, 8, 4, 3))
    both = heat_each(x, jnp.array([0.0, 2.0]), (16, 8))
    np.testing.assert_allclose(both[0], x[0], atol=1e-6)
    np.testing.assert_allclose(both[1], heat((8, 4), 2.0, (16, 8)).apply(x)[1], atol=1e-6)


def test_composition():
    bilinear = OPERATORS["bilinear"]
    whole = box((4, 4)) @ bilinear((8, 8))
    np.testing.assert_allclose(dense(whole), dense(box((4, 4))) @ dense(bilinear((8, 8))), atol=1e-12)
    with pytest.raises(InputError, match=r"\(4, 4\).*\(8, 8\)"):
        _ = box((8, 8)) @ box((8, 8))


def test_bad_matrices():
    for matrix in (np.ones(3), np.ones((4, 2)), np.array([[np.nan, 1.0]])):
        with pytest.raises(InputError, match="finite and"):
            SeparableOperator((matrix,))
