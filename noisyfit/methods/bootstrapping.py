"""Bootstrapping: targets that are in part the network's own prediction."""

from torch.nn import functional

from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_bool, check_integer, check_real, is_auto, is_one_of
from noisyfit._evidence import combine
from noisyfit._mixing import MixingMixin
from noisyfit.losses import bootstrap_hard, bootstrap_soft, cross_entropy

_WEIGHTS = {"soft": 0.05, "hard": 0.2}


def bootstrap_target(y, proba, weight, kind):
    """``(1 - weight) onehot(y) + weight t``, t the prediction or its arg max, (n, n_classes).

    `weight` is a number or a tensor (n, 1).
    """
    n_classes = proba.shape[1]
    given = functional.one_hot(y, n_classes).to(proba.dtype)
    if kind == "hard":
        proba = functional.one_hot(proba.argmax(1), n_classes).to(proba.dtype)
    return (1 - weight) * given + weight * proba


class BootstrappingClassifier(MixingMixin, BaseNoisyClassifier):
    """One network that mixes its own predictions into the labels.

    The target of a sample is its given label with most of the weight and the network's prediction
    with the rest, so that a network that is certain of another class is pulled back less. The
    weight is the same for all samples and all epochs.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained; ``Network()`` by default. Cloned, never trained in place.
    kind : {"hard", "soft"}, default="hard"
        Mix in the most probable class or the predicted distribution.
    weight : "auto" or float in [0, 1], default="auto"
        Share of the prediction in the target (1 - beta); ``"auto"`` is 0.05 for soft and 0.2 for
        hard targets, as published.
    warmup : int, default=0
        Epochs of plain training first.
    detach_target : bool, default=True
        No gradient through soft targets. False adds a pull towards certain predictions.
    mixup : float, default=0.0
        Above 0, train on mixed pairs of rows, as `MixupClassifier` with this alpha: the loss asks
        for both labels in proportion, and the prediction that enters the targets is that of the
        mixed row.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``. ``"auto"`` shifts images at random
        (and mirrors colour images) and leaves tables alone.
    pretrain : "auto", SimCLR, module, state dict or path, optional
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder; ``"auto"`` is ``SimCLR()`` for images. By default they start at random.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: how often the network predicted the given label in training
        (``"auto"`` and ``"history"``), its final probability, or a splitter of
        `noisyfit.mixtures` fitted on one minus the former.
    random_state : int, RandomState instance or None, default=None
        Seed of start, order, augmentation and dropout.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in sorted order.
    clean_proba_ : ndarray of shape (n_samples,)
        How likely each given label is right, in [0, 1].
    refined_labels_ : ndarray of shape (n_samples,)
        The most probable class of ``refined_proba_``.
    refined_proba_ : ndarray of shape (n_samples, n_classes)
        Bootstrapped targets: the given label with weight ``clean_proba_`` and the network's
        distribution (soft) or most probable class (hard) with the rest; rows sum to 1.
    noise_rate_ : float
        Estimated share of wrong labels, ``1 - clean_proba_.mean()``.
    dynamics_ : dict of ndarrays of shape (n_samples,)
        ``n_seen``, ``wrong_events``, ``margin`` and ``proba`` of the given labels, averaged over
        the training passes; of mixed rows with the class of the partner set aside.
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
    In the paper soft targets carry a gradient; here, as in later code, they do not unless
    ``detach_target=False``. The targets of the training change no label, for the given one always
    has more than half of the weight. In ``refined_proba_`` each sample therefore has a weight of
    its own, ``1 - clean_proba_``, as in the correction of Arazo et al.

    With the published weights the gain over plain training is small, a little larger for hard
    targets.

    References
    ----------
    Reed, Lee, Anguelov, Szegedy, Erhan, Rabinovich, "Training Deep Neural Networks on Noisy
    Labels with Bootstrapping", ICLR workshop 2015. Arazo et al., "Unsupervised Label Noise
    Modeling and Loss Correction", ICML 2019, as ST-S and ST-H.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import BootstrappingClassifier, Network
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> y_noisy = sym_excl(y, 0.2, random_state=0).y
    >>> clf = BootstrappingClassifier(Network(max_epochs=10), random_state=0).fit(X, y_noisy)
    >>> clf.score(X, y) > 0.8
    True
    """

    def __init__(
        self,
        net=None,
        *,
        kind="hard",
        weight="auto",
        warmup=0,
        detach_target=True,
        mixup=0.0,
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.kind = kind
        self.weight = weight
        self.warmup = warmup
        self.detach_target = detach_target
        self.mixup = mixup
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        if not is_one_of(self.kind, _WEIGHTS):
            raise ValueError(f"kind must be 'soft' or 'hard', got {self.kind!r}.")
        if not is_auto(self.weight):
            check_real(self.weight, "weight", 0, 1)
        check_integer(self.warmup, "warmup", 0)
        check_bool(self.detach_target, "detach_target")
        check_real(self.mixup, "mixup", 0)

    def _begin(self, run):
        if self.warmup > run.max_epochs:
            raise ValueError(f"warmup={self.warmup} is more than max_epochs={run.max_epochs}.")
        run.last_stage = self.warmup
        run.memory.alpha = self.mixup or None
        run.memory.weight = _WEIGHTS[self.kind] if is_auto(self.weight) else self.weight

    def _loss(self, run, batch, t):
        _, losses = self._pass(run, batch, t)
        return losses.mean()

    def _row_losses(self, run, logits, y, index, t):
        if t < self.warmup:
            return cross_entropy(logits, y)
        if self.kind == "hard":
            return bootstrap_hard(logits, y, run.memory.weight)
        return bootstrap_soft(logits, y, run.memory.weight, self.detach_target)

    def _refined_proba(self, run, rows, logits, clean_proba):
        proba = combine(logits, self.ensemble)
        return bootstrap_target(run.data.y[rows], proba, 1 - clean_proba[:, None], self.kind)
