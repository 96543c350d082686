"""Linear degradation operators M. Separable ones, M = R_1 (x) R_2 (x) ..., are exact: one SVD per axis on the host.

Arrays are [..., *spatial, channels]; an operator acts on the spatial axes and treats all else as batch. One axis is a
signal, two an image, three a video or a volume. An operator of the user's own is a `SeparableOperator` of one matrix per
axis or, if it is not separable, a `MatrixFreeOperator` (`matrix_free`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ssd_jax.errors import InputError
from ssd_jax.process.dct import dct_basis, heat_rate_grid, heat_rates


def along_axes(x: Float[Array, "..."], matrices: Sequence[Float[Array | np.ndarray, "_ _"]]) -> Float[Array, "..."]:
    """Multiplies the spatial axes of x by one matrix each.

    Args:
        x: [..., n_1, .., n_d, channels] with d = len(matrices).
        matrices: [m_i, n_i] each.

    Returns:
        [..., m_1, .., m_d, channels]
    """
    for i, matrix in enumerate(matrices):
        axis = x.ndim - 1 - len(matrices) + i
        matrix = jnp.asarray(matrix, x.dtype)
        product = jnp.tensordot(matrix, x, (1, axis), precision=jax.lax.Precision.HIGHEST)
        x = jnp.moveaxis(product, 0, axis)
    return x


@dataclass(frozen=True, eq=False)
class SeparableOperator:
    """M = R_1 (x) .. (x) R_d with R_i of shape [out_i, in_i], out_i <= in_i, held in float64 on the host.

    With R_i = U_i diag(s_i) V_i^T the singular directions of M are products of those of the axes, and its singular
    values m the outer product of the s_i. Everything that equations (4)-(6) ask for is elementwise in them.

    Raises:
        InputError: if a matrix is not 2-D, not finite, or has more rows than columns.
    """

    matrices: tuple[Float[np.ndarray, "..."], ...]

    def __post_init__(self):
        matrices = tuple(np.array(matrix, np.float64) for matrix in self.matrices)
        object.__setattr__(self, "matrices", matrices)
        for matrix in matrices:
            if matrix.ndim != 2 or matrix.shape[0] > matrix.shape[1] or not np.isfinite(matrix).all():
                raise InputError(
                    f"an axis of a SeparableOperator has a matrix of shape {matrix.shape}; it must be finite and "
                    "[out, in] with out <= in"
                )

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Spatial shape of what M acts on."""
        return tuple(matrix.shape[1] for matrix in self.matrices)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Spatial shape of what M gives."""
        return tuple(matrix.shape[0] for matrix in self.matrices)

    def __matmul__(self, other: "SeparableOperator") -> "SeparableOperator":
        """The operator that applies `other` first. Raises InputError if the shapes do not chain."""
        if not isinstance(other, SeparableOperator):
            return NotImplemented  # the other kind of operator knows how
        check_chain(self, other)
        return SeparableOperator(tuple(a @ b for a, b in zip(self.matrices, other.matrices, strict=True)))

    def __rmul__(self, gain: float) -> "SeparableOperator":
        """gain M, with the same gain to each axis."""
        root = gain ** (1 / len(self.matrices))
        return SeparableOperator(tuple(root * matrix for matrix in self.matrices))

    def apply(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """M x: [..., *in_shape, channels] -> [..., *out_shape, channels]."""
        return along_axes(x, self.matrices)

    def adjoint(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        """M^T y: [..., *out_shape, channels] -> [..., *in_shape, channels]."""
        return along_axes(y, [matrix.T for matrix in self.matrices])

    @cached_property
    def left(self) -> tuple[Float[np.ndarray, "_ _"], ...]:
        """U per axis, [out_i, out_i]."""
        return tuple(u for u, _, _ in self._svd)

    @cached_property
    def right(self) -> tuple[Float[np.ndarray, "_ _"], ...]:
        """V per axis, [in_i, in_i]; its last in_i - out_i columns span the null space."""
        return tuple(vt.T for _, _, vt in self._svd)

    @cached_property
    def singular_values(self) -> Float[np.ndarray, "..."]:
        """m, [*in_shape]: zero along the null space of M."""
        padded = [np.pad(s, (0, r.shape[1] - len(s))) for (_, s, _), r in zip(self._svd, self.matrices, strict=True)]
        return reduce(np.multiply.outer, padded)

    @cached_property
    def in_range(self) -> Bool[np.ndarray, "..."]:
        """bool [*in_shape]: the singular directions that have a partner u_i, whether or not m_i is zero."""
        return reduce(np.multiply.outer, [np.arange(r.shape[1]) < r.shape[0] for r in self.matrices])

    @property
    def lambda_max(self) -> float:
        """The largest eigenvalue of M M^T."""
        return float(self.singular_values.max() ** 2)

    @property
    def bound(self) -> float:
        """The largest |M x| of any pixel for |x| <= 1 everywhere."""
        return float(np.prod([np.abs(matrix).sum(axis=1).max() for matrix in self.matrices]))

    @cached_property
    def _svd(self):
        keys = [(matrix.shape, matrix.tobytes()) for matrix in self.matrices]
        distinct = dict(zip(keys, self.matrices, strict=True))  # the axes of a square are alike
        parts = {key: _svd(matrix) for key, matrix in distinct.items()}
        return tuple(parts[key] for key in keys)


def _svd(matrix: Float[np.ndarray, "out in"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U, s, V^T with directions sorted by frequency wherever the SVD alone would leave them to chance: where it may choose
    among equal singular values, as an ideal low-pass has, and in the null space."""
    rows, columns = matrix.shape
    gains = np.diagonal(dct_basis(rows) @ matrix @ dct_basis(columns).T)
    largest = np.abs(gains).max()
    if np.allclose(dct_basis(rows).T * gains @ dct_basis(columns)[:rows], matrix, rtol=0, atol=1e-13 * largest):
        order = np.argsort(-np.round(np.abs(gains) / (largest or 1.0), 12), kind="stable")  # not by what is rounding
        vt = dct_basis(columns)[[*order, *range(rows, columns)]]
        return (dct_basis(rows).T * np.where(gains < 0, -1.0, 1.0))[:, order], np.abs(gains)[order], vt
    u, s, vt = np.linalg.svd(matrix, full_matrices=True)
    null = vt[rows:] @ dct_basis(columns).T
    _, turn = np.linalg.eigh(null * np.arange(columns) @ null.T)
    vt[rows:] = turn.T @ vt[rows:]
    return u, s, vt


def check_chain(after, before) -> None:
    """Raises InputError if `after` cannot act on what `before` gives."""
    if after.in_shape != before.out_shape:
        raise InputError(f"operators do not chain: one gives shape {before.out_shape}, the next acts on {after.in_shape}")


def per_axis(shape: Sequence[int], matrix: Callable[[int], Float[np.ndarray, "_ _"]]) -> SeparableOperator:
    """The operator whose axis of n pixels has the matrix `matrix(n)`."""
    return SeparableOperator(tuple(matrix(n) for n in shape))


def identity(shape: Sequence[int]) -> SeparableOperator:
    """M = I on spatial `shape`."""
    return per_axis(shape, np.eye)


def box(shape: Sequence[int]) -> SeparableOperator:
    """Halves every axis of `shape` (all even) by averaging neighbouring pairs; M M^T = 2^-d I."""
    return per_axis(shape, lambda n: np.repeat(np.eye(n // 2), 2, axis=1) / 2)


def haar(shape: Sequence[int]) -> SeparableOperator:
    """The low-pass half of the Haar (block Hadamard) transform, orthonormal: `box` scaled to M M^T = I.

    A Hadamard transform of larger blocks that keeps the slower half of each is the same, up to a rotation.
    """
    return 2.0 ** (len(shape) / 2) * box(shape)


def resize(shape: Sequence[int], kernel: Callable[[np.ndarray], np.ndarray]) -> SeparableOperator:
    """Halves every axis of `shape` (all even) by antialiased interpolation.

    The kernel, a function of the distance in pixels, is stretched to the output's pixel pitch and renormalised at the
    borders, so that constants stay what they are.
    """

    def halve(n: int) -> np.ndarray:
        weights = kernel(np.abs((np.arange(n) + 0.5) / 2 - (np.arange(n // 2)[:, None] + 0.5)))
        return weights / weights.sum(axis=1, keepdims=True)

    return per_axis(shape, halve)


def triangle(distance: np.ndarray) -> np.ndarray:
    """The kernel of bilinear interpolation: weights 1 3 3 1 / 8 when halving."""
    return np.maximum(1 - distance, 0)


def keys_cubic(distance: np.ndarray) -> np.ndarray:
    """The kernel of bicubic interpolation, a = -1/2 (Keys 1981)."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


def lanczos3(distance: np.ndarray) -> np.ndarray:
    """The windowed sinc of three lobes."""
    return np.where(distance < 3, np.sinc(distance) * np.sinc(distance / 3), 0)


def dct(shape: Sequence[int]) -> SeparableOperator:
    """Halves every axis of `shape` (all even): keeps the lower half of the DCT frequencies, orthonormal, M M^T = I."""
    return per_axis(shape, lambda n: dct_basis(n // 2).T @ dct_basis(n)[: n // 2])


def ideal(shape: Sequence[int]) -> SeparableOperator:
    """The ideal low-pass: `dct` scaled to keep means, M M^T = 2^-d I."""
    return 2.0 ** (-len(shape) / 2) * dct(shape)


def heat(shape: Sequence[int], time: float, full_shape: Sequence[int] | None = None) -> SeparableOperator:
    """Gaussian blur of variance 2 `time` in pixels^2 with reflecting borders: exp(time laplacian), diagonal in the DCT.

    Args:
        shape: the image's.
        time: >= 0.
        full_shape: if the image is a smaller version of one of this shape, whose pixels then count.
    """
    sizes = zip(shape, full_shape or shape, strict=True)
    return SeparableOperator(tuple(_heat_matrix(n, full, time) for n, full in sizes))


def _heat_matrix(n: int, full: int, time: float) -> Float[np.ndarray, "n n"]:
    return dct_basis(n).T * np.exp(-time * heat_rates(n, full)) @ dct_basis(n)


def heat_each(
    x: Float[Array, "batch *spatial channels"], times: Float[Array, "batch"], full_shape: Sequence[int]
) -> Float[Array, "batch *spatial channels"]:
    """`heat` on the device, with a time of its own for each image."""
    bases = [dct_basis(n) for n in x.shape[1:-1]]
    rates = heat_rate_grid(x.shape[1:-1], full_shape)
    gains = jnp.exp(-jnp.multiply.outer(times, jnp.asarray(rates, x.dtype)))
    return along_axes(gains[..., None] * along_axes(x, bases), [basis.T for basis in bases])


def gaussian(shape: Sequence[int]) -> SeparableOperator:
    """Halves every axis of `shape` (all even): Gaussian blur of standard deviation 1 pixel, then `box`."""
    return box(shape) @ heat(shape, 0.5)


OPERATORS: dict[str, Callable[[Sequence[int]], Any]] = {
    "box": box,
    "bilinear": partial(resize, kernel=triangle),
    "bicubic": partial(resize, kernel=keys_cubic),
    "lanczos": partial(resize, kernel=lanczos3),
    "gaussian": gaussian,
    "haar": haar,
    "dct": dct,
    "ideal": ideal,
}
