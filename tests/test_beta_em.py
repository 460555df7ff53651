"""EM with two betas, and the scaling of losses: scipy and plain loops as oracles."""

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from noisyfit._beta_em import bounded_shapes, likely_shapes, moment_shapes
from noisyfit._em import (
    BETA_PRESETS,
    BetaFit,
    beta_em,
    beta_posterior,
    minmax_scaling,
    percentile_scaling,
)


def beta_mixture(seed, n=5000):
    """0.6 Beta(2, 10) + 0.4 Beta(8, 3)."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.where(rng.random(n) < 0.6, rng.beta(2, 10, n), rng.beta(8, 3, n)))


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


def test_beta_fit_never_reads_a_value_back():
    x = torch.empty(100, device="meta", dtype=torch.float64)  # holds no values at all
    scaling, weight = percentile_scaling(x)
    for preset in BETA_PRESETS.values():
        fit = beta_em(scaling.apply(x), **(preset | {"max_iter": 2}), weight=weight)
        assert beta_posterior(x, fit, monotone=True, lookup=100).shape == (100,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_beta_fit_on_an_accelerator_agrees_with_the_host():
    x = beta_mixture(0)
    for here, there in zip(beta_em(x), beta_em(x.cuda()), strict=True):
        torch.testing.assert_close(there.cpu(), here)


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
    x = np.concatenate([rng.beta(2, 8, 60), rng.beta(0.5, 0.3, 40)]).clip(1e-4, 1 - 1e-4)
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


@pytest.mark.parametrize("draw", ["exponential", "uniform", "lognormal"])
def test_robust_beta_em_never_lowers_the_likelihood(draw):
    x = torch.from_numpy(getattr(np.random.default_rng(1), draw)(size=1000))
    x = minmax_scaling(x, margin=1e-3).apply(x)
    fits = [beta_em(x, max_iter=k, tol=0.0) for k in range(1, 31)]
    gains = np.diff([mean_log_likelihood(x.numpy(), fit) for fit in fits])
    assert gains.min() >= -1e-9
    assert gains.max() > 1e-6


@pytest.mark.parametrize(("a", "b"), [(2, 10), (0.3, 0.4), (1, 1), (60, 5), (0.2, 8), (400, 400)])
@pytest.mark.parametrize("outlier", [False, True])
def test_likely_shapes_maximise_the_weighted_likelihood(a, b, outlier):
    rng = np.random.default_rng(0)
    x, w = rng.beta(a, b, 400).clip(1e-3, 1 - 1e-3), rng.random(400)
    if outlier:  # far from a tight group, undamped Newton steps leave the positive numbers
        x[0], w[0] = 1e-3, 1
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


def test_likely_shapes_of_a_component_without_spread_are_its_floored_moments():
    mean = tensor([0.2, 0.5])
    logs = torch.stack([mean.log(), (-mean).log1p()])
    shape = likely_shapes(mean, tensor([0.0, 0.0]), logs)
    torch.testing.assert_close(shape, moment_shapes(mean, tensor([1e-6, 1e-6])))


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


@pytest.mark.parametrize(
    ("seed", "init", "m_step", "max_iter", "tol"),
    [(209, "official", "moments", 50, 0.0), (158, "kmeans", "mle", 100, 1e-6)],
)
def test_beta_em_whose_components_change_places_orders_them_by_mean(
    seed, init, m_step, max_iter, tol
):
    x = torch.from_numpy(np.random.default_rng(seed).normal(0.5, 0.1, 150).clip(0.01, 0.99))
    fit = beta_em(x, init, m_step, max_iter, tol)
    assert fit.means[0] < fit.means[1]


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


TABLE_FITS = {
    "official": ([0.683, 1.527], [2.109, 0.982]),
    "rises again": ([0.5, 6.0], [2.0, 4.0]),
    "falls first": ([3.0, 1.2], [20.0, 1.5]),
}


@pytest.mark.parametrize("shapes", TABLE_FITS.values(), ids=TABLE_FITS)
@pytest.mark.parametrize("monotone", [False, True])
def test_beta_posterior_from_a_table_equals_the_published_look_up(shapes, monotone):
    fit = beta_fit(*shapes)
    x = beta_mixture(1, 500)
    alphas, betas, weights = map(np.asarray, fit[:3])
    points = np.linspace(1e-12, 1 - 1e-12, 100)
    joint = [weights[k] * stats.beta.pdf(points, alphas[k], betas[k]) for k in (0, 1)]
    table = joint[1] / (joint[0] + joint[1] + 1e-12)
    for k in range(table.argmax(), 100):
        table[k] = table.max()
    if monotone:
        table = np.maximum.accumulate(table)
    looked_up = [table[min(int(100 * value), 99)] for value in x.tolist()]
    ours = beta_posterior(x, fit, monotone, lookup=100)
    np.testing.assert_allclose(1 - ours, looked_up, atol=1e-9)


def test_beta_posterior_from_a_table_is_close_to_the_exact_one():
    fit = beta_em(beta_mixture(0), **BETA_PRESETS["official"])
    x, grid = beta_mixture(1, 500), torch.linspace(0, 1, 1001, dtype=torch.float64)
    # a table entry is taken at most 0.01 from where it was computed
    steepest = beta_posterior(grid, fit).diff().abs().max() / 1e-3
    error = (beta_posterior(x, fit) - beta_posterior(x, fit, lookup=100)).abs()
    assert error.max() < 0.01 * steepest


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
