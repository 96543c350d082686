import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.operators import OPERATORS, SeparableOperator, bilinear, box
from tests.gaussians import dense

SHAPES = [(8,), (8, 8), (4, 12), (4, 6, 8)]


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_adjoint(name, shape):
    operator = OPERATORS[name](shape)
    x = jax.random.normal(jax.random.key(0), (2, *operator.in_shape, 3))
    y = jax.random.normal(jax.random.key(1), (2, *operator.out_shape, 3))
    np.testing.assert_allclose(jnp.vdot(operator.apply(x), y), jnp.vdot(x, operator.adjoint(y)), rtol=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_singular_directions_rebuild_the_matrix(name):
    operator = OPERATORS[name]((4, 8))
    left, right, m = np.kron(*operator.left), np.kron(*operator.right), operator.singular_values.ravel()
    kept = operator.in_range.ravel()
    np.testing.assert_allclose(left * m[kept] @ right[:, kept].T, dense(operator), atol=1e-12)
    np.testing.assert_allclose(operator.lambda_max, np.linalg.norm(dense(operator), 2) ** 2, rtol=1e-12)


def test_box_averages_blocks():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(box((4, 4)).apply(x)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])


def test_bilinear_is_the_antialiased_resize():
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    expected = jax.image.resize(x, (2, 4, 6, 3), "bilinear", antialias=True)
    np.testing.assert_allclose(bilinear((8, 12)).apply(x), expected, atol=1e-6)


def test_composition():
    whole = box((4, 4)) @ bilinear((8, 8))
    np.testing.assert_allclose(dense(whole), dense(box((4, 4))) @ dense(bilinear((8, 8))), atol=1e-12)
    with pytest.raises(InputError, match=r"\(4, 4\).*\(8, 8\)"):
        box((8, 8)) @ box((8, 8))


def test_bad_matrices():
    for matrix in (np.ones(3), np.ones((4, 2)), np.array([[np.nan, 1.0]])):
        with pytest.raises(InputError, match="finite and"):
            SeparableOperator((matrix,))
