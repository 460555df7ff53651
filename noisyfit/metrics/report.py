"""One dictionary with everything that is known about found and repaired label errors."""

import numpy as np
from sklearn.metrics import confusion_matrix
from sklearn.utils import check_consistent_length, column_or_1d

from noisyfit.metrics._checks import (
    check_clean_proba,
    check_labels,
    column_labels,
    predicted_labels,
)
from noisyfit.metrics.calibration import brier, expected_calibration_error, nll
from noisyfit.metrics.correction import correction_scores, transition_error
from noisyfit.metrics.detection import check_threshold, detection_scores, settle


def label_issue_report(
    y_true,
    y_noisy,
    clean_proba,
    refined=None,
    *,
    threshold=0.5,
    open_set=None,
    open_rows="exclude",
    transition=None,
    classes=None,
):
    """How well label errors were found, and how well they were repaired.

    Parameters
    ----------
    y_true, y_noisy : arrays of shape (n_samples,)
        True and given labels.
    clean_proba : array of shape (n_samples,)
        How likely each given label is right, the `clean_proba_` of an estimator.
    refined : array of shape (n_samples,) or (n_samples, n_classes), optional
        `refined_labels_` or `refined_proba_` of an estimator.
    threshold : float, default=0.5
        Rows with `clean_proba < threshold` are flagged as errors.
    open_set : bool array of shape (n_samples,), optional
        Rows that belong to none of the classes; their true label is not looked at.
    open_rows : {"exclude", "wrong"}, default="exclude"
        Whether open-set rows are left out of the detection scores or count as wrongly labelled.
        The correction scores always leave them out.
    transition : array of shape (n_classes, n_classes), optional
        Estimated transition matrix, the `transition_` of an estimator, compared with the realised
        one of the closed rows; classes without such rows are not compared.
    classes : array of shape (n_classes,), optional
        Label of every column of `refined` and `transition`, where the labels do not show it.

    Returns
    -------
    report : dict of floats
        Detection: `wrong_fraction`, `auroc`, `average_precision` (`wrong_fraction` is its chance
        level), `precision`, `recall`, `f1`, `label_precision`, `label_recall`,
        `clean_proba_brier`, `rate_error` (distance between the mean of `1 - clean_proba` and
        the wrong fraction).
        With `refined`: `refined_accuracy`, `repair_rate`, `damage_rate`, `net_gain`,
        `memorization_rate` (wrong labels that were kept); for probabilities also `refined_ece`,
        `refined_nll`, `refined_brier`.
        With `transition`: `transition_l1`, `transition_tv`, `transition_frobenius`.
        Scores that these rows leave undefined are NaN, shares of nothing 0, with one warning.

    Raises
    ------
    ValueError
        For unequal lengths, labels of mixed kinds, numbers outside [0, 1], an unknown
        `open_rows`, or no closed-set row.

    Examples
    --------
    >>> from noisyfit.metrics import label_issue_report
    >>> report = label_issue_report(
    ...     ["a", "b", "b", "a"], ["a", "b", "a", "a"], [0.9, 0.8, 0.1, 0.7], ["a", "b", "b", "a"]
    ... )
    >>> report["wrong_fraction"], report["auroc"], report["repair_rate"]
    (0.25, 1.0, 1.0)
    """
    y_true, y_noisy = np.asarray(y_true), np.asarray(y_noisy)
    check_consistent_length(y_true, y_noisy)
    closed = ~_open_mask(open_set, len(y_true))
    truth, given = check_labels(y_true=y_true[closed], y_noisy=y_noisy[closed])
    wrong = ~closed
    wrong[closed] = truth != given
    counted = closed if _counts_closed_only(open_rows) else np.ones_like(closed)
    clean_proba = check_clean_proba(clean_proba, len(wrong))
    report = detection_scores(wrong[counted], clean_proba[counted], check_threshold(threshold))
    if refined is not None:
        report |= _refined_scores(truth, given, np.asarray(refined), closed, classes)
    if transition is not None:
        report |= _transition_scores(truth, given, np.asarray(transition), classes)
    return settle(report)


def _open_mask(open_set, n_samples):
    """Return the mask (n,) of open-set rows, none without one."""
    if open_set is None:
        return np.zeros(n_samples, dtype=bool)
    mask = column_or_1d(open_set, input_name="open_set")
    if len(mask) != n_samples or mask.dtype != bool:
        raise ValueError(f"open_set must be a boolean mask of {n_samples} rows.")
    if mask.all():
        raise ValueError("open_set marks every row; there is no label to judge.")
    return mask


def _counts_closed_only(open_rows):
    if open_rows not in ("exclude", "wrong"):
        raise ValueError(f"open_rows must be 'exclude' or 'wrong', got {open_rows!r}.")
    return open_rows == "exclude"


def _refined_scores(truth, given, refined, closed, classes):
    """Return the correction scores on closed rows, and the calibration of probabilities."""
    if len(refined) != len(closed):
        raise ValueError(f"refined has {len(refined)} rows for {len(closed)} labels.")
    refined = refined[closed]
    labels = predicted_labels(refined, classes, truth, given)
    scores = correction_scores(truth, given, labels)
    if refined.ndim == 2 and refined.shape[1] > 1:
        classes = column_labels(classes, refined.shape[1], truth, given)
        scores["refined_ece"] = expected_calibration_error(refined, truth, classes=classes)
        scores["refined_nll"] = nll(refined, truth, classes=classes)
        scores["refined_brier"] = brier(refined, truth, classes=classes)
    return scores


def _transition_scores(truth, given, estimate, classes):
    """Return the distances to the realised transition matrix P(given | true)."""
    if estimate.ndim != 2 or len(estimate) != estimate.shape[1]:
        raise ValueError(f"transition must be a square matrix, got shape {estimate.shape}.")
    classes = column_labels(classes, len(estimate), truth, given)
    counts = confusion_matrix(truth, given, labels=classes)
    seen = counts.sum(1, keepdims=True)
    realised = np.where(seen > 0, counts / np.maximum(seen, 1), estimate)
    kinds = ("l1", "tv", "frobenius")
    return {f"transition_{kind}": transition_error(estimate, realised, kind) for kind in kinds}
