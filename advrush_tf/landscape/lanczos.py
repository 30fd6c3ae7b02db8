"""Lanczos' method for a batch of symmetric matrices, given by their products.

Source: Golub and Welsch, Calculation of Gauss quadrature rules, Math. Comp. 23, 1969,
for the quadrature; Meyer et al., Hutch++: optimal stochastic trace estimation, SOSA
2021, for the trace; Parlett, The symmetric eigenvalue problem, 1998, for the rest.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Product = Callable[[np.ndarray], np.ndarray]

# What is left of a product counts as rounding up to this many units of its dtype's
# epsilon times the largest coefficient so far.
_ROUNDINGS = 100


class Tridiagonal(NamedTuple):
    """Symmetric tridiagonal matrices, one per example: the result of the steps.

    Attributes:
        diagonal: (batch, steps).
        off_diagonal: (batch, steps - 1); 0 where an invariant subspace was full and the
            next vector is a new one.
        residual: (batch,), length of the last product's part outside the subspace.
        basis: (batch, steps, n), orthonormal rows that span the subspace.
    """

    diagonal: np.ndarray
    off_diagonal: np.ndarray
    residual: np.ndarray
    basis: np.ndarray


class Ritz(NamedTuple):
    """Approximate eigenvalues and quadratures of the original matrices.

    Attributes:
        values: (batch, steps), ascending approximations of eigenvalues.
        weights: (batch, steps), at least 0 and with the sum 1: the quadrature of the
            spectrum as the start vector sees it.
        bounds: (batch, steps), largest distance of each value from an eigenvalue, up to
            the rounding of the products.
    """

    values: np.ndarray
    weights: np.ndarray
    bounds: np.ndarray


def lanczos(
    product: Product, start: np.ndarray, steps: int, seeds: Sequence[Sequence[int]]
) -> Tridiagonal:
    """Takes Lanczos steps with full reorthogonalisation, in float64.

    A start vector in an invariant subspace meets only the eigenvalues of that subspace.
    When it is full, a random vector orthogonal to it goes on, so that repeated
    eigenvalues and the zeros of a matrix of low rank are found as well.

    Args:
        product: of unit vectors (batch, n), float64, with one symmetric matrix an
            example, (batch, n). Its dtype gives its precision.
        start: (batch, n), not zero.
        steps: at least 1; n if there are more.
        seeds: (batch, any), integers of at least 0: of each example's new vectors.

    Returns:
        The coefficients of min(steps, n) steps.
    """
    batch, size = start.shape
    steps = min(steps, size)
    basis = np.empty((batch, steps, size))
    diagonal, norms = np.empty((2, batch, steps))
    vectors = start / np.linalg.norm(start, axis=1, keepdims=True)
    largest = np.zeros(batch)
    for step in range(steps):
        basis[:, step] = vectors
        products = np.asarray(product(vectors))
        diagonal[:, step] = np.einsum("bn,bn->b", vectors, products)
        rest = _outside(products, basis[:, : step + 1])
        norms[:, step] = norm = np.linalg.norm(rest, axis=1)
        largest = np.maximum.reduce([largest, np.abs(diagonal[:, step]), norm])
        if step == steps - 1:
            break
        full = norm <= _ROUNDINGS * np.finfo(products.dtype).eps * largest
        norms[full, step] = 0
        for row in np.flatnonzero(full).tolist():
            generator = np.random.default_rng([*seeds[row], step + 1])
            fresh = generator.standard_normal((1, size))
            rest[row] = _outside(fresh, basis[row : row + 1, : step + 1])[0]
        vectors = rest / np.linalg.norm(rest, axis=1, keepdims=True)
    return Tridiagonal(diagonal, norms[:, :-1], norms[:, -1], basis)


def ritz(tridiagonal: Tridiagonal) -> Ritz:
    """Eigenvalues, quadrature weights and error bounds from Lanczos' coefficients."""
    diagonal, off_diagonal, residual, _ = tridiagonal
    matrices = np.zeros((*diagonal.shape, diagonal.shape[1]))
    places = np.arange(diagonal.shape[1])
    matrices[:, places, places] = diagonal
    # The lower triangle is all that NumPy reads.
    matrices[:, places[1:], places[:-1]] = off_diagonal
    values, vectors = np.linalg.eigh(matrices)
    bounds = residual[:, np.newaxis] * np.abs(vectors[:, -1])
    return Ritz(values, vectors[:, 0] ** 2, bounds)


def trace(
    product: Product,
    tridiagonal: Tridiagonal,
    probes: int,
    seeds: Sequence[Sequence[int]],
) -> tuple[np.ndarray, np.ndarray]:
    """Unbiased estimates of the traces, and their standard errors.

    A trace is the tridiagonal matrix' plus that of the rest outside its subspace, which
    random vectors estimate (Hutch++).

    Args:
        product, seeds: see `lanczos`.
        tridiagonal: what it returned.
        probes: number of these vectors, a product each.

    Returns:
        (batch,) and (batch,), NaN without probes of a rest. A deviation is estimated
        from the products' lengths, as one probe gives them too; it is rather too large
        than too small. The products' rounding is added to it.
    """
    batch, steps, size = tridiagonal.basis.shape
    known = tridiagonal.diagonal.sum(1)
    outside = size - steps
    if not outside:
        return known, np.zeros(batch)
    if not probes:
        return np.full(batch, np.nan), np.full(batch, np.nan)
    estimates, squares = np.empty((2, probes, batch))
    for i in range(probes):
        generators = [np.random.default_rng([*seed, steps + i]) for seed in seeds]
        drawn = np.stack([g.standard_normal(size) for g in generators])
        vectors = _outside(drawn, tridiagonal.basis)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        products = np.asarray(product(vectors))
        eps = np.finfo(products.dtype).eps
        products = _outside(products, tridiagonal.basis)
        estimates[i] = outside * np.einsum("bn,bn->b", vectors, products)
        # On average the squared Frobenius norm, half an estimate's variance at most.
        squares[i] = outside * np.einsum("bn,bn->b", products, products)
    rounding = _ROUNDINGS * eps * np.abs(tridiagonal.diagonal).sum(1)
    return known + estimates.mean(0), np.sqrt(2 * squares.mean(0) / probes) + rounding


def _outside(vectors: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """The part of (batch, n) that is orthogonal to orthonormal (batch, rows, n)."""
    rest = vectors[:, :, np.newaxis].astype(np.float64)
    for _ in range(2):  # Twice is enough (Parlett, section 6-9).
        rest = rest - basis.transpose(0, 2, 1) @ (basis @ rest)
    return rest[:, :, 0]
