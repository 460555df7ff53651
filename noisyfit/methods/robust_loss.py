"""Robust losses: plain training with a loss that wrong labels pull on less."""

import math
from copy import deepcopy
from numbers import Integral

import torch

from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_bool, check_integer, check_real, is_auto
from noisyfit._divide import with_class_floor
from noisyfit._evidence import softmax
from noisyfit._mixing import MixingMixin
from noisyfit._small_tables import epochs_before_doubt, steps_to_start
from noisyfit.losses import cross_entropy, get_loss

_LARGEST_PRUNED = 0.8
_CLIP = 5.0
_SMALLEST_SHARE = 1e-7
_STEEP = ("rce", "sce", "aul", "anl_ce", "anl_fl")  # steeper than cross-entropy


def believed_rows(p, y, k, n_classes):
    """Mask (n,) of the labels with a probability above `k`, without emptying a class.

    At least a fifth of all rows, the most probable ones, and of every class at least half of the
    share that is kept of all.
    """
    enough = p.sort().values[int(_LARGEST_PRUNED * (len(p) - 1))]
    believed = (p > k) | (p >= enough)
    score = torch.where(believed, 1.0, p / 2)  # below the threshold in their order
    return with_class_floor(score, y, n_classes, threshold=0.5) > 0.5


def mean_negentropy(logits):
    """``sum_k m_k log m_k`` of the mean prediction m of a batch, shape (): least if m is uniform.

    The published value is larger by ``log(n_classes)``.
    """
    mean = logits.softmax(1).mean(0)  # (n_classes,)
    return torch.xlogy(mean, mean.clamp_min(_SMALLEST_SHARE)).sum()


def check_loss(loss, n_classes, device):
    """Refuse a function that no network could be trained with, tried on a few random logits."""
    n = n_classes + 2  # else a loss per class would pass for one per row
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, n_classes, generator=generator).to(device).requires_grad_()
    y = torch.arange(n, device=device) % n_classes
    losses = loss(logits, y)
    is_tensor = torch.is_tensor(losses) and losses.is_floating_point()
    if not is_tensor or losses.shape != y.shape:
        raise ValueError("loss must return one number per row, a float tensor of shape (batch,).")
    gradient = None
    if losses.requires_grad:
        (gradient,) = torch.autograd.grad(losses.sum(), logits, allow_unused=True)
    if gradient is None:
        raise ValueError("loss has no gradient: its result must be a torch function of the logits.")
    if not (losses.isfinite().all() and gradient.isfinite().all()):
        raise ValueError("loss or its gradient is not finite on random logits.")


def in_epochs(value, max_epochs):
    """A number of epochs, or a fraction of all, as at least one epoch."""
    return value if isinstance(value, Integral) else max(1, round(value * max_epochs))


class RobustLossClassifier(MixingMixin, BaseNoisyClassifier):
    """One network trained with a robust loss.

    The gradient of cross-entropy is largest for labels that the network finds least probable, and
    those are mostly the wrong ones. A robust loss lets them pull less, or bounds what a single
    label can cost. Training is otherwise plain and costs the same.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained; ``Network()`` by default. Cloned, never trained in place.
        For ``"sce"``, ``"rce"``, ``"aul"`` and all sums the gradient is clipped at 5 unless the
        net has a ``gradient_clip`` of its own.
    loss : str or callable, default="gce"
        A name that `noisyfit.losses.get_loss` knows, among them ``"gce"``, ``"sce"``, ``"mae"``,
        ``"focal"``, ``"label_smoothing"``, ``"nce+rce"`` and ``"anl_ce"``; ``"truncated_gce"``
        trains in two phases, see Notes; or a function ``(logits, y) -> (batch,)``.
    loss_params : dict, optional
        Parameters of a named loss, such as ``{"q": 0.5}``; published values by default.
    warmup : "auto" or int, default="auto"
        Epochs of cross-entropy first. A bounded loss hardly moves a network to which all classes
        are equally improbable. ``"auto"`` is about 50 steps with few classes and 200 with a
        hundred, three times that on images, more on tables with few columns, and at most half of
        all epochs. Published: 0, with many more steps.
    mixup : float, default=0.0
        Above 0, train on mixed pairs of rows, as `MixupClassifier` with this alpha: the loss asks
        for both labels in proportion, in the warm-up too.
    l1 : float, default=0.0
        Weight of the sum of absolute weights of the network (delta of ``"anl_ce"``, published
        with 5e-5 for CIFAR-10 and 5e-7 for CIFAR-100 in the place of weight decay).
    entropy : float, default=0.0
        Weight of the negative entropy of a batch's mean prediction (lambda of ``"anl_ce"`` with
        entropy regularisation, published with 2 for CIFAR-10 and 0.01 for CIFAR-100). It keeps
        all classes in use, for data whose classes are of about equal size.
    prune_start : "auto", int or float in (0, 1), default="auto"
        For ``"truncated_gce"``: epochs, or fraction of all, before rows are set aside. ``"auto"``
        is a third, on tables with few columns up to half. Published: 39 of 120 for CIFAR-10, 79
        of 150 for CIFAR-100.
    prune_interval : "auto", int or float in (0, 1), default="auto"
        Epochs, or fraction of all, until the rows are chosen anew; ``"auto"`` is a twelfth.
        Published: 10 epochs.
    guards : bool, default=True
        When rows are set aside, keep at least a fifth, and some of every class.
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
        The given label where ``clean_proba_`` is at least 0.5, the network's elsewhere.
    refined_proba_ : ndarray of shape (n_samples, n_classes)
        The same as distributions; rows sum to 1.
    noise_rate_ : float
        Estimated share of wrong labels, ``1 - clean_proba_.mean()``.
    selected_ : bool ndarray of shape (n_samples,)
        Rows that the last epochs trained on: all, unless ``"truncated_gce"`` set some aside.
    dynamics_ : dict of ndarrays of shape (n_samples,)
        ``n_seen``, ``wrong_events``, ``margin`` and ``proba`` of the given labels, averaged over
        the training passes; of mixed rows with the class of the partner set aside.
    nets_ : list of skorch nets
        The trained network.
    history_ : list of dict
        One row per epoch; with ``"truncated_gce"`` the ``selected`` share of rows.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Notes
    -----
    Which loss: ``"gce"`` and ``"sce"`` suit up to about 60 % of symmetric noise, with `mixup` more.
    ``"nce+rce"`` and ``"anl_ce"`` stand more on many rows, without `mixup`, but want
    ``Network(gradient_clip=5)``, which is their default here, and weights that fit the number of
    classes: the defaults are those for ten. None repairs strong class-dependent noise. Bounded
    losses are content with any confident prediction, so their probabilities are badly calibrated.

    The warm-up is no part of the papers. Without it ``"gce"`` reached 5 % on a table of a hundred
    clean classes after 50 epochs, and ``"nce+rce"`` 53 % on small images of digits with 40 % of the
    labels redrawn; with it 99.8 % and 94 %.

    ``"truncated_gce"`` minimises ``sum_i v_i (gce_i - gce(k))`` over the network and v in [0, 1]:
    plain training first, then rows whose label has a probability of at most `k` are set aside, and
    chosen anew from time to time, by one evaluation pass. The network that chooses is the best one
    so far on validation data, as in the paper, if ``fit`` has any, else the current one. A batch
    of which no row is left still takes its step (of momentum and weight decay).

    References
    ----------
    Zhang, Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
    Labels", NeurIPS 2018. For the other losses see the functions of `noisyfit.losses`.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import Network, RobustLossClassifier
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> y_noisy = sym_excl(y, 0.2, random_state=0).y
    >>> net = Network(max_epochs=10, gradient_clip=5)
    >>> clf = RobustLossClassifier(net, loss="nce+rce", random_state=0).fit(X, y_noisy)
    >>> clf.score(X, y) > 0.8
    True
    """

    def __init__(
        self,
        net=None,
        *,
        loss="gce",
        loss_params=None,
        warmup="auto",
        mixup=0.0,
        l1=0.0,
        entropy=0.0,
        prune_start="auto",
        prune_interval="auto",
        guards=True,
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.loss = loss
        self.loss_params = loss_params
        self.warmup = warmup
        self.mixup = mixup
        self.l1 = l1
        self.entropy = entropy
        self.prune_start = prune_start
        self.prune_interval = prune_interval
        self.guards = guards
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        self._resolve_loss()
        if not is_auto(self.warmup):
            check_integer(self.warmup, "warmup", 0)
        for name in ("mixup", "l1", "entropy"):
            check_real(getattr(self, name), name, 0)
        check_bool(self.guards, "guards")
        for name in ("prune_start", "prune_interval"):
            value = getattr(self, name)
            if isinstance(value, Integral):
                check_integer(value, name, 1)
            elif not is_auto(value):
                check_real(value, name, 0, 1, closed="neither")

    def _resolve_loss(self):
        if self.loss_params is not None and not isinstance(self.loss_params, dict):
            raise TypeError(f"loss_params must be a dict or None, got {self.loss_params!r}.")
        params = self.loss_params or {}
        if not callable(self.loss):
            return get_loss(self.loss, **params)
        if params:
            raise ValueError("loss_params belong to named losses; bind those of a function to it.")
        return self.loss

    @property
    def _prunes(self):
        return isinstance(self.loss, str) and self.loss == "truncated_gce"

    def _begin(self, run):
        memory = run.memory
        memory.alpha = self.mixup or None
        memory.loss = self._resolve_loss()
        if callable(self.loss):
            check_loss(self.loss, run.n_classes, run.device)
        memory.warmup = run.last_stage = self._resolve_warmup(run)
        (net,) = run.learners
        is_steep = isinstance(self.loss, str) and (self.loss in _STEEP or "+" in self.loss)
        if net.clip is None and is_steep:
            net.clip = _CLIP
        memory.kept = torch.ones(len(run.data), device=run.device)
        memory.parameters = list(net.module.parameters())
        if self._prunes:
            self._begin_pruning(run)

    def _resolve_warmup(self, run):
        n = run.max_epochs
        if is_auto(self.warmup):
            short = math.ceil(steps_to_start(run.n_classes, self._shape) / run.steps_per_epoch)
            return min(epochs_before_doubt(short, self._shape, run.steps_per_epoch), n // 2)
        if self.warmup > n:
            raise ValueError(f"warmup={self.warmup} is more than max_epochs={n}.")
        return self.warmup

    def _begin_pruning(self, run):
        memory, n = run.memory, run.max_epochs
        params = dict(self.loss_params or {})
        memory.k = params.pop("k", 0.5)
        memory.loss = get_loss("gce", **params)
        memory.best, memory.best_accuracy = None, -1.0
        interval = 1 / 12 if is_auto(self.prune_interval) else self.prune_interval
        memory.interval = in_epochs(interval, n)
        if is_auto(self.prune_start):
            third = epochs_before_doubt(in_epochs(1 / 3, n), self._shape, run.steps_per_epoch)
            memory.start = max(1, memory.warmup, min(third, n // 2))
        else:
            memory.start = in_epochs(self.prune_start, n)
        if memory.start > n:
            raise ValueError(f"prune_start={memory.start} is more than max_epochs={n}.")
        run.last_stage = max(memory.warmup, memory.start)

    def _train_epoch(self, run, epoch):
        if self._prunes:
            since = epoch - run.memory.start
            if since >= 0 and since % run.memory.interval == 0:
                self._prune(run)
            run.log(selected=run.memory.kept.mean())
        super()._train_epoch(run, epoch)

    def _prune(self, run):
        """Choose the rows to train on by one evaluation pass of the best network so far."""
        (net,), memory, y = run.learners, run.memory, run.data.y
        current = deepcopy(net.module.state_dict())
        net.module.load_state_dict(memory.best or current)
        p = softmax(run.evaluate(net)).gather(1, y[:, None]).squeeze(1)
        net.module.load_state_dict(current)
        net.train()
        kept = believed_rows(p, y, memory.k, run.n_classes) if self.guards else p > memory.k
        memory.kept = kept.float()

    def _score(self, run, data):
        scores = super()._score(run, data)
        if self._prunes and scores["valid_acc"] > run.memory.best_accuracy:
            run.memory.best_accuracy = scores["valid_acc"]
            run.memory.best = deepcopy(run.learners[0].module.state_dict())
        return scores

    def _row_losses(self, run, logits, y, index, t):
        losses = (cross_entropy if t < run.memory.warmup else run.memory.loss)(logits, y)
        return losses * run.memory.kept[index] if self._prunes else losses

    def _loss(self, run, batch, t):
        logits, losses = self._pass(run, batch, t)
        loss = losses.mean()
        if self.l1:
            loss = loss + self.l1 * sum(w.abs().sum() for w in run.memory.parameters)
        if self.entropy:
            loss = loss + self.entropy * mean_negentropy(logits)
        return loss

    def _gather_evidence(self, run, data, train_rows):
        super()._gather_evidence(run, data, train_rows)
        selected = torch.zeros(len(data), dtype=torch.bool, device=data.device)
        rows = slice(None) if train_rows is None else train_rows.to(data.device)
        selected[rows] = run.memory.kept > 0
        self.selected_ = selected.cpu().numpy()
