"""The reverse step from x_t to x_s: equations (5)-(6) along the singular directions of M = U diag(m) V^T.

`process` states the equations and gives the coefficients; here they meet the arrays.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssd_jax.process.matrix_free import MatrixFreeOperator, function_of_gram
from ssd_jax.process.operators import SeparableOperator, along_axes

LEAST_RELATIVE_EIGENVALUE = 1e-6  # of K = M M^T for functions of it, over lambda_max: smaller ones are taken for it


def directions(m, in_range, var_s, var_t, ratio, eta):
    """(6) for singular values m_i, NumPy or JAX arrays: b_i, and the standard deviation of the noise along v_i.

    Args:
        m: singular values of M.
        in_range: whether v_i has a partner u_i among the directions of x_t; b_i is 0 where not.
        var_s, var_t: sigma^2 at s and t.
        ratio: rho c^2.
        eta: 0 (DDIM) to 1 (posterior).
    """
    fresh = (1 - ratio * m**2).clip(0)
    b = in_range * (var_s * (1 - eta**2 * fresh) / var_t) ** 0.5
    noise = (var_s * (1 - in_range * (1 - eta**2 * fresh))) ** 0.5  # var_s - var_t b^2, without rounding
    return b, noise


def lift(
    x: Float[Array, "batch *out_shape channels"],
    left: tuple[Float[Array | np.ndarray, "_ _"], ...],
    right: tuple[Float[Array | np.ndarray, "_ _"], ...],
) -> Float[Array, "batch *in_shape channels"]:
    """U^T x, zero along the null space of M: coordinates along V, where x meets images of M's in_shape."""
    padding = [(0, 0), *((0, v.shape[0] - u.shape[0]) for u, v in zip(left, right, strict=True)), (0, 0)]
    return jnp.pad(along_axes(x, [u.T for u in left]), padding)


def up_step(
    x: Float[Array, "batch *out_shape channels"],
    z: Float[Array, "batch *in_shape channels"],
    noise: Float[Array, "batch *in_shape channels"],
    coefficients: Float[Array, "*in_shape k"],
    left: tuple[Float[Array | np.ndarray, "_ _"], ...],
    right: tuple[Float[Array | np.ndarray, "_ _"], ...],
    earlier: Sequence[Float[Array, "batch *out_shape channels"]] = (),
) -> Float[Array, "batch *in_shape channels"]:
    """x_s from x_t one level below, equations (5)-(6), exact for a separable operator M = U diag(m) V^T.

    Args:
        x: x_t, [batch, *out_shape, channels].
        z: the (predicted) clean image at the level of s, [batch, *in_shape, channels].
        noise: xi ~ N(0, I) along the right singular directions, the shape of z; in an orthonormal basis it is as white as
            in any other, so that drawing it costs one transform.
        coefficients: (k_x, k_z, k_1 .. k_m, k_n), [*in_shape, 3 + m]; with m = 0 those of `reverse_coefficients`.
        left, right: U and V of M, one matrix per axis (`SeparableOperator.left`, `.right`).
        earlier: z_1 .. z_m, the predictions before, at the level of x_t; only their parts along U enter.

    Returns:
        x_s, the shape of z.
    """
    k_x, k_z, *k_earlier, k_n = jnp.moveaxis(coefficients, -1, 0)[..., None]

    total = k_x * lift(x, left, right) + k_z * along_axes(z, [v.T for v in right]) + k_n * noise
    for k, y in zip(k_earlier, earlier, strict=True):
        total = total + k * lift(y, left, right)
    return along_axes(total, right)


def from_left(
    operator: MatrixFreeOperator, function: Callable[[jax.Array], jax.Array], x: Float[Array, "batch *out_shape channels"]
) -> Float[Array, "batch *out_shape channels"]:
    """That of which M^T makes V f(m) U^T x, for M = U diag(m) V^T that is only a function: f(sqrt K) / sqrt K x, K = M M^T.

    Args:
        operator: M.
        function: f, elementwise on singular values > 0.
        x: [batch, *out_shape, channels].
    """

    def scaled(eigenvalue):
        m = jnp.sqrt(jnp.maximum(eigenvalue, LEAST_RELATIVE_EIGENVALUE * operator.lambda_max))
        return function(m) / m

    return function_of_gram(operator, scaled, x)


def from_right(
    operator: MatrixFreeOperator,
    function: Callable[[jax.Array], jax.Array],
    outside: Float[Array, ""],
    z: Float[Array, "batch *in_shape channels"],
) -> Float[Array, "batch *out_shape channels"]:
    """That of which M^T, with `outside` z added, makes V f(m) V^T z: (f(sqrt K) - outside) / K M z.

    Args:
        operator, function: as in `from_left`.
        outside: the value of f along the null space of M.
        z: [batch, *in_shape, channels].
    """

    def scaled(eigenvalue):
        m = jnp.sqrt(jnp.maximum(eigenvalue, LEAST_RELATIVE_EIGENVALUE * operator.lambda_max))
        return (function(m) - outside) / m**2

    return function_of_gram(operator, scaled, operator.apply(z))


def matrix_free_up_step(
    operator: MatrixFreeOperator,
    x: Float[Array, "batch *out_shape channels"],
    z: Float[Array, "batch *in_shape channels"],
    noise: Float[Array, "batch *in_shape channels"],
    constants: Float[Array, "6"],
) -> Float[Array, "batch *in_shape channels"]:
    """`up_step` for an operator that is only a function. With K = M M^T, and b and k_n functions of m = sqrt(K):

        x_s = a_s z + sigma_s xi + M^T (b(m) / m (x_t - a_t M z) + (k_n(m) - sigma_s) / m^2 M xi)

    Args:
        operator: M.
        x, z: as in `up_step`.
        noise: xi ~ N(0, I), the shape of z.
        constants: `ScaleSpaceProcess.step_constants`.
    """
    a_s, a_t, var_s, *others = constants
    unseen = jnp.sqrt(var_s)  # k_n along the null space
    residual = from_left(operator, lambda m: directions(m, 1.0, var_s, *others)[0], x - a_t * operator.apply(z))
    inward = from_right(operator, lambda m: directions(m, 1.0, var_s, *others)[1], unseen, noise)
    return a_s * z + unseen * noise + operator.adjoint(residual + inward)


def pseudo_inverse(
    operator: SeparableOperator | MatrixFreeOperator, y: Float[Array, "batch *out_shape channels"]
) -> Float[Array, "batch *in_shape channels"]:
    """M^+ y, for an M of full row rank."""
    if isinstance(operator, MatrixFreeOperator):
        smallest = LEAST_RELATIVE_EIGENVALUE * operator.lambda_max
        return operator.adjoint(function_of_gram(operator, lambda value: 1 / jnp.maximum(value, smallest), y))
    return along_axes(y, [np.linalg.pinv(matrix) for matrix in operator.matrices])
