"""Shape of the noise on digits; regions, projections and foreign rows."""

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors

from noisyfit import noise
from noisyfit.noise._clusters import class_quotas
from noisyfit.noise._instance import draw_each, flip_rates, instance_proba

SEEDS = range(5)


@pytest.fixture(scope="module")
def table(digits):
    """Digits as (1797, 64) in [0, 1], labels, and the 10 nearest neighbours of every row."""
    images, y = digits
    X = images.reshape(len(y), -1) / 16
    return X, y, NearestNeighbors(n_neighbors=10).fit(X).kneighbors(return_distance=False)


@pytest.fixture(scope="module")
def proba(table):
    """Out-of-sample class probabilities (1797, 10) of the digits."""
    X, y, _ = table
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return cross_val_predict(LogisticRegression(), X, y, cv=folds, method="predict_proba")


def concentration(changed, neighbours):
    """Mean share of wrong labels among the neighbours of a wrong row."""
    return np.mean([changed[neighbours[i]].mean() for i in np.flatnonzero(changed)])


def test_concentration_on_digits_symmetric_equals_the_wrong_fraction(table):
    _, y, neighbours = table
    for level in (0.2, 0.4):
        noisy = [noise.sym_incl(y, level, random_state=seed) for seed in SEEDS]
        found = np.mean([concentration(z.changed, neighbours) for z in noisy])
        assert abs(found - np.mean([z.changed.mean() for z in noisy])) < 0.03


def test_concentration_on_digits_of_local_noise_is_twice_the_wrong_fraction(table):
    X, y, neighbours = table
    noisy = [noise.locally_concentrated(X, y, 0.2, random_state=seed) for seed in SEEDS]
    assert all(z.changed.sum() == 359 for z in noisy)  # floor(0.2 * 1797)
    assert np.mean([concentration(z.changed, neighbours) for z in noisy]) > 2 * 0.2


def test_boundary_noise_on_digits_is_ranked_perfectly_by_the_margin(table, proba):
    X, y, neighbours = table
    rows = np.arange(len(y))
    others = np.where(np.arange(10) == y[:, None], -1, proba)
    margin = proba[rows, y] - others.max(axis=1)
    for level, count in ((0.2, 359), (0.4, 718)):
        noisy = noise.boundary(X, y, level, estimator=LogisticRegression(), random_state=0)
        assert noisy.changed.sum() == count
        assert roc_auc_score(noisy.changed, -margin) == 1
        assert concentration(noisy.changed, neighbours) > level + 0.1


def test_local_noise_gives_every_cluster_one_wrong_class():
    X, blob = make_blobs(
        [40] * 6, centers=np.arange(6)[:, None] * 100.0, cluster_std=1.0, random_state=0
    )
    y = blob // 2  # three classes of two far blobs each
    noisy = noise.locally_concentrated(X, y, 0.75, n_clusters=2, random_state=0)
    np.testing.assert_array_equal(np.bincount(y[noisy.changed]), [60, 60, 60])
    sizes = []
    for b in range(6):
        wrong = (blob == b) & noisy.changed
        sizes.append(wrong.sum())
        assert len(set(noisy.y[wrong])) == 1
        if 0 < wrong.sum() < 40:  # the trimmed blob loses its inner rows
            distance = np.abs(X[:, 0] - X[blob == b, 0].mean())
            assert distance[wrong].max() <= distance[(blob == b) & ~noisy.changed].min()
    assert sorted(sizes) == [20, 20, 20, 40, 40, 40]


def test_class_quotas_largest_remainders_are_rounded_up():
    # shares 2.1, 2.4, 1.5 and 0.3: floors 2, 2, 1, 0 and one left over of floor(6.3)
    np.testing.assert_array_equal(class_quotas(0.3, np.array([7, 8, 5, 1])), [2, 2, 2, 0])
    rng = np.random.RandomState(0)
    for _ in range(50):
        sizes, level = rng.randint(1, 60, size=7), rng.rand()
        quotas = class_quotas(level, sizes)
        assert quotas.sum() == int(level * sizes.sum())
        assert (np.abs(quotas - level * sizes) < 1).all()


def test_local_noise_images_are_flattened_and_tiny_classes_work():
    X = np.random.RandomState(0).randint(0, 255, (13, 2, 2, 3)).astype(np.uint8)
    y = np.array(["a"] * 12 + ["b"])
    noisy = noise.locally_concentrated(X, y, 1.0, random_state=0)
    assert noisy.changed.all()


def test_idn_row_of_probabilities_follows_the_softmax_of_the_other_classes():
    p = instance_proba(np.array([[9.0, 2.0, 3.0]]), np.array([0]), np.array([0.4]))
    np.testing.assert_allclose(p, [[0.6, 0.107577, 0.292423]], atol=1e-6)


@pytest.mark.parametrize(
    ("level", "mean"), [(0.1, 0.12876), (0.2, 0.205525), (0.5, 0.5), (0.8, 0.794475)]
)
def test_idn_flip_rates_have_the_mean_of_the_cut_normal(level, mean):
    q = flip_rates(level, 0.1, 50_000, np.random.RandomState(0))
    assert abs(q.mean() - mean) < 0.002
    assert 0 <= q.min() <= q.max() <= 1


def test_draws_by_row_have_the_given_frequencies_and_no_impossible_class():
    p = np.array([[0.5, 0.0, 0.5, 0.0], [0.0, 0.1, 0.2, 0.7]])
    codes = draw_each(np.repeat(p, 20_000, axis=0), np.random.RandomState(0)).reshape(2, -1)
    for row, drawn in zip(p, codes, strict=True):
        frequency = np.bincount(drawn, minlength=4) / 20_000
        assert (np.abs(frequency - row) <= 4 * np.sqrt(row * (1 - row) / 20_000)).all()


@pytest.mark.parametrize("shared", [False, True])
def test_idn_wrong_fraction_and_one_hot_choice_on_raw_pixels(shared):
    images = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    X, y = np.repeat(images, 1000, axis=0), np.repeat([0, 1, 2, 3], 1000)
    noisy = noise.idn(X, y, 0.4, shared=shared, random_state=0)
    assert abs(noisy.changed.mean() - 0.4) <= 4 * np.sqrt(0.24 / 4000)
    for c in range(4):  # equal rows make equal mistakes
        assert len(set(noisy.y[(y == c) & noisy.changed])) == 1


def test_idn_shared_projection_sends_equal_rows_of_all_classes_to_the_same_class():
    X, y = np.full((3000, 5), 200.0), np.arange(3000) % 6
    noisy = noise.idn(X, y, 0.4, shared=True, random_state=0)
    favourite = np.bincount(noisy.y[noisy.changed]).argmax()
    assert (noisy.y[noisy.changed & (y != favourite)] == favourite).all()
    separate = noise.idn(X, y, 0.4, random_state=0)
    assert len(set(separate.y[separate.changed])) > 2


def test_idn_with_scale_does_not_see_units_and_spreads_the_mistakes():
    X = np.random.RandomState(0).rand(5, 12).repeat(600, axis=0)
    X[:600] = 0  # a blank row has no direction
    y = np.repeat(np.arange(5), 600)
    noisy = noise.idn(X, y, 0.4, scale=1.0, random_state=0)
    np.testing.assert_array_equal(noisy.y, noise.idn(256 * X, y, 0.4, scale=1.0, random_state=0).y)
    for c in range(5):
        assert len(set(noisy.y[(y == c) & noisy.changed])) > 2


@pytest.mark.parametrize("name", ["sd", "scale"])
def test_idn_parameter_that_is_not_positive_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        noise.idn(np.ones((2, 1)), [0, 1], 0.1, **{name: 0})


@pytest.mark.parametrize("closed", ["sym_incl", "sym_excl", "asym_cifar10"])
def test_open_set_counts_masks_and_untouched_rows(closed):
    X = np.zeros((1000, 2, 2), np.uint16)
    X_open = np.arange(1, 401, dtype=np.uint16)[:, None, None] * np.ones((2, 2), np.uint16)
    y = np.arange(1000) % 10
    noisy = noise.open_set(X, y, 0.6, 0.5, X_open, closed=closed, random_state=0)
    assert (noisy.mask_open.sum(), noisy.mask_closed.sum()) == (300, 300)
    assert not (noisy.mask_open & noisy.mask_closed).any()
    assert not (noisy.changed & ~noisy.mask_closed).any()
    np.testing.assert_array_equal(noisy.y[noisy.mask_open], y[noisy.mask_open])
    assert (noisy.X[~noisy.mask_open] == 0).all()
    assert (noisy.X[noisy.mask_open] > 0).all()
    assert np.bincount(noisy.X[noisy.mask_open][:, 0, 0]).max() == 1  # without replacement
    assert X.max() == 0
    assert noisy.X.dtype == X.dtype


def test_open_set_record_leaves_open_rows_out_of_the_transition():
    y = np.arange(100) % 2
    noisy = noise.open_set(
        np.zeros((100, 1)), y, 0.6, 0.5, np.ones((30, 1)), closed="pair", random_state=0
    )
    T = np.zeros((2, 2))
    for i in np.flatnonzero(~noisy.mask_open):
        T[y[i], noisy.y[i]] += 1
    np.testing.assert_allclose(noisy.info["transition"], T / T.sum(axis=1, keepdims=True))
    assert noisy.info["wrong_fraction"] == 0.3
    assert noisy.info["open_share"] == 0.5


@pytest.mark.parametrize(
    ("X_open", "options", "match"),
    [
        (np.ones((9, 3)), {}, "shape of the rows"),
        (np.ones((2, 2)), {}, "at least 3 rows"),
        (np.ones((9, 2), complex), {}, "dtype complex128"),
        (np.ones((9, 2)), {"closed": "idn"}, "closed must be one of"),
    ],
)
def test_open_set_unusable_replacements_or_rules_are_refused(X_open, options, match):
    with pytest.raises(ValueError, match=match):
        noise.open_set(np.ones((6, 2)), [0, 1] * 3, 1.0, 0.5, X_open, **options)
