import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.process.matrix_free import MatrixFreeOperator, function_of_gram
from ssd_jax.process.operators import SeparableOperator, box


def sheared(x):
    """A linear map that is no product of one matrix per axis: a masked shift, then pairs averaged along one axis."""
    mask = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.0, x.shape), x.dtype)
    y = mask * (x + 0.5 * jnp.roll(x, (1, 2), (0, 1)))
    return y.reshape(x.shape[0] // 2, 2, x.shape[1]).mean(1)


def as_matrix(operator):
    columns = jax.vmap(operator.function)(jnp.eye(np.prod(operator.in_shape)).reshape(-1, *operator.in_shape))
    return np.asarray(columns, np.float64).reshape(columns.shape[0], -1).T


@pytest.mark.smoke
def test_apply_and_adjoint():
    operator = MatrixFreeOperator(sheared, (8, 6))
    assert operator.out_shape == (4, 6)
    x, y = jax.random.normal(jax.random.key(0), (2, 5, 8, 6, 3)), jax.random.normal(jax.random.key(1), (2, 5, 4, 6, 3))
    np.testing.assert_allclose(operator.apply(x)[1, 2, ..., 0], sheared(x[1, 2, ..., 0]), atol=1e-6)
    scale = jnp.linalg.norm(x) * jnp.linalg.norm(y)
    np.testing.assert_allclose(jnp.vdot(operator.apply(x), y), jnp.vdot(x, operator.adjoint(y)), atol=1e-6 * scale)


@pytest.mark.parametrize("size", [6, 24])
def test_lambda_max_is_a_bound_and_a_close_one(size):
    """24 x 24 -> 12 x 24 has more dimensions than Lanczos takes steps."""
    operator = MatrixFreeOperator(sheared, (size, size))
    exact = np.linalg.norm(as_matrix(operator), 2) ** 2
    assert exact <= operator.lambda_max <= 1.01 * exact


def test_lambda_max_is_found_while_a_program_is_traced():
    """As that of an operator with blur is, whose bound nothing asks for before it samples."""
    first, again = (MatrixFreeOperator(sheared, (8, 6)) for _ in range(2))
    assert jax.jit(lambda x: x * first.lambda_max)(1.0) == pytest.approx(again.lambda_max, rel=1e-6)


def test_lanczos_is_the_function_of_the_dense_matrix():
    operator = MatrixFreeOperator(sheared, (8, 8))
    matrix = as_matrix(operator)
    values, vectors = np.linalg.eigh(matrix @ matrix.T)
    y = np.asarray(jax.random.normal(jax.random.key(0), (3, 4, 8, 2)))
    exact = np.einsum("ij,j,kj,bkc->bic", vectors, np.sqrt(values), vectors, y.reshape(3, -1, 2)).reshape(y.shape)
    for iterations, tolerance in ((32, 1e-5), (40, 1e-5), (12, 2e-2)):
        got = jax.jit(lambda v, k=iterations: function_of_gram(operator, jnp.sqrt, v, k))(y)
        assert np.linalg.norm(got - exact) <= tolerance * np.linalg.norm(exact)


def test_gradients_do_not_go_through_the_iteration():
    """f(K) is linear and self-adjoint: its transpose is f(K) too, at any y, also where the iteration breaks off."""
    operator, w = MatrixFreeOperator(sheared, (8, 8)), jax.random.normal(jax.random.key(1), (2, 4, 8, 1))

    @jax.jit
    def gradient(y, shift):  # closes over a traced value, as a step of a sampler does
        return jax.grad(lambda y: jnp.vdot(w, function_of_gram(operator, lambda k: jnp.sqrt(k + shift), y)))(y)

    expected = function_of_gram(operator, lambda k: jnp.sqrt(k + 0.5), w)
    for y in (0 * w, jnp.ones_like(w), jax.random.normal(jax.random.key(0), w.shape)):
        np.testing.assert_allclose(gradient(y, 0.5), expected, atol=1e-5)
        np.testing.assert_allclose(jax.vmap(gradient, (0, None))(y[None], 0.5)[0], expected, atol=1e-5)


def test_composition():
    free, separable = MatrixFreeOperator(sheared, (8, 8)), box((4, 8))
    whole = separable @ free
    assert isinstance(whole, MatrixFreeOperator) and whole.out_shape == (2, 4)
    np.testing.assert_allclose(as_matrix(whole), np.kron(*separable.matrices) @ as_matrix(free), atol=1e-6)
    stretch = SeparableOperator((np.eye(8), np.eye(8)[:, ::-1]))
    np.testing.assert_allclose(as_matrix(free @ stretch), as_matrix(free) @ np.kron(*stretch.matrices), atol=1e-6)
    with pytest.raises(InputError, match="do not chain"):
        _ = box((8, 8)) @ free


def test_what_is_not_linear_is_refused():
    for function in (lambda x: x**2, lambda x: x + 1, lambda x: jnp.maximum(x, 0)):
        with pytest.raises(InputError, match="not linear|linear function"):
            MatrixFreeOperator(function, (4, 4))
    with pytest.raises(InputError, match=r"cannot act on spatial shape \(5, 4\)"):
        MatrixFreeOperator(sheared, (5, 4))
