"""Finding label errors: is the given label wrong? A wrong label is the positive class."""

import warnings

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)
from sklearn.utils import column_or_1d

from noisyfit.metrics._checks import check_clean_proba, check_labels, warn_undefined

# shares whose denominator can be zero; they count as 0 then, the other scores as NaN
RATIOS = ("precision", "recall", "f1", "label_precision", "label_recall")


def clean_auroc(wrong, clean_proba):
    """Area under the ROC curve of clean probabilities.

    The probability that a row with a right label has a higher clean probability than a row with
    a wrong one, ties counting one half; it equals the area of `1 - clean_proba` for "wrong".

    Parameters
    ----------
    wrong : bool array of shape (n_samples,) or tuple (y_true, y_noisy)
        Where the given label is wrong, or the true and the given labels.
    clean_proba : array of shape (n_samples,)
        How likely each given label is right, in [0, 1].

    Returns
    -------
    auroc : float
        In [0, 1]; NaN with a warning when all labels are right or all are wrong.

    Raises
    ------
    ValueError
        For unequal lengths, labels of mixed kinds, or probabilities outside [0, 1].

    Examples
    --------
    >>> from noisyfit.metrics import clean_auroc
    >>> clean_auroc((["cat", "dog", "dog"], ["cat", "cat", "dog"]), [0.9, 0.2, 0.6])
    1.0
    """
    wrong = check_wrong(wrong)
    clean_proba = check_clean_proba(clean_proba, len(wrong))
    reason = "both right and wrong labels are needed"
    return warn_undefined(_auroc(wrong, clean_proba), "The AUROC", reason)


def found_error_scores(wrong, clean_proba, *, threshold=0.5):
    """Precision, recall and F1 of the label errors found by `clean_proba < threshold`.

    Parameters
    ----------
    wrong : bool array of shape (n_samples,) or tuple (y_true, y_noisy)
        Where the given label is wrong, or the true and the given labels.
    clean_proba : array of shape (n_samples,)
        How likely each given label is right, in [0, 1].
    threshold : float, default=0.5
        Rows below it are flagged as errors, the others are selected as right.

    Returns
    -------
    scores : dict of floats
        `precision`, `recall`, `f1` of the flagged rows for "wrong"; `label_precision`, the share
        of right labels among the selected rows, and `label_recall`, the share of right labels
        that are selected [1]_. A share of nothing is 0, with a warning.

    Raises
    ------
    ValueError
        For unequal lengths, labels of mixed kinds, or numbers outside [0, 1].

    References
    ----------
    .. [1] Han, Yao, Yu, Niu, Xu, Hu, Tsang, Sugiyama. Co-teaching: robust training of deep neural
       networks with extremely noisy labels. NeurIPS 2018.

    Examples
    --------
    >>> from noisyfit.metrics import found_error_scores
    >>> found_error_scores([False, True, True], [0.9, 0.2, 0.6])["recall"]
    0.5
    """
    wrong = check_wrong(wrong)
    clean_proba = check_clean_proba(clean_proba, len(wrong))
    return settle(_ratios(wrong, clean_proba, check_threshold(threshold)))


def check_wrong(wrong):
    """Return the mask (n,) of wrong labels from a mask or from the pair (y_true, y_noisy)."""
    if isinstance(wrong, tuple) and len(wrong) == 2 and np.ndim(wrong[0]) > 0:
        y_true, y_noisy = check_labels(y_true=wrong[0], y_noisy=wrong[1])
        return y_true != y_noisy
    mask = column_or_1d(wrong, input_name="wrong")
    if len(mask) == 0 or mask.dtype != bool:
        raise ValueError(
            "wrong must be a boolean mask with at least one row, or the tuple (y_true, y_noisy)."
        )
    return mask


def check_threshold(threshold):
    """Return the threshold if it is in [0, 1]."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold!r}.")
    return threshold


def detection_scores(wrong, clean_proba, threshold):
    """Return every detection score as a dict, NaN where one is undefined."""
    return {
        "wrong_fraction": float(wrong.mean()),
        "auroc": _auroc(wrong, clean_proba),
        "average_precision": _average_precision(wrong, clean_proba),
        **_ratios(wrong, clean_proba, threshold),
        "clean_proba_brier": float(brier_score_loss(~wrong, clean_proba, labels=[False, True])),
        "rate_error": float(abs((1 - clean_proba).mean() - wrong.mean())),
    }


def settle(scores):
    """Warn once about the undefined scores, and let undefined ratios count as 0."""
    undefined = [name for name, value in scores.items() if np.isnan(value)]
    if undefined:
        warnings.warn(
            f"Undefined for these rows: {', '.join(undefined)}. A share of nothing counts as 0, "
            "other scores are NaN.",
            UndefinedMetricWarning,
            stacklevel=3,
        )
    return {name: 0.0 if name in RATIOS and np.isnan(v) else v for name, v in scores.items()}


def _auroc(wrong, clean_proba):
    if wrong.all() or not wrong.any():
        return np.nan
    return float(roc_auc_score(~wrong, clean_proba))


def _average_precision(wrong, clean_proba):
    return float(average_precision_score(wrong, 1 - clean_proba)) if wrong.any() else np.nan


def _ratios(wrong, clean_proba, threshold):
    precision, recall, f1, _ = precision_recall_fscore_support(
        wrong, clean_proba < threshold, labels=[True, False], zero_division=np.nan
    )
    scores = (precision[0], recall[0], f1[0], precision[1], recall[1])
    return {name: float(value) for name, value in zip(RATIOS, scores, strict=True)}
