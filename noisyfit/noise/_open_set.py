"""Rows that belong to no class, beside rows with a wrong class."""

from typing import NamedTuple

import numpy as np
from sklearn.utils import check_consistent_length, check_random_state

from noisyfit.noise._labels import (
    check_share,
    floor_share,
    read_labels,
    realised_transition,
    record,
)
from noisyfit.noise._rules import CODED_CLASSES, RULES


class OpenSetNoise(NamedTuple):
    """Features and labels after open-set noise.

    Attributes
    ----------
    X : ndarray of shape (n_samples, ...)
        Features, with rows of another data set where ``mask_open`` is True.
    y : ndarray of shape (n_samples,)
        The given labels, in the caller's dtype.
    changed : ndarray of bool, shape (n_samples,)
        True where the given label differs from the one in ``y``; never for an open row.
    mask_closed : ndarray of bool, shape (n_samples,)
        Rows whose label was redrawn (the redrawn label can be the old one for ``"sym_incl"``).
    mask_open : ndarray of bool, shape (n_samples,)
        Rows whose features were replaced. They have no true label: leave them out when refined
        labels are scored, and count them as wrong when ``clean_proba_`` is.
    info : dict
        As for :class:`NoisyLabels`, and ``open_share``. ``wrong_fraction`` is the share of
        changed labels among all rows; ``transition`` is over the rows that have a true label.

    Examples
    --------
    >>> import numpy as np
    >>> from noisyfit.noise import open_set
    >>> noisy = open_set(np.zeros((4, 2)), [0, 1, 0, 1], 0.5, 1.0, np.ones((2, 2)), random_state=0)
    >>> print(noisy.mask_open.sum(), noisy.X.sum(), noisy.y)
    2 4.0 [0 1 0 1]
    """

    X: np.ndarray
    y: np.ndarray
    changed: np.ndarray
    mask_closed: np.ndarray
    mask_open: np.ndarray
    info: dict


def open_set(X, y, level, open_share, X_open, *, closed="sym_incl", random_state=None):
    """Replace the features of some rows by another data set's, and redraw the labels of others.

    Exactly ``floor(level * n_samples)`` rows are noisy; ``floor(open_share * that)`` of them are
    open: new features, old label. The rest is closed-set noise: old features, label redrawn by a
    named rule.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...)
        Features; not changed in place.
    y : array-like of shape (n_samples,)
        True labels.
    level : float in [0, 1]
        Share r of noisy rows, open and closed together.
    open_share : float in [0, 1]
        Share of the noisy rows that are open (the papers' omega).
    X_open : array-like of shape (n_open_samples, ...)
        Rows of another data set, of the same shape and kind of number as those of X; drawn without
        replacement.
    closed : str, default="sym_incl"
        The rule for closed rows, each of which is redrawn once: the name of a symmetric, pair or
        asymmetric generator.
    random_state : int, RandomState instance or None, default=None
        Seed of the rows and the labels.

    Returns
    -------
    OpenSetNoise
        Features, labels, the masks of changed, closed and open rows, and the record.

    Raises
    ------
    ValueError
        If a share is outside [0, 1], ``closed`` is unknown, or ``X_open`` has too few rows, rows
        of another shape, or numbers that the dtype of X cannot hold.

    References
    ----------
    Wang et al., "Iterative Learning with Open-set Noisy Labels", CVPR 2018. Sachdeva et al.,
    "EvidentialMix: Learning with Combined Open-set and Closed-set Noisy Labels", WACV 2021. Feng,
    Tzimiropoulos, Patras, "SSR: An Efficient and Robust Framework for Learning with Unknown Label
    Noise", BMVC 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from noisyfit.noise import open_set
    >>> X, X_open, y = np.zeros((10, 3)), np.ones((5, 3)), np.arange(10) % 2
    >>> noisy = open_set(X, y, 0.6, 0.5, X_open, closed="sym_excl", random_state=0)
    >>> print(noisy.mask_open.sum(), noisy.mask_closed.sum(), noisy.changed.sum())
    3 3 3
    """
    if closed not in RULES:
        raise ValueError(f"closed must be one of {sorted(RULES)}; got {closed!r}.")
    labels = read_labels(y, CODED_CLASSES.get(closed))
    level, open_share = check_share(level), check_share(open_share, "open_share")
    X, X_open = np.array(X), np.asarray(X_open)
    check_consistent_length(X, labels.codes)
    n_noisy = floor_share(level, len(X))
    n_open = floor_share(open_share, n_noisy)
    check_replacements(X, X_open, n_open)

    rng = check_random_state(random_state)
    rows = rng.permutation(len(X))[:n_noisy]
    open_rows, closed_rows = rows[:n_open], rows[n_open:]
    X[open_rows] = X_open[rng.permutation(len(X_open))[:n_open]]
    noisy_codes = labels.codes.copy()
    noisy_codes[closed_rows] = RULES[closed](labels.codes[closed_rows], len(labels.classes), rng)
    return _with_masks(
        X, labels, noisy_codes, closed_rows, open_rows, level, open_share, random_state
    )


def check_replacements(X, X_open, n_open):
    """Refuse rows that cannot take a place in X, before anything is drawn."""
    if X_open.shape[1:] != X.shape[1:]:
        raise ValueError(
            f"The rows of X_open must have the shape of the rows of X, {X.shape[1:]}; "
            f"got {X_open.shape[1:]}."
        )
    if len(X_open) < n_open:
        raise ValueError(
            f"X_open must have at least {n_open} rows, as they are drawn without replacement; "
            f"got {len(X_open)}."
        )
    if not np.can_cast(X_open.dtype, X.dtype, casting="same_kind"):
        raise ValueError(
            f"X_open has dtype {X_open.dtype}, which does not fit into X of dtype {X.dtype}. "
            "Bring both to the same dtype and range first."
        )


def _with_masks(X, labels, noisy_codes, closed_rows, open_rows, level, open_share, seed):
    noisy = record("open_set", level, labels, noisy_codes, seed)
    mask_closed, mask_open = np.zeros((2, len(X)), dtype=bool)
    mask_closed[closed_rows], mask_open[open_rows] = True, True
    known = ~mask_open
    transition = realised_transition(labels.codes[known], noisy_codes[known], len(labels.classes))
    info = noisy.info | {"open_share": open_share, "transition": transition}
    return OpenSetNoise(X, noisy.y, noisy.changed, mask_closed, mask_open, info)
