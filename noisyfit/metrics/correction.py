"""Correcting label errors: are the refined labels better, is the noise known, was it learned?"""

import numpy as np
from sklearn.metrics import accuracy_score
from sklearn.utils import check_array

from noisyfit.metrics._checks import check_labels, predicted_labels, warn_undefined


def refined_accuracy(y_true, refined, classes=None):
    """Share of rows whose refined label is the true one.

    Parameters
    ----------
    y_true : array of shape (n_samples,)
        True labels.
    refined : array of shape (n_samples,) or (n_samples, n_classes)
        Refined labels, or their probabilities, of which the largest counts.
    classes : array of shape (n_classes,), optional
        Label of every column of probabilities; needed where `y_true` does not show it.

    Returns
    -------
    accuracy : float
        In [0, 1].

    Raises
    ------
    ValueError
        For unequal lengths, labels of mixed kinds, or columns without a known label.

    Examples
    --------
    >>> from noisyfit.metrics import refined_accuracy
    >>> refined_accuracy(["a", "b", "b", "a"], ["a", "b", "a", "a"])
    0.75
    """
    (y_true,) = check_labels(y_true=y_true)
    return float(accuracy_score(y_true, predicted_labels(refined, classes, y_true)))


def repair_rate(y_true, y_noisy, refined, classes=None):
    """Share of wrongly labelled rows whose refined label is the true one.

    With a model's predictions on the training rows as `refined`, the share of wrong rows that it
    predicts as their true class.

    Parameters
    ----------
    y_true, y_noisy : arrays of shape (n_samples,)
        True and given labels.
    refined : array of shape (n_samples,) or (n_samples, n_classes)
        Refined labels, or their probabilities.
    classes : array of shape (n_classes,), optional
        Label of every column of probabilities; needed where the labels do not show it.

    Returns
    -------
    rate : float
        In [0, 1]; NaN with a warning when no given label is wrong.

    Raises
    ------
    ValueError
        For unequal lengths, labels of mixed kinds, or columns without a known label.

    Examples
    --------
    >>> from noisyfit.metrics import repair_rate
    >>> repair_rate([0, 1, 1], [0, 0, 0], [0, 1, 0])
    0.5
    """
    rate = _scores(y_true, y_noisy, refined, classes)["repair_rate"]
    return warn_undefined(rate, "The repair rate", "no given label is wrong")


def damage_rate(y_true, y_noisy, refined, classes=None):
    """Share of rightly labelled rows whose refined label is no longer the true one.

    Parameters
    ----------
    y_true, y_noisy : arrays of shape (n_samples,)
        True and given labels.
    refined : array of shape (n_samples,) or (n_samples, n_classes)
        Refined labels, or their probabilities.
    classes : array of shape (n_classes,), optional
        Label of every column of probabilities; needed where the labels do not show it.

    Returns
    -------
    rate : float
        In [0, 1]; NaN with a warning when no given label is right.

    Raises
    ------
    ValueError
        For unequal lengths, labels of mixed kinds, or columns without a known label.

    Examples
    --------
    >>> from noisyfit.metrics import damage_rate
    >>> damage_rate([0, 1, 1, 0], [0, 1, 1, 1], [0, 1, 0, 0])
    0.3333333333333333
    """
    rate = _scores(y_true, y_noisy, refined, classes)["damage_rate"]
    return warn_undefined(rate, "The damage rate", "no given label is right")


def net_gain(y_true, y_noisy, refined, classes=None):
    """Accuracy of the refined labels minus accuracy of the given labels.

    Parameters
    ----------
    y_true, y_noisy : arrays of shape (n_samples,)
        True and given labels.
    refined : array of shape (n_samples,) or (n_samples, n_classes)
        Refined labels, or their probabilities.
    classes : array of shape (n_classes,), optional
        Label of every column of probabilities; needed where the labels do not show it.

    Returns
    -------
    gain : float
        In [-1, 1], negative where refining did harm.

    Raises
    ------
    ValueError
        For unequal lengths, labels of mixed kinds, or columns without a known label.

    Examples
    --------
    >>> from noisyfit.metrics import net_gain
    >>> net_gain([0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1])
    0.25
    """
    return _scores(y_true, y_noisy, refined, classes)["net_gain"]


def memorization_rate(proba, y_noisy, y_true, classes=None):
    """Share of wrongly labelled rows that the model predicts as their wrong given label.

    0 is ideal, 1 means that the noise was learned by heart. Beside it belongs
    :func:`repair_rate` of the same predictions: a wrong row can also be predicted as a third
    class.

    Parameters
    ----------
    proba : array of shape (n_samples, n_classes) or (n_samples,)
        Predicted probabilities on the training rows, or predicted labels.
    y_noisy, y_true : arrays of shape (n_samples,)
        Given and true labels.
    classes : array of shape (n_classes,), optional
        Label of every column of `proba`; needed where the labels do not show it.

    Returns
    -------
    rate : float
        In [0, 1]; NaN with a warning when no given label is wrong.

    Raises
    ------
    ValueError
        For unequal lengths, labels of mixed kinds, or columns without a known label.

    References
    ----------
    .. [1] Liu, Niles-Weed, Razavian, Fernandez-Granda. Early-learning regularization prevents
       memorization of noisy labels. NeurIPS 2020.

    Examples
    --------
    >>> from noisyfit.metrics import memorization_rate
    >>> memorization_rate([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]], [0, 0, 0], [0, 1, 1])
    0.5
    """
    rate = _scores(y_true, y_noisy, proba, classes)["memorization_rate"]
    return warn_undefined(rate, "The memorization rate", "no given label is wrong")


def transition_error(T_hat, T, kind="l1"):
    """Distance between an estimated and a realised noise transition matrix.

    Parameters
    ----------
    T_hat, T : arrays of shape (n_classes, n_classes)
        Estimated and realised P(given label = column | true label = row).
    kind : {"l1", "tv", "frobenius"}, default="l1"
        `"l1"`: sum of absolute differences divided by the sum of the entries of `T`; `"tv"`:
        total variation between two rows, averaged over the rows; `"frobenius"`: root of the sum
        of squared differences.

    Returns
    -------
    error : float
        At least 0.

    Raises
    ------
    ValueError
        For matrices that are not square, of different shape or with negative entries in `T`, and
        for an unknown `kind`.

    References
    ----------
    .. [1] Patrini, Rozza, Menon, Nock, Qu. Making deep neural networks robust to label noise: a
       loss correction approach. CVPR 2017.

    Examples
    --------
    >>> from noisyfit.metrics import transition_error
    >>> transition_error([[0.75, 0.25], [0.0, 1.0]], [[0.5, 0.5], [0.0, 1.0]])
    0.25
    """
    T_hat = check_array(T_hat, dtype=np.float64, input_name="T_hat")
    T = check_array(T, dtype=np.float64, input_name="T")
    if T.shape[0] != T.shape[1] or T_hat.shape != T.shape:
        raise ValueError(f"T_hat {T_hat.shape} and T {T.shape} must be square and of equal shape.")
    if (T < 0).any() or not T.any():
        raise ValueError("T must hold probabilities: no negative entry, and not all zero.")
    error = T_hat - T
    if kind == "l1":
        return float(np.abs(error).sum() / T.sum())
    if kind == "tv":
        return float(np.abs(error).sum(1).mean() / 2)
    if kind == "frobenius":
        return float(np.linalg.norm(error))
    raise ValueError(f"kind must be 'l1', 'tv' or 'frobenius', got {kind!r}.")


def correction_scores(y_true, y_noisy, refined):
    """Return every correction score of label arrays (n,) as a dict, NaN where undefined."""
    wrong = y_true != y_noisy
    repaired = refined == y_true
    return {
        "refined_accuracy": _share(repaired),
        "repair_rate": _share(repaired[wrong]),
        "damage_rate": _share(~repaired[~wrong]),
        "net_gain": float(repaired.mean() - (~wrong).mean()),
        "memorization_rate": _share((refined == y_noisy)[wrong]),
    }


def _scores(y_true, y_noisy, predicted, classes):
    y_true, y_noisy = check_labels(y_true=y_true, y_noisy=y_noisy)
    return correction_scores(y_true, y_noisy, predicted_labels(predicted, classes, y_true, y_noisy))


def _share(hits):
    return float(hits.mean()) if len(hits) else np.nan
