"""Moment-refined ELR: targets from the first two moments of the network's predictions."""

import torch

from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_bool, check_real, is_one_of
from noisyfit._early_learning import (
    EarlyLearningMixin,
    clamped_softmax,
    moving_average,
    normalised,
)
from noisyfit._evidence import row_blocks
from noisyfit.methods.elr import elr_loss

_SMALLEST_SPREAD = 1e-8
_SMALLEST_TARGET = 1e-4


def unbiased(moment, decay, visits):
    """Running average (batch, n_classes) divided by its mass after `visits` (batch,)."""
    return moment / mass(decay, visits)


def mass(decay, visits):
    """``1 - decay ** visits``, shape (batch, 1); that of one visit for rows without any."""
    return 1 - decay ** visits.clamp_min(1)[:, None]


def reliability(first, second):
    """``mean / root mean square`` of each class, in [0, 1]; 1 where a prediction never moved."""
    return (first / (second.sqrt() + _SMALLEST_SPREAD)).clamp_max(1)


def moment_target(first, second, combine="snr"):
    """Targets (batch, n_classes) from unbiased moments of predictions.

    ``"snr"`` weighs each class's mean by its reliability, ``"ratio"`` takes the reliability alone.
    """
    r = reliability(first, second)
    return normalised(first * r if combine == "snr" else r)


def adam_target(target, first, second, step_size):
    """Targets after one Adam step on unbiased moments of ``target - p``."""
    step = step_size * first / (second.sqrt() + _SMALLEST_SPREAD)
    return normalised((target - step).clamp_min(_SMALLEST_TARGET))


class MomentELRClassifier(EarlyLearningMixin, BaseNoisyClassifier):
    """ELR whose targets count on those classes whose probability was steady.

    As in `ELRClassifier` each row remembers the network's predictions and a term pulls new ones
    towards the memory. Here the memory holds their first and second moments, corrected for the
    small number of visits: the target is the mean prediction, in which each class is weighed by
    how little its probability fluctuated. It is a full distribution from the first visit on, so
    that the term acts from the start and training needs fewer epochs.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained; ``Network()`` by default. Cloned, never trained in place.
    momentum : "auto" or float in [0, 1), default="auto"
        Decay rate of the first moment (beta). ``"auto"`` is 0.7 up to 20 classes, else 0.9, as
        for ELR.
    second_momentum : float in [0, 1), optional
        Decay rate of the second moment; by default that of the first.
    strength : "auto" or float, default="auto"
        Weight of the term (lambda); 0 is plain cross-entropy. ``"auto"`` is 3 up to 20 classes,
        else 7, and on tables with less than 12 columns less in proportion, as for ELR.
    warmup : "auto" or int, default="auto"
        Epochs before the term acts; predictions are remembered meanwhile. ``"auto"`` takes as
        many as end within 20 steps, on tables with many classes or few columns more: none unless
        data are few, all if they are very few.
        Published: 0.
    combine : {"snr", "ratio", "adam"}, default="snr"
        How the moments become a target: mean times reliability; the reliability alone, which
        degenerates to the uniform distribution as training settles and is there for study; or
        Adam steps of the target towards the predictions.
    step_size : float, default=0.1
        Step of ``combine="adam"``.
    elr_mass : bool, default=True
        Give the target the mass that ELR's has, ``1 - momentum ** visits``, so that the term acts
        as late. False gives it full mass from the first visit, see the Notes.
    memory_dtype : {"float32", "float16"}, default="float32"
        Precision of the memory, two tables of n_samples x n_classes numbers on the device (three
        for ``"adam"``). Computation is float32.
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
        Arg max of ``refined_proba_``. ``np.flatnonzero(clf.refined_labels_ != y)`` are the labels
        that ELR's rule calls wrong, without a threshold.
    refined_proba_ : ndarray of shape (n_samples, n_classes)
        The targets, normalised; rows sum to 1.
    target_ : ndarray of shape (n_trained, n_classes)
        The targets of the rows that were trained on.
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
    The idea, Adam's second moment applied to the predicted probability, does not fix a formula.
    Taken literally, first moment over the root of the second, it fails: every such ratio tends to
    1 when predictions settle, however small the probability, and the target becomes uniform
    (``combine="ratio"``). As a weight on the first moment the same ratio is the inverse
    coefficient of variation, and the target of a steady prediction is that prediction. Bias
    correction, Adam's, makes it a distribution from the first visit.

    With full mass from the start (``elr_mass=False``) the term can pull a network that has learnt
    nothing yet into one class, from where it does not return: on digits with instance-dependent
    noise of 40 % it ended at 10 %, with ELR's mass at 95 to 97 %. Give it a `warmup` then. At 80 %
    symmetric noise full mass was a few points better.

    References
    ----------
    Liu, Niles-Weed, Razavian, Fernandez-Granda, "Early-Learning Regularization Prevents
    Memorization of Noisy Labels", NeurIPS 2020. Kingma, Ba, "Adam: A Method for Stochastic
    Optimization", ICLR 2015.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import MomentELRClassifier, Network
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> y_noisy = sym_excl(y, 0.2, random_state=0).y
    >>> clf = MomentELRClassifier(Network(max_epochs=20), random_state=0).fit(X, y_noisy)
    >>> clf.score(X, y) > 0.8
    True
    """

    def __init__(
        self,
        net=None,
        *,
        momentum="auto",
        second_momentum=None,
        strength="auto",
        warmup="auto",
        combine="snr",
        step_size=0.1,
        elr_mass=True,
        memory_dtype="float32",
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.momentum = momentum
        self.second_momentum = second_momentum
        self.strength = strength
        self.warmup = warmup
        self.combine = combine
        self.step_size = step_size
        self.elr_mass = elr_mass
        self.memory_dtype = memory_dtype
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        if self.second_momentum is not None:
            check_real(self.second_momentum, "second_momentum", 0, 1, closed="left")
        if not is_one_of(self.combine, ("snr", "ratio", "adam")):
            raise ValueError(f"combine must be 'snr', 'ratio' or 'adam', got {self.combine!r}.")
        check_real(self.step_size, "step_size", 0, closed="neither")
        check_bool(self.elr_mass, "elr_mass")

    def _begin(self, run):
        super()._begin(run)
        memory = run.memory
        second = self.second_momentum
        memory.second_momentum = memory.momentum if second is None else second
        memory.first, memory.second = self._zeros(run), self._zeros(run)
        memory.visits = torch.zeros(len(run.data), device=run.device)
        if self.combine == "adam":
            memory.target = self._zeros(run) + 1 / run.n_classes

    def _loss(self, run, batch, t):
        (net,) = run.learners
        logits = net(run.view(batch.x))  # (batch, n_classes)
        run.observe(batch.index, logits)
        p = clamped_softmax(logits)
        target = self._visit(run.memory, batch.index, normalised(p.detach()))
        return elr_loss(logits, batch.y, p, target, self._strength(run, t)).mean()

    def _visit(self, memory, index, p):
        """Let the predictions `p` into the memory of rows `index`; their targets."""
        by_adam = self.combine == "adam"
        old = memory.target[index].float() if by_adam else None
        value = old - p if by_adam else p
        visits = memory.visits[index] + 1
        memory.visits.index_copy_(0, index, visits)
        first = moving_average(memory.first, index, value, memory.momentum)
        second = moving_average(memory.second, index, value.square(), memory.second_momentum)
        target = self._combined(memory, first, second, visits, old)
        if by_adam:
            memory.target.index_copy_(0, index, target.to(memory.target.dtype))
        return target * mass(memory.momentum, visits) if self.elr_mass else target

    def _combined(self, memory, first, second, visits, old):
        first = unbiased(first, memory.momentum, visits)
        second = unbiased(second, memory.second_momentum, visits)
        if self.combine == "adam":
            return adam_target(old, first, second, self.step_size)
        return moment_target(first, second, self.combine)

    def _finish(self, run):
        memory = run.memory
        if self.combine != "adam":
            memory.target = memory.first.float()  # float32 moments give their place
            for rows in row_blocks(*memory.first.shape):
                first, second = memory.first[rows].float(), memory.second[rows].float()
                target = self._combined(memory, first, second, memory.visits[rows], None)
                memory.target[rows] = target
            memory.second = None
        super()._finish(run)
