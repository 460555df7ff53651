"""Self-paced learning: one network that learns from the samples it finds easy."""

import torch

from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_bool, check_integer, check_real, is_auto, is_one_of
from noisyfit._curriculum import CURRICULA, DecayInLoss, MovingPercentile, curriculum_weights
from noisyfit._evidence import for_all_rows
from noisyfit._small_loss import SmallLossMixin, forget_rate, refuse_no_burn_in
from noisyfit._small_tables import epochs_before_doubt
from noisyfit.losses import cross_entropy

_SELECTIONS = ("percentile_ema", "rank")
_BURN_IN = 10
_ALL_BUT_ONE = 1 - 1e-9  # largest share that can be dropped by rank


class SelfPacedClassifier(SmallLossMixin, BaseNoisyClassifier):
    """One network that trains on the samples with small losses only.

    Networks learn right labels before wrong ones, so samples with a small loss are mostly right.
    A sample counts in a batch if its loss is at most the age, a moving average of a percentile of
    the batches' losses, or if it is among the smallest of its batch. The latter is Co-teaching
    with one network. It is the simplest of the methods that select, and the one against which
    the others are measured: what it once takes for right it goes on learning.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained; ``Network()`` by default. Cloned, never trained in place.
    selection : {"percentile_ema", "rank"}, default="percentile_ema"
        By the age, or by rank in the batch.
    percentile : "auto" or float in [0, 1], default="auto"
        Share of the losses that counts as small (p). ``"auto"`` is one minus the share of wrong
        labels: after `burn_in` what a two-component mixture on the losses calls wrong, at most
        0.8; less where the network agrees with more than a quarter of those labels. 0.7 was
        published for all noise rates; where labels are right it costs accuracy.
    curriculum : {"hard", "linear", "hard_mining", "uniform"}, default="hard"
        Weight of a sample by its loss minus the age: 1 up to 0, else 0; 1 up to 0, falling to 0
        at `width`; 1 from 0 on, else 0, for contrast; always 1. Only with the age.
    width : float, default=1.0
        Of the linear fall (gamma).
    decay : float in [0, 1), default=0.5
        Weight of the past in the age (beta).
    lambda_init : float, optional
        Age before the first batch (lambda_0). By default the first batch's percentile; with 0, as
        published, the first few batches select nothing.
    burn_in : "auto" or int, default="auto"
        Epochs of plain training before anything is left out. ``"auto"`` is 10, more on
        tables with few columns, at most half of all; 0, as published, may lock in a bad early
        ranking and needs a `percentile`.
    n_gradual : int, default=0
        Epochs after `burn_in` in which the share that is left out grows from 0 to one minus
        `percentile`. With ``selection="rank"``, 10 and ``burn_in=0`` it is that of Co-teaching.
    scale_decay_by_weights : bool, default=False
        Multiply the weight decay of each step by the batch's mean weight, as one of the published
        networks does. It then becomes a term of the loss.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``. ``"auto"`` shifts images at random (and
        mirrors colour images) and leaves tables alone.
    pretrain : "auto", SimCLR, module, state dict or path, optional
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder; ``"auto"`` is ``SimCLR()`` for images. By default they start at random.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: ``sample_weight_`` with its ties broken by how often the network
        predicted the label in training (``"auto"``; only the latter where small losses have no
        larger weights), the latter alone, its final probability, or a splitter of
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
        The given label where ``clean_proba_`` is at least 0.5, the network's elsewhere.
    refined_proba_ : ndarray of shape (n_samples, n_classes)
        The same as distributions; rows sum to 1.
    noise_rate_ : float
        Estimated share of wrong labels, ``1 - clean_proba_.mean()``.
    forget_rate_ : float
        Share of the losses that counted as large in the last epoch.
    sample_weight_ : ndarray of shape (n_samples,)
        Mean weight of each row over those of the last ten epochs that leave out the full share; if
        there are none, how often the network predicted the label; nan for rows held out.
    threshold_ : float or None
        The age after the last batch; None if nothing was left out by it.
    dynamics_ : dict of ndarrays of shape (n_samples,)
        ``n_seen``, ``wrong_events``, ``margin`` and ``proba`` of the given labels, averaged over
        the training passes.
    nets_ : list of skorch nets
        The trained network.
    history_ : list of dict
        One row per epoch, with ``forget_rate`` and ``selected``, the mean weight.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Notes
    -----
    The loss of a batch is the sum of the weighted losses over its size; by rank the mean of those
    that are kept, as in Co-teaching. A batch in which nothing is selected moves the age and
    nothing else: no weight decay, no momentum.

    The published program imitates the rule by a small network trained on it; here the rule itself
    decides. The burn-in, the estimated percentile and the first age are this library's;
    ``percentile=0.7, burn_in=0, lambda_init=0.0`` is what was published. On small data such a
    start loses classes: they have large losses at first and are never trained on again.

    Nothing is left out, and no age kept, while the share of large losses is 0.

    References
    ----------
    Kumar, Packer, Koller, "Self-Paced Learning for Latent Variable Models", NeurIPS 2010.

    Jiang, Meng, Zhao, Shan, Hauptmann, "Self-Paced Curriculum Learning", AAAI 2015: the linear
    curriculum.

    Jiang, Zhou, Leung, Li, Fei-Fei, "MentorNet: Learning Data-Driven Curriculum for Very Deep
    Neural Networks on Corrupted Labels", ICML 2018: the form for batches.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import Network, SelfPacedClassifier
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> y_noisy = sym_excl(y, 0.2, random_state=0).y
    >>> clf = SelfPacedClassifier(Network(max_epochs=20), random_state=0).fit(X, y_noisy)
    >>> clf.score(X, y) > 0.8
    True
    """

    exponent = 1.0  # of the gradual begin
    per_class = False

    def __init__(
        self,
        net=None,
        *,
        selection="percentile_ema",
        percentile="auto",
        curriculum="hard",
        width=1.0,
        decay=0.5,
        lambda_init=None,
        burn_in="auto",
        n_gradual=0,
        scale_decay_by_weights=False,
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.selection = selection
        self.percentile = percentile
        self.curriculum = curriculum
        self.width = width
        self.decay = decay
        self.lambda_init = lambda_init
        self.burn_in = burn_in
        self.n_gradual = n_gradual
        self.scale_decay_by_weights = scale_decay_by_weights
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    @property
    def noise_rate(self):
        """What `percentile` means for the schedule of the dropped share."""
        return "auto" if is_auto(self.percentile) else min(1 - self.percentile, _ALL_BUT_ONE)

    def _check_parameters(self):
        if not is_one_of(self.selection, _SELECTIONS):
            raise ValueError(f"selection must be one of {_SELECTIONS}, got {self.selection!r}.")
        if not is_auto(self.percentile):
            check_real(self.percentile, "percentile", 0, 1)
        if not is_one_of(self.curriculum, CURRICULA):
            raise ValueError(f"curriculum must be one of {CURRICULA}, got {self.curriculum!r}.")
        check_real(self.width, "width", 0, closed="neither")
        check_real(self.decay, "decay", 0, 1, closed="left")
        if self.lambda_init is not None:
            check_real(self.lambda_init, "lambda_init")
        if not is_auto(self.burn_in):
            check_integer(self.burn_in, "burn_in", 0)
        if is_auto(self.percentile):
            refuse_no_burn_in(self.burn_in, "percentile", "give a number")
        check_bool(self.scale_decay_by_weights, "scale_decay_by_weights")
        super()._check_parameters()

    def _begin(self, run):
        super()._begin(run)
        memory = run.memory
        memory.threshold = MovingPercentile(1.0, self.decay, self.lambda_init)
        plain = epochs_before_doubt(_BURN_IN, self._shape, run.steps_per_epoch)
        by_default = min(plain, run.max_epochs // 2)
        memory.ramp_start = by_default if is_auto(self.burn_in) else self.burn_in
        memory.rate_epoch = max(1, memory.ramp_start)
        run.last_stage = memory.ramp_start + self.n_gradual
        if self.scale_decay_by_weights:
            memory.weight_decay = DecayInLoss(run.learners[0])

    def _share_to_drop(self, rate, epoch, n_epochs):
        return 0.0 if epoch < 0 else forget_rate(epoch, rate, self.n_gradual)

    def _train_epoch(self, run, epoch):
        self._open_epoch(run, epoch)
        memory = run.memory
        memory.threshold.share = 1 - memory.forget
        memory.selection.is_open &= memory.forget > 0  # what leaves nothing out says nothing
        memory.selected = 0.0
        for batch, _ in run.train_batches(epoch):
            weights, loss = self._weights_and_loss(run, batch)
            run.step(loss, skip=None if self.selection == "rank" else ~(weights > 0).any())
            memory.selected += weights.sum()
        run.log(selected=memory.selected / len(run.data))

    def _weights_and_loss(self, run, batch):
        """Weights (batch,) without gradient, and the scalar loss that they make."""
        (net,) = run.learners
        memory = run.memory
        logits = net(run.view(batch.x))  # (batch, n_classes)
        run.observe(batch.index, logits)
        losses = cross_entropy(logits, batch.y)
        weights = self._weights(run, batch.y, losses.detach())
        memory.selection.add(batch.index, weights)
        by_rank = self.selection == "rank"
        loss = (weights * losses).sum() / (weights.sum() if by_rank else len(losses))
        if self.scale_decay_by_weights:
            loss = loss + weights.mean() * memory.weight_decay()
        return weights, loss

    def _weights(self, run, y, losses):
        """Weights (batch,) of a batch with the given `losses`; moves the age."""
        if self.selection == "rank":
            return self._choose(run, y, losses)
        if run.memory.forget == 0:
            return losses.new_ones(len(losses))
        difference = losses - run.memory.threshold.update(losses)
        return curriculum_weights(self.curriculum, difference, self.width)

    def _finish(self, run):
        super()._finish(run)
        value = run.memory.threshold.value
        self.threshold_ = None if value is None else float(value)
        if self.scale_decay_by_weights:
            run.memory.weight_decay.give_back()

    def _gather_evidence(self, run, data, train_rows):
        super()._gather_evidence(run, data, train_rows)
        weights = run.memory.selection.frequency(run.dynamics.agreement())
        self.sample_weight_ = for_all_rows(weights, train_rows, len(data), torch.nan)

    def _posterior(self, run, logits):
        if self.selection == "percentile_ema" and self.curriculum in ("hard_mining", "uniform"):
            return None
        return super()._posterior(run, logits)
