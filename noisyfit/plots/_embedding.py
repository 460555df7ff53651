"""Map of what a network sees in the rows."""

from numbers import Integral

import numpy as np
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.utils import check_array, check_consistent_length, check_scalar, column_or_1d

from noisyfit._features import penultimate_features
from noisyfit._random import draw_seed
from noisyfit.metrics.detection import check_wrong
from noisyfit.plots._axes import COLOURS, open_axes
from noisyfit.plots._kinds import COLOUR_OF, name_kinds

_HUES = COLOURS[:-1]  # black marks the wrong labels
_SHAPES = ("o", "s", "^", "D", "v", "P", "X")
_N_LEGEND = 20


class EmbeddingDisplay:
    """Rows as points where a network puts them, coloured by class or kind, wrong labels ringed.

    The features of the last but one layer are laid out in two dimensions. Build it by
    `from_estimator`.

    Parameters
    ----------
    embedding : ndarray of shape (n_points, 2)
        Where the points are.
    labels : ndarray of shape (n_points,)
        Their classes.
    wrong : bool ndarray of shape (n_points,), optional
        Which of them get a ring.
    method_name : str, default=""
        What laid them out, for the axes.
    label_name : str, default="Class"
        What the classes are, for the legend.
    colours : dict of label to colour, optional
        Of each class, in the order of the legend; by default those of a palette in sorted order.

    Attributes
    ----------
    points_ : list of matplotlib PathCollection
        One for each class, in the order of the legend.
    rings_ : matplotlib PathCollection or None
        Round the points with wrong labels; None without any.
    names_ : list of matplotlib Text
        With more than 20 classes, their names at their centres instead of a legend.
    ax_, figure_ : matplotlib Axes and Figure
        Where it was drawn.

    References
    ----------
    Laurens van der Maaten, Geoffrey Hinton. Visualizing Data using t-SNE. JMLR 2008.

    Leland McInnes, John Healy, James Melville. UMAP: Uniform Manifold Approximation and Projection
    for Dimension Reduction. arXiv:1802.03426, 2018.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import CrossEntropyClassifier, Network
    >>> from noisyfit.plots import EmbeddingDisplay
    >>> X, y = make_blobs(60, random_state=0)
    >>> clf = CrossEntropyClassifier(Network(max_epochs=5), random_state=0).fit(X, y)
    >>> display = EmbeddingDisplay.from_estimator(clf, X, y, method="pca", random_state=0)
    >>> display.embedding.shape, len(display.points_)
    ((60, 2), 3)
    """

    def __init__(
        self, embedding, labels, *, wrong=None, method_name="", label_name="Class", colours=None
    ):
        self.embedding = embedding
        self.labels = labels
        self.wrong = wrong
        self.method_name = method_name
        self.label_name = label_name
        self.colours = colours

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y=None,
        wrong=None,
        *,
        kinds=None,
        method="tsne",
        net=0,
        max_points=5000,
        random_state=None,
        ax=None,
    ):
        """Draw the features that a fitted method has of rows.

        Parameters
        ----------
        estimator : estimator
            A fitted method of this library.
        X : like the `X` of its `fit`
        y : array-like of shape (n_samples,), optional
            Labels that give the colours; the predicted ones by default.
        wrong : bool array of shape (n_samples,) or tuple (y_true, y_noisy), optional
            Which rows are marked for their wrong labels.
        kinds : bool array of shape (n_samples,), tuple (y_true, y_noisy) or array of str, optional
            Gives the colours in place of `y`: which labels are wrong, or the kind of each row,
            ``"clean"``, ``"wrong label"`` or ``"out of distribution"``.
        method : {"tsne", "umap", "pca"} or transformer, default="tsne"
            What lays out the features; "umap" needs the package umap-learn. Another transformer
            is cloned and used by its ``fit_transform``, as it was set.
        net : int, default=0
            Whose features, counted from 0.
        max_points : int, default=5000
            Of more rows, this many are chosen at random and drawn.
        random_state : int, RandomState instance or None, default=None
            Of the choice and of the layout.
        ax : matplotlib Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        EmbeddingDisplay

        Raises
        ------
        ValueError, TypeError
            If the estimator was not fitted, if its network has no linear layer, if both `y` and
            `kinds` are given, or if lengths, kinds or `method` are not as above.
        ImportError
            If UMAP is asked for and not installed.
        """
        seed = draw_seed(random_state)
        check_scalar(max_points, "max_points", Integral, min_val=3)
        name, layout = _layout(method)
        features = penultimate_features(estimator, X, net)
        label_name, labels, colours = _colouring(estimator, X, y, kinds)
        wrong = np.zeros(len(labels), dtype=bool) if wrong is None else check_wrong(wrong)
        check_consistent_length(features, labels, wrong)
        if len(features) > max_points:
            rng = np.random.default_rng(seed)
            chosen = np.sort(rng.choice(len(features), max_points, replace=False))
            features, labels, wrong = features[chosen], labels[chosen], wrong[chosen]
        embedding = check_array(layout(features, seed), ensure_min_features=2)[:, :2]
        names = {"method_name": name, "label_name": label_name, "colours": colours}
        return cls(embedding, labels, wrong=wrong, **names).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw the points in `ax`, or in a new figure; return the display."""
        self.ax_ = open_axes(ax, "EmbeddingDisplay.plot")
        self.figure_, self.rings_, self.names_ = self.ax_.figure, None, []
        if ax is None:
            self.figure_.set_layout_engine("compressed")  # leaves room beside equal axes
        classes = np.unique(self.labels)
        if self.colours is not None:
            classes = sorted(classes, key=list(self.colours).index)
        self.points_ = [self._draw_class(i, label) for i, label in enumerate(classes)]
        wrong = np.zeros(len(self.labels), bool) if self.wrong is None else self.wrong
        if wrong.any():
            style = {"color": "none", "edgecolor": "black", "s": 30, "linewidths": 0.8}
            label = f"Wrong label ({wrong.sum()})"
            self.rings_ = self.ax_.scatter(*self.embedding[wrong].T, label=label, **style)
        self._name_classes(classes)
        self.ax_.set(xticks=[], yticks=[])  # lengths in these maps have no unit
        self.ax_.set_aspect("equal")
        self.ax_.set(xlabel=f"{self.method_name} 1".strip(), ylabel=f"{self.method_name} 2".strip())
        return self

    def _draw_class(self, i, label):
        points = self.embedding[self.labels == label]
        shape = _SHAPES[i // len(_HUES) % len(_SHAPES)]
        colour = self.colours[label] if self.colours else _HUES[i % len(_HUES)]
        style = {"marker": shape, "color": colour, "s": 18, "linewidths": 0}
        return self.ax_.scatter(*points.T, alpha=0.7, label=str(label), **style)

    def _name_classes(self, classes):
        """A legend beside the axes; of many classes, names in the map."""
        handles = [*self.points_, *([self.rings_] if self.rings_ else [])]
        if len(classes) > _N_LEGEND:
            handles = handles[len(classes) :]
            self.names_ = [self._write_name(label) for label in classes]
        if handles:
            beside = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False}
            title = None if self.names_ else self.label_name
            self.ax_.legend(handles=handles, title=title, markerscale=1.4, **beside)

    def _write_name(self, label):
        from matplotlib.patheffects import withStroke

        centre = np.median(self.embedding[self.labels == label], axis=0)
        style = {"ha": "center", "va": "center", "fontsize": 8, "weight": "bold"}
        outline = [withStroke(linewidth=2.5, foreground="white")]
        return self.ax_.text(*centre, str(label), path_effects=outline, **style)


def _colouring(estimator, X, y, kinds):
    """Name of what gives the colours, labels (n,), and their colours (None: those of a palette)."""
    if kinds is not None:
        if y is not None:
            raise ValueError("Either y or kinds gives the colours; give one of them.")
        return "Kind", name_kinds(kinds), COLOUR_OF
    if y is None:
        return "Predicted class", column_or_1d(estimator.predict(X)), None
    return "Class", column_or_1d(y), None


def _layout(method):
    """Name and function (features, seed) -> coordinates of a way to lay out the features."""
    if not isinstance(method, str):
        if not hasattr(method, "fit_transform"):
            raise TypeError(f"method must be a name or have fit_transform, got {method!r}.")
        return type(method).__name__, lambda features, seed: clone(method).fit_transform(features)
    if method not in _METHODS:
        raise ValueError(f"method must be one of {sorted(_METHODS)}, got {method!r}.")
    if method == "umap":
        _umap_class()  # asked for before anything is computed
    return _METHODS[method]


def _pca(features, seed):
    return PCA(n_components=2, random_state=seed).fit_transform(features)


def _tsne(features, seed):
    perplexity = min(30, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, random_state=seed).fit_transform(features)


def _umap(features, seed):
    UMAP = _umap_class()
    n_neighbors = min(15, len(features) - 1)
    return UMAP(n_neighbors=n_neighbors, random_state=seed, n_jobs=1).fit_transform(features)


def _umap_class():
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError("method='umap' needs the package umap-learn (pip install it).") from error
    return UMAP


_METHODS = {"tsne": ("t-SNE", _tsne), "umap": ("UMAP", _umap), "pca": ("PCA", _pca)}
