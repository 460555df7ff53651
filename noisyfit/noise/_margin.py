"""Wrong labels near the decision boundary of a classifier."""

from numbers import Integral

import numpy as np
from sklearn.base import is_classifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state

from noisyfit.noise._labels import check_share, flat_features, floor_share, read_labels, record


def boundary(X, y, level, *, proba=None, estimator=None, cv=5, per_class=False, random_state=None):
    """Mislabel exactly the rows that are closest to, or beyond, the boundary to another class.

    Rows are sorted by the margin ``p(true class) - p(most probable other class)``; the smallest
    margins get the most probable other class. Given the probabilities there is no chance in it.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...) or None
        Features for ``estimator``; not used, and may be None, if ``proba`` is given.
    y : array-like of shape (n_samples,)
        True labels of K classes.
    level : float in [0, 1]
        Wrong fraction r: exactly ``floor(r * n_samples)`` labels change.
    proba : array-like of shape (n_samples, K) or None, default=None
        Class probabilities of a model that was not trained on the row, classes in sorted order.
    estimator : classifier or None, default=None
        Estimates ``proba`` by cross-validation; None is a logistic regression of standardised
        features.
    cv : int or cross-validation splitter, default=5
        Folds of that estimate; a number means shuffled stratified folds.
    per_class : bool, default=False
        Change exactly ``floor(r * n_c)`` labels of every class instead of the smallest margins
        overall.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds.

    Returns
    -------
    NoisyLabels
        Labels, mask of changed labels, and the record of the realised noise.

    Raises
    ------
    ValueError
        If ``level`` is outside [0, 1], ``proba`` does not hold probabilities of the classes in
        ``y``, or both ``X`` and ``proba`` are None.
    TypeError
        If ``estimator`` is not a classifier.

    Notes
    -----
    Algan and Ulusoy use a distilled student network: first its own mistakes, most confident
    first, then the rows with the largest second probability. One margin orders both groups here.

    References
    ----------
    Algan, Ulusoy, "Label Noise Types and Their Effects on Deep Learning", arXiv:2003.10471.

    Examples
    --------
    >>> from noisyfit.noise import boundary
    >>> proba = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.4, 0.6]]
    >>> print(boundary(None, ["a", "a", "b", "b"], 0.5, proba=proba).changed)
    [False  True False  True]
    """
    labels = read_labels(y)
    level = check_share(level)
    rng = check_random_state(random_state)
    proba = class_probabilities(X, labels, proba, estimator, cv, rng)
    margin, rival = margins(proba, labels.codes)
    if per_class:
        groups = [np.flatnonzero(labels.codes == c) for c in range(len(labels.classes))]
    else:
        groups = [np.arange(len(margin))]
    noisy_codes = labels.codes.copy()
    for rows in groups:
        rows = rows[np.argsort(margin[rows], kind="stable")][: floor_share(level, len(rows))]
        noisy_codes[rows] = rival[rows]
    return record("boundary", level, labels, noisy_codes, random_state)


def pmd(
    X,
    y,
    level,
    *,
    noise_type="I",
    variant="paper",
    base="true",
    factor=None,
    proba=None,
    estimator=None,
    cv=5,
    random_state=None,
):
    """Polynomial margin diminishing noise: the smaller the margin, the likelier a label flips.

    Let u and s be the two most probable classes of a row, and ``D = p_u - p_s`` their gap. The
    label flips with a probability proportional to ``1/2 - D^2 / 2`` (type I), ``1 - D^3`` (II) or
    ``1 - (D^3 + D^2 + D) / 3`` (III), called t below and scaled to reach ``level`` on average.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...) or None
        Features for ``estimator``; not used, and may be None, if ``proba`` is given.
    y : array-like of shape (n_samples,)
        True labels of K classes.
    level : float in [0, 1]
        Mean probability that a label leaves its base; the wrong fraction for ``base="true"``.
    noise_type : {"I", "II", "III"}, default="I"
        The polynomial.
    variant : {"paper", "code"}, default="paper"
        ``"paper"`` flips with probability ``min(1, c * t)``, ``"code"`` keeps with probability
        ``min(1, (1 - t) / factor)``, see Notes.
    base : {"true", "bayes"}, default="true"
        What flips: the true label, to the most probable other class, or the most probable class
        u, to s. With ``"bayes"`` the wrong fraction counts rows where u is not the true label
        too.
    factor : float or None, default=None
        Divisor of ``variant="code"``; None finds the one that reaches ``level``. With a number
        ``level`` is only recorded.
    proba : array-like of shape (n_samples, K) or None, default=None
        Class probabilities of a model that was not trained on the row, classes in sorted order.
    estimator : classifier or None, default=None
        Estimates ``proba`` by cross-validation; None is a logistic regression of standardised
        features.
    cv : int or cross-validation splitter, default=5
        Folds of that estimate; a number means shuffled stratified folds.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds and of the flips.

    Returns
    -------
    NoisyLabels
        Labels, mask of changed labels, and the record of the realised noise.

    Raises
    ------
    ValueError
        If an option is unknown, ``proba`` does not hold probabilities of the classes in ``y``,
        both ``X`` and ``proba`` are None, or ``level`` cannot be reached because too many rows
        never flip.
    TypeError
        If ``estimator`` is not a classifier.

    Notes
    -----
    The published label files divide the probability to keep, not the one to flip. That does not
    diminish with the margin: at D = 1 a share ``1 - 1 / factor`` still flips (0.30 for type I on
    CIFAR-10 at 35 %, factor 1.43). ``variant="code", base="bayes"`` and the factor repeat them.

    References
    ----------
    Zhang, Zheng, Wu, Goswami, Chen, "Learning with Feature-Dependent Label Noise: A Progressive
    Approach", ICLR 2021.

    Examples
    --------
    >>> from noisyfit.noise import pmd
    >>> proba = [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.5, 0.5]]
    >>> print(pmd(None, [0, 0, 1, 1], 0.5, proba=proba, random_state=0).y)
    [0 1 1 0]
    """
    labels = read_labels(y)
    level = check_share(level)
    _check_pmd_options(variant, base, factor)
    rng = check_random_state(random_state)
    proba = class_probabilities(X, labels, proba, estimator, cv, rng)
    rate = margin_diminishing(top_gap(proba), noise_type)
    if variant == "paper":
        flip = scaled_to_mean(rate, level)
    elif factor is None:
        flip = 1 - scaled_to_mean(1 - rate, 1 - level)
    else:
        flip = 1 - np.minimum(1, (1 - rate) / factor)
    start = labels.codes if base == "true" else proba.argmax(axis=1)
    _, rival = margins(proba, start)
    noisy_codes = np.where(rng.random_sample(len(flip)) < flip, rival, start)
    return record("pmd", level, labels, noisy_codes, random_state)


def _check_pmd_options(variant, base, factor):
    if variant not in ("paper", "code"):
        raise ValueError(f"variant must be 'paper' or 'code'; got {variant!r}.")
    if base not in ("true", "bayes"):
        raise ValueError(f"base must be 'true' or 'bayes'; got {base!r}.")
    if factor is not None and (variant == "paper" or not factor > 0):
        raise ValueError(
            f"factor must be None, or a positive number with variant='code'; "
            f"got {factor!r} with variant={variant!r}."
        )


def margins(proba, codes):
    """p(own class) - p(best other class), and that other class, both (n_samples,)."""
    rows = np.arange(len(codes))
    others = proba.copy()
    others[rows, codes] = -np.inf
    rival = others.argmax(axis=1)
    return proba[rows, codes] - proba[rows, rival], rival


def top_gap(proba):
    """Difference of the two largest probabilities, D in [0, 1], shape (n_samples,)."""
    second, first = np.partition(proba, -2, axis=1)[:, -2:].T
    return np.clip(first - second, 0, 1)


def margin_diminishing(gap, noise_type):
    """Flip probability by the gap D of the two most probable classes (Zhang et al. 2021)."""
    if noise_type == "I":
        return 1 / 2 - gap**2 / 2
    if noise_type == "II":
        return 1 - gap**3
    if noise_type == "III":
        return 1 - (gap**3 + gap**2 + gap) / 3
    raise ValueError(f"noise_type must be 'I', 'II' or 'III'; got {noise_type!r}.")


def scaled_to_mean(rate, mean):
    """``min(1, c * rate)`` with the c that gives it this mean; found by bisection."""
    if mean == 0:
        return np.zeros_like(rate)
    reachable = np.mean(rate > 0)
    if mean > reachable + 1e-12:
        raise ValueError(
            f"The level cannot be reached: a mean of {mean:.4g} is asked, but only a share of "
            f"{reachable:.4g} of the rows has a margin that allows it. "
            "Change the level or give softer probabilities."
        )
    low, high = 0.0, 1 / rate[rate > 0].min()
    for _ in range(100):
        middle = (low + high) / 2
        if np.minimum(1, middle * rate).mean() < mean:
            low = middle
        else:
            high = middle
    return np.minimum(1, high * rate)


def class_probabilities(X, labels, proba, estimator, cv, rng):
    """Check the caller's ``proba``, or estimate it out of sample; shape (n_samples, n_classes)."""
    if proba is not None:
        return check_proba(proba, (len(labels.codes), len(labels.classes)))
    if X is None:
        raise ValueError("Give X, from which class probabilities are estimated, or give proba.")
    if estimator is None:
        X = flat_features(X, len(labels.codes))
        estimator = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    elif not is_classifier(estimator):
        raise TypeError(f"estimator must be a classifier with predict_proba; got {estimator!r}.")
    if isinstance(cv, Integral):
        cv = StratifiedKFold(cv, shuffle=True, random_state=rng)
    return cross_val_predict(estimator, X, labels.codes, cv=cv, method="predict_proba")


def check_proba(proba, shape):
    """Return float probabilities of this shape; rows may miss a sum of 1 by half precision."""
    proba = np.asarray(proba, dtype=float)
    if proba.shape != shape:
        raise ValueError(
            f"proba must have shape {shape}, one row per sample and one column per class in y; "
            f"got {proba.shape}."
        )
    if not (proba >= 0).all() or np.abs(proba.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError("proba must hold probabilities: none negative or NaN, rows that sum to 1.")
    return proba
