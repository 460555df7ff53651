"""ELR: early-learning regularisation by a running average of the network's predictions."""

from noisyfit._base import BaseNoisyClassifier
from noisyfit._early_learning import (
    EarlyLearningMixin,
    clamped_softmax,
    early_learning_penalty,
    moving_average,
    normalised,
)
from noisyfit.losses import cross_entropy


def elr_loss(logits, y, p, target, strength):
    """``CE(logits, y) + strength log(1 - <target, p>)`` (eq. 6), shape (batch,)."""
    return cross_entropy(logits, y) + strength * early_learning_penalty(p, target)


class ELRClassifier(EarlyLearningMixin, BaseNoisyClassifier):
    """One network, held to what it predicted before it began to memorise.

    Networks learn right labels first. Each row keeps a running average of the network's own
    predictions; a term beside cross-entropy pulls the prediction towards it. Where the average
    contradicts a wrong label, the two gradients cancel and the label is not memorised; where it
    agrees, it speeds learning up.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained; ``Network()`` by default. Cloned, never trained in place.
    momentum : "auto" or float in [0, 1), default="auto"
        Share of the old target at each visit (beta). ``"auto"`` is 0.7 up to 20 classes, else
        0.9. Published: 0.7 for CIFAR-10 with symmetric noise, 0.9 with asymmetric noise and for
        CIFAR-100.
    strength : "auto" or float, default="auto"
        Weight of the term (lambda); 0 is plain cross-entropy. ``"auto"`` is 3 up to 20 classes,
        else 7, and on tables with less than 12 columns less in proportion, where it would hold on
        to borders that are still too straight. Published: 3 for CIFAR-10 with symmetric noise, 1
        with asymmetric noise (worth a try for human labels), 7 for CIFAR-100.
    warmup : "auto" or int, default="auto"
        Epochs before the term acts; predictions are remembered meanwhile. ``"auto"`` takes as
        many as end within 20 steps, on tables with many classes or few columns more: none unless
        data are few, all if they are very few.
        Published: 0.
    memory_dtype : {"float32", "float16"}, default="float32"
        Precision in which the targets, n_samples x n_classes numbers, are kept on the device.
        Computation is float32.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``. ``"auto"`` shifts images at random (and
        mirrors colour images) and leaves tables alone.
    pretrain : "auto", SimCLR, module, state dict or path, optional
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder; ``"auto"`` is ``SimCLR()`` for images. By default they start at random.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: the share of the given label in its row's target (``"auto"``),
        how often the network predicted it in training, its final probability, or a splitter of
        `noisyfit.mixtures` on one minus the second.
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
        Arg max of ``refined_proba_``. The paper calls a label wrong where the two differ:
        ``np.flatnonzero(clf.refined_labels_ != y)``, a rule that needs no threshold.
    refined_proba_ : ndarray of shape (n_samples, n_classes)
        The targets, normalised; rows sum to 1.
    target_ : ndarray of shape (n_trained, n_classes)
        The targets as they are, for the rows that were trained on; after m visits a row sums to
        ``1 - momentum ** m``.
    noise_rate_ : float
        Estimated share of wrong labels, ``1 - clean_proba_.mean()``.
    dynamics_ : dict of ndarrays of shape (n_samples,)
        ``n_seen``, ``wrong_events``, ``margin`` and ``proba`` of the given labels, averaged over
        the training passes.
    nets_ : list of skorch nets
        The trained network.
    history_ : list of dict
        One row per epoch; ``train_loss`` may be negative.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Notes
    -----
    As in the authors' code, probabilities are kept inside [1e-4, 1 - 1e-4] and normalised before
    they enter the average, which is updated first and used then. Early targets have little mass,
    so that the published method needs no warm-up; on few data it does.

    The published settings for symmetric noise restart a cosine schedule every ten epochs,
    `noisyfit.schedules.CosineRestarts`; the network should then be taken at the end of a cycle.

    References
    ----------
    Liu, Niles-Weed, Razavian, Fernandez-Granda, "Early-Learning Regularization Prevents
    Memorization of Noisy Labels", NeurIPS 2020.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import ELRClassifier, Network
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> noisy = sym_excl(y, 0.2, random_state=0)
    >>> clf = ELRClassifier(Network(max_epochs=20), random_state=0).fit(X, noisy.y)
    >>> clf.score(X, y) > 0.8
    True
    >>> bool(noisy.changed[clf.label_issues()].mean() > 0.6)
    True
    """

    def __init__(
        self,
        net=None,
        *,
        momentum="auto",
        strength="auto",
        warmup="auto",
        memory_dtype="float32",
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.momentum = momentum
        self.strength = strength
        self.warmup = warmup
        self.memory_dtype = memory_dtype
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _begin(self, run):
        super()._begin(run)
        run.memory.target = self._zeros(run)

    def _loss(self, run, batch, t):
        (net,) = run.learners
        memory = run.memory
        logits = net(run.view(batch.x))  # (batch, n_classes)
        run.observe(batch.index, logits)
        p = clamped_softmax(logits)
        seen = normalised(p.detach())
        target = moving_average(memory.target, batch.index, seen, memory.momentum)
        return elr_loss(logits, batch.y, p, target, self._strength(run, t)).mean()
