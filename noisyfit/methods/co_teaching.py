"""Co-teaching: each network learns from the samples that the other finds easy."""

from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import is_one_of
from noisyfit._small_loss import (
    SmallLossMixin,
    code_forget_rate,
    exchanged,
    forget_rate,
    refuse_equal_starts,
)
from noisyfit.losses import cross_entropy


class CoTeachingClassifier(SmallLossMixin, BaseNoisyClassifier):
    """Two networks, each trained on the samples that the other finds easy.

    Networks learn right labels before wrong ones, so the samples with a small loss are mostly
    right. In every batch each network keeps the part with the smallest losses and hands it to its
    peer, which filters out other errors than its own; the share that is dropped grows from 0 to
    the noise rate.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How both networks are trained; ``Network()`` by default. Its module must be a class, so
        that the two start differently. Cloned, never trained in place.
    noise_rate : "auto" or float in [0, 1), default="auto"
        Share of wrong labels (tau). ``"auto"`` drops nothing for `n_gradual` epochs (10 for 0; more
        on tables with few columns; at most half of all), then takes the share that a
        two-component mixture on the losses calls wrong, at most 0.8; less where the networks
        agree with more than a quarter of those labels.
    n_gradual : int, default=10
        Epochs in which the dropped share grows to the noise rate (T_k); in general it is reached
        after ``n_gradual ** (1 / exponent)``.
    exponent : float, default=1.0
        The share grows with ``epoch ** exponent`` (c): with 0.5 it takes 100 epochs for an
        `n_gradual` of 10, with 2 it takes 4.
    schedule : {"paper", "code"}, default="paper"
        How the dropped share grows. ``"code"`` is the authors' code: `n_gradual` equally spaced
        values from 0 to ``noise_rate ** exponent``, then the noise rate.
    per_class : bool, default=False
        Rank the losses inside each given class, so that rare classes are not dropped first.
    ensemble : {"proba", "logits", "first", "second"}, default="proba"
        Average of the networks in prediction, or one of them, as the paper reports.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``, the same for both networks. ``"auto"``
        shifts images at random (and mirrors colour images) and leaves tables alone.
    pretrain : "auto", SimCLR, module, state dict or path, optional
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder; ``"auto"`` is ``SimCLR()`` for images. By default they start at random.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: how often a sample was selected in those of the last ten epochs
        that drop the full share, its ties broken by the next (``"auto"``; as ``"history"`` if there
        are none); how often the networks predicted its label in training; its final probability;
        or a splitter of `noisyfit.mixtures` on one minus the second.
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
        The given label where ``clean_proba_`` is at least 0.5, the networks' elsewhere.
    refined_proba_ : ndarray of shape (n_samples, n_classes)
        The same as distributions; rows sum to 1.
    noise_rate_ : float
        Estimated share of wrong labels, ``1 - clean_proba_.mean()``.
    forget_rate_ : float
        Share dropped in the last epoch.
    dynamics_ : dict of ndarrays of shape (n_samples,)
        ``n_seen``, ``wrong_events``, ``margin`` and ``proba`` of the given labels, averaged over
        the training passes of both networks.
    nets_ : list of skorch nets
        The two trained networks.
    history_ : list of dict
        One row per epoch, with ``forget_rate``.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Notes
    -----
    Where the authors' code departs from the paper, the paper is followed: the exponent acts on
    the epoch and, with an exponent of 1, the noise rate is reached after `n_gradual` epochs, for
    which there is `schedule`, and the loss is the plain mean over the kept samples (the code
    divides by their number twice). An incomplete last batch is dropped as in the code, unless there
    are fewer than two batches.

    References
    ----------
    Han, Yao, Yu, Niu, Xu, Hu, Tsang, Sugiyama, "Co-teaching: Robust Training of Deep Neural
    Networks with Extremely Noisy Labels", NeurIPS 2018.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import CoTeachingClassifier, Network
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> y_noisy = sym_excl(y, 0.2, random_state=0).y
    >>> clf = CoTeachingClassifier(Network(max_epochs=20), random_state=0).fit(X, y_noisy)
    >>> clf.score(X, y) > 0.8
    True
    """

    n_networks = 2
    drop_last = True

    def __init__(
        self,
        net=None,
        *,
        noise_rate="auto",
        n_gradual=10,
        exponent=1.0,
        schedule="paper",
        per_class=False,
        ensemble="proba",
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.noise_rate = noise_rate
        self.n_gradual = n_gradual
        self.exponent = exponent
        self.schedule = schedule
        self.per_class = per_class
        self.ensemble = ensemble
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        if not is_one_of(self.schedule, ("paper", "code")):
            raise ValueError(f"schedule must be 'paper' or 'code', got {self.schedule!r}.")

    def _check_run(self, run):
        refuse_equal_starts(run)

    def _share_to_drop(self, rate, epoch, n_epochs):
        form = code_forget_rate if self.schedule == "code" else forget_rate
        return form(epoch, rate, self.n_gradual, self.exponent)

    def _ramp_length(self, max_epochs):
        return self.n_gradual if self.schedule == "code" else super()._ramp_length(max_epochs)

    def _loss(self, run, batch, t):
        f, g = run.learners
        x = run.view(batch.x)
        logits = f(x), g(x)  # each (batch, n_classes)
        for of_one in logits:
            run.observe(batch.index, of_one)
        losses = [cross_entropy(of_one, batch.y) for of_one in logits]
        kept = [self._choose(run, batch.y, of_one) for of_one in losses]
        run.memory.selection.add(batch.index, (kept[0] + kept[1]) / 2)
        return exchanged(losses, kept)
