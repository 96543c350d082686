"""Gaussian images in the frequencies that operators couple: what `analysis` computes with, in float64.

In DCT bases an operator couples few frequencies (an ideal low-pass none, a box k and n - k, resizing all of one parity):
every axis falls into components that never meet, an image into their products; those of equal sizes make one batch.
"""

import itertools
from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse.csgraph import connected_components

from ssd_jax.errors import InputError
from ssd_jax.process.dct import dct_basis
from ssd_jax.process.operators import SeparableOperator, identity
from ssd_jax.process.process import ScaleSpaceProcess

Components = dict[int, Int[np.ndarray, "components _"]]  # the frequencies of each component at every level in use


def level_operators(process: ScaleSpaceProcess) -> dict[int, SeparableOperator]:
    """For every level in use what takes the sharp image of the one before to its own; the identity for level 0."""
    operators = {0: identity(process.shape)}
    for level, operator in process.level_operators.items():
        if not isinstance(operator, SeparableOperator):
            raise InputError("the exact Gaussian error needs separable operators; this process has one given as a function")
        operators[level] = operator
    return operators


def axis_components(operators: dict[int, SeparableOperator], axis: int) -> list[Components]:
    """The frequencies of an axis that any operator couples, over all levels, grouped by sizes."""
    matrices = [_to_frequencies(operator.matrices[axis]) for operator in operators.values()]
    starts = np.cumsum([0, *(len(matrix) for matrix in matrices)])
    coupled = np.zeros((starts[-1], starts[-1]))
    for i, matrix in enumerate(matrices[1:]):
        below, above = slice(*starts[i + 1 : i + 3]), slice(*starts[i : i + 2])
        coupled[below, above] = np.abs(matrix) > 1e-9 * np.abs(matrix).max()
    count, labels = connected_components(coupled, directed=False)
    of_level = np.split(labels, starts[1:-1])
    sizes = np.stack([np.bincount(own, minlength=count) for own in of_level], axis=1)
    signatures, group = np.unique(sizes, axis=0, return_inverse=True)

    def members(index: int) -> Components:
        inside = np.flatnonzero(group.ravel() == index)
        sorted_by_component = [np.argsort(own, kind="stable") for own in of_level]
        chosen = [order[np.isin(own[order], inside)] for order, own in zip(sorted_by_component, of_level, strict=True)]
        shaped = [own.reshape(len(inside), size) for own, size in zip(chosen, signatures[index].tolist(), strict=True)]
        return dict(zip(operators, shaped, strict=True))

    return [members(index) for index in range(len(signatures))]


def _to_frequencies(matrix: Float[np.ndarray, "out in"]) -> Float[np.ndarray, "out in"]:
    """C_out R C_in^T: the matrix of an axis between DCT bases."""
    return dct_basis(matrix.shape[0]) @ matrix @ dct_basis(matrix.shape[1]).T


def _merge(factors: np.ndarray) -> np.ndarray:
    """[m_1, p_1, q_1, m_2, p_2, q_2, ..] -> [m_1 m_2 .., p_1 p_2 .., q_1 q_2 ..]."""
    order = [range(start, factors.ndim, 3) for start in range(3)]
    sizes = [int(np.prod([factors.shape[axis] for axis in axes])) for axes in order]
    return factors.transpose(*itertools.chain(*order)).reshape(sizes)


def _kronecker(axes: Iterable[Float[np.ndarray, "_ _ _"]]) -> Float[np.ndarray, "batch p q"]:
    """Kronecker products of one matrix per axis, [m, p, q] each, in all combinations."""
    return _merge(reduce(np.multiply.outer, axes))


class GaussianData:
    """The data in one batch of components.

    Attributes:
        components: per axis.
        places: index of every coefficient in the flattened spectrum, [batch, d_0].
        variance: the spectrum there, [batch, d_0].
        degrade: what makes the sharp image of a level, [batch, d_l, d_0] for every level in use.
    """

    def __init__(
        self,
        process: ScaleSpaceProcess,
        operators: dict[int, SeparableOperator],
        components: Sequence[Components],
        spectrum: np.ndarray,
    ):
        self.process, self.components = process, components
        index = np.arange(spectrum.size).reshape(spectrum.shape)[np.ix_(*[own[0].ravel() for own in components])]
        sizes = itertools.chain(*[(own[0].shape[0], 1, own[0].shape[1]) for own in components])
        self.places = _merge(index.reshape(*sizes))[:, 0]
        self.variance = spectrum.ravel()[self.places]
        self.degrade, before, whole = {}, 0, np.eye(self.places.shape[1])
        for level, operator in operators.items():
            whole = self.restrict(operator, level, before) @ whole
            self.degrade[level], before = whole, level

    def restrict(self, operator: SeparableOperator, out_level: int, in_level: int) -> Float[np.ndarray, "batch out in"]:
        """An operator between levels within the components, [batch, d_out, d_in]."""
        axes = zip(operator.matrices, self.components, strict=True)
        return _kronecker(_to_frequencies(m)[own[out_level][:, :, None], own[in_level][:, None]] for m, own in axes)

    def covariance(self, level: int) -> Float[np.ndarray, "batch d d"]:
        """Cov(z) of the sharp image z of a level."""
        return self.degrade[level] * self.variance[:, None] @ self.degrade[level].mT

    def mean(self, t: int) -> Float[np.ndarray, "batch d d_0"]:
        """a_t A_t: E[x_t | x_0] = a_t A_t x_0."""
        level, blur = int(self.process.levels[t]), self.process.target_operator(t)
        clean = self.degrade[level] if blur is None else self.restrict(blur, level, level) @ self.degrade[level]
        return self.process.alpha[t] * clean

    def state_covariance(self, t: int) -> Float[np.ndarray, "batch d d"]:
        """Cov(x_t), by equation (1)."""
        mean = self.mean(t)
        return mean * self.variance[:, None] @ mean.mT + self.process.sigma[t] ** 2 * np.eye(mean.shape[1])

    def denoiser(self, t: int, out_level: int) -> Float[np.ndarray, "batch out in"]:
        """E[z | x_t] = Cov(z, x_t) Cov(x_t)^-1 x_t, z the sharp image of out_level."""
        across = self.mean(t) * self.variance[:, None] @ self.degrade[out_level].mT
        return np.linalg.solve(self.state_covariance(t), across).mT


def along_directions(k: np.ndarray, outer: list[np.ndarray], inner: list[np.ndarray]) -> Float[np.ndarray, "batch p q"]:
    """outer diag(k) inner^T within the components.

    Args:
        k: one value per direction, [n_1, n_2, ..].
        outer, inner: one factor per axis, [m_i, p_i, n_i] and [m_i, q_i, n_i]; inner may lack the last directions.
    """
    k = k[tuple(slice(factor.shape[-1]) for factor in inner)]
    for one, other in zip(outer, inner, strict=True):
        k = np.tensordot(k, np.einsum("mpi,mqi->mpqi", one[..., : other.shape[-1]], other), (0, 3))
    return _merge(k)
