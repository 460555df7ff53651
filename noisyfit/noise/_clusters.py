"""Wrong labels that fill whole regions of feature space."""

from numbers import Integral

import numpy as np
from sklearn.cluster import KMeans
from sklearn.utils import check_random_state, check_scalar

from noisyfit.noise._labels import check_share, flat_features, floor_share, read_labels, record


def locally_concentrated(X, y, level, *, n_clusters=20, random_state=None):
    """Give whole clusters of a class one wrong label, until the quota of the class is met.

    The neighbours of a wrong label are wrong too and agree on the same wrong class, so that no
    vote among neighbours can find them. Each class is cut into clusters by k-means; clusters are
    visited in random order, and the last one is filled from its centre outwards, so the number of
    wrong labels is exact.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...)
        Features in which the regions are compact; images are flattened.
    y : array-like of shape (n_samples,)
        True labels.
    level : float in [0, 1]
        Wrong fraction r: ``floor(r * n_samples)`` labels change, shared out over the classes in
        proportion to their size, the largest remainders first.
    n_clusters : int, default=20
        Most clusters per class; a class of n_c rows has at most ``max(2, n_c // 10)``.
    random_state : int, RandomState instance or None, default=None
        Seed of the clusters, of their order and of the wrong classes.

    Returns
    -------
    NoisyLabels
        Labels, mask of changed labels, and the record of the realised noise.

    Raises
    ------
    ValueError
        If ``level`` is outside [0, 1], ``n_clusters`` is below 1, ``y`` holds a single class, or
        ``X`` and ``y`` differ in length.

    Notes
    -----
    Algan and Ulusoy change whole clusters only and so stay below the level by up to two points;
    here the last cluster is trimmed instead.

    References
    ----------
    Algan, Ulusoy, "Label Noise Types and Their Effects on Deep Learning", arXiv:2003.10471.
    Drory, Avidan, Giryes, "On the Resistance of Neural Nets to Label Noise", 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from noisyfit.noise import locally_concentrated
    >>> X, y = np.arange(100.0).reshape(-1, 1), np.arange(100) // 50
    >>> noisy = locally_concentrated(X, y, 0.3, random_state=0)
    >>> print(noisy.changed.sum(), noisy.changed[:50].sum())
    30 15
    """
    labels = read_labels(y)
    X = flat_features(X, len(labels.codes))
    level = check_share(level)
    check_scalar(n_clusters, "n_clusters", Integral, min_val=1)
    rng = check_random_state(random_state)
    n_classes = len(labels.classes)
    noisy_codes = labels.codes.copy()
    quotas = class_quotas(level, np.bincount(labels.codes))
    for c in np.flatnonzero(quotas):
        members = np.flatnonzero(labels.codes == c)
        for cluster in random_clusters(X[members], quotas[c], n_clusters, rng):
            noisy_codes[members[cluster]] = (c + rng.randint(1, n_classes)) % n_classes
    return record("locally_concentrated", level, labels, noisy_codes, random_state)


def class_quotas(level, sizes):
    """Share floor(level * n) rows over classes of the given sizes, by largest remainder."""
    quotas = floor_share(level, sizes)
    remainders = level * sizes - quotas
    left_over = floor_share(level, sizes.sum()) - quotas.sum()
    quotas[np.argsort(-remainders, kind="stable")[:left_over]] += 1
    return quotas


def random_clusters(X, quota, n_clusters, rng):
    """Yield rows of ``X`` cluster by cluster, ``quota`` in all, nearest to the centroid first."""
    n_clusters = min(n_clusters, max(2, len(X) // 10), len(X))
    kmeans = KMeans(n_clusters, n_init=1, random_state=rng).fit(X)
    distance = kmeans.transform(X).min(axis=1)  # (n,) to the row's own centroid
    for cluster in rng.permutation(n_clusters):
        if quota == 0:
            return
        rows = np.flatnonzero(kmeans.labels_ == cluster)
        rows = rows[np.argsort(distance[rows], kind="stable")][:quota]
        quota -= len(rows)
        yield rows
