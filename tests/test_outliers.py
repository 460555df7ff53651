"""Scores by nearest neighbours against scikit-learn's search, and the filter as an estimator."""

import math
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks

from noisyfit import _neighbours
from noisyfit.outliers import KNNOutlierFilter, knn_distances, knn_scores, split

# checks that scikit-learn keeps for its own estimators
EXTRA_CHECKS = [
    "check_get_feature_names_out_error",
    "check_global_output_transform_pandas",
    "check_inplace_ensure_writeable",
    "check_n_features_in",
    "check_param_validation",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
]


def table(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def searched(X, k, metric, new=None):
    """Mean distances to the nearest rows by scikit-learn; of `new` rows, or of those of `X`."""
    search = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute").fit(X)
    return search.kneighbors(new)[0].mean(1)  # None: each without itself


def clusters(seed):
    """5 tight clusters of 90 directions, then 50 directions of no cluster."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 32))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    tight = np.repeat(centres, 90, axis=0) + 0.05 * rng.normal(size=(450, 32))
    return np.r_[tight, rng.normal(size=(50, 32))]


# --- distances ---


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize(("n", "d", "k"), [(60, 2, 10), (200, 3, 5), (150, 5, 1), (90, 40, 10)])
def test_distances_are_those_of_scikit_learn(metric, n, d, k):
    X = table(n, d)
    out = knn_distances(torch.from_numpy(X), k, metric)
    assert out.dtype == torch.float64
    np.testing.assert_allclose(out, searched(X, k, metric), rtol=2e-5, atol=1e-9)
    narrow = knn_distances(torch.from_numpy(X).float(), k, metric)
    assert narrow.dtype == torch.float32
    np.testing.assert_allclose(narrow, out, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("d", [2, 20])
def test_fit_and_transform_are_those_of_scikit_learn(metric, d):
    X, new = table(120, d), table(50, d, seed=1) + 0.5
    knn = KNNOutlierFilter(7, metric=metric, t=0.5).fit(X)
    np.testing.assert_allclose(knn.score_, np.exp(-0.5 * searched(X, 7, metric)), rtol=1e-5)
    expected = np.exp(-0.5 * searched(X, 7, metric, new))
    np.testing.assert_allclose(knn.transform(new)[:, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(knn.score_samples(new), 2 * np.log(expected), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("d", "metric"), [(1, "euclidean"), (3, "euclidean"), (4, "cosine")])
def test_auto_is_the_cosine_distance_for_more_than_three_columns(d, metric):
    X = table(30, d)
    knn = KNNOutlierFilter().fit(X)
    assert knn.metric_ == metric
    np.testing.assert_array_equal(knn.score_, KNNOutlierFilter(metric=metric).fit(X).score_)
    x = torch.from_numpy(X)
    assert torch.equal(knn_distances(x), knn_distances(x, metric=metric))
    np.testing.assert_allclose(knn_scores(x), knn.score_, rtol=1e-12)


@pytest.mark.parametrize("d", [2, 30])
def test_blocks_change_nothing_but_the_memory(d, monkeypatch):
    X = torch.from_numpy(table(100, d))
    whole, sizes = knn_distances(X), []
    closeness = _neighbours.closeness

    def spy(x, points, half):
        sizes.append(8 * len(x) * len(points))
        return closeness(x, points, half)

    monkeypatch.setattr(_neighbours, "closeness", spy)
    for block_bytes in (1, 20_000, 10**6):
        sizes.clear()
        np.testing.assert_allclose(knn_distances(X, block_bytes=block_bytes), whole, rtol=1e-6)
        assert max(sizes) <= max(block_bytes, 800)
        assert len(sizes) == {1: 100, 10**6: 1}.get(block_bytes, len(sizes))
    knn = KNNOutlierFilter(block_bytes=20_000).fit(X.numpy())
    np.testing.assert_allclose(knn.transform(X.numpy()[::-1])[::-1, 0], knn.score_, rtol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("d", [2, 3, 8, 64])
def test_identical_copies_are_neighbours_at_distance_zero(metric, d):
    # eleven copies each of points far from the origin, where products of matrices cancel
    X = np.repeat(100 + table(5, d), 11, axis=0)
    knn = KNNOutlierFilter(metric=metric).fit(X)
    np.testing.assert_array_equal(knn.score_, 1)
    np.testing.assert_array_equal(knn.transform(X), 1)
    np.testing.assert_array_equal(knn_scores(torch.from_numpy(X).float(), metric=metric), 1)
    ten = KNNOutlierFilter(metric=metric).fit(X[1:])
    assert (ten.score_[:10] < 1).all()  # nine others only: a row is no neighbour of its own
    assert (ten.score_[10:] == 1).all()


@pytest.mark.parametrize("d", [2, 16])
def test_near_copies_far_from_the_origin_keep_their_distances(d):
    rng = np.random.default_rng(0)
    X = 1e4 + np.repeat(rng.normal(size=(4, d)), 15, axis=0) + 1e-4 * rng.normal(size=(60, d))
    out = KNNOutlierFilter(5, metric="euclidean").fit(X)
    expected = searched(X - X.mean(0), 14, "euclidean")
    all_of_a_group = KNNOutlierFilter(14, metric="euclidean").fit(X)
    np.testing.assert_allclose(-np.log(all_of_a_group.score_), expected, rtol=1e-2)
    assert (-np.log(out.score_) < 1e-3 * math.sqrt(d)).all()


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e25, 1e200])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_scale_of_the_features_does_no_harm(scale, metric):
    X = table(40, 6)
    plain, scaled = (KNNOutlierFilter(5, metric=metric).fit(Z) for Z in (X, scale * X))
    if metric == "cosine":
        np.testing.assert_allclose(scaled.score_, plain.score_, rtol=1e-6)
    assert ((scaled.score_ > 0) & (scaled.score_ <= 1)).all()
    np.testing.assert_array_equal(scaled.outlier_, plain.outlier_)
    np.testing.assert_array_equal(scaled.predict(scale * X), plain.predict(X))
    assert (scaled.transform((scale * X).astype(np.float64)) > 0).all()


def test_rows_of_zeros_are_alike_and_unlike_all_others():
    X = np.r_[np.zeros((3, 5)), table(20, 5)]
    distance = knn_distances(torch.from_numpy(X), 4, "cosine")
    np.testing.assert_allclose(distance[:3], 0.5)  # two at 0, two at 1
    np.testing.assert_allclose(distance[3:], searched(X, 4, "cosine")[3:], rtol=1e-5)


def test_distances_are_computed_in_full_precision_under_autocast():
    x = torch.from_numpy(table(50, 16)).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = knn_distances(x)
    assert torch.equal(inside, knn_distances(x))


def test_distances_carry_no_gradient_and_take_half_precision():
    x = torch.from_numpy(table(50, 16)).float().requires_grad_()
    assert not knn_scores(x).requires_grad
    half = knn_scores(x.bfloat16())
    assert half.dtype == torch.float32
    np.testing.assert_allclose(half, knn_scores(x), atol=0.02)


@pytest.mark.parametrize(
    ("params", "error", "name"),
    [
        ({"k": 0}, ValueError, "k == 0"),
        ({"k": 2.5}, TypeError, "k must be"),
        ({"metric": "l1"}, ValueError, "metric must be one of auto, cosine, euclidean"),
    ],
)
def test_distances_with_a_bad_argument_raise(params, error, name):
    with pytest.raises(error, match=name):
        knn_distances(torch.zeros(5, 2), **params)


# --- outliers ---


@pytest.mark.parametrize("seed", range(10))
def test_directions_of_no_cluster_have_the_smallest_scores(seed):
    knn = KNNOutlierFilter().fit(clusters(seed))
    np.testing.assert_array_equal(np.flatnonzero(knn.outlier_), np.arange(450, 500))
    assert knn.score_[450:].max() < knn.score_[:450].min()


@pytest.mark.parametrize("t", [1e-3, 0.1, 5.0, 1e6])
def test_order_does_not_depend_on_t(t):
    X = clusters(0)
    plain, other = KNNOutlierFilter(share=0.3).fit(X), KNNOutlierFilter(share=0.3, t=t).fit(X)
    np.testing.assert_array_equal(other.outlier_, plain.outlier_)
    np.testing.assert_array_equal(other.predict(X), plain.predict(X))
    if t < 100:  # beyond, scores end at the smallest number
        np.testing.assert_array_equal(np.argsort(other.score_), np.argsort(plain.score_))
        np.testing.assert_allclose(other.score_, plain.score_**t, rtol=1e-10)
    assert ((other.score_ > 0) & (other.score_ <= 1)).all()


@pytest.mark.parametrize(
    ("n", "share", "count"),
    [(40, 0.1, 4), (41, 0.1, 5), (100, 0.07, 7), (40, 0, 0), (40, 1e-6, 1), (40, 0.999, 39)],
)
def test_share_of_the_lowest_scores_is_called_outliers(n, share, count):
    X = table(n, 6)
    knn = KNNOutlierFilter(share=share).fit(X)
    assert knn.outlier_.dtype == bool
    assert knn.outlier_.sum() == count
    if count:
        assert knn.score_[knn.outlier_].max() < knn.score_[~knn.outlier_].min()
    np.testing.assert_array_equal(knn.predict(X), np.where(knn.outlier_, -1, 1))
    np.testing.assert_array_equal(knn.fit_predict(X), knn.predict(X))
    np.testing.assert_array_equal(knn.predict(1e6 * X) == 1, knn.predict(X) == 1)  # cosine
    far = KNNOutlierFilter(share=share, metric="euclidean").fit(X).predict(X + 1e6)
    assert (far == (-1 if count else 1)).all()


def test_among_equal_scores_the_earlier_rows_are_outliers_and_none_in_predict():
    X = np.repeat(table(1, 5), 20, axis=0)
    knn = KNNOutlierFilter(share=0.2).fit(X)
    assert np.flatnonzero(knn.outlier_).tolist() == [0, 1, 2, 3]
    assert (knn.predict(X) == 1).all()
    mask, _ = split(np.tile([0.0, 1.0, 0.5], 400), 100)
    assert np.flatnonzero(mask).tolist() == [1 + 3 * i for i in range(100)]


@pytest.mark.parametrize("n", [1, 2])
def test_less_than_three_rows_are_typical(n):
    X = table(n, 4)
    knn = KNNOutlierFilter(share=0.9).fit(X)
    assert knn.n_neighbors_ == 0
    assert knn.score_.tolist() == [1] * n
    assert not knn.outlier_.any()
    assert knn.transform(100 * table(5, 4, seed=1)).tolist() == [[1]] * 5
    assert (knn.predict(-X) == 1).all()
    assert knn_scores(torch.from_numpy(X)).tolist() == [1] * n


@pytest.mark.parametrize("n", [3, 5, 10, 11])
def test_few_rows_have_all_others_as_neighbours(n):
    X = table(n, 4)
    knn = KNNOutlierFilter().fit(X)
    assert knn.n_neighbors_ == min(10, n - 1)
    np.testing.assert_allclose(-np.log(knn.score_), searched(X, knn.n_neighbors_, "cosine"), 1e-5)
    np.testing.assert_allclose(knn.transform(X)[:, 0], knn.score_, rtol=1e-6)


# --- fitted and new rows ---


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("d", "metric"), [(2, "auto"), (2, "cosine"), (24, "auto")])
def test_fitted_rows_score_as_in_fit_alone_or_together(d, metric, dtype):
    X = np.r_[table(80, d), table(5, d), np.zeros((2, d))].astype(dtype)  # five come twice
    knn = KNNOutlierFilter(metric=metric)
    fitted = knn.fit_transform(X)
    assert fitted.dtype == dtype
    np.testing.assert_array_equal(fitted[:, 0], knn.score_.astype(dtype))
    together = knn.transform(X)
    assert together.dtype == dtype
    np.testing.assert_allclose(together, fitted, rtol=1e-6)
    alone = np.concatenate([knn.transform(row[None]) for row in X])
    np.testing.assert_allclose(alone, fitted, rtol=1e-6)
    np.testing.assert_array_equal(knn.predict(X) == -1, knn.outlier_)


def test_new_rows_beside_fitted_ones_count_them_as_neighbours():
    X = table(50, 3)
    knn = KNNOutlierFilter(1).fit(X)
    close = X + 1e-3
    np.testing.assert_allclose(-knn.score_samples(close), math.sqrt(3) * 1e-3, rtol=1e-3)
    np.testing.assert_allclose(-knn.score_samples(X), searched(X, 1, "euclidean"), rtol=1e-5)


def test_new_outliers_are_told_from_new_members():
    X, new = clusters(0), clusters(0)
    new[:450] += 0.01 * table(450, 32)
    new[450:] = table(50, 32, seed=7)
    knn = KNNOutlierFilter().fit(X)
    assert roc_auc_score(np.arange(500) < 450, knn.decision_function(new)) > 0.99
    assert (knn.predict(new[:450]) == 1).mean() > 0.99


def test_filter_in_a_pipeline_names_its_column():
    frame = pd.DataFrame(table(30, 2), columns=["a", "b"])
    pipeline = make_pipeline(StandardScaler(), KNNOutlierFilter()).set_output(transform="pandas")
    assert list(pipeline.fit_transform(frame).columns) == ["knn_score"]
    assert list(pipeline.transform(frame).columns) == ["knn_score"]


def test_copies_score_the_same(tmp_path):
    X, new = table(40, 9), table(10, 9, seed=1)
    knn = KNNOutlierFilter(device=torch.device("cpu")).fit(X)
    joblib.dump(knn, tmp_path / "knn")
    for twin in (pickle.loads(pickle.dumps(knn)), joblib.load(tmp_path / "knn")):
        np.testing.assert_array_equal(twin.transform(new), knn.transform(new))
    assert not hasattr(clone(knn), "score_")


def test_a_second_fit_forgets_the_first():
    knn = KNNOutlierFilter().fit(table(40, 9))
    knn.fit(table(2, 3))
    assert (knn.n_neighbors_, knn.metric_, knn.n_features_in_) == (0, "euclidean", 3)
    assert knn.transform(table(4, 3)).tolist() == [[1]] * 4


# --- scikit-learn's contract ---


@pytest.mark.parametrize("check", EXTRA_CHECKS)
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")
def test_filter_passes_further_checks_of_scikit_learn(check):
    getattr(estimator_checks, check)("KNNOutlierFilter", KNNOutlierFilter())


def test_filter_documents_every_parameter_and_fitted_attribute():
    knn = KNNOutlierFilter().fit(pd.DataFrame(table(5, 2), columns=["a", "b"]))
    fitted = {a for a in vars(knn) if a.endswith("_") and not a.startswith("_")}
    assert all(word in KNNOutlierFilter.__doc__ for word in fitted | set(knn.get_params()))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_neighbors": 0}, "The 'n_neighbors' parameter .* Got 0 instead"),
        ({"metric": "l1"}, "The 'metric' parameter .* Got 'l1' instead"),
        ({"t": 0}, "The 't' parameter .* Got 0 instead"),
        ({"share": 1}, "The 'share' parameter .* Got 1 instead"),
        ({"share": -0.1}, "The 'share' parameter .* Got -0.1 instead"),
        ({"block_bytes": 0}, "The 'block_bytes' parameter .* Got 0 instead"),
        ({"device": 3}, "The 'device' parameter .* Got 3 instead"),
        ({"device": "tape"}, "device='tape' cannot be used"),
    ],
)
def test_filter_with_a_bad_parameter_says_which_and_what_is_allowed(params, message):
    for call in ("fit", "fit_transform", "fit_predict"):
        knn = KNNOutlierFilter(**params)
        with pytest.raises(ValueError, match=message):
            getattr(knn, call)(table(30, 3))
        with pytest.raises(NotFittedError):
            knn.predict(table(30, 3))
