"""Atypical rows, found by the distance to their nearest neighbours."""

import math
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from noisyfit._checks import check_integer, is_one_of
from noisyfit._neighbours import SAME, nearest_squares, resolve_metric, space_of
from noisyfit._network import resolve_device

__all__ = ["KNNOutlierFilter", "knn_distances", "knn_scores"]

_DTYPES = [np.float64, np.float32]
_METRICS = ("auto", "cosine", "euclidean")
_BLOCK = 2**27


def knn_scores(features, k=10, metric="auto", t=1.0, block_bytes=_BLOCK):
    """How typical each row is of the others: ``exp(-t * mean distance)`` to its nearest ones.

    Parameters
    ----------
    features : floating tensor of shape (n_samples, n_features)
        Embeddings, on any device; nothing is read back from it.
    k : int, default=10
        Neighbours; all others if there are fewer.
    metric : {"auto", "cosine", "euclidean"}, default="auto"
        As in `knn_distances`.
    t : float, default=1.0
        The order of the scores does not depend on it.
    block_bytes : int, default=2**27
        As in `knn_distances`.

    Returns
    -------
    tensor of shape (n_samples,)
        In (0, 1], small for atypical rows; 1 throughout for less than three rows.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.outliers import knn_scores
    >>> knn_scores(torch.tensor([[0.0], [0.1], [0.2], [3.0]]), k=2)
    tensor([0.8607, 0.9048, 0.8607, 0.0578])
    """
    score = torch.exp(-t * knn_distances(features, k, metric, block_bytes))
    return score.clamp_min(torch.finfo(score.dtype).tiny)


@torch.no_grad()
def knn_distances(features, k=10, metric="auto", block_bytes=_BLOCK):
    """Mean distance of each row to its `k` nearest other rows.

    Identical rows are neighbours at distance 0; only the row itself, by its index, is none.

    Parameters
    ----------
    features : floating tensor of shape (n_samples, n_features)
    k : int, default=10
        Neighbours; all others if there are fewer.
    metric : {"auto", "cosine", "euclidean"}, default="auto"
        ``"auto"`` is the cosine distance for more than three columns. The cosine distance of a row
        of zeros is 0 to other such rows and 1 to the rest.
    block_bytes : int, default=2**27
        Rows are compared with all others in blocks that need about so much memory.

    Returns
    -------
    tensor of shape (n_samples,)
        Of the dtype of `features`, at least float32; 0 throughout for less than three rows.

    Raises
    ------
    TypeError, ValueError
        If `k` is no integer of at least 1, or there is no such metric.

    Notes
    -----
    Products of float32 matrices find the neighbours, ``n_samples**2 * n_features``
    multiplications; the distances are then those of differences, in which nothing cancels. Besides
    a block, the scaled rows are stored, ``4 * n_samples * n_features`` bytes; the products
    themselves may take some 40 MB more for a while.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.outliers import knn_distances
    >>> knn_distances(torch.tensor([[0.0], [0.1], [0.2], [3.0]]), k=2)
    tensor([0.1500, 0.1000, 0.1500, 2.8500])
    """
    check_integer(k, "k", 1)
    if not is_one_of(metric, _METRICS):
        raise ValueError(f"metric must be one of {', '.join(_METRICS)}, got {metric!r}.")
    n, dtype = len(features), torch.promote_types(features.dtype, torch.float32)
    if n < 3:
        return features.new_zeros(n, dtype=dtype)
    space = space_of(features.to(dtype), metric)
    points = space.points(features.to(dtype))
    squares = nearest_squares(points, points, min(k, n - 1), block_bytes, themselves=True)
    return space.distances(squares.to(dtype)).mean(1)


def count_of(share, n):
    """``ceil(share n)``, where 0.07 of 100 are 7."""
    return math.ceil(share * n - 1e-9)


def number_of_outliers(n, share):
    """``ceil(share n)``, but never all, and none of less than three rows."""
    return 0 if n < 3 else min(count_of(share, n), n - 1)


def split(distance, n_outliers):
    """Mask of the largest distances, and minus a threshold between them and the others."""
    mask = np.zeros(len(distance), dtype=bool)
    if not n_outliers:
        return mask, -math.inf
    worst = np.argsort(-distance, kind="stable")
    mask[worst[:n_outliers]] = True
    return mask, -float(distance[worst[n_outliers - 1 : n_outliers + 1]].mean())


def as_tensor(X):
    """Copy of an array, which may be read-only or have negative strides."""
    return torch.from_numpy(np.array(X, order="C"))


class KNNOutlierFilter(OutlierMixin, TransformerMixin, BaseEstimator):
    """Score rows by how close their nearest neighbours are, and set the most atypical ones aside.

    Images of no class at all, which no choice of labels makes right, lie apart in the space of
    good features. The score of a row is ``exp(-t * d)`` with the mean distance ``d`` to its nearest
    neighbours: 1 in the middle of equals, small for atypical rows. No labels are used.

    Parameters
    ----------
    n_neighbors : int, default=10
        Neighbours that are averaged over; all other rows if there are fewer.
    metric : {"auto", "cosine", "euclidean"}, default="auto"
        ``"auto"`` is the cosine distance for more than three columns. The cosine distance of a row
        of zeros is 0 to other such rows and 1 to the rest.
    t : float above 0, default=1.0
        Scale of the scores. Their order, and with it the outliers, does not depend on it.
    share : float in [0, 1), default=0.1
        Share of the rows that are called outliers, rounded up; at least one row is none.
    block_bytes : int, default=2**27
        Rows are compared with all others in blocks that need about so much memory.
    device : str or torch.device, default="auto"
        Where the rows are compared; ``"auto"`` takes the accelerator if there is one.

    Attributes
    ----------
    score_ : ndarray of shape (n_samples,)
        Scores of the rows of `fit`, in (0, 1].
    outlier_ : bool ndarray of shape (n_samples,)
        The ``ceil(share * n_samples)`` rows with the lowest scores; among equals the earlier ones.
    offset_ : float
        Rows whose `score_samples` is lower are outliers. Minus infinity if there are none.
    metric_ : str
        The metric in use.
    n_neighbors_ : int
        The neighbours in use, 0 for less than three rows.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where `X` had names.

    See Also
    --------
    noisyfit.outliers.knn_scores : The same for tensors, inside a training.
    sklearn.neighbors.LocalOutlierFactor : Compares distances with those of the neighbours.

    Notes
    -----
    A row is no neighbour of its own. In `fit` that goes by its index, so that identical copies of
    a row are neighbours at distance 0. Rows of `transform`, `predict` and so on have no index:
    one fitted row at distance 0, if there is one, is taken for the row itself and left out. Thus
    the fitted rows score there as in `fit`, alone or together, and new rows are compared with all.

    With less than three rows all scores are 1 and nothing is an outlier. Distances are computed in
    float32 and decisions made on distances, so that scores may come down to the smallest number
    without harm. The features must be scaled alike for the Euclidean distance.

    Comparing takes ``n_samples**2 * n_features`` multiplications and stores the scaled rows and
    one block; the products themselves may take some 40 MB more for a while.

    References
    ----------
    Fooladgar, Minh Nguyen Nhat To, Mousavi, Abolmaesumi, "Manifold DivideMix: A Semi-Supervised
    Contrastive Learning Framework for Severe Label Noise", CVPR Workshops 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from noisyfit.outliers import KNNOutlierFilter
    >>> X = np.r_[np.random.default_rng(0).normal(size=(30, 2)), [[9.0, -9.0]]]
    >>> knn = KNNOutlierFilter(share=0.03).fit(X)
    >>> np.flatnonzero(knn.outlier_)
    array([30])
    >>> knn.predict([[0.0, 0.0], [9.0, 9.0]])
    array([ 1, -1])
    """

    _parameter_constraints = {
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "metric": [StrOptions(set(_METRICS))],
        "t": [Interval(Real, 0, None, closed="neither")],
        "share": [Interval(Real, 0, 1, closed="left")],
        "block_bytes": [Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device],
    }

    def __init__(
        self,
        n_neighbors=10,
        *,
        metric="auto",
        t=1.0,
        share=0.1,
        block_bytes=_BLOCK,
        device="auto",
    ):
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.t = t
        self.share = share
        self.block_bytes = block_bytes
        self.device = device

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Score the rows of `X`, each among the others.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings, or any table.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        self : object
            The fitted filter.
        """
        self._fit(X)
        return self

    def _fit(self, X):
        """Fit; returns the mean distances (n_samples,) and the dtype of the checked table."""
        resolve_device(self.device)  # refuses before anything is set
        X = validate_data(self, X, dtype=_DTYPES)
        n, n_features = X.shape
        self.metric_ = resolve_metric(self.metric, n_features)
        self.n_neighbors_ = min(self.n_neighbors, n - 1) if n > 2 else 0
        x = as_tensor(X)
        self._space = space_of(x, self.metric_)
        self._points = self._space.points(x)
        del x  # not held beside its copy
        distance = self._distance(self._points, self.n_neighbors_, themselves=True)
        self.score_ = self._score(distance)
        self.outlier_, self.offset_ = split(distance, number_of_outliers(n, self.share))
        return distance, X.dtype

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None):
        """Score the rows of `X`, each among the others.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `fit`.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        ndarray of shape (n_samples, 1)
            ``score_`` as a column.
        """
        return self._score(*self._fit(X))[:, None]

    def fit_predict(self, X, y=None):
        """Call the most atypical rows of `X` outliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `fit`.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        ndarray of shape (n_samples,)
            -1 where ``outlier_``, 1 elsewhere.
        """
        return np.where(self.fit(X).outlier_, -1, 1)

    def score_samples(self, X):
        """Minus the mean distance to the nearest fitted rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of the kind of `fit`; one fitted row at distance 0 of each is left out.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            The logarithm of the score over `t`: small for atypical rows.
        """
        return -self._distance_of_new(self._validated(X))

    def transform(self, X):
        """Score rows among the fitted ones.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of the kind of `fit`; one fitted row at distance 0 of each is left out.

        Returns
        -------
        ndarray of shape (n_samples, 1)
            Scores in (0, 1], small for atypical rows.
        """
        X = self._validated(X)
        return self._score(self._distance_of_new(X), X.dtype)[:, None]

    def decision_function(self, X):
        """How far rows are from being outliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `transform`.

        Returns
        -------
        ndarray of shape (n_samples,), float64
            ``score_samples(X) - offset_``, negative for outliers.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """Decide which rows are outliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `transform`.

        Returns
        -------
        ndarray of shape (n_samples,)
            -1 for outliers, 1 for the others.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def get_feature_names_out(self, input_features=None):
        """Name of the output column.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Only checked against the names seen in `fit`.

        Returns
        -------
        ndarray of str
            ``["knn_score"]``.
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features, generate_names=False)
        return np.array(["knn_score"], dtype=object)

    def _validated(self, X):
        check_is_fitted(self)
        return validate_data(self, X, dtype=_DTYPES, reset=False)

    def _distance_of_new(self, X):
        k = self.n_neighbors_ + 1 if self.n_neighbors_ else 0
        return self._distance(self._space.points(as_tensor(X)), k)

    def _distance(self, queries, k, themselves=False):
        """Mean distances of points on the host, as a float64 array."""
        if not k:
            return np.zeros(len(queries))
        device = resolve_device(self.device)
        points = self._points.to(device)
        queries = points if themselves else queries.to(device)
        squares = nearest_squares(queries, points, k, self.block_bytes, themselves=themselves)
        if not themselves:
            itself = squares[:, :1] <= SAME
            squares = torch.where(itself, squares[:, 1:], squares[:, :-1])
        return self._space.distances(squares.cpu().double()).mean(1).numpy()

    def _score(self, distance, dtype=np.float64):
        score = np.exp(-self.t * distance).astype(dtype)
        return np.maximum(score, np.finfo(dtype).tiny)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "offset_")  # set last

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
