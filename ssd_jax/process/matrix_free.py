"""Linear operators given only as a function: adjoint by transposition, functions of M M^T by Lanczos iteration.

Slower and less exact than `operators.SeparableOperator`; for operators that are no product of one matrix per axis.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssd_jax.errors import InputError
from ssd_jax.process.operators import SeparableOperator, check_chain

ITERATIONS = 40  # of Lanczos for a step of a chain, as many as the published code takes
PROBES = 100  # of Lanczos for lambda_max
FAILURE = 1e-6  # probability that the bound on lambda_max is too small


@dataclass(frozen=True, eq=False)
class MatrixFreeOperator:
    """M given as a linear JAX function of one channel.

    Attributes:
        function: [*in_shape] -> [*out_shape], linear.
        in_shape: spatial shape of what M acts on.

    Raises:
        InputError: if the function cannot be traced at that shape, or random probes show that it is not linear.
    """

    function: Callable[[jax.Array], jax.Array]
    in_shape: tuple[int, ...]

    def __post_init__(self):
        object.__setattr__(self, "in_shape", tuple(self.in_shape))
        name = getattr(self.function, "__name__", str(self.function))
        try:
            x, y = jax.random.normal(jax.random.key(0), (2, *self.in_shape))
            got, parts, zero = self.function(2 * x - 3 * y), (self.function(x), self.function(y)), self.function(0 * x)
            _ = self._transpose
        except (TypeError, ValueError, NotImplementedError) as error:  # what JAX raises for shapes, and when it transposes
            raise InputError(
                f"the operator {name} cannot act on spatial shape {self.in_shape} as a linear function: {error}"
            ) from error
        scale = float(jnp.linalg.norm(got)) + 1e-12
        excess = max(float(jnp.linalg.norm(got - 2 * parts[0] + 3 * parts[1])), float(jnp.linalg.norm(zero))) / scale
        if not excess <= 1e-4:
            raise InputError(
                f"the operator {name} is not linear: M(2x - 3y) and 2Mx - 3My, or M0 and 0, differ by {excess:.2g} of "
                "their norm on random probes; only linear operators can degrade a scale-space process"
            )

    @cached_property
    def out_shape(self) -> tuple[int, ...]:
        """Spatial shape of what M gives."""
        return jax.eval_shape(self.function, jax.ShapeDtypeStruct(self.in_shape, jnp.float32)).shape

    @cached_property
    def _transpose(self) -> Callable:
        return jax.linear_transpose(self.function, jax.ShapeDtypeStruct(self.in_shape, jnp.float32))

    def __matmul__(self, other: "MatrixFreeOperator | SeparableOperator") -> "MatrixFreeOperator":
        """The operator that applies `other` first. Raises InputError if the shapes do not chain."""
        check_chain(self, other)
        return MatrixFreeOperator(lambda x: self.function(_single(other)(x)), other.in_shape)

    def __rmatmul__(self, other: SeparableOperator) -> "MatrixFreeOperator":
        """`other` after this one. Raises InputError if the shapes do not chain."""
        check_chain(other, self)
        return MatrixFreeOperator(lambda x: _single(other)(self.function(x)), self.in_shape)

    def apply(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """M x: [..., *in_shape, channels] -> [..., *out_shape, channels]."""
        return _over_batch(self.function, x, len(self.in_shape))

    def adjoint(self, y: Float[Array, "..."]) -> Float[Array, "..."]:
        """M^T y: [..., *out_shape, channels] -> [..., *in_shape, channels]."""
        return _over_batch(lambda one: self._transpose(one)[0], y, len(self.out_shape))

    @cached_property
    def lambda_max(self) -> float:
        """An upper bound on the largest eigenvalue of M M^T, at most a few per cent above it.

        Lanczos alone comes from below. By Kuczynski & Wozniakowski (1992, theorem 4.2) k iterations from a random
        start on an n x n matrix reach (1 - e) lambda_max but with probability 1.648 sqrt(n) exp(-sqrt(e) (2k - 1)); e is
        chosen to make that FAILURE.
        """
        n = math.prod(self.out_shape)
        k = min(n, PROBES)
        with jax.ensure_compile_time_eval():  # whoever asks first may be tracing a program
            start = jax.random.normal(jax.random.key(1), (1, *self.out_shape, 1))
            _, ritz, _ = jax.jit(partial(_lanczos, self, iterations=k))(start)
            largest = float(ritz.max())
        if k == n:
            return largest * (1 + 1e-5)
        gap = (math.log(1.648 * math.sqrt(n) / FAILURE) / (2 * k - 1)) ** 2
        return largest / (1 - gap) * (1 + 1e-5)

    @property
    def bound(self) -> float:
        """A bound on |M x| of any pixel for |x| <= 1 everywhere: not known."""
        return math.inf


def function_of_gram(
    operator: MatrixFreeOperator,
    function: Callable[[jax.Array], jax.Array],
    y: Float[Array, "batch *out_shape channels"],
    iterations: int = ITERATIONS,
) -> Float[Array, "batch *out_shape channels"]:
    """function(M M^T) y by Lanczos with full reorthogonalisation, each image and channel with its own Krylov space.

    Linear in y and self-adjoint, which is how gradients pass: by the same function of the cotangent. They do not go through
    the iteration, which is not linear in y (nor smooth where it breaks off), nor into what `function` closes over.

    Args:
        operator: M.
        function: elementwise on eigenvalues, finite for >= 0.
        y: [batch, *out_shape, channels].
        iterations: matrix products; exact once they reach the number of different eigenvalues.
    """
    iterations = min(iterations, math.prod(operator.out_shape))

    @jax.custom_vjp
    def apply(y: jax.Array) -> jax.Array:
        basis, ritz, weights = _lanczos(operator, y, iterations=iterations)
        values = function(jnp.maximum(ritz, 0))
        coefficients = jnp.einsum("bij,bj,bj->bi", weights, values, weights[:, 0], precision="highest")
        flat = jnp.einsum("bi,bin->bn", coefficients, basis, precision="highest") * _rows(y).norm
        return _rows(y).restore(flat)

    apply.defvjp(lambda y: (apply(y), None), lambda _, cotangent: (apply(cotangent),))
    return apply(y)


def _lanczos(operator, y, *, iterations):
    """Krylov bases [rows, iterations, n], Ritz values [rows, iterations] and vectors [rows, iterations, iterations]."""
    rows = _rows(y)
    count, n = rows.flat.shape

    def gram(v: jax.Array) -> jax.Array:
        return jax.vmap(lambda one: operator.function(operator._transpose(one)[0]))(v.reshape(-1, *operator.out_shape))

    def step(basis: jax.Array, i: jax.Array):
        v = basis[:, i]
        w = gram(v).reshape(count, n)
        diagonal = jnp.sum(w * v, axis=1)
        for _ in range(2):  # twice is enough (Parlett)
            overlap = jnp.einsum("bkn,bn->bk", basis, w, precision="highest")
            w -= jnp.einsum("bkn,bk->bn", basis, overlap, precision="highest")
        length = jnp.linalg.norm(w, axis=1, keepdims=True)
        broken = length <= 1e-6 * jnp.abs(diagonal[:, None])  # an invariant space: what follows carries no weight
        basis = basis.at[:, i + 1].set(jnp.where(broken, 0, w / jnp.where(broken, 1, length)))
        return basis, (diagonal, jnp.where(broken, 0, length)[:, 0])

    start = jnp.zeros((count, iterations + 1, n), y.dtype).at[:, 0].set(rows.flat / rows.norm)
    basis, (diagonal, below) = jax.lax.scan(step, start, jnp.arange(iterations))
    tridiagonal = jax.vmap(lambda d, b: jnp.diag(d) + jnp.diag(b[:-1], 1) + jnp.diag(b[:-1], -1))(diagonal.T, below.T)
    ritz, vectors = jnp.linalg.eigh(tridiagonal)
    return basis[:, :-1], ritz, vectors


@dataclass(frozen=True)
class _Rows:
    """Images and channels as rows of a matrix, [batch * channels, pixels], with their norms and the way back."""

    flat: jax.Array
    norm: jax.Array
    restore: Callable[[jax.Array], jax.Array]


def _rows(y: jax.Array) -> _Rows:
    moved = jnp.moveaxis(y, -1, 1)
    flat = moved.reshape(moved.shape[0] * moved.shape[1], -1)
    norm = jnp.maximum(jnp.linalg.norm(flat, axis=1, keepdims=True), 1e-30)
    return _Rows(flat, norm, lambda rows: jnp.moveaxis(rows.reshape(moved.shape), 1, -1))


def _single(operator: "MatrixFreeOperator | SeparableOperator") -> Callable[[jax.Array], jax.Array]:
    """The operator as a function of one channel."""
    if isinstance(operator, MatrixFreeOperator):
        return operator.function
    return lambda x: operator.apply(x[..., None])[..., 0]


def _over_batch(function: Callable, x: jax.Array, dimensions: int) -> jax.Array:
    """`function` of one channel, mapped over channels and over all axes before the spatial ones."""
    channels_last = jax.vmap(function, -1, -1)
    batch = x.shape[: x.ndim - dimensions - 1]
    return jax.vmap(channels_last)(x.reshape(-1, *x.shape[len(batch) :])).reshape(*batch, *_out(channels_last, x, batch))


def _out(function: Callable, x: jax.Array, batch: Sequence[int]) -> tuple[int, ...]:
    return jax.eval_shape(function, jax.ShapeDtypeStruct(x.shape[len(batch) :], x.dtype)).shape
