"""Metrics: published figures, naive loops, undefined cases, the caller's own labels."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import DataConversionWarning, UndefinedMetricWarning
from sklearn.metrics import brier_score_loss, log_loss

from noisyfit.metrics import (
    adaptive_calibration_error,
    brier,
    clean_auroc,
    damage_rate,
    expected_calibration_error,
    found_error_scores,
    label_issue_report,
    last_k_mean,
    memorization_rate,
    net_gain,
    nll,
    noisy_validation_score,
    refined_accuracy,
    repair_rate,
    transition_error,
)

CLEAN_PROBA = np.array([0.9, 0.8, 0.7, 0.4, 0.35, 0.2])
WRONG = np.array([0, 0, 1, 0, 1, 1], dtype=bool)
NAMES = np.array(["ant", "bee", "cow", "dog"])


@pytest.fixture
def noisy():
    """200 rows of 4 classes: codes of the true and given labels, clean and class probabilities."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 200)
    given = np.where(rng.random(200) < 0.3, rng.integers(0, 4, 200), y)
    clean_proba = np.round(rng.random(200) * 0.6 + 0.4 * (given == y), 2)  # rounding makes ties
    proba = rng.dirichlet(np.ones(4), 200) + 0.5 * np.eye(4)[given]
    return y, given, clean_proba, proba / proba.sum(1, keepdims=True)


def confident(confidences):
    """Two-class probabilities (n, 2) whose first column holds the given confidences."""
    c = np.asarray(confidences, dtype=float)
    return np.column_stack([c, 1 - c])


def loop_auroc(wrong, clean_proba):
    pairs = [(r, w) for r in clean_proba[~wrong] for w in clean_proba[wrong]]
    return sum(1.0 if r > w else 0.5 if r == w else 0.0 for r, w in pairs) / len(pairs)


def loop_average_precision(wrong, score):
    """Sum over thresholds, from high to low, of the recall gained times the precision there."""
    area, recall_before = 0.0, 0.0
    for t in sorted(set(score), reverse=True):
        flagged = score >= t
        recall = (wrong & flagged).sum() / wrong.sum()
        area += (recall - recall_before) * (wrong & flagged).sum() / flagged.sum()
        recall_before = recall
    return area


def loop_ece(proba, y, n_bins):
    error = 0.0
    for m in range(1, n_bins + 1):
        rows = [i for i, p in enumerate(proba) if (m - 1) / n_bins < max(p) <= m / n_bins]
        if rows:
            accuracy = np.mean([np.argmax(proba[i]) == y[i] for i in rows])
            error += len(rows) / len(y) * abs(accuracy - np.mean([max(proba[i]) for i in rows]))
    return error


# ------------------------------------------------------------------ detection


def test_six_rows_known_scores():
    scores = found_error_scores(WRONG, CLEAN_PROBA)
    assert clean_auroc(WRONG, CLEAN_PROBA) == pytest.approx(0.888889, abs=1e-6)
    assert [scores[k] for k in ("precision", "recall", "f1")] == pytest.approx([2 / 3] * 3)
    report = label_issue_report(np.zeros(6, int), WRONG.astype(int), CLEAN_PROBA)
    assert report["average_precision"] == pytest.approx(0.916667, abs=1e-6)


def test_auroc_random_rows_with_ties_equals_loop_over_pairs(noisy):
    y, given, clean_proba, _ = noisy
    expected = loop_auroc(y != given, clean_proba)
    assert clean_auroc(y != given, clean_proba) == pytest.approx(expected, abs=1e-12)
    assert clean_auroc((NAMES[y], NAMES[given]), clean_proba) == pytest.approx(expected, abs=1e-12)


def test_report_random_rows_equals_loops(noisy):
    y, given, clean_proba, _ = noisy
    wrong = y != given
    report = label_issue_report(y, given, clean_proba, threshold=0.6)
    assert report["average_precision"] == pytest.approx(
        loop_average_precision(wrong, 1 - clean_proba), abs=1e-12
    )
    hit = sum(w and p < 0.6 for w, p in zip(wrong, clean_proba, strict=True))
    kept = sum(not w and p >= 0.6 for w, p in zip(wrong, clean_proba, strict=True))
    n_flagged = sum(p < 0.6 for p in clean_proba)
    assert report["precision"] == pytest.approx(hit / n_flagged)
    assert report["recall"] == pytest.approx(hit / wrong.sum())
    assert report["f1"] == pytest.approx(2 * hit / (n_flagged + wrong.sum()))
    assert report["label_precision"] == pytest.approx(kept / (200 - n_flagged))
    assert report["label_recall"] == pytest.approx(kept / (200 - wrong.sum()))
    brier_loop = sum((p - (not w)) ** 2 for w, p in zip(wrong, clean_proba, strict=True)) / 200
    assert report["clean_proba_brier"] == pytest.approx(brier_loop)
    assert report["rate_error"] == pytest.approx(abs(np.mean(1 - clean_proba) - wrong.mean()))


def test_clean_proba_perfect_scores_perfect(noisy):
    y, given, _, _ = noisy
    report = label_issue_report(y, given, y == given)
    assert (report["auroc"], report["clean_proba_brier"], report["rate_error"]) == (1, 0, 0)
    assert (report["precision"], report["recall"], report["average_precision"]) == (1, 1, 1)


def test_rate_error_too_few_or_too_many_doubts_is_the_distance(noisy):
    y, given, _, _ = noisy
    w = np.mean(y != given)
    for doubt in (0.0, 0.9):
        with pytest.warns(UndefinedMetricWarning):  # all rows on one side of the threshold
            report = label_issue_report(y, given, np.full(200, 1 - doubt))
        assert report["rate_error"] == pytest.approx(abs(doubt - w))


def test_clean_proba_constant_auroc_is_one_half(noisy):
    y, given, _, _ = noisy
    with pytest.warns(UndefinedMetricWarning, match="rows: precision"):  # nothing is flagged
        report = label_issue_report(y, given, np.full(200, 0.7))
    assert report["auroc"] == 0.5
    assert report["average_precision"] == pytest.approx(report["wrong_fraction"])


def test_threshold_row_on_it_is_not_flagged():
    wrong = np.array([True, True, False])
    assert found_error_scores(wrong, [0.5, 0.4, 0.9])["recall"] == 0.5


@pytest.mark.parametrize("wrong", [np.zeros(4, bool), np.ones(4, bool)])
def test_auroc_one_kind_of_row_is_nan_with_warning(wrong):
    with pytest.warns(UndefinedMetricWarning, match="both right and wrong"):
        assert np.isnan(clean_auroc(wrong, np.linspace(0, 1, 4)))


def test_found_errors_nothing_flagged_precision_is_zero_with_warning():
    with pytest.warns(UserWarning, match="precision"):
        scores = found_error_scores(np.array([True, False]), [0.9, 0.8])
    assert (scores["precision"], scores["recall"], scores["f1"]) == (0, 0, 0)
    assert (scores["label_precision"], scores["label_recall"]) == (0.5, 1)


def test_report_clean_labels_warns_once_and_names_the_undefined():
    y = np.array([0, 1, 1])
    with pytest.warns(UndefinedMetricWarning) as caught:
        report = label_issue_report(y, y, [0.9, 0.8, 0.3], y)
    assert len(caught) == 1
    undefined = {name for name, value in report.items() if np.isnan(value)}
    assert undefined == {"auroc", "average_precision", "repair_rate", "memorization_rate"}
    assert all(name in str(caught[0].message) for name in undefined)
    assert (report["recall"], report["damage_rate"], report["net_gain"]) == (0, 0, 0)


# ------------------------------------------------------------------ correction


def test_refined_equals_given_no_repair_and_no_damage(noisy):
    y, given, _, _ = noisy
    assert refined_accuracy(y, given) == pytest.approx(1 - np.mean(y != given))
    assert repair_rate(y, given, given) == 0
    assert damage_rate(y, given, given) == 0
    assert net_gain(y, given, given) == 0


def test_refined_equals_true_full_repair_and_no_damage(noisy):
    y, given, _, _ = noisy
    assert (refined_accuracy(y, y), repair_rate(y, given, y), damage_rate(y, given, y)) == (1, 1, 0)
    assert net_gain(y, given, y) == pytest.approx(np.mean(y != given))


def test_correction_random_refined_equals_loops(noisy):
    y, given, _, proba = noisy
    refined = proba.argmax(1)
    rows = range(200)
    wrong = [i for i in rows if y[i] != given[i]]
    right = [i for i in rows if y[i] == given[i]]
    assert refined_accuracy(y, proba) == pytest.approx(sum(refined == y) / 200)
    assert repair_rate(y, given, proba) == pytest.approx(
        np.mean([refined[i] == y[i] for i in wrong])
    )
    assert damage_rate(y, given, proba) == pytest.approx(
        np.mean([refined[i] != y[i] for i in right])
    )
    assert memorization_rate(proba, given, y) == pytest.approx(
        np.mean([refined[i] == given[i] for i in wrong])
    )
    assert net_gain(y, given, proba) == pytest.approx(np.mean(refined == y) - np.mean(given == y))


def test_memorization_predicts_given_is_one_and_predicts_third_class_is_zero():
    y, given = np.array([0, 1, 2]), np.array([1, 2, 2])
    assert memorization_rate(given, given, y) == 1
    assert memorization_rate(np.array([2, 0, 2]), given, y) == 0
    assert repair_rate(y, given, np.array([2, 0, 2])) == 0


def test_rates_without_such_rows_are_nan_with_warning():
    y = np.array([0, 1])
    with pytest.warns(UserWarning, match="no given label is wrong"):
        assert np.isnan(repair_rate(y, y, y))
    with pytest.warns(UserWarning, match="no given label is wrong"):
        assert np.isnan(memorization_rate(y, y, y))
    with pytest.warns(UserWarning, match="no given label is right"):
        assert np.isnan(damage_rate(y, 1 - y, y))


def test_transition_error_known_matrices():
    T = [[0.8, 0.2, 0], [0, 0.7, 0.3], [0.1, 0, 0.9]]
    T_hat = [[0.75, 0.2, 0.05], [0.05, 0.66, 0.29], [0.12, 0.02, 0.86]]
    assert transition_error(T_hat, T) == pytest.approx(0.0933333, abs=1e-7)
    assert transition_error(T_hat, T, kind="tv") == pytest.approx(0.0466667, abs=1e-7)
    assert transition_error(T_hat, T, kind="frobenius") == pytest.approx(0.1077033, abs=1e-7)


def test_transition_error_bad_input_says_what_is_wrong():
    with pytest.raises(ValueError, match="equal shape"):
        transition_error(np.eye(2), np.eye(3))
    with pytest.raises(ValueError, match="kind must be"):
        transition_error(np.eye(2), np.eye(2), kind="l2")
    with pytest.raises(ValueError, match="no negative entry"):
        transition_error(np.eye(2), -np.eye(2))


# ------------------------------------------------------------------ calibration


@pytest.mark.parametrize(("n_bins", "expected"), [(5, 0.34), (10, 0.386667), (15, 0.386667)])
def test_ece_known_confidences(n_bins, expected):
    # .42 cannot be the largest of two probabilities, so a third class takes part
    confidence = np.array([0.95, 0.91, 0.83, 0.62, 0.55, 0.42])
    proba = np.column_stack([confidence, (1 - confidence) / 2, (1 - confidence) / 2])
    y = np.array([0, 0, 1, 0, 1, 2])
    assert expected_calibration_error(proba, y, n_bins) == pytest.approx(expected, abs=1e-6)


def test_ece_constant_predictor_balanced_classes_is_zero():
    proba = np.full((40, 4), 0.25)
    y = np.repeat(np.arange(4), 10)
    assert expected_calibration_error(proba, y) == 0
    assert adaptive_calibration_error(proba, y) == 0


@pytest.mark.parametrize("n_bins", [1, 4, 15])
def test_ece_random_rows_equals_loop(noisy, n_bins):
    y, _, _, proba = noisy
    assert expected_calibration_error(proba, y, n_bins) == pytest.approx(
        loop_ece(proba, y, n_bins), abs=1e-12
    )


def test_ece_confidence_on_an_edge_belongs_to_the_bin_below():
    # (.5, .75] holds .75 (right) and .6 (wrong): gaps cancel partly; apart they would not
    proba, y = confident([0.75, 0.6]), [0, 1]
    assert expected_calibration_error(proba, y, n_bins=4) == pytest.approx(abs(0.25 - 0.6) / 2)


def test_adaptive_ece_distinct_confidences_equals_loop_over_groups(noisy):
    y, _, _, proba = noisy
    order = sorted(range(200), key=lambda i: proba[i].max())
    error = 0.0
    for rows in np.array_split(order, 7):
        accuracy = np.mean([proba[i].argmax() == y[i] for i in rows])
        error += len(rows) / 200 * abs(accuracy - np.mean([proba[i].max() for i in rows]))
    assert adaptive_calibration_error(proba, y, n_bins=7) == pytest.approx(error, abs=1e-12)


def test_adaptive_ece_equal_confidences_does_not_depend_on_row_order():
    proba, y = confident([0.8] * 6 + [0.6] * 2), np.array([0, 0, 0, 1, 1, 1, 0, 1])
    order = [3, 0, 6, 4, 1, 7, 5, 2]
    error = adaptive_calibration_error(proba, y, n_bins=4)
    assert adaptive_calibration_error(proba[order], y[order], n_bins=4) == pytest.approx(error)
    assert error == pytest.approx((6 * 0.3 + 2 * 0.1) / 8)


def test_nll_and_brier_known_rows():
    P, y = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], [0, 2]
    assert nll(P, y) == pytest.approx(1.329630, abs=1e-6)
    assert brier(P, y) == pytest.approx(0.8)


def test_nll_and_brier_random_rows_equal_scikit_learn(noisy):
    y, _, _, proba = noisy
    assert nll(proba, y) == pytest.approx(log_loss(y, proba))
    assert brier(proba, y) == pytest.approx(brier_score_loss(y, proba, scale_by_half=False))


def test_nll_certain_and_wrong_is_finite():
    assert nll(confident([1.0]), [1]) == pytest.approx(-np.log(1e-12))
    assert brier(confident([1.0]), [1]) == 2


def test_classes_in_any_order_give_the_same_scores(noisy):
    y, _, _, proba = noisy
    order = [2, 0, 3, 1]
    shuffled = {"proba": proba[:, order], "y": NAMES[y], "classes": NAMES[order]}
    for score in (nll, brier, expected_calibration_error, adaptive_calibration_error):
        assert score(**shuffled) == pytest.approx(score(proba, y))


def test_classes_absent_and_labels_count_from_one_are_all_of_them():
    proba = [[0.5, 0.3, 0.2]] * 3
    assert nll(proba, [1, 2, 3]) == pytest.approx(-np.log([0.5, 0.3, 0.2]).mean())


def test_classes_absent_and_labels_incomplete_asks_for_them():
    proba = [[0.5, 0.3, 0.2]] * 2
    with pytest.raises(ValueError, match="pass classes="):
        nll(proba, ["a", "c"])
    assert nll(proba, ["a", "c"], classes=["a", "b", "c"]) == pytest.approx(-np.log(0.1) / 2)
    with pytest.raises(ValueError, match="no column stands for: \\['d'\\]"):
        nll(proba, ["a", "d"], classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="3 different labels"):
        nll(proba, ["a", "c"], classes=["a", "c", "c"])


@pytest.mark.parametrize("rows", [[[2.0, -1.0]], [[0.5, 0.2]], [[np.nan, 1.0]]])
def test_proba_not_probabilities_is_refused(rows):
    with pytest.raises(ValueError, match=r"soft-max|NaN"):
        brier(rows, [0], classes=[0, 1])


@pytest.mark.parametrize("n_bins", [0, 2.5])
def test_n_bins_not_a_count_is_refused(n_bins):
    for score in (expected_calibration_error, adaptive_calibration_error):
        with pytest.raises(ValueError, match="n_bins must be an integer"):
            score(confident([0.7, 0.8]), [0, 1], n_bins)


# ------------------------------------------------------------------ the caller's own labels


@pytest.mark.parametrize(
    "relabel",
    [
        lambda y: NAMES[y],
        lambda y: NAMES[y].astype(object),
        lambda y: np.array([-7, 0, 3, 40])[y],
        lambda y: y.astype(float),
        lambda y: pd.Series(NAMES[y], index=np.arange(200)[::-1]),
        lambda y: torch.from_numpy(y),
        lambda y: NAMES[y].tolist(),
    ],
    ids=["str", "object", "gaps", "float", "series", "tensor", "list"],
)
def test_report_any_kind_of_label_gives_the_same_scores(noisy, relabel):
    y, given, clean_proba, proba = noisy
    expected = label_issue_report(y, given, clean_proba, proba)
    assert label_issue_report(relabel(y), relabel(given), clean_proba, proba) == expected
    refined = relabel(proba.argmax(1))
    hard = label_issue_report(relabel(y), relabel(given), clean_proba, refined)
    assert hard == {name: value for name, value in expected.items() if name in hard}


def test_bool_labels_are_classes():
    y, given = np.array([True, False, True, False]), np.array([True, True, True, False])
    proba = confident([0.1, 0.9, 0.3, 0.8])  # columns False, True
    assert refined_accuracy(y, proba) == 1
    assert label_issue_report(y, given, [0.9, 0.1, 0.8, 0.8], proba)["auroc"] == 1


def test_column_vector_labels_warn_as_in_scikit_learn():
    y = np.array([[0], [1]])
    with pytest.warns(DataConversionWarning, match="column-vector"):
        assert refined_accuracy(y, [0, 1]) == 1


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        repair_rate([0, 1, 1], [0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match="Mix of label input types"):
        repair_rate(["a", "b"], [0, 1], ["a", "b"])
    with pytest.raises(ValueError, match="Mix of label input types"):
        clean_auroc((["a", "b"], [0, 1]), [0.5, 0.5])
    with pytest.raises(ValueError, match="Mix of label input types"):
        label_issue_report([0, 1], [0, 0], [0.5, 0.5], ["a", "b"])
    with pytest.raises(ValueError, match="Unknown label type"):
        refined_accuracy([0.5, 1.0], [0.5, 1.0])
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        refined_accuracy([], [])


@pytest.mark.parametrize("clean_proba", [[0.5, 1.2], [-0.1, 0.3], [0.5, np.nan], [0.5] * 3])
def test_clean_proba_invalid_is_refused(clean_proba):
    with pytest.raises(ValueError, match="clean_proba"):
        clean_auroc(np.array([True, False]), clean_proba)


def test_wrong_not_a_mask_is_refused():
    with pytest.raises(ValueError, match="boolean mask"):
        clean_auroc(np.array([1, 0]), [0.5, 0.6])


def test_threshold_outside_unit_interval_is_refused():
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\], got 2"):
        found_error_scores(np.array([True, False]), [0.5, 0.6], threshold=2)


# ------------------------------------------------------------------ report


def test_report_open_rows_excluded_equals_report_of_the_closed_rows(noisy):
    y, given, clean_proba, proba = noisy
    open_set = np.arange(200) % 5 == 0
    sentinel = np.where(open_set, 10_000, y)
    closed = [a[~open_set] for a in (y, given, clean_proba, proba)]
    report = label_issue_report(sentinel, given, clean_proba, proba, open_set=open_set)
    assert report == label_issue_report(*closed)


def test_report_open_rows_wrong_counts_them_in_detection_only(noisy):
    y, given, clean_proba, proba = noisy
    open_set = np.arange(200) % 5 == 0
    report = label_issue_report(y, given, clean_proba, proba, open_set=open_set, open_rows="wrong")
    excluded = label_issue_report(y, given, clean_proba, proba, open_set=open_set)
    wrong = (y != given) | open_set
    assert report["wrong_fraction"] == wrong.mean()
    assert report["auroc"] == pytest.approx(loop_auroc(wrong, clean_proba))
    assert report["repair_rate"] == excluded["repair_rate"]


def test_report_open_set_invalid_is_refused():
    rows = ([0, 1], [0, 0], [0.5, 0.5])
    with pytest.raises(ValueError, match="boolean mask of 2 rows"):
        label_issue_report(*rows, open_set=[0, 1])
    with pytest.raises(ValueError, match="every row"):
        label_issue_report(*rows, open_set=[True, True])
    with pytest.raises(ValueError, match="open_rows must be"):
        label_issue_report(*rows, open_rows="drop")


def test_report_soft_refined_adds_calibration(noisy):
    y, given, clean_proba, proba = noisy
    report = label_issue_report(y, given, clean_proba, proba)
    assert report["refined_nll"] == pytest.approx(nll(proba, y))
    assert report["refined_brier"] == pytest.approx(brier(proba, y))
    assert report["refined_ece"] == pytest.approx(expected_calibration_error(proba, y))
    assert all(type(value) is float for value in report.values())


def test_report_transition_compares_with_the_realised_matrix(noisy):
    y, given, clean_proba, _ = noisy
    realised = np.zeros((4, 4))
    for i, j in zip(y, given, strict=True):
        realised[i, j] += 1 / (y == i).sum()
    exact = label_issue_report(y, given, clean_proba, transition=realised)
    assert exact["transition_l1"] == pytest.approx(0, abs=1e-12)
    identity = label_issue_report(y, given, clean_proba, transition=np.eye(4))
    for kind in ("l1", "tv", "frobenius"):
        expected = transition_error(np.eye(4), realised, kind)
        assert identity[f"transition_{kind}"] == pytest.approx(expected)


def test_report_transition_class_without_rows_is_not_compared():
    y, given = np.array([0, 0, 2, 2]), np.array([0, 2, 2, 2])
    estimate = [[0.5, 0, 0.5], [0.2, 0.3, 0.5], [0, 0, 1]]
    report = label_issue_report(y, given, [0.9, 0.1, 0.9, 0.9], transition=estimate)
    assert report["transition_frobenius"] == 0
    with pytest.raises(ValueError, match="square"):
        label_issue_report(y, given, [0.9, 0.1, 0.9, 0.9], transition=[[0.5, 0.5]])


# ------------------------------------------------------------------ choosing among models


def test_last_k_mean_dicts_and_numbers_agree():
    accuracy = np.linspace(0, 1, 25)
    history = [{"epoch": e, "accuracy": a} for e, a in enumerate(accuracy)]
    assert last_k_mean(history, key="accuracy") == pytest.approx(accuracy[-10:].mean())
    assert last_k_mean(accuracy) == pytest.approx(accuracy[-10:].mean())
    assert last_k_mean(accuracy, k=1) == 1
    assert last_k_mean(accuracy[:3], k=10) == pytest.approx(accuracy[:3].mean())


def test_last_k_mean_bad_input_is_refused_or_undefined():
    with pytest.raises(ValueError, match=r"key='acc' .* there are \['accuracy'\]"):
        last_k_mean([{"accuracy": 0.5}], key="acc")
    with pytest.raises(ValueError, match="k must be"):
        last_k_mean([0.5], k=0)
    with pytest.warns(UserWarning, match="no epoch"):
        assert np.isnan(last_k_mean([]))


def test_noisy_validation_score_inverts_expected_noisy_accuracy():
    acc_noisy = 0.9 * 0.64 + 0.1 * 0.04
    assert acc_noisy == pytest.approx(0.58)
    assert noisy_validation_score(acc_noisy, 0.36, 10) == pytest.approx(0.9)
    assert noisy_validation_score(0.77, 0, 3) == pytest.approx(0.77)


def test_noisy_validation_score_simulated_symmetric_noise_is_close():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 40_000)
    predicted = np.where(rng.random(y.size) < 0.85, y, (y + rng.integers(1, 5, y.size)) % 5)
    noisy = np.where(rng.random(y.size) < 0.3, (y + rng.integers(1, 5, y.size)) % 5, y)
    score = noisy_validation_score(np.mean(predicted == noisy), np.mean(noisy != y), 5)
    assert score == pytest.approx(np.mean(predicted == y), abs=0.01)  # about three standard errors


def test_noisy_validation_score_labels_without_information_is_nan():
    with pytest.warns(UserWarning, match="independent of the classes"):
        assert np.isnan(noisy_validation_score(0.1, 0.9, 10))


@pytest.mark.parametrize("args", [(1.2, 0.1, 10), (0.5, -0.1, 10), (0.5, 0.1, 1)])
def test_noisy_validation_score_outside_range_is_refused(args):
    with pytest.raises(ValueError, match="must be"):
        noisy_validation_score(*args)


def test_metrics_defined_cases_emit_no_warning(noisy):
    y, given, clean_proba, proba = noisy
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = label_issue_report(y, given, clean_proba, proba, transition=np.eye(4))
    assert np.isfinite(list(report.values())).all()
