"""Linear degradation operators M. Separable ones, M = R_1 (x) R_2 (x) ..., are exact: one SVD per axis on the host.

Arrays are [..., *spatial, channels]; an operator acts on the spatial axes and treats all else as batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ssd_jax.errors import InputError


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
        if self.in_shape != other.out_shape:
            raise InputError(f"operators do not chain: one gives shape {other.out_shape}, the next acts on {self.in_shape}")
        return SeparableOperator(tuple(a @ b for a, b in zip(self.matrices, other.matrices, strict=True)))

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

    @cached_property
    def _svd(self):
        return tuple(np.linalg.svd(matrix, full_matrices=True) for matrix in self.matrices)


def identity(shape: Sequence[int]) -> SeparableOperator:
    """M = I on spatial `shape`."""
    return SeparableOperator(tuple(np.eye(n) for n in shape))


def box(shape: Sequence[int]) -> SeparableOperator:
    """Halves every axis of `shape` (all even) by averaging neighbouring pairs; M M^T = 2^-d I."""
    return SeparableOperator(tuple(np.repeat(np.eye(n // 2), 2, axis=1) / 2 for n in shape))


def bilinear(shape: Sequence[int]) -> SeparableOperator:
    """Halves every axis of `shape` (all even) by antialiased bilinear resize, the published model's operator.

    The triangle filter is stretched to the output's pixel pitch (weights 1 3 3 1 / 8) and renormalised at the borders.
    """

    def halve(n: int) -> np.ndarray:
        distance = np.abs((np.arange(n) + 0.5) / 2 - (np.arange(n // 2)[:, None] + 0.5))
        weights = np.maximum(1 - distance, 0)
        return weights / weights.sum(axis=1, keepdims=True)

    return SeparableOperator(tuple(halve(n) for n in shape))


OPERATORS = {"box": box, "bilinear": bilinear}
