"""Numbers for comparing and choosing models where only noisy labels are at hand."""

from collections.abc import Mapping

import numpy as np
from sklearn.utils import column_or_1d

from noisyfit.metrics._checks import warn_undefined


def last_k_mean(history, k=10, key=None):
    """Mean of a quantity over the last epochs: what a user gets who stops when told to.

    The best epoch on the test set hides memorisation; the mean of the last epochs shows it.

    Parameters
    ----------
    history : list of dicts or sequence of numbers
        One entry per epoch: the `history_` of an estimator, or the numbers themselves.
    k : int, default=10
        Number of epochs; all of them when there are fewer.
    key : str, optional
        Which entry of the dicts.

    Returns
    -------
    mean : float
        NaN with a warning for an empty history.

    Raises
    ------
    ValueError
        For `k` below 1, and for a list of dicts where `key` is missing or unknown.

    Notes
    -----
    With a learning rate that restarts, epochs just after a restart are not what a user gets:
    hand over the ends of the cycles only, `history[period - 1 :: period]`.

    Examples
    --------
    >>> from noisyfit.metrics import last_k_mean
    >>> last_k_mean([{"accuracy": a} for a in (0.5, 0.75, 0.25)], k=2, key="accuracy")
    0.5
    """
    if k < 1 or k != int(k):
        raise ValueError(f"k must be an integer of at least 1, got {k!r}.")
    last = list(history)[-int(k) :]
    values = [_entry(epoch, key) if isinstance(epoch, Mapping) else epoch for epoch in last]
    values = column_or_1d(values, dtype=np.float64, input_name="history")
    mean = float(values.mean()) if len(values) else np.nan
    return warn_undefined(mean, "The mean of the last epochs", "there is no epoch, or one is NaN")


def noisy_validation_score(acc_noisy, wrong_fraction, n_classes):
    """Accuracy on clean labels, estimated from the accuracy on symmetrically noisy ones.

    A prediction meets a noisy label either because both are right, or because the label was
    flipped to the wrong class that was predicted: with wrong fraction w and K classes
    `acc_noisy = acc_clean (1 - w) + (1 - acc_clean) w / (K - 1)`, solved for `acc_clean`.

    Parameters
    ----------
    acc_noisy : float
        Accuracy on validation labels with symmetric noise, in [0, 1].
    wrong_fraction : float
        Share w of wrong labels (not the share of redrawn labels), in [0, 1].
    n_classes : int
        Number of classes K, at least 2.

    Returns
    -------
    acc_clean : float
        May leave [0, 1] by sampling error; NaN with a warning at `w = (K - 1) / K`, where the
        labels say nothing.

    Raises
    ------
    ValueError
        For numbers outside their range.

    Notes
    -----
    Exact in expectation when wrong labels are uniform over the other classes and independent of
    the predictions. It does not hold for class-dependent or instance-dependent noise.

    Examples
    --------
    >>> from noisyfit.metrics import noisy_validation_score
    >>> round(noisy_validation_score(0.58, 0.36, 10), 6)
    0.9
    """
    for name, value in (("acc_noisy", acc_noisy), ("wrong_fraction", wrong_fraction)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value!r}.")
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, got {n_classes!r}.")
    by_chance = wrong_fraction / (n_classes - 1)
    slope = 1 - wrong_fraction - by_chance
    score = (acc_noisy - by_chance) / slope if abs(slope) > 1e-12 else np.nan
    return warn_undefined(
        score, "The clean accuracy", "at this wrong fraction labels are independent of the classes"
    )


def _entry(epoch, key):
    if key not in epoch:
        raise ValueError(f"key={key!r} is not in every epoch; there are {sorted(epoch)}.")
    return epoch[key]
