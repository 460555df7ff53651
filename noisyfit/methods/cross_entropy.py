"""Plain training: the baseline of every table."""

from torch.nn import functional

from noisyfit._base import BaseNoisyClassifier


class CrossEntropyClassifier(BaseNoisyClassifier):
    """One network trained on the given labels as if they were right.

    The baseline that every method has to beat. It fits right labels first and memorises wrong
    ones later; the record of that order (``dynamics_``) already tells which labels to doubt,
    although the final network does not.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained; ``Network()`` by default. Cloned, never trained in place.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``. ``"auto"`` shifts images at random
        (and mirrors colour images) and leaves tables alone.
    pretrain : "auto", SimCLR, module, state dict or path, optional
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder; ``"auto"`` is ``SimCLR()`` for images. By default they start at random.
    clean_score : {"history", "final"} or splitter, default="history"
        Source of ``clean_proba_``: the mean probability of the given label over the training
        passes; its probability under the final network; or a splitter of `noisyfit.mixtures`
        fitted on one minus the former.
    random_state : int, RandomState instance or None, default=None
        Seed of starts, order, augmentation and dropout.
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
        the training passes.
    nets_ : list of skorch nets
        The trained network.
    history_ : list of dict
        One row per epoch.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    References
    ----------
    Arpit et al., "A Closer Look at Memorization in Deep Networks", ICML 2017, on the order in
    which labels are fitted.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import CrossEntropyClassifier, Network
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> y_noisy = sym_excl(y, 0.2, random_state=0).y
    >>> clf = CrossEntropyClassifier(Network(max_epochs=10), random_state=0).fit(X, y_noisy)
    >>> clf.score(X, y) > 0.8
    True
    """

    def __init__(
        self,
        net=None,
        *,
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _loss(self, run, batch, t):
        (net,) = run.learners
        logits = net(run.view(batch.x))  # (batch, n_classes)
        run.observe(batch.index, logits)
        return functional.cross_entropy(logits, batch.y)  # averaged in the same kernel
