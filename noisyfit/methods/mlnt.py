"""MLNT: meta-learning based noise-tolerant training."""

import copy
import math
import warnings
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from noisyfit._averaging import WeightAverage
from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_bool, check_integer, check_real, is_auto, is_one_of
from noisyfit._evidence import for_all_rows
from noisyfit._features import Watched
from noisyfit._lookahead import LookAhead
from noisyfit.schedules import exponential_ramp

_WARMUP, _RAMP = 1 / 40, 1 / 6  # of the training; published: 3 and 20 of 120 epochs
_PRETRAINED = 1 / 10  # of the training
_AVERAGED, _LARGEST_DECAY = 1 / 10, 0.999  # of the steps; more is not published
_TEACHER_SHARE = 0.5  # of the targets where there is a mentor
_COLUMNS_FOR_FULL_RATE = 12
_ROUNDING = 1e-9
_STEP_ON_TABLES, _STEP_ON_IMAGES = 1.0, 0.2


def nearest(features, k):
    """Positions in the batch of the `k` nearest other rows, (batch, k)."""
    distance = torch.cdist(features, features).fill_diagonal_(torch.inf)
    return distance.topk(k, largest=False).indices


def synthetic_labels(y, neighbours, n_changed, n_sets, generator):
    """Copies of `y` in which random rows take the label of a neighbour, (n_sets, batch).

    For each of `n_changed` rows one of its `neighbours` (batch, k), positions, is drawn.
    """
    order = torch.rand(n_sets, len(y), generator=generator, device=y.device).argsort(1)
    rows, k = order[:, :n_changed], neighbours.shape[1]
    drawn = torch.randint(k, rows.shape, generator=generator, device=y.device)
    return y.expand(n_sets, -1).scatter(1, rows, y[neighbours[rows, drawn]])


def divergence(target, logits):
    """``KL(target || softmax(logits))``, averaged over rows, shape ()."""
    kl = torch.xlogy(target, target) - target * logits.log_softmax(1)  # (batch, n_classes)
    return kl.sum() / len(kl)


def damped(value):
    """`value` up to 1, beyond that 1 plus its logarithm, whose gradient does not grow."""
    return torch.where(value > 1, 1 + value.clamp_min(1).log(), value)


def labels_to_keep(posterior, y, n_classes, threshold):
    """Mask (n,) of the labels that are at least `threshold` likely; and the classes without any.

    Of those the likeliest hundredth stays, at least one row.
    """
    kept = posterior >= threshold
    vanished = []
    for code in range(n_classes):
        rows = (y == code).nonzero().flatten()
        if len(rows) and not kept[rows].any():
            vanished.append(code)
            kept[rows[posterior[rows].topk(max(1, len(rows) // 100)).indices]] = True
    return kept, vanished


class MLNTClassifier(BaseNoisyClassifier):
    """One network whose step on made-up label noise must not lead it away from its average.

    Before every step the method makes label noise of its own: half of the rows of the batch take
    the label of a row with like features. It tries a gradient step on those labels, on paper, and
    asks that the network after it still agrees with the teacher, the running average of its
    weights. The gradient of that wish goes through the step, and the network moves to where
    noise of this kind would teach it little; the given labels are learnt beside it.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained; ``Network()`` by default. Its ``max_epochs`` counts everything.
        Cloned, never trained in place.
    meta_rate : "auto" or float, default="auto"
        Weight of the meta loss after its rise (eta); 0 is plain training. ``"auto"`` is 1 for the
        divergence of a row, whatever `kl_reduction`, and less in proportion on tables with fewer
        than 12 columns. Published: 0.4 for CIFAR-10, 1 for Clothing1M.
    inner_lr : "auto" or float, default="auto"
        Length of the step on synthetic labels (a). ``"auto"`` is 0.2 for images and 1 for tables.
        Published: 0.2 for CIFAR-10, 0.02 for Clothing1M.
    n_sets : int, default=1
        Sets of synthetic labels a batch (M). More lower the variance of the meta gradient and cost
        in proportion; on digits, four or ten gained less than a point. Published: 10.
    flip_share : float in [0, 1], default=0.5
        Share of the rows of a batch that take a neighbour's label (rho).
    n_neighbors : int, default=10
        Rows of the batch among which the neighbour is drawn.
    feature_net : "self", "pretrain" or torch.nn.Module, default="self"
        In whose features rows are near: the input of its last linear layer. ``"self"`` takes the
        teacher, at no cost. ``"pretrain"`` first trains a network on the given labels, as
        published, and starts afresh. A module of your own sees batches as the network does; if it
        has no linear layer, its output are the features.
    pretrain_epochs : "auto" or int, default="auto"
        Epochs of the first network with ``feature_net="pretrain"``. ``"auto"`` is a tenth of all.
    second_order : bool, default=True
        Differentiate through the gradient of the step too, as the authors' code does. False takes
        that gradient as constant, at three fifths of the cost or less.
    kl_reduction : {"mean", "batchmean"}, default="mean"
        Average the divergence from the teacher over rows and classes, as in the authors' code, or
        over rows. A number given as `meta_rate` belongs to it.
    damp : bool, default=True
        Count a divergence d above 1 (of a row) as ``1 + log(d)``, so that it cannot carry the
        network off. Published: False.
    warmup : "auto" or float, default="auto"
        Epochs of plain training before. ``"auto"`` is a fortieth of the training. Published: 3 of
        120 for CIFAR-10, 500 steps for Clothing1M.
    ramp : "auto" or float, default="auto"
        Epochs after the warm-up in which the weight rises from nearly 0. ``"auto"`` is a sixth of
        the training. Published: until epoch 20 of 120, or step 2000.
    teacher_decay : "auto", float or pair of floats, default="auto"
        Share of the old average at each step (gamma), or the shares during the rise and after it.
        ``"auto"`` averages over a tenth of the training, at most 1000 steps. Published:
        ``(0.99, 0.999)``.
    n_iterations : int, default=1
        Networks trained one after the other, in equal parts of ``max_epochs``. The teacher of one
        is the mentor of the next: its features say which rows are near, its predictions are mixed
        into the teacher's, and what it doubts is left out. Published: 3. For long training only.
    filter_threshold : float in [0, 1], default=0.3
        Labels whose probability by the mentor is lower are left out; of a class that would vanish
        the likeliest hundredth stays.
    predict_with : {"teacher", "student"}, default="teacher"
        Whose weights the fitted network has. Scores of validation data during training are the
        student's; early stopping with ``load_best=True`` loads its best ones, which only
        ``"student"`` keeps.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``, the same for all passes. ``"auto"``
        shifts images at random (and mirrors colour images) and leaves tables alone.
    pretrain : "auto", SimCLR, module, state dict or path, optional
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder; ``"auto"`` is ``SimCLR()`` for images. By default they start at random.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: how often the network predicted the given label in training
        (``"auto"`` and ``"history"``), its final probability, or a splitter of
        `noisyfit.mixtures` fitted on one minus the former.
    random_state : int, RandomState instance or None, default=None
        Seed of start, order, synthetic labels, augmentation and dropout.
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
        Rows that the last network was trained on; with one iteration all but those held out.
    dynamics_ : dict of ndarrays of shape (n_samples,)
        ``n_seen``, ``wrong_events``, ``margin`` and ``proba`` of the given labels, averaged over
        the training passes.
    nets_ : list of skorch nets
        The trained network, with the weights that `predict_with` says.
    history_ : list of dict
        One row per epoch, with ``meta_rate``, the weight at its end; ``train_loss`` is the
        cross-entropy alone.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Notes
    -----
    As in the authors' code, and unlike in the paper, the gradients of both losses are taken at
    the same weights and make one step. The teacher averages parameters and has its own statistics
    of batch normalisation, from its own passes in training mode; steps on paper use those of the
    batch and leave the network's alone. Every pass draws its own dropout masks.

    The published weight, 0.4 of a divergence averaged over ten classes, and step are made for
    46,800 optimiser steps. In the thousand of a small data set they change little, and a teacher
    that averages over a thousand steps does not follow; hence the defaults. There the step on
    paper helps with the given labels as it does with synthetic ones (``flip_share=0``).

    ``clean_proba_`` comes from the training history, which ranked wrong labels better than the
    teacher's final probability: AUROC 0.996 against 0.981 on digits with 40 % noise.

    An epoch counts ``(4 + 11 n_sets) / 3`` epochs of plain training: 5 by default, 38 as
    published, and ``(4 + 5 n_sets) / 3`` with ``second_order=False``. Second derivatives of
    convolutions are slow on a CPU, so that 7.5 to 8 were measured there instead of 5. One
    synthetic set is in memory at a time. Modules with operations that have no second derivative,
    such as fused attention on some devices, need ``second_order=False``; compiled modules are
    refused.

    References
    ----------
    Li, Wong, Zhao, Kankanhalli, "Learning to Learn from Noisy Labeled Data", CVPR 2019.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import Network
    >>> from noisyfit.methods.mlnt import MLNTClassifier
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> y_noisy = sym_excl(y, 0.2, random_state=0).y
    >>> clf = MLNTClassifier(Network(max_epochs=20), random_state=0).fit(X, y_noisy)
    >>> clf.score(X, y) > 0.8
    True
    """

    def __init__(
        self,
        net=None,
        *,
        meta_rate="auto",
        inner_lr="auto",
        n_sets=1,
        flip_share=0.5,
        n_neighbors=10,
        feature_net="self",
        pretrain_epochs="auto",
        second_order=True,
        kl_reduction="mean",
        damp=True,
        warmup="auto",
        ramp="auto",
        teacher_decay="auto",
        n_iterations=1,
        filter_threshold=0.3,
        predict_with="teacher",
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.meta_rate = meta_rate
        self.inner_lr = inner_lr
        self.n_sets = n_sets
        self.flip_share = flip_share
        self.n_neighbors = n_neighbors
        self.feature_net = feature_net
        self.pretrain_epochs = pretrain_epochs
        self.second_order = second_order
        self.kl_reduction = kl_reduction
        self.damp = damp
        self.warmup = warmup
        self.ramp = ramp
        self.teacher_decay = teacher_decay
        self.n_iterations = n_iterations
        self.filter_threshold = filter_threshold
        self.predict_with = predict_with
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        for name in ("meta_rate", "inner_lr", "warmup", "ramp"):
            if not is_auto(getattr(self, name)):
                check_real(getattr(self, name), name, 0)
        for name in ("n_sets", "n_neighbors", "n_iterations"):
            check_integer(getattr(self, name), name, 1)
        if not is_auto(self.pretrain_epochs):
            check_integer(self.pretrain_epochs, "pretrain_epochs", 1)
        for name in ("flip_share", "filter_threshold"):
            check_real(getattr(self, name), name, 0, 1)
        for decay in () if is_auto(self.teacher_decay) else self._decays():
            check_real(decay, "teacher_decay", 0, 1, closed="left")
        check_bool(self.second_order, "second_order")
        check_bool(self.damp, "damp")
        if not isinstance(self.feature_net, nn.Module):
            self._check_choice("feature_net", ("self", "pretrain"), " or a module")
        self._check_choice("kl_reduction", ("mean", "batchmean"))
        self._check_choice("predict_with", ("teacher", "student"))

    def _check_choice(self, name, known, other=""):
        value = getattr(self, name)
        if not is_one_of(value, known):
            raise ValueError(f"{name} must be one of {known}{other}, got {value!r}.")

    def _decays(self):
        """Decay of the teacher before the end of the rise and after it."""
        decay = self.teacher_decay
        if not isinstance(decay, tuple | list):
            return decay, decay
        if len(decay) != 2:
            raise ValueError(f"teacher_decay must be one number or two, got {decay!r}.")
        return decay

    def _check_run(self, run):
        memory = run.memory
        self._parts_ = memory.parts = self._divide_epochs(run.max_epochs)
        memory.rate, memory.mentor = self._full_rate(run), None
        if memory.rate:
            self._rehearse(run, *run.learners)

    def _begin(self, run):
        memory = run.memory
        memory.average = memory.teacher = memory.rows = None
        memory.mixes = False
        memory.first = len(memory.parts) - self.n_iterations
        self._set_schedules(run)
        if len(memory.parts) > 1:
            run.learners[0].keep_start()

    def _divide_epochs(self, n):
        """(begin, end) of the networks that are trained one after the other."""
        n_plain, n_iterations = 0, self.n_iterations
        if isinstance(self.feature_net, str) and self.feature_net == "pretrain":
            n_plain = self.pretrain_epochs
            if is_auto(n_plain):
                n_plain = min(math.ceil(_PRETRAINED * n), max(0, n - n_iterations))
        if n_plain + n_iterations > n:
            raise ValueError(
                f"pretrain_epochs={n_plain} and n_iterations={n_iterations} need more than the "
                f"training of max_epochs={n}."
            )
        ends = [n_plain + (n - n_plain) * i // n_iterations for i in range(n_iterations + 1)]
        return list(pairwise([0, *ends] if n_plain else ends))

    def _full_rate(self, run):
        """Weight of the meta loss after its rise (eta)."""
        if not is_auto(self.meta_rate):
            return self.meta_rate
        rate = min(1.0, self._shape[0] / _COLUMNS_FOR_FULL_RATE) if self._on_table else 1.0
        return rate * run.n_classes if self.kl_reduction == "mean" else rate

    def _set_schedules(self, run):
        memory = run.memory
        begin, end = memory.parts[-1]
        n = end - begin
        memory.warmup = _WARMUP * n if is_auto(self.warmup) else self.warmup
        memory.ramp = _RAMP * n if is_auto(self.ramp) else self.ramp
        step = _STEP_ON_TABLES if self._on_table else _STEP_ON_IMAGES
        memory.inner_lr = step if is_auto(self.inner_lr) else self.inner_lr
        decay = 1 - 1 / max(1.0, _AVERAGED * n * run.steps_per_epoch)
        memory.decays = (min(decay, _LARGEST_DECAY),) * 2
        if not is_auto(self.teacher_decay):
            memory.decays = self._decays()
        run.last_stage = begin
        if memory.rate:
            run.last_stage += math.ceil(memory.warmup + memory.ramp)

    def _rehearse(self, run, net):
        """Refuse, before training, networks that cannot do what the batches ask of them."""
        memory, n = run.memory, min(4, len(run.data))
        batch = next(iter(run.data.batches(n, torch.arange(n, device=run.device))))
        memory.look = LookAhead(net)
        memory.look.check(run.plain(batch.x), self.second_order)
        if isinstance(self.feature_net, nn.Module):
            module = copy.deepcopy(self.feature_net).to(run.device).eval()
            memory.mentor = Watched(net, module)
            if len(memory.mentor(run.plain(batch.x))[1]) != n:
                raise ValueError("feature_net must give one row of features for each row.")

    def _check_stages(self, run):
        if len(run.memory.parts) > 1:  # otherwise no rate is the method's own
            super()._check_stages(run)

    def _lr_factor(self, schedule, epoch, max_epochs):
        begin, end = next(part for part in self._parts_ if epoch < part[1])
        return schedule(epoch - begin, end - begin)

    def _train_epoch(self, run, epoch):
        memory, rise = run.memory, 0.0
        part = next(i for i, (_, end) in enumerate(memory.parts) if epoch < end)
        begin, _ = memory.parts[part]
        if epoch == begin > 0:
            self._start_afresh(run, part)
        for batch, t in run.train_batches(epoch, run.shuffled(memory.rows)):
            since = t - begin - memory.warmup
            x = run.view(batch.x)
            logits = run.learners[0](x)  # (batch, n_classes)
            run.observe(batch.index, logits)
            loss = functional.cross_entropy(logits, batch.y)  # L_c
            further = ()
            if memory.rate and part >= memory.first and since >= 0:
                self._update_teacher(run, since)
                rise = exponential_ramp(since, memory.ramp)
                further = self._meta_losses(run, x, batch.y, logits, rise)
            run.step(loss, further=further)
        run.log(meta_rate=rise * memory.rate)

    def _start_afresh(self, run, part):
        """The network or its teacher becomes the mentor, and another network starts."""
        memory = run.memory
        (net,) = run.learners
        average = memory.average or WeightAverage(net, run.generator)
        average.eval()
        if part > memory.first:
            self._filter(run, run.evaluate(average))
        memory.mentor = Watched(net, average.module)
        memory.mixes = part > memory.first
        memory.average = None
        net.restart()

    def _filter(self, run, logits):
        posterior = logits.softmax(1).gather(1, run.data.y[:, None]).squeeze(1)
        kept, vanished = labels_to_keep(posterior, run.data.y, run.n_classes, self.filter_threshold)
        if vanished:
            warnings.warn(
                f"The mentor finds no label {self.classes_[vanished].tolist()} at least "
                f"filter_threshold={self.filter_threshold} likely; the likeliest stay.",
                UserWarning,
                stacklevel=2,
            )
        run.memory.rows = kept.nonzero().flatten()

    def _update_teacher(self, run, since):
        memory = run.memory
        (net,) = run.learners
        if memory.average is None:
            memory.average = WeightAverage(net, run.generator)  # in training mode, as the network
            memory.teacher = Watched(net, memory.average.module)
        else:
            memory.average.update(memory.decays[since >= memory.ramp])

    def _meta_losses(self, run, x, y, logits, rise):
        """Yield ``eta / M * J_m``, one graph at a time."""
        if len(y) == 1:  # has no neighbours
            return
        memory = run.memory
        target, features = self._targets(run, x, rise)
        neighbours = nearest(features, min(self.n_neighbors, len(y) - 1))
        n_changed = int(self.flip_share * len(y) + _ROUNDING)
        weight = rise * memory.rate / self.n_sets
        for labels in synthetic_labels(y, neighbours, n_changed, self.n_sets, run.generator):
            yield weight * self._meta_loss(run, x, labels, logits, target)

    def _meta_loss(self, run, x, labels, logits, target):
        """How far a step on synthetic labels (batch,) leads away from the teacher (J_m)."""
        memory = run.memory
        loss = functional.cross_entropy(logits, labels)
        gradient = memory.look.gradient(loss, self.second_order)  # g_m
        ahead = memory.look.step(gradient, memory.inner_lr)
        apart = divergence(target, memory.look(x, ahead))
        apart = damped(apart) if self.damp else apart
        return apart / run.n_classes if self.kl_reduction == "mean" else apart

    def _targets(self, run, x, rise):
        """Target (batch, n_classes) and the features by which rows are near."""
        memory = run.memory
        logits, features = memory.teacher(x)
        target = logits.softmax(1)
        if memory.mentor is None:
            return target, features
        told, features = memory.mentor(x)
        if memory.mixes:
            target = torch.lerp(told.softmax(1), target, _TEACHER_SHARE * rise)
        return target, features

    def _finish(self, run):
        memory = run.memory
        if memory.average is not None and self.predict_with == "teacher":
            memory.average.replace()

    def _gather_evidence(self, run, data, train_rows):
        super()._gather_evidence(run, data, train_rows)
        rows = run.memory.rows
        kept = torch.full((len(run.data),), rows is None)
        if rows is not None:
            kept[rows.cpu()] = True
        self.selected_ = for_all_rows(kept, train_rows, len(data), False)
