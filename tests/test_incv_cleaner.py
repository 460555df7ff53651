"""INCVCleaner: the paper's formulas, honest predictions, and any data a classifier takes."""

import os
import pickle
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpydoc.docscrape import ClassDoc
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_iris, make_blobs, make_classification
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Perceptron
from sklearn.metrics import roc_auc_score
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_dataframe_column_names_consistency
from torch.utils.data import TensorDataset

from noisyfit import CoTeachingClassifier, CrossEntropyClassifier, Network
from noisyfit._agreement import (
    accepted_precision,
    expected_agreement,
    is_chance,
    rate_from_agreement,
    right_given,
)
from noisyfit._incv import (
    DISCARDED,
    SELECTED,
    INCVCleaner,
    among_top,
    lowest,
    number_to_discard,
)
from noisyfit._out_of_fold import bare, keeping_best_epoch, short_training, stratified_folds
from noisyfit.modules import SmallCNN
from noisyfit.noise import pair, sym_excl
from tests.test_common import LABELS, run_checks

X, Y = make_blobs(300, n_features=4, centers=3, random_state=0)
NOISY = sym_excl(Y, 0.3, random_state=0)
QUICK = CrossEntropyClassifier(Network(max_epochs=3))


class Oracle(ClassifierMixin, BaseEstimator):
    """Knows the true class of a row, its second column; `matrix` makes it draw a label instead."""

    def __init__(self, matrix=None, random_state=None):
        self.matrix = matrix
        self.random_state = random_state

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        true = X[:, 1].astype(int)
        if self.matrix is not None:
            u = np.random.default_rng(self.random_state).random((len(X), 1))
            true = (u > np.asarray(self.matrix).cumsum(1)[true]).sum(1)
        return np.eye(len(self.classes_))[true]


class Recorder(GaussianNB):
    """Refuses to predict a row that it was trained on; the first column is the row's number."""

    fits = []

    def __init__(self, random_state=None):
        super().__init__()
        self.random_state = random_state

    def fit(self, X, y):
        self.rows_ = set(X[:, 0])
        return super().fit(X[:, 1:], y)

    def predict_proba(self, X):
        assert not self.rows_ & set(X[:, 0])
        type(self).fits.append((self.rows_, set(X[:, 0]), self.random_state))
        return super().predict_proba(X[:, 1:])


def recorded(**params):
    Recorder.fits = []
    numbered = np.c_[np.arange(len(X)), X]
    cleaner = INCVCleaner(Recorder(), random_state=0, **params).fit(numbered, NOISY.y)
    return cleaner, Recorder.fits


def made(n, rate, n_classes=10, noise=sym_excl):
    """Rows whose second column is their true class, true labels, noisy labels."""
    true = np.arange(n) % n_classes
    return np.c_[np.arange(n), true], true, noise(true, rate, random_state=0).y


# ---- formulas --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agreement", "noise_type", "rate"),
    [
        (0.6444, "symmetric", 0.2),
        (0.2778, "symmetric", 0.5),
        (0.1111, "symmetric", 0.8),
        (0.05, "symmetric", 0.9),
        (0.52, "pair", 0.4),
        (0.3, "pair", 0.5),
        (1.0, "symmetric", 0.0),
    ],
)
def test_noise_rate_follows_from_the_agreement(agreement, noise_type, rate):
    assert rate_from_agreement(agreement, 10, noise_type) == pytest.approx(rate, abs=1e-4)


@pytest.mark.parametrize("noise_type", ["symmetric", "pair"])
@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_rate_undoes_the_expected_agreement(noise_type, n_classes):
    largest = 0.5 if noise_type == "pair" else 1 - 1 / n_classes
    for rate in np.linspace(0, largest, 7):
        agreement = expected_agreement(rate, n_classes, noise_type)
        found = rate_from_agreement(agreement, n_classes, noise_type)
        assert found == pytest.approx(rate, abs=1e-7)


def test_two_classes_have_one_kind_of_noise():
    for rate in (0.1, 0.4):
        kinds = [expected_agreement(rate, 2, kind) for kind in ("symmetric", "pair")]
        assert kinds[0] == kinds[1]


def test_precision_of_accepted_labels_and_what_remains_wrong():
    found = [accepted_precision(rate, 10, "symmetric") for rate in (0.2, 0.5, 0.8)]
    assert found == pytest.approx([0.9931, 0.9, 0.36], abs=1e-4)
    assert accepted_precision(0.4, 10, "pair") == pytest.approx(0.6923, abs=1e-4)
    remaining = [rate**2 / (rate**2 + 9 * (1 - rate) ** 2) for rate in (0.2, 0.5, 0.8)]
    assert [1 - p for p in found] == pytest.approx(remaining)
    assert remaining == pytest.approx([0.0069, 0.1, 0.64], abs=1e-4)


def test_one_class_agrees_and_has_no_noise():
    assert rate_from_agreement(1.0, 1, "symmetric") == 0
    assert accepted_precision(0.0, 1, "symmetric") == 1
    assert not is_chance(1.0, 10, 1, "symmetric")
    np.testing.assert_array_equal(right_given(np.array([1.0]), 0.0, 1, "symmetric"), [1])


@pytest.mark.parametrize(("noise_type", "c"), [("symmetric", 4), ("pair", 1)])
def test_right_given_is_bayes_rule_on_what_the_noise_makes_of_a_class(noise_type, c):
    rate = 0.3
    p = np.linspace(0, 1, 11)  # of the class that the label names
    met = (1 - rate) * p + rate / c * (1 - p)
    by_hand = [(1 - rate) * a / b for a, b in zip(p, met, strict=True)]
    np.testing.assert_allclose(right_given(met, rate, 5, noise_type), by_hand)
    everything = right_given(np.linspace(0, 1, 101), rate, 5, noise_type)
    assert (np.diff(everything) >= 0).all()
    assert everything[[0, -1]].tolist() == [0, 1]


def test_right_given_changes_nothing_at_chance_level():
    met = np.array([0.0, 0.3, 1.0])
    np.testing.assert_array_equal(right_given(met, 0.9, 10, "symmetric"), met)


def test_chance_is_judged_with_the_number_of_labels():
    assert is_chance(0.5, 100, 2, "symmetric")
    assert not is_chance(0.52, 100, 2, "symmetric")
    assert is_chance(0.52, 100, 2, "symmetric", deviations=1)
    assert not is_chance(0.52, 10_000, 2, "symmetric", deviations=1)
    assert is_chance(0.45, 100, 10, "pair")
    assert not is_chance(0.45, 100, 10, "symmetric")


def test_the_first_of_equal_classes_is_on_top():
    proba = np.array([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]])
    codes = np.array([0, 1, 1, 0])
    assert among_top(proba, codes, 1).tolist() == [True, False, False, False]
    assert among_top(proba, codes, 2).tolist() == [True, True, True, False]
    assert among_top(proba, codes, 3).all()
    rng = np.random.default_rng(0)
    proba, codes = rng.integers(4, size=(200, 5)) / 4, rng.integers(5, size=200)
    np.testing.assert_array_equal(among_top(proba, codes, 1), proba.argmax(1) == codes)


def test_number_to_discard_grows_with_the_odds_and_ends_at_two():
    assert [number_to_discard(100, rate) for rate in (0, 0.2, 0.5, 0.6, 0.9)] == [
        0,
        25,
        100,
        149,
        200,
    ]
    assert len(lowest(np.arange(5), 0)) == 0
    assert lowest(np.array([3, 1, 2, 1]), 2).tolist() == [1, 3]


# ---- oracles ---------------------------------------------------------------------------------


def test_an_oracle_of_the_true_labels_selects_exactly_the_right_ones():
    x, true, noisy = made(1000, 0.4)
    cleaner = INCVCleaner(Oracle(), n_iter=1, random_state=0).fit(x, noisy)
    np.testing.assert_array_equal(cleaner.selected_, noisy == true)
    np.testing.assert_array_equal(cleaner.refined_labels_, true)


@pytest.mark.parametrize(
    ("rate", "noise_type"), [(0.2, "symmetric"), (0.5, "symmetric"), (0.4, "pair")]
)
def test_an_oracle_of_the_noise_gives_the_recall_and_precision_of_theory(rate, noise_type):
    n, k = 20_000, 10
    matrix = (1 - rate) * np.eye(k)
    if noise_type == "pair":
        matrix += rate * np.roll(np.eye(k), 1, axis=1)
    else:
        matrix += rate / (k - 1) * (1 - np.eye(k))
    x, true, noisy = made(n, rate, k, pair if noise_type == "pair" else sym_excl)
    cleaner = INCVCleaner(Oracle(matrix), n_iter=1, noise_type=noise_type, random_state=0)
    cleaner.fit(x, noisy)
    right, selected = noisy == true, cleaner.selected_
    for share, expected, among in (
        (selected[right].mean(), 1 - rate, right.sum()),
        (right[selected].mean(), accepted_precision(rate, k, noise_type), selected.sum()),
    ):
        error = np.sqrt(expected * (1 - expected) / among)
        assert abs(share - expected) < 3 * error
    assert cleaner.noise_rate_ == pytest.approx(rate, abs=0.02)
    expected = accepted_precision(rate, k, noise_type)
    assert cleaner.expected_precision_ == pytest.approx(expected, abs=0.02)


def test_chance_level_is_estimated_as_the_largest_rate_with_a_warning():
    x, true, _ = made(1000, 0)
    with pytest.warns(UserWarning, match="leaves 10% at least"):
        cleaner = INCVCleaner(Oracle(), random_state=0).fit(x, (true + 1) % 10)
    assert cleaner.noise_rate_ == pytest.approx(0.9)


def test_right_labels_discard_nothing_and_end_the_iterations():
    x, true, _ = made(1000, 0)
    cleaner = INCVCleaner(Oracle(), random_state=0).fit(x, true)
    assert cleaner.selected_.all()
    assert cleaner.noise_rate_ == 0
    assert len(cleaner.history_) == 1


def test_a_few_candidates_end_the_iterations():
    """Of 25 classes; 49 rows are not divided again, 50 are."""
    x, true, _ = made(2500, 0, n_classes=25)
    for n_wrong, n_iterations in ((49, 1), (50, 2)):
        noisy = np.where(np.arange(2500) < n_wrong, (true + 1) % 25, true)
        cleaner = INCVCleaner(Oracle(), n_iter=2, discard=False, random_state=0).fit(x, noisy)
        assert len(cleaner.history_) == n_iterations


def test_discarded_rows_are_the_least_probable_of_each_part():
    cleaner, fits = recorded(n_iter=1)
    odds = cleaner.noise_rate_ / (1 - cleaner.noise_rate_)
    of_label = cleaner.out_of_fold_proba_[np.arange(300), NOISY.y]
    assert cleaner.discarded_.any()
    for _, tested, _ in fits:
        part = np.array(sorted(tested), dtype=int)
        n_discarded = int(odds * cleaner.selected_[part].sum())
        worst_first = part[np.argsort(of_label[part])]
        assert set(worst_first[:n_discarded]) == set(part[cleaner.discarded_[part]])


def test_accepted_rows_are_not_discarded():
    """At a rate of 0.6 two accepted rows let three be discarded, which is all of them."""
    cleaner = INCVCleaner()
    cleaner.noise_rate_ = 0.6
    proba = np.array([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]])
    assert cleaner._judge(proba, np.array([0, 0, 0])).tolist() == [SELECTED, SELECTED, DISCARDED]


@pytest.mark.parametrize(("noise_type", "discards"), [("symmetric", True), ("pair", False)])
def test_rows_are_discarded_for_symmetric_noise_unless_told(noise_type, discards):
    for discard, expected in (("auto", discards), (True, True), (False, False)):
        cleaner = INCVCleaner(GaussianNB(), noise_type=noise_type, discard=discard)
        assert cleaner.fit(X, NOISY.y).discarded_.any() == expected


# ---- honesty ---------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"cv": 3}, {"reexamine_selected": True}, {"n_top": 2}])
def test_every_row_is_predicted_by_models_that_lacked_it(params):
    cleaner, fits = recorded(**params)  # `Recorder` asserts it by the number of the row
    assert set().union(*(tested for _, tested, _ in fits)) == set(range(300))
    assert len(cleaner.history_) > 1


def test_models_train_on_selected_rows_and_the_other_part_but_on_no_discarded_one():
    once, _ = recorded(n_iter=1)
    _, fits = recorded(n_iter=2)
    selected, candidates = (set(np.flatnonzero(m)) for m in (once.selected_, once.candidate_))
    assert once.discarded_.any()
    for (trained, tested, _), (_, other, _) in zip(fits[2:], fits[:1:-1], strict=True):
        assert tested | other == candidates
        assert trained == selected | other


def test_selected_rows_stay_and_masks_cover_all_rows():
    before = np.zeros(300, dtype=bool)
    for n_iter in (1, 2, 3, 4):
        cleaner, _ = recorded(n_iter=n_iter)
        masks = cleaner.selected_, cleaner.candidate_, cleaner.discarded_
        np.testing.assert_array_equal(sum(mask.astype(int) for mask in masks), 1)
        assert not (before & ~cleaner.selected_).any()
        assert cleaner.history_[-1]["selected"] == cleaner.selected_.sum()
        before = cleaner.selected_
    counts = [row["selected"] for row in cleaner.history_]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_reexamined_rows_may_be_given_up():
    once, _ = recorded(n_iter=1)
    again, fits = recorded(n_iter=2, reexamine_selected=True)
    assert set().union(*(tested for _, tested, _ in fits[2:])) == set(
        np.flatnonzero(~once.discarded_)
    )
    assert (once.selected_ & ~again.selected_).any()


def test_the_last_prediction_of_a_row_counts():
    cleaner, _ = recorded()
    once, _ = recorded(n_iter=1)
    same = (cleaner.out_of_fold_proba_ == once.out_of_fold_proba_).all(1)
    np.testing.assert_array_equal(same, ~once.candidate_)


def test_folds_share_classes_and_rows_equally():
    codes = np.repeat([0, 1, 2, 3], [1, 2, 33, 64])
    fold = stratified_folds(codes, 3, np.random.default_rng(0))
    for part in (fold, *(fold[codes == k] for k in range(4))):
        counts = np.bincount(part, minlength=3)
        assert counts.max() - counts.min() <= 1
    other = stratified_folds(codes, 3, np.random.default_rng(1))
    assert (fold != other).any()


# ---- seeds -----------------------------------------------------------------------------------


def test_models_differ_in_their_seeds_unless_the_start_is_shared():
    _, fits = recorded()
    assert len({seed for _, _, seed in fits}) == len(fits) > 2
    _, shared = recorded(shared_init=True)
    assert len({seed for _, _, seed in shared}) == 1


def test_seeds_reach_the_parts_of_a_pipeline():
    pipe = make_pipeline(StandardScaler(), Recorder())
    numbered = np.c_[np.arange(len(X)), X]
    pipe.set_params(standardscaler="passthrough")
    Recorder.fits = []
    INCVCleaner(pipe, random_state=0).fit(numbered, NOISY.y)
    assert len({seed for _, _, seed in Recorder.fits}) == len(Recorder.fits)


def test_same_seed_gives_equal_bits_also_in_parallel():
    with joblib.parallel_config("threading"):
        fits = [
            INCVCleaner(QUICK, n_iter=2, random_state=seed, n_jobs=jobs).fit(X, NOISY.y)
            for seed, jobs in ((0, None), (0, 2), (1, None))
        ]
    same, other = ((fits[0].out_of_fold_proba_ == fit.out_of_fold_proba_).all() for fit in fits[1:])
    assert same
    assert not other


def test_neither_the_base_estimator_nor_global_generators_change():
    base = LogisticRegression()
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    cleaner = INCVCleaner(base).fit(X, NOISY.y)
    assert not hasattr(base, "coef_")
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])
    copy = pickle.loads(pickle.dumps(cleaner))
    np.testing.assert_array_equal(copy.selected_, cleaner.selected_)
    assert not hasattr(clone(cleaner), "selected_")


# ---- keeping the best epoch ------------------------------------------------------------------


def test_the_kept_epoch_agrees_best_with_the_tested_part():
    base = CrossEntropyClassifier(Network(max_epochs=40, lr=0.2, lr_schedule="constant"))
    plain, best = (
        INCVCleaner(base, n_iter=1, keep_best=keep, random_state=0).fit(X, NOISY.y)
        for keep in (False, True)
    )
    assert best.history_[0]["agreement"] > plain.history_[0]["agreement"]
    assert base.net.callbacks is None


@pytest.mark.parametrize(
    ("noise_type", "rate", "expected"),
    [
        ("symmetric", 0.2, [True, True, True, True]),
        ("symmetric", 0.5, [True, True, False, False]),
        ("symmetric", 0.7, [True, False, False, False]),
        ("pair", 0.2, [True, False, False, False]),
    ],
)
def test_the_best_epoch_is_kept_in_the_published_iterations(noise_type, rate, expected):
    cleaner = INCVCleaner(noise_type=noise_type, keep_best=True)
    cleaner.noise_rate_ = rate
    kept = []
    for iteration in range(4):
        cleaner.history_ = [None] * iteration
        kept.append(cleaner._keeps_best())
    assert kept == expected


def test_labels_that_a_model_never_met_do_not_disturb_the_choice_of_the_epoch():
    y = NOISY.y.copy()
    y[0] = 7
    INCVCleaner(QUICK, n_iter=1, keep_best=True)._divide(X, y)


def test_users_callbacks_are_kept_or_left_out():
    from skorch.callbacks import LRScheduler

    scheduler = LRScheduler(gamma=0.5)
    net = Network(callbacks=[("rate", scheduler)], callbacks__rate__gamma=0.9, lr=0.3)
    kept = keeping_best_epoch(net)
    assert len(kept.callbacks) == 2
    left = bare(net, max_epochs=3)
    assert left.callbacks is None
    assert (left.max_epochs, left.lr) == (3, 0.3)
    assert len(net.callbacks) == 1
    left.set_params(module=torch.nn.Linear, module__in_features=2, module__out_features=2)
    left.set_params(device="cpu").initialize()


# ---- classes ---------------------------------------------------------------------------------


def test_a_class_without_accepted_labels_keeps_its_most_probable_ones():
    """900 rows of class 0, 150 and 20 of classes that are nowhere predicted."""
    y = np.repeat([0, 1, 2], [900, 150, 20])
    x = np.random.default_rng(0).normal(size=(len(y), 2))
    with pytest.warns(UserWarning, match=r"classes \[1, 2\] was predicted"):
        cleaner = INCVCleaner(LogisticRegression(), discard=False, random_state=0).fit(x, y)
    assert [cleaner.selected_[y == k].sum() for k in range(3)] == [900, 2, 1]
    of_label = cleaner.out_of_fold_proba_[np.arange(len(y)), y]
    for k in (1, 2):
        kept = cleaner.selected_ & (y == k)
        assert of_label[kept].min() >= of_label[(y == k) & ~kept].max()


@pytest.mark.parametrize("base", [None, LogisticRegression()], ids=["default", "logistic"])
@pytest.mark.parametrize(
    "y", [[0] * 90, [0] * 89 + [1], [0, 1], [0, 0], [0, 1, 2], [0] * 45 + [1] * 45]
)
@pytest.mark.filterwarnings("ignore:No label of the classes", "ignore:The base estimator of INCV")
def test_rare_classes_and_few_rows_are_handled(base, y):
    x = np.random.default_rng(0).normal(size=(len(y), 2))
    cleaner = INCVCleaner(base, random_state=0).fit(x, y)
    assert set(np.asarray(y)[cleaner.selected_]) == set(y)
    np.testing.assert_allclose(cleaner.out_of_fold_proba_.sum(1), 1, atol=1e-6)
    assert np.isfinite(cleaner.clean_proba_).all()
    assert 0 <= cleaner.noise_rate_ <= 1
    assert 0 < cleaner.expected_precision_ <= 1


def test_a_class_that_a_part_lacks_has_probability_zero():
    y = np.r_[Y[:299], -1]  # the first class, so that the columns of the others move
    cleaner = INCVCleaner(LogisticRegression(), n_iter=1, random_state=0)
    with pytest.warns(UserWarning, match="No label of the classes"):
        cleaner.fit(X, y)
    assert cleaner.out_of_fold_proba_[299, 0] == 0
    assert cleaner.out_of_fold_proba_[:299, 0].any()
    assert (cleaner.out_of_fold_proba_.argmax(1)[:299] == Y[:299] + 1).mean() > 0.8


@pytest.mark.parametrize("kind", LABELS)
def test_any_kind_of_labels_comes_back_as_it_was(kind):
    y = LABELS[kind](Y)
    cleaner = INCVCleaner(GaussianNB(), random_state=0)
    if kind == "column":
        with pytest.warns(match="column-vector"):
            cleaner.fit(X, y)
    else:
        cleaner.fit(X, y)
    flat = np.asarray(y).reshape(-1)
    assert cleaner.refined_labels_.dtype.kind == flat.dtype.kind
    np.testing.assert_array_equal(cleaner.classes_, np.unique(flat))
    np.testing.assert_array_equal(
        cleaner.refined_labels_[cleaner.selected_], flat[cleaner.selected_]
    )


# ---- rows of any kind ------------------------------------------------------------------------


def frame():
    return pd.DataFrame(X, columns=list("abcd"), index=np.arange(300)[::-1])


def words():
    return [
        " ".join(["ant", "bee", "cat"][k] for _ in range(3)) + f" w{i}" for i, k in enumerate(Y)
    ]


def images():
    return np.random.default_rng(0).integers(256, size=(300, 5, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("rows", "base"),
    [
        (lambda: X.tolist(), GaussianNB()),
        (frame, GaussianNB()),
        (frame, make_pipeline(StandardScaler(), GaussianNB())),
        (lambda: sparse.coo_array(X), LogisticRegression()),
        (words, make_pipeline(CountVectorizer(), LogisticRegression())),
        (lambda: np.where(X > 2, np.nan, X), HistGradientBoostingClassifier(max_iter=3)),
        (images, CrossEntropyClassifier(Network(SmallCNN, max_epochs=1))),
        (lambda: list(images()), CrossEntropyClassifier(Network(SmallCNN, max_epochs=1))),
        (lambda: torch.tensor(X), QUICK),
        (lambda: torch.tensor(X), GaussianNB()),
        (lambda: TensorDataset(torch.tensor(X, dtype=torch.float32)), QUICK),
    ],
)
@pytest.mark.filterwarnings("ignore:No label of the classes", "ignore:The base estimator of INCV")
def test_rows_may_be_whatever_the_base_estimator_takes(rows, base):
    cleaner = INCVCleaner(base, n_iter=2, random_state=0).fit(rows(), NOISY.y)
    assert cleaner.out_of_fold_proba_.shape == (300, 3)
    assert cleaner.selected_.any()


def test_columns_are_noted():
    cleaner = INCVCleaner(GaussianNB()).fit(frame(), NOISY.y)
    assert cleaner.n_features_in_ == 4
    assert list(cleaner.feature_names_in_) == list("abcd")
    cleaner.set_params(base_estimator=CrossEntropyClassifier(Network(SmallCNN, max_epochs=1)))
    cleaner._divide(images(), NOISY.y)
    assert not hasattr(cleaner, "n_features_in_")
    assert not hasattr(cleaner, "feature_names_in_")


def test_labels_are_read_from_a_data_set():
    data = TensorDataset(torch.tensor(X, dtype=torch.float32), torch.tensor(NOISY.y))
    from_data = INCVCleaner(QUICK, n_iter=1, random_state=0).fit(data)
    given = INCVCleaner(QUICK, n_iter=1, random_state=0).fit(data, NOISY.y)
    np.testing.assert_array_equal(from_data.selected_, given.selected_)


# ---- evidence --------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [None, GaussianNB()], ids=["default", "bayes"])
def test_wrong_labels_are_found(base):
    cleaner = INCVCleaner(base, random_state=0).fit(X, NOISY.y)
    right = ~NOISY.changed
    assert roc_auc_score(right, cleaner.clean_proba_) > 0.9
    assert right[cleaner.selected_].mean() > 0.9
    assert cleaner.selected_[right].mean() > 0.85
    assert (cleaner.refined_labels_ == Y).mean() > 0.85 > (NOISY.y == Y).mean()
    doubted = cleaner.label_issues()
    assert NOISY.changed[doubted].mean() > 0.8
    assert set(doubted) == set(np.flatnonzero(cleaner.clean_proba_ < 0.5))


def test_later_iterations_find_more_right_labels():
    x, y = load_iris(return_X_y=True)
    noisy = sym_excl(y, 0.4, random_state=0)
    once, four = (
        INCVCleaner(GaussianNB(), n_iter=n, random_state=0).fit(x, noisy.y) for n in (1, 4)
    )
    recall = [fit.selected_[~noisy.changed].mean() for fit in (once, four)]
    assert recall[1] > recall[0] + 0.03


def test_support_and_evidence_agree():
    cleaner = INCVCleaner(GaussianNB(), random_state=0).fit(X, NOISY.y)
    np.testing.assert_array_equal(cleaner.get_support(), cleaner.selected_)
    positions = cleaner.get_support(indices=True)
    np.testing.assert_array_equal(positions, np.flatnonzero(cleaner.selected_))
    given = np.eye(3)[NOISY.y]
    kept = cleaner.selected_
    np.testing.assert_array_equal(cleaner.refined_proba_[kept], given[kept])
    np.testing.assert_array_equal(cleaner.refined_proba_[~kept], cleaner.out_of_fold_proba_[~kept])
    np.testing.assert_array_equal(
        cleaner.refined_labels_, cleaner.classes_[cleaner.refined_proba_.argmax(1)]
    )
    of_label = cleaner.out_of_fold_proba_[np.arange(300), NOISY.y]
    order = np.argsort(of_label)
    assert (np.diff(cleaner.clean_proba_[order]) >= 0).all()


def test_labels_that_are_surely_wrong_are_still_ranked():
    """By Bayes' rule many of two classes have a probability of exactly 0 or 1."""
    x, y = make_classification(600, 20, n_informative=8, flip_y=0, random_state=0)
    noisy = sym_excl(y, 0.3, random_state=0).y
    cleaner = INCVCleaner(LogisticRegression(), random_state=0).fit(x, noisy)
    of_label = cleaner.out_of_fold_proba_[np.arange(600), noisy].astype(float)
    solved = right_given(of_label, cleaner.noise_rate_, 2, "symmetric")
    assert (solved == 0).sum() > 50
    order = np.argsort(of_label)
    rises = np.diff(of_label[order]) > 0
    assert (np.diff(cleaner.clean_proba_[order])[rises] > 0).all()
    np.testing.assert_allclose(cleaner.clean_proba_, solved, atol=1e-3)
    issues = cleaner.label_issues()
    np.testing.assert_array_equal(issues, np.argsort(of_label, kind="stable")[: len(issues)])


def test_short_training_is_long_enough_for_few_rows_and_columns():
    assert short_training(200, 50_000, 128, (3, 32, 32)) == 50
    assert short_training(50, 1257, 64, (64,)) == 13
    assert short_training(50, 600, 64, (20,)) == 20  # 100 steps
    assert short_training(50, 30, 64, (20,)) == 50
    assert short_training(50, 600, 64, (2,)) == 50  # 250 steps
    assert short_training(1, 30, 64, (2,)) == 1


def test_progress_bar_counts_iterations(capsys):
    INCVCleaner(GaussianNB(), n_iter=2, verbose=1, random_state=0).fit(X, NOISY.y)
    assert "INCVCleaner" in capsys.readouterr().err


# ---- scikit-learn's contract -----------------------------------------------------------------


@pytest.mark.parametrize(
    "base", [None, LogisticRegression(), HistGradientBoostingClassifier(max_iter=2)], ids=str
)
@pytest.mark.filterwarnings("ignore:No label of the classes", "ignore:The base estimator of INCV")
def test_scikit_learn_checks_pass(base):
    assert [s for s in run_checks(INCVCleaner(base)) if "SCIPY_ARRAY_API" not in s] == []
    check_dataframe_column_names_consistency("INCVCleaner", INCVCleaner(base))


def test_scikit_learn_checks_pass_with_array_api():
    code = (
        "import torch, warnings; torch.set_num_threads(1)\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "from noisyfit._incv import INCVCleaner\n"
        "from tests.test_common import run_checks\n"
        "warnings.filterwarnings('ignore', 'No label of the classes|The base estimator of INCV')\n"
        "assert run_checks(INCVCleaner(LogisticRegression())) == []\n"
    )
    env = os.environ | {"SCIPY_ARRAY_API": "1", "PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_docstring_names_every_parameter_and_fitted_attribute():
    doc = ClassDoc(INCVCleaner)
    assert {p.name for p in doc["Parameters"]} == set(INCVCleaner().get_params(deep=False))
    attributes = {n.strip() for p in doc["Attributes"] for n in p.name.split(",")}
    cleaner = INCVCleaner(GaussianNB()).fit(frame(), NOISY.y)
    assert {n for n in vars(cleaner) if n.endswith("_")} == attributes


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"base_estimator": Perceptron()}, TypeError),
        ({"base_estimator": LogisticRegression}, TypeError),
        ({"n_iter": 0}, ValueError),
        ({"n_iter": 1.5}, TypeError),
        ({"cv": 1}, ValueError),
        ({"n_top": 0}, ValueError),
        ({"noise_type": "asymmetric"}, ValueError),
        ({"noise_type": None}, ValueError),
        ({"discard": "some"}, TypeError),
        ({"reexamine_selected": 1}, TypeError),
        ({"shared_init": "no"}, TypeError),
        ({"keep_best": None}, TypeError),
    ],
)
def test_bad_parameters_are_refused_by_name(params, error):
    (name,) = params
    with pytest.raises(error, match=name):
        INCVCleaner(**{"base_estimator": GaussianNB()} | params).fit(X, NOISY.y)


def test_only_methods_have_epochs_to_keep():
    with pytest.raises(ValueError, match="keep_best"):
        INCVCleaner(GaussianNB(), keep_best=True).fit(X, NOISY.y)
    INCVCleaner(CoTeachingClassifier(), keep_best=True)._check_parameters()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, None, "requires y"),
        (X, Y[:-1], "inconsistent numbers of samples"),
        (X[:1], Y[:1], "n_samples=1"),
        (X, np.random.default_rng(0).random(300), "Unknown label type"),
        (np.where(X > 2, np.nan, X), Y, "NaN"),
    ],
)
def test_bad_data_is_refused_and_leaves_the_cleaner_unfitted(x, y, message):
    cleaner = INCVCleaner(GaussianNB()).fit(X, Y)
    with pytest.raises(ValueError, match=message):
        cleaner.fit(x, y)
    assert not cleaner.__sklearn_is_fitted__()


def test_a_base_estimator_that_fails_is_heard():
    with warnings.catch_warnings(), pytest.raises(ValueError, match="constant"):
        INCVCleaner(DummyClassifier(strategy="constant")).fit(X, Y)
