"""Noise by the margin of a classifier: the boundary and polynomial margin diminishing noise."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from noisyfit import noise
from noisyfit.noise._margin import margin_diminishing, scaled_to_mean, top_gap

PUBLISHED_FACTORS = {"I": 1.43, "II": 1.32, "III": 1.35}  # CIFAR-10 at 35 %


def random_proba(n, K):
    return np.random.RandomState(0).dirichlet(np.ones(K), size=n)


@pytest.mark.parametrize("per_class", [False, True])
def test_boundary_takes_the_smallest_margins_and_the_best_other_class(per_class):
    y = np.random.RandomState(1).randint(3, size=60)
    p = random_proba(60, 3).round(1)  # rounded, so that margins tie
    p[:, 2] = 1 - p[:, 0] - p[:, 1]
    p = np.abs(p)
    scored = []
    for i in range(60):
        best = max((k for k in range(3) if k != y[i]), key=lambda k, i=i: (p[i, k], -k))
        scored.append((p[i, y[i]] - p[i, best], i, best))
    groups = [[s for s in scored if y[s[1]] == c] for c in range(3)] if per_class else [scored]
    expected = y.copy()
    for group in groups:
        for _, i, best in sorted(group)[: int(0.35 * len(group))]:
            expected[i] = best
    noisy = noise.boundary(None, y, 0.35, proba=p, per_class=per_class)
    np.testing.assert_array_equal(noisy.y, expected)


def test_boundary_without_estimator_reads_images_and_strings(digits):
    images, y = digits[0][:300], np.array([f"digit {c}" for c in digits[1][:300]])
    noisy = noise.boundary(images, y, 0.1, cv=3, random_state=0)
    assert noisy.changed.sum() == 30
    assert noisy.y.dtype == y.dtype


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"X": None}, ValueError, "Give X"),
        ({"X": None, "proba": np.ones((4, 3)) / 3}, ValueError, r"shape \(4, 2\)"),
        ({"X": None, "proba": np.full((4, 2), 0.6)}, ValueError, "rows that sum to 1"),
        ({"X": None, "proba": [[2, -1]] * 4}, ValueError, "none negative"),
        ({"X": np.ones((4, 1)), "estimator": Ridge()}, TypeError, "must be a classifier"),
        ({"X": np.ones(4)}, ValueError, "one row per sample"),
        ({"X": np.ones((3, 1))}, ValueError, "inconsistent numbers of samples"),
    ],
)
def test_boundary_without_usable_probabilities_is_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        noise.boundary(y=[0, 1, 0, 1], level=0.5, **arguments)


@pytest.mark.parametrize(
    ("gap", "one", "two", "three"),
    [
        (0.3, 0.455, 0.973, 0.861),
        (0.5, 0.375, 0.875, 0.708333),
        (0.75, 0.21875, 0.578125, 0.421875),
        (1.0, 0, 0, 0),
    ],
)
def test_pmd_polynomials_at_known_gaps(gap, one, two, three):
    for noise_type, rate in (("I", one), ("II", two), ("III", three)):
        assert margin_diminishing(gap, noise_type) == pytest.approx(rate, abs=1e-6)


def test_pmd_gap_is_between_the_two_most_probable_classes():
    p = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0, 1, 0]])
    np.testing.assert_allclose(top_gap(p), [0.3, 0.5, 1.0])


@pytest.mark.parametrize("mean", [0.01, 0.3, 0.6, 0.75])
def test_pmd_scaling_reaches_the_mean_as_the_closed_form_does(mean):
    rate = np.append(np.random.RandomState(0).rand(30) ** 3, np.zeros(10))
    ordered = np.sort(rate[:30])[::-1]
    for capped in range(30):  # the largest `capped` rates are cut at 1
        c = (mean * 40 - capped) / ordered[capped:].sum()
        if c * ordered[capped] <= 1 + 1e-9:
            break
    np.testing.assert_allclose(scaled_to_mean(rate, mean), np.minimum(1, c * rate), atol=1e-9)


@pytest.mark.parametrize("noise_type", ["I", "II", "III"])
@pytest.mark.parametrize("level", [0.35, 0.7])
def test_pmd_paper_wrong_fraction_is_the_level_and_sure_rows_never_flip(noise_type, level):
    p = random_proba(20_000, 4)
    p[:2000] = np.eye(4)[0]
    y = np.arange(20_000) % 4
    noisy = noise.pmd(None, y, level, noise_type=noise_type, proba=p, random_state=0)
    assert abs(noisy.info["wrong_fraction"] - level) <= 4 * np.sqrt(level * (1 - level) / 20_000)
    assert not noisy.changed[:2000].any()
    for i in np.flatnonzero(noisy.changed)[:200]:
        assert noisy.y[i] == max((k for k in range(4) if k != y[i]), key=lambda k, i=i: p[i, k])


def test_pmd_flip_probability_when_scaled_is_proportional_to_the_polynomial():
    p = np.repeat([[0.65, 0.35], [0.125, 0.875]], 20_000, axis=0)  # gaps 0.3, 0.75
    y = np.repeat([0, 1], 20_000)
    changed = noise.pmd(None, y, 0.2, noise_type="I", proba=p, random_state=0).changed
    c = 0.2 / ((0.455 + 0.21875) / 2)
    for rows, rate in ((changed[:20_000], 0.455), (changed[20_000:], 0.21875)):
        assert abs(rows.mean() - c * rate) <= 4 * np.sqrt(c * rate * (1 - c * rate) / 20_000)


@pytest.mark.parametrize(
    ("noise_type", "small", "sure"),
    [("I", 0.381119, 0.699301), ("II", 0.020455, 0.757576), ("III", 0.102963, 0.740741)],
)
def test_pmd_code_variant_keeps_the_published_shares(noise_type, small, sure):
    p = np.repeat([[0.6, 0.3, 0.1], [0.0, 0.0, 1.0]], 20_000, axis=0)
    y = np.arange(40_000) % 3
    options = {"variant": "code", "base": "bayes", "factor": PUBLISHED_FACTORS[noise_type]}
    given = noise.pmd(None, y, 0.35, noise_type=noise_type, proba=p, random_state=0, **options).y
    assert set(given[:20_000]) == {0, 1}
    for kept, share in ((given[:20_000] == 0, small), (given[20_000:] == 2, sure)):
        assert abs(kept.mean() - share) <= 4 * np.sqrt(share * (1 - share) / 20_000)


def test_pmd_code_variant_without_factor_finds_the_one_of_the_level():
    p = np.repeat([[0.65, 0.35], [0.125, 0.875]], 20_000, axis=0)  # gaps 0.3, 0.75
    y = np.repeat([0, 1], 20_000)
    changed = noise.pmd(None, y, 0.7, variant="code", proba=p, random_state=0).changed
    factor = (0.545 + 0.78125) / 2 / (1 - 0.7)
    for rows, keep in ((changed[:20_000], 0.545 / factor), (changed[20_000:], 0.78125 / factor)):
        assert abs(1 - rows.mean() - keep) <= 4 * np.sqrt(keep * (1 - keep) / 20_000)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"noise_type": "IV"}, "noise_type must be"),
        ({"variant": "book"}, "variant must be"),
        ({"base": "given"}, "base must be"),
        ({"factor": 1.4}, "factor must be None"),
        ({"factor": -1, "variant": "code"}, "factor must be None"),
        ({"proba": np.eye(2)[[0, 1, 0, 1]]}, "level cannot be reached"),
    ],
)
def test_pmd_impossible_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        noise.pmd(None, [0, 1, 0, 1], 0.5, **({"proba": np.full((4, 2), 0.5)} | options))
