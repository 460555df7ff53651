"""EM on a line: scikit-learn, scipy and plain numpy loops as oracles."""

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from noisyfit._beta_em import bounded_shapes, likely_shapes, moment_shapes
from noisyfit._em import (
    BETA_PRESETS,
    BetaFit,
    GaussianFit,
    beta_em,
    beta_posterior,
    gaussian_em,
    gaussian_posterior,
    minmax_scaling,
    percentile_scaling,
)
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


def beta_mixture(seed, n=5000):
    """0.6 Beta(2, 10) + 0.4 Beta(8, 3)."""
    return torch.from_numpy(SHAPES["two betas"](np.random.default_rng(seed), n))


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def beta_fit(alphas, betas, weights=(0.5, 0.5)):
    return BetaFit(tensor(alphas), tensor(betas), tensor(weights), None, None)


def mean_log_likelihood(x, fit):
    """By scipy, of a BetaFit."""
    density = sum(
        w * stats.beta.pdf(x, a, b) for a, b, w in zip(*map(np.asarray, fit[:3]), strict=True)
    )
    return np.log(density).mean()


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


def test_whole_fit_never_reads_a_value_back():
    x = torch.empty(100, device="meta", dtype=torch.float64)  # holds no values at all
    assert gaussian_posterior(x, gaussian_em(x, bins=16), monotone=True).shape == (100,)
    scaling, weight = percentile_scaling(x)
    for preset in BETA_PRESETS.values():
        fit = beta_em(scaling.apply(x), **preset, weight=weight)
        assert beta_posterior(x, fit, monotone=True, lookup=100).shape == (100,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_fits_on_an_accelerator_agree_with_the_host():
    x = beta_mixture(0)
    for fit in (gaussian_em, beta_em):
        for here, there in zip(fit(x), fit(x.cuda()), strict=True):
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
    grid = torch.linspace(-1, 2, 3001, dtype=torch.float64)
    plain, monotone = gaussian_posterior(grid, fit), gaussian_posterior(grid, fit, monotone=True)
    assert plain[-1] > 0.99
    assert (monotone.diff() <= 0).all()
    assert monotone[-1] == pytest.approx(plain.min().item())


# --- betas ---


def slow_moment_em(x, max_iter, floor, bounded=False):
    """Moment EM from the published start, sample by sample; bounded = IDO's corrections."""
    alphas, betas, weights = [1.0, 2.0], [2.0, 1.0], [0.5, 0.5]
    for _ in range(max_iter):
        shares = np.empty((2, len(x)))
        for i, value in enumerate(x):
            joint = [
                max(weights[k] * stats.beta.pdf(value, alphas[k], betas[k]), floor) for k in (0, 1)
            ]
            shares[:, i] = np.array(joint) / sum(joint)
        for k in (0, 1):
            mean = (shares[k] * x).sum() / shares[k].sum()
            variance = (shares[k] * (x - mean) ** 2).sum() / shares[k].sum()
            alphas[k] = mean * (mean * (1 - mean) / variance - 1)
            betas[k] = alphas[k] * (1 - mean) / mean
        if bounded:
            betas[0] = 1.1 if betas[0] < 1.02 else betas[0]
            alphas[1] = 1.1 if alphas[1] < 1.02 else alphas[1]
        weights = shares.sum(1) / len(x)
    return alphas, betas, weights


@pytest.mark.parametrize(
    ("preset", "floor", "bounded"), [("official", 1e-12, False), ("history", 1e-6, True)]
)
def test_moment_em_equals_plain_loops(preset, floor, bounded):
    rng = np.random.default_rng(0)
    # The second group bends back at 0, so that IDO's correction has work to do.
    x = np.concatenate([rng.beta(2, 30, 60), rng.beta(0.8, 0.7, 40)]).clip(1e-4, 1 - 1e-4)
    fit = beta_em(torch.from_numpy(x), **(BETA_PRESETS[preset] | {"max_iter": 4}))
    alphas, betas, weights = slow_moment_em(x, 4, floor, bounded)
    assert (1.1 in (betas[0], alphas[1])) == bounded
    np.testing.assert_allclose(fit.alphas, alphas, rtol=1e-9)
    np.testing.assert_allclose(fit.betas, betas, rtol=1e-9)
    np.testing.assert_allclose(fit.weights, weights, rtol=1e-9)


def test_official_beta_em_on_uniform_losses_stays_at_its_start():
    grid = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    fit = beta_em(grid, **BETA_PRESETS["official"])
    torch.testing.assert_close(fit.alphas, tensor([1.0, 2.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(fit.betas, tensor([2.0, 1.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(fit.weights, tensor([0.5, 0.5]), atol=1e-5, rtol=0)


def test_official_beta_em_after_ten_iterations_has_the_known_biased_parameters():
    rng, n = np.random.default_rng(0), 20_000
    wrong = rng.random(n) > 0.6
    high, low = rng.beta(8, 3, n), rng.beta(2, 10, n)
    x = torch.from_numpy(np.where(wrong, high, low))
    fit = beta_em(x, **BETA_PRESETS["official"])
    torch.testing.assert_close(fit.alphas, tensor([0.683, 1.527]), atol=0.01, rtol=0)
    torch.testing.assert_close(fit.betas, tensor([2.109, 0.982]), atol=0.01, rtol=0)
    torch.testing.assert_close(fit.weights, tensor([0.598, 0.402]), atol=0.01, rtol=0)
    accuracy = ((beta_posterior(x, fit) <= 0.5).numpy() == wrong).mean()
    assert accuracy == pytest.approx(0.975, abs=0.003)
    assert (fit.n_iter, fit.converged) == (10, False)


@pytest.mark.parametrize("seed", range(3))
def test_robust_beta_em_recovers_the_components(seed):
    fit = beta_em(beta_mixture(seed))
    torch.testing.assert_close(fit.means, tensor([2 / 12, 8 / 11]), atol=0.01, rtol=0)
    torch.testing.assert_close(fit.weights, tensor([0.6, 0.4]), atol=0.02, rtol=0)
    assert fit.converged


@pytest.mark.parametrize("shape", SHAPES)
def test_robust_beta_em_never_lowers_the_likelihood(shape):
    x = torch.from_numpy(SHAPES[shape](np.random.default_rng(1), 1000))
    x = minmax_scaling(x, margin=1e-3).apply(x)
    fits = [beta_em(x, max_iter=k, tol=0.0) for k in range(1, 31)]
    gains = np.diff([mean_log_likelihood(x.numpy(), fit) for fit in fits])
    assert gains.min() >= -1e-9
    assert gains.max() > 1e-6


@pytest.mark.parametrize(("a", "b"), [(2, 10), (0.3, 0.4), (1, 1), (60, 5), (0.2, 8)])
def test_likely_shapes_maximise_the_weighted_likelihood(a, b):
    rng = np.random.default_rng(0)
    x, w = rng.beta(a, b, 400).clip(1e-3, 1 - 1e-3), rng.random(400)
    w /= w.sum()

    def cost(log_shape):
        return -(w * stats.beta.logpdf(x, *np.exp(log_shape))).sum()

    mean = (w * x).sum()
    stats_of_x = [mean, (w * (x - mean) ** 2).sum()]
    logs = tensor([[(w * np.log(x)).sum()], [(w * np.log1p(-x)).sum()]])
    shape = likely_shapes(*(tensor([s]) for s in stats_of_x), logs)[:, 0].numpy()
    oracle = optimize.minimize(cost, np.zeros(2), method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(shape, np.exp(oracle.x), rtol=1e-4)
    assert cost(np.log(shape)) <= oracle.fun + 1e-12


def test_moment_shapes_match_mean_and_variance():
    shape = moment_shapes(tensor([0.2]), tensor([0.02]))
    torch.testing.assert_close(shape, tensor([[1.4], [5.6]]))


def test_bounded_shapes_replace_only_what_bends_back():
    mean, variance = tensor([0.8, 0.2]), tensor([0.1, 0.1])
    moments, bounded = moment_shapes(mean, variance), bounded_shapes(mean, variance)
    assert moments[1, 0] < 1.02
    assert moments[0, 1] < 1.02
    torch.testing.assert_close(bounded, tensor([[moments[0, 0], 1.1], [1.1, moments[1, 1]]]))


@pytest.mark.parametrize("preset", BETA_PRESETS)
def test_beta_em_on_two_atoms_stays_finite_and_tells_them_apart(preset):
    x = tensor([1e-3] * 30 + [1 - 1e-3] * 20)
    fit = beta_em(x, **BETA_PRESETS[preset])
    assert all(torch.isfinite(values).all() for values in fit)
    torch.testing.assert_close(fit.weights, tensor([0.6, 0.4]), atol=0.01, rtol=0)
    assert ((beta_posterior(x, fit) > 0.5) == (x < 0.5)).all()


def test_beta_posterior_right_of_the_largest_wrong_posterior_stays_there():
    # alpha and beta of the clean component are both smaller: U-shaped around the wrong one
    fit = beta_fit([0.5, 6.0], [2.0, 4.0])
    grid = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    ours = beta_posterior(grid, fit).numpy()
    clean, wrong = stats.beta.pdf(grid, 0.5, 2), stats.beta.pdf(grid, 6, 4)
    exact = clean / (clean + wrong)
    worst = exact.argmin()
    assert exact[-1] > 0.5
    np.testing.assert_allclose(ours[:worst], exact[:worst], atol=1e-12)
    np.testing.assert_allclose(ours[worst:], exact[worst], atol=1e-5)


def test_beta_posterior_falls_towards_zero_unless_monotone():
    fit = beta_fit([3.0, 1.2], [20.0, 1.5])
    grid = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    plain, monotone = beta_posterior(grid, fit), beta_posterior(grid, fit, monotone=True)
    assert plain[0] < 0.5
    assert (monotone.diff() <= 0).all()
    top = plain.argmax()
    torch.testing.assert_close(monotone[top:], plain[top:])
    torch.testing.assert_close(monotone[:top], plain.max().expand(top), atol=1e-5, rtol=0)


def test_beta_posterior_from_a_table_equals_the_published_look_up():
    fit = beta_em(beta_mixture(0), **BETA_PRESETS["official"])
    x = beta_mixture(1, 500)
    alphas, betas, weights = map(np.asarray, fit[:3])
    points = np.linspace(1e-12, 1 - 1e-12, 100)
    joint = [weights[k] * stats.beta.pdf(points, alphas[k], betas[k]) for k in (0, 1)]
    table = joint[1] / (joint[0] + joint[1] + 1e-12)
    for k in range(table.argmax(), 100):
        table[k] = table.max()
    looked_up = [table[min(int(100 * value), 99)] for value in x.tolist()]
    np.testing.assert_allclose(1 - beta_posterior(x, fit, lookup=100), looked_up, atol=1e-9)
    exact, coarse = beta_posterior(x, fit), beta_posterior(x, fit, lookup=100)
    assert (exact - coarse).abs().max() < 0.02


# --- scaling ---


def test_percentile_scaling_trims_shifts_and_clamps_as_published():
    losses = np.random.default_rng(0).exponential(size=400)
    x = torch.from_numpy(losses)
    scaling, weight = percentile_scaling(x)
    low, high = np.percentile(losses, [5, 95])
    np.testing.assert_array_equal(weight.bool(), (losses >= low) & (losses <= high))
    expected = (losses - (low + 1e-5)) / (high - (low + 1e-5) + 1e-6)
    expected[expected >= 1], expected[expected <= 0] = 1 - 1e-3, 1e-3
    np.testing.assert_allclose(scaling.apply(x), expected.clip(1e-3, 1 - 1e-3), rtol=1e-12)


@pytest.mark.parametrize(
    "losses",
    [np.arange(50.0), np.r_[np.zeros(198), 1, 2], np.r_[np.zeros(57), 1, 1, 1]],
    ids=["few", "equal percentiles", "equal between percentiles"],
)
def test_percentile_scaling_of_what_cannot_be_trimmed_uses_the_extremes(losses):
    scaling, weight = percentile_scaling(torch.from_numpy(losses))
    assert weight.all()
    assert not scaling.constant
    assert scaling.offset == pytest.approx(losses.min() + 1e-5)
    assert scaling.offset + scaling.span == pytest.approx(losses.max() + 1e-6)


def test_scalings_of_constant_losses_say_so_and_stay_finite():
    x = torch.full((60,), 0.3, dtype=torch.float64)
    for scaling in (minmax_scaling(x), percentile_scaling(x)[0]):
        assert scaling.constant
        assert torch.isfinite(scaling.apply(x)).all()
