"""EM with two Gaussians: scikit-learn and plain loops as oracles."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from noisyfit._em import GaussianFit, gaussian_em, gaussian_posterior
from noisyfit._em_loop import iterate, two_means

SHAPES = {
    "two Gaussians": lambda rng, n: np.where(
        rng.random(n) < 0.7, rng.normal(0.1, 0.05, n), rng.normal(0.6, 0.1, n)
    ),
    "two betas": lambda rng, n: np.where(
        rng.random(n) < 0.6, rng.beta(2, 10, n), rng.beta(8, 3, n)
    ),
    "one skewed beta": lambda rng, n: rng.beta(1, 8, n),
    "few wrong": lambda rng, n: np.where(
        rng.random(n) < 0.05, rng.normal(3, 1, n), rng.gamma(0.3, 0.2, n)
    ),
}


@pytest.fixture(params=SHAPES)
def losses(request):
    """3000 losses on the min-max scale."""
    x = SHAPES[request.param](np.random.default_rng(0), 3000)
    return (x - x.min()) / (x.max() - x.min())


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


# --- 2-means ---


def scatter_of_cut(values, weights, n_low):
    """Weighted sum of squared distances to the group means, by loops."""
    total = 0.0
    for group in (slice(None, n_low), slice(n_low, None)):
        w, v = weights[group], values[group]
        if w.sum() > 0:
            mean = (w * v).sum() / w.sum()
            total += sum(wi * (vi - mean) ** 2 for wi, vi in zip(w, v, strict=True))
    return total


@pytest.mark.parametrize("seed", range(5))
def test_two_means_with_ties_and_zero_weights_find_the_best_of_all_cuts(seed):
    rng = np.random.default_rng(seed)
    x = rng.exponential(size=30).round(1)
    weights = rng.integers(0, 3, 30).astype(float)
    groups = two_means(torch.from_numpy(x), torch.from_numpy(weights)).numpy()
    assert (groups.sum(0) == 1).all()
    order = np.argsort(x)
    best = min(scatter_of_cut(x[order], weights[order], k) for k in range(1, 30))
    found = scatter_of_cut(x[order], weights[order], int(groups[0].sum()))
    assert found == pytest.approx(best)
    assert x[groups[0] == 1].max() < x[groups[1] == 1].min()
    assert (weights * groups).sum(1).min() > 0


def test_two_means_group_as_scikit_learn_does(losses):
    groups = two_means(torch.from_numpy(losses), torch.ones(3000).double())
    kmeans = KMeans(2, n_init=3, tol=0, random_state=0).fit(losses[:, None])
    lower = kmeans.labels_ == kmeans.cluster_centers_[:, 0].argmin()
    np.testing.assert_array_equal(groups[0].bool().numpy(), lower)


# --- loop ---


def test_loop_frozen_after_convergence_equals_loop_left_early():
    def step(state):
        return state / 2, -state.abs().sum()

    left = iterate(step, tensor([8.0]), 50, 0.1, stop_early=True)
    frozen = iterate(step, tensor([8.0]), 50, 0.1, stop_early=False)
    assert left == frozen
    state, n_iter, converged = frozen
    # changes of the likelihood: 4, 2, 1, 0.5, 0.25, 0.125, 0.0625
    assert (n_iter, converged) == (8, True)
    assert state == 8 / 2**8


def test_loop_with_tolerance_zero_makes_all_iterations():
    _, n_iter, converged = iterate(lambda s: (s, s.sum()), tensor([1.0]), 7, 0.0)
    assert (n_iter, converged) == (7, False)


def test_gaussian_fit_never_reads_a_value_back():
    x = torch.empty(100, device="meta", dtype=torch.float64)  # holds no values at all
    assert gaussian_posterior(x, gaussian_em(x, bins=16), monotone=True).shape == (100,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_gaussian_fit_on_an_accelerator_agrees_with_the_host(losses):
    x = torch.from_numpy(losses)
    for here, there in zip(gaussian_em(x), gaussian_em(x.cuda()), strict=True):
        torch.testing.assert_close(there.cpu(), here)


# --- Gaussians ---


def sklearn_mixture(x, start=None, **params):
    """scikit-learn's mixture, from its own k-means or from a (2, n) partition."""
    if start is not None:
        groups = [x[row == 1] for row in start.numpy()]
        params |= {
            "means_init": np.array([[g.mean()] for g in groups]),
            "weights_init": np.array([len(g) / len(x) for g in groups]),
            "precisions_init": np.array([[[1 / (g.var() + 5e-4)]] for g in groups]),
        }
    return GaussianMixture(2, reg_covar=5e-4, random_state=0, **params).fit(x[:, None])


@pytest.mark.parametrize(("max_iter", "tol"), [(10, 1e-2), (200, 1e-6)])
def test_gaussian_em_from_the_same_start_equals_scikit_learn(losses, max_iter, tol):
    x = torch.from_numpy(losses)
    fit = gaussian_em(x, max_iter, tol)
    oracle = sklearn_mixture(losses, two_means(x, torch.ones_like(x)), max_iter=max_iter, tol=tol)
    assert fit.n_iter == oracle.n_iter_
    assert fit.converged == oracle.converged_
    np.testing.assert_allclose(fit.means, oracle.means_[:, 0], rtol=1e-8)
    np.testing.assert_allclose(fit.variances, oracle.covariances_[:, 0, 0], rtol=1e-8)
    np.testing.assert_allclose(fit.weights, oracle.weights_, rtol=1e-8)
    oracle_proba = oracle.predict_proba(losses[:, None])[:, 0]
    np.testing.assert_allclose(gaussian_posterior(x, fit), oracle_proba, atol=1e-9)


def test_gaussian_em_agrees_with_scikit_learn_from_its_own_k_means(losses):
    fit = gaussian_em(torch.from_numpy(losses))
    oracle = sklearn_mixture(losses, max_iter=10, tol=1e-2)
    order = oracle.means_[:, 0].argsort()
    np.testing.assert_allclose(fit.means, oracle.means_[order, 0], atol=3e-3)
    oracle_proba = oracle.predict_proba(losses[:, None])[:, order[0]]
    ours = gaussian_posterior(torch.from_numpy(losses), fit)
    np.testing.assert_allclose(ours, oracle_proba, atol=0.02)


def test_gaussian_em_stopped_short_reports_that_it_did_not_converge(losses):
    fit = gaussian_em(torch.from_numpy(losses), max_iter=2, tol=1e-9)
    assert (fit.n_iter, fit.converged) == (2, False)
    with pytest.warns(ConvergenceWarning):
        sklearn_mixture(losses, max_iter=2, tol=1e-9)


def test_gaussian_em_whose_components_change_places_orders_them_by_mean():
    x = torch.from_numpy(np.random.default_rng(187).normal(0.5, 0.1, 150))
    fit = gaussian_em(x, 200, 1e-9)
    assert fit.means[0] < fit.means[1]


def test_gaussian_em_on_a_histogram_agrees_with_the_sample(losses):
    x = torch.from_numpy(losses)
    exact, binned = gaussian_em(x), gaussian_em(x, bins=2048)
    torch.testing.assert_close(binned.means, exact.means, atol=1e-3, rtol=0)
    torch.testing.assert_close(
        gaussian_posterior(x, binned), gaussian_posterior(x, exact), atol=0.01, rtol=0
    )


def test_gaussian_em_with_counts_as_weights_equals_repeated_samples():
    x, counts = tensor([0.0, 0.1, 0.3, 0.8, 1.0]), torch.tensor([5, 3, 1, 2, 4])
    weighted, repeated = gaussian_em(x, weight=counts), gaussian_em(x.repeat_interleave(counts))
    for one, other in zip(weighted, repeated, strict=True):
        torch.testing.assert_close(one, other)


def test_gaussian_monotone_posterior_of_a_narrow_clean_component_is_its_running_maximum():
    fit = GaussianFit(tensor([0.2, 0.7]), tensor([0.002, 0.05]), tensor([0.6, 0.4]), None, None)
    grid = torch.linspace(-1, 2, 30001, dtype=torch.float64)
    plain, monotone = gaussian_posterior(grid, fit), gaussian_posterior(grid, fit, monotone=True)
    assert (plain.diff() > 0).any()
    running_maximum = np.maximum.accumulate(plain.numpy()[::-1])[::-1]
    np.testing.assert_allclose(monotone, running_maximum, atol=1e-7)


def test_gaussian_monotone_posterior_of_a_broad_clean_component_never_rises():
    fit = GaussianFit(tensor([0.2, 0.7]), tensor([0.05, 0.002]), tensor([0.6, 0.4]), None, None)
    grid = torch.linspace(-1, 2, 30001, dtype=torch.float64)
    plain, monotone = gaussian_posterior(grid, fit), gaussian_posterior(grid, fit, monotone=True)
    assert plain[-1] > 0.99
    assert (monotone.diff() <= 0).all()
    assert monotone[-1] == pytest.approx(plain.min().item(), rel=1e-6)
