"""Noise whose wrong class is a function of the instance."""

import numpy as np
from scipy.stats import truncnorm
from sklearn.utils import check_random_state

from noisyfit.noise._labels import check_share, flat_features, read_labels, record


def idn(X, y, level, *, sd=0.1, scale=None, shared=False, random_state=None):
    """Instance-dependent noise: random projections of the features choose the wrong class.

    Each row has its own flip rate q, from a normal distribution around ``level`` cut to [0, 1],
    and its own distribution over the wrong classes, the soft-max of ``x W[y]`` with a random
    matrix per true class.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...)
        Features x; images are flattened. Their scale matters, see ``scale``.
    y : array-like of shape (n_samples,)
        True labels of K classes.
    level : float in [0, 1]
        Centre r of the flip rates.
    sd : float, default=0.1
        Standard deviation of the flip rates before they are cut.
    scale : float or None, default=None
        Divides the scores by ``scale * ||x||``, so that their standard deviation is ``1 / scale``
        whatever the units of X. None takes them as they are: with pixels in 0..255 the soft-max
        is one-hot, and the wrong class a fixed function of x and y.
    shared : bool, default=False
        One matrix W of shape (n_features, K) for all true classes instead of one each.
    random_state : int, RandomState instance or None, default=None
        Seed of the rates, the projections and the labels.

    Returns
    -------
    NoisyLabels
        Labels, mask of changed labels, and the record of the realised noise.

    Raises
    ------
    ValueError
        If ``level`` is outside [0, 1], ``sd`` or ``scale`` is not positive, ``y`` holds a single
        class, or ``X`` and ``y`` differ in length.

    Notes
    -----
    The expected wrong fraction is the mean of q, which the cut moves away from the ends: 0.129
    for level 0.1, 0.206 for 0.2, 0.300 for 0.3, 0.794 for 0.8. Level 0 changes nothing here,
    although the cut distribution alone would give 0.08: a benchmark needs its clean column.

    References
    ----------
    Xia et al., "Part-dependent Label Noise: Towards Instance-dependent Label Noise", NeurIPS
    2020. ``shared``: Cheng et al., "Learning with Instance-Dependent Label Noise: A Sample Sieve
    Approach", ICLR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from noisyfit.noise import idn
    >>> X, y = np.eye(10).repeat(500, axis=0), np.arange(5000) % 10
    >>> print(round(idn(X, y, 0.4, random_state=0).info["wrong_fraction"], 1))
    0.4
    """
    labels = read_labels(y)
    X = flat_features(X, len(labels.codes))
    level = check_share(level)
    for name, value in (("sd", sd), ("scale", scale)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive; got {value!r}.")
    rng = check_random_state(random_state)
    q = flip_rates(level, sd, len(X), rng)
    size = (X.shape[1], len(labels.classes))
    W = rng.standard_normal(size) if shared else None
    noisy_codes = labels.codes.copy()
    for c in range(len(labels.classes)):  # class by class, so that one W[c] is in memory at a time
        rows = np.flatnonzero(labels.codes == c)
        scores = projections(X[rows], W if shared else rng.standard_normal(size), scale)
        p = instance_proba(scores, labels.codes[rows], q[rows])
        noisy_codes[rows] = draw_each(p, rng)
    return record("idn", level, labels, noisy_codes, random_state)


def flip_rates(level, sd, n_samples, rng):
    """q, shape (n_samples,): normal around ``level`` cut to [0, 1]; all 0 at level 0."""
    if level == 0:
        return np.zeros(n_samples)
    ends = -level / sd, (1 - level) / sd
    return truncnorm.rvs(*ends, loc=level, scale=sd, size=n_samples, random_state=rng)


def projections(X, W, scale):
    """Scores a = x W, shape (n, K), in units of ``scale * ||x||`` where a scale is given."""
    scores = X @ W
    if scale is None:
        return scores
    norms = np.linalg.norm(X, axis=1, keepdims=True)  # (n, 1)
    return scores / (scale * np.where(norms > 0, norms, 1))


def instance_proba(scores, codes, q):
    """P(given label), shape (n, K): 1 - q on the true class, q softmax(scores) on the others."""
    rows = np.arange(len(codes))
    scores = scores.astype(float)
    scores[rows, codes] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    p = q[:, None] * weights / weights.sum(axis=1, keepdims=True)
    p[rows, codes] = 1 - q
    return p


def draw_each(p, rng):
    """One code per row of ``p`` (n, K), by inversion of its cumulative sums."""
    cumulative = p.cumsum(axis=1)
    u = rng.random_sample((len(p), 1)) * cumulative[:, -1:]
    return (u >= cumulative[:, :-1]).sum(axis=1)
