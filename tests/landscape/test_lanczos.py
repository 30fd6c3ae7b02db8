import numpy as np
import pytest

from advrush_tf.landscape.lanczos import lanczos, ritz


def _symmetric(rng, eigenvalues):
    """Matrices (batch, n, n) with these eigenvalues (batch, n)."""
    batch, size = np.shape(eigenvalues)
    bases, _ = np.linalg.qr(rng.normal(size=(batch, size, size)))
    return bases * np.asarray(eigenvalues)[:, np.newaxis] @ bases.transpose(0, 2, 1)


def _run(matrices, steps, seed=0, dtype=np.float64):
    batch, size = matrices.shape[:2]
    starts = np.random.default_rng(seed).choice([-1.0, 1.0], (batch, size))

    def product(vectors):
        return (matrices @ vectors[..., np.newaxis])[..., 0].astype(dtype)

    return lanczos(product, starts, steps, [(seed, row) for row in range(batch)])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_as_many_steps_as_rows_find_all_eigenvalues(rng):
    matrices = rng.normal(size=(4, 12, 12))
    matrices += matrices.transpose(0, 2, 1)
    found = ritz(_run(matrices, 12))
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(matrices), atol=1e-12)
    assert found.bounds.max() < 1e-12


def test_coefficients_of_two_steps_worked_by_hand():
    # v = (1, 1) / sqrt 2 and H = diag(3, 1): v'Hv = 2, |Hv - 2v| = 1, then v2'Hv2 = 2.
    def product(vectors):
        return vectors * [3.0, 1.0]

    diagonal, off_diagonal, residual, _ = lanczos(product, np.ones((1, 2)), 2, [(0,)])
    np.testing.assert_allclose(diagonal, [[2, 2]], atol=1e-15)
    np.testing.assert_allclose(off_diagonal, [[1]], atol=1e-15)
    np.testing.assert_allclose(residual, [0], atol=1e-15)


def test_repeated_eigenvalues_are_found_as_often_as_they_are_there(rng):
    expected = [[-2, -2, 1, 1, 1, 5, 5, 7.0], [0, 0, 0, 3, 3, 3, 3, 3.0]]
    found = ritz(_run(_symmetric(rng, expected), 8))
    np.testing.assert_allclose(found.values, expected, atol=1e-12)


def test_a_matrix_of_low_rank_shows_its_zeros(rng):
    expected = np.zeros((2, 40))
    expected[:, -3:] = [1, 10, 100]
    found = ritz(_run(_symmetric(rng, expected), 12))
    np.testing.assert_allclose(found.values, expected[:, -12:], atol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_zero_matrix_has_only_zeros(dtype):
    found = ritz(_run(np.zeros((2, 6, 6)), 4, dtype=dtype))
    np.testing.assert_array_equal(found.values, np.zeros((2, 4)))
    np.testing.assert_array_equal(found.bounds, np.zeros((2, 4)))
    np.testing.assert_allclose(found.weights.sum(1), 1)


def test_the_identity_is_found_from_any_start():
    found = ritz(_run(np.stack([np.eye(5)] * 2), 5))
    np.testing.assert_allclose(found.values, np.ones((2, 5)), atol=1e-15)


def test_steps_beyond_the_rows_are_not_taken(rng):
    matrices = _symmetric(rng, [[1.0, 2, 3]])
    diagonal, off_diagonal, *_ = tridiagonal = _run(matrices, 9)
    assert diagonal.shape == (1, 3) and off_diagonal.shape == (1, 2)
    np.testing.assert_allclose(ritz(tridiagonal).values, [[1, 2, 3]], atol=1e-13)


def test_no_ritz_value_is_farther_from_an_eigenvalue_than_its_bound(rng):
    eigenvalues = np.sort(rng.normal(size=(5, 60)), 1)
    values, _, bounds = ritz(_run(_symmetric(rng, eigenvalues), 15))
    distances = np.abs(values[:, :, np.newaxis] - eigenvalues[:, np.newaxis]).min(2)
    assert (distances <= bounds + 1e-13).all()
    assert bounds[:, 0].max() < 0.1 < bounds.max()


def test_weights_are_a_gauss_quadrature(rng):
    # Of m nodes, exact for powers below 2m: sum of w theta^k is v'H^k v.
    matrices = _symmetric(rng, rng.uniform(-1, 1, (3, 30)))
    values, weights, _ = ritz(_run(matrices, 5))
    starts = np.random.default_rng(0).choice([-1.0, 1.0], (3, 30)) / np.sqrt(30)
    for power in range(10):
        powers = np.linalg.matrix_power(matrices, power)
        expected = np.einsum("bi,bij,bj->b", starts, powers, starts)
        np.testing.assert_allclose((weights * values**power).sum(1), expected)


def test_float32_products_lose_no_eigenvalue_to_rounding(rng):
    expected = np.zeros((2, 50))
    expected[:, [0, -1, -2]] = [-5, 100, 40]
    found = ritz(_run(_symmetric(rng, expected), 20, dtype=np.float32))
    np.testing.assert_allclose(found.values[:, [0, -1, -2]], [[-5, 100, 40]] * 2, 2e-6)
    assert np.abs(found.values[:, 1:-2]).max() < 1e-4


def test_an_example_does_not_depend_on_the_others(rng):
    # Rank 2: each of them goes on from new vectors.
    matrices = _symmetric(rng, [[0, 0, 0, 0, 1, value] for value in (2.0, 3, 4)])
    starts = rng.normal(size=(3, 6))
    seeds = [(7, row) for row in range(3)]

    def run(rows):
        def product(vectors):
            return np.einsum("bij,bj->bi", matrices[rows], vectors)

        return lanczos(product, starts[rows], 5, [seeds[row] for row in rows])

    whole = run([0, 1, 2])
    for row in range(3):
        for all_of_them, alone in zip(whole, run([row]), strict=True):
            np.testing.assert_allclose(all_of_them[row], alone[0], atol=1e-12)
