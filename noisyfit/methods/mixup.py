"""mixup: training on convex combinations of pairs of samples."""

from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_real, is_auto
from noisyfit._mixing import MixingMixin
from noisyfit._small_tables import mixing_alpha
from noisyfit.losses import cross_entropy


class MixupClassifier(MixingMixin, BaseNoisyClassifier):
    """One network trained on mixed pairs of samples and labels.

    Every row is mixed with a random partner; the loss asks for both labels in proportion. A wrong
    label then comes diluted and in a new mixture at every visit, so that memorising it would need
    the whole line between two inputs.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained; ``Network()`` by default. Cloned, never trained in place.
    alpha : "auto" or float, default="auto"
        The weight of a row is drawn from Beta(alpha, alpha); 0 mixes nothing. 1 suits clean
        labels, 8 to 32 noisy ones in long training. ``"auto"`` is 8 for images that are not
        augmented, else 1: with random views much mixing on top is too much for a short training.
        Below 32 columns it falls in proportion, for there a mixture of two rows is often a row of
        a third class.
    per_sample : bool, default=False
        Draw one weight per row instead of one per batch.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``, before mixing. ``"auto"`` shifts images
        at random (and mirrors colour images) and leaves tables alone.
    pretrain : "auto", SimCLR, module, state dict or path, optional
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder; ``"auto"`` is ``SimCLR()`` for images. By default they start at random.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: how often the network predicted the given label in training
        (``"auto"`` and ``"history"``), its final probability, or a splitter of
        `noisyfit.mixtures` fitted on one minus the former.
    random_state : int, RandomState instance or None, default=None
        Seed of start, order, mixing, augmentation and dropout.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in sorted order.
    clean_proba_ : ndarray of shape (n_samples,)
        How likely each given label is right, in [0, 1].
    refined_labels_ : ndarray of shape (n_samples,)
        The given label where ``clean_proba_`` is at least 0.5, the network's elsewhere.
    refined_proba_ : ndarray of shape (n_samples, n_classes)
        The same as distributions; rows sum to 1.
    noise_rate_ : float
        Estimated share of wrong labels, ``1 - clean_proba_.mean()``.
    dynamics_ : dict of ndarrays of shape (n_samples,)
        ``n_seen``, ``wrong_events``, ``margin`` and ``proba`` of the given labels, averaged over
        the training passes with the class of the mixing partner set aside.
    nets_ : list of skorch nets
        The trained network.
    history_ : list of dict
        One row per epoch.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Notes
    -----
    Training inputs are mixed, so no pass shows a sample alone, and an evaluation pass per epoch
    would cost a third more. Instead each mixed prediction is read twice, once for each of its two
    members, with the class of the other set aside. That ranks wrong labels as well as an
    evaluation pass does, but it overestimates the noise: mixup is under-confident. For a sharp
    decision use ``label_issues(splitter=GaussianMixtureSplitter())``.

    One-hot columns of a table become fractional.

    References
    ----------
    Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import MixupClassifier, Network
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> y_noisy = sym_excl(y, 0.2, random_state=0).y
    >>> clf = MixupClassifier(Network(max_epochs=10), random_state=0).fit(X, y_noisy)
    >>> clf.score(X, y) > 0.8
    True
    """

    def __init__(
        self,
        net=None,
        *,
        alpha="auto",
        per_sample=False,
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.alpha = alpha
        self.per_sample = per_sample
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        if not is_auto(self.alpha):
            check_real(self.alpha, "alpha", 0)

    def _begin(self, run):
        by_default = mixing_alpha(1.0 if self._on_table or run.has_views else 8.0, self._shape)
        run.memory.alpha = by_default if is_auto(self.alpha) else self.alpha

    def _loss(self, run, batch, t):
        _, losses = self._pass(run, batch, t)
        return losses.mean()

    def _row_losses(self, run, logits, y, index, t):
        return cross_entropy(logits, y)
