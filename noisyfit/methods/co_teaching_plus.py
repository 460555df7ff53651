"""Co-teaching+: each network learns from the other's choice among rows on which they differ."""

import math

import torch

from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_bool, check_integer, is_auto, is_one_of
from noisyfit._small_loss import (
    SmallLossMixin,
    exchanged,
    forget_rate,
    refuse_equal_starts,
    rows_to_keep,
    small_loss_per_class,
)
from noisyfit.losses import cross_entropy

_SCHEDULES = ("capped", "rising")
_AUTO_INIT = 1 / 10  # of all epochs: 20 of 200 for CIFAR-10
_AUTO_PLAIN = 1 / 16  # of all steps: 5000 of 78 000 for CIFAR-10
_FEW = 1 / 8  # of a batch


def rising_forget_rate(epoch, noise_rate, n_gradual, n_epochs):
    """``min(e / E_k, 1 + (e - E_k) / (E_max - E_k)) * tau``, towards 1 if tau is above a half."""
    if epoch <= n_gradual:
        return forget_rate(epoch, noise_rate, n_gradual)
    further = (epoch - n_gradual) / (n_epochs - n_gradual)
    return noise_rate + further * min(noise_rate, 1 - noise_rate)


def small_loss_among(losses, rows, forget):
    """Weights (batch,): 1 for the kept share of the mask `rows`, its smallest losses, else 0.

    Where that share rounds to no row it is all of them.
    """
    n_rows = rows.sum()
    n_keep = rows_to_keep(n_rows, forget)
    n_keep = torch.where(n_keep > 0, n_keep, n_rows)
    order = torch.where(rows, losses.detach(), torch.inf).argsort(stable=True)
    first = torch.arange(len(losses), device=losses.device) < n_keep
    return torch.zeros_like(losses).index_copy_(0, order, first.to(losses.dtype))


class CoTeachingPlusClassifier(SmallLossMixin, BaseNoisyClassifier):
    """Two networks, each trained on the other's choice among rows on which they differ.

    Two networks that teach each other become alike, and then each filters no more than its own
    errors. So after a start with Co-teaching only the rows of a batch on which the two predictions
    differ are looked at: each network keeps those with the smallest losses and hands them to its
    peer. That keeps the networks apart, but they see few rows, and of those near a border or
    with a wrong label more than of others.

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
        Epochs in which the dropped share grows to the noise rate (E_k).
    init_epoch : "auto" or int, default="auto"
        Zero-based epoch from which only rows on which the networks differ are trained on; before
        it is Co-teaching. ``"auto"`` is a tenth of all epochs. Where the noise rate is estimated,
        not before it is known.
    schedule : {"capped", "rising"}, default="capped"
        Whether the dropped share stays at the noise rate or keeps rising, to twice the rate at the
        end (to 1 for rates above a half).
    plain_steps : "auto" or int, default="auto"
        Without `guards`: a batch on which the networks agree altogether is trained on whole, with
        nothing dropped, in the first so many steps of the fit, and passed over later. ``"auto"``
        is a sixteenth of all steps; 0 never trains on such a batch.
    guards : bool, default=True
        Take a step of Co-teaching on a batch of which the networks differ on less than an eighth,
        instead of one on the few rows, which moves the networks far. False is as published.
    per_class : bool, default=False
        Rank the losses inside each given class, so that rare classes are not dropped first.
    legacy_double_softmax : bool, default=False
        Take the loss of the rows on which the networks differ from the softmax of the softmax, as
        the authors' code does, a bounded loss with small gradients.
    ensemble : {"proba", "logits", "first", "second"}, default="proba"
        Average of the networks in prediction, or one of them, as the paper reports.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``, the same for both networks. ``"auto"``
        shifts images at random (and mirrors colour images) and leaves tables alone.
    pretrain : "auto", SimCLR, module, state dict or path, optional
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder; ``"auto"`` is ``SimCLR()`` for images. By default they start at random.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: how often a sample was among the small losses of its whole
        batch in those of the last ten epochs that drop the full share, its ties broken by the
        next (``"auto"``; as ``"history"`` if there are none); how often the networks predicted its
        label in training; its final probability; or a splitter of `noisyfit.mixtures` on one minus
        the second.
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
        One row per epoch, with ``forget_rate`` and ``disagreement``, the share of rows on which
        the networks differ.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Notes
    -----
    The guard is not in the paper. A small batch of easy data has none or two rows on which the
    networks differ; trained by SGD on those alone, they lost 3 points on two moons with right
    labels and 14 with 40 % wrong ones. With the guard easy data are left to Co-teaching almost
    altogether. The published form, ``guards=False``, stays behind Co-teaching where most labels
    are wrong, in later comparisons and here on digits. Of rows whose kept share rounds to none it
    keeps all, as the code does.

    The code counts steps anew in every epoch and loses the first row of the data; here steps are
    counted from the start of the fit. It takes the loss of a softmax of a softmax, for which there
    is `legacy_double_softmax`, and divides the mean loss by the number of rows once more, which is
    left out. A step that is passed over leaves weights and optimiser as they are; batch
    normalisation still sees the rows. An incomplete last batch is dropped as in the code, unless
    there are fewer than two batches. An epoch costs two of plain training.

    References
    ----------
    Yu, Han, Yao, Niu, Tsang, Sugiyama, "How does Disagreement Help Generalization against Label
    Corruption?", ICML 2019.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import CoTeachingPlusClassifier, Network
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> y_noisy = sym_excl(y, 0.2, random_state=0).y
    >>> clf = CoTeachingPlusClassifier(Network(max_epochs=20), random_state=0).fit(X, y_noisy)
    >>> clf.score(X, y) > 0.8
    True
    """

    n_networks = 2
    drop_last = True
    exponent = 1.0  # of the ramp

    def __init__(
        self,
        net=None,
        *,
        noise_rate="auto",
        n_gradual=10,
        init_epoch="auto",
        schedule="capped",
        plain_steps="auto",
        guards=True,
        per_class=False,
        legacy_double_softmax=False,
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
        self.init_epoch = init_epoch
        self.schedule = schedule
        self.plain_steps = plain_steps
        self.guards = guards
        self.per_class = per_class
        self.legacy_double_softmax = legacy_double_softmax
        self.ensemble = ensemble
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        if not is_auto(self.init_epoch):
            check_integer(self.init_epoch, "init_epoch", 0)
        if not is_one_of(self.schedule, _SCHEDULES):
            raise ValueError(f"schedule must be 'capped' or 'rising', got {self.schedule!r}.")
        if not is_auto(self.plain_steps):
            check_integer(self.plain_steps, "plain_steps", 0)
        for name in ("guards", "legacy_double_softmax"):
            check_bool(getattr(self, name), name)

    def _check_run(self, run):
        refuse_equal_starts(run)

    def _begin(self, run):
        super()._begin(run)
        memory = run.memory
        by_default = math.ceil(_AUTO_INIT * run.max_epochs)
        begin = by_default if is_auto(self.init_epoch) else self.init_epoch
        memory.differ_from = begin if memory.rate is not None else max(begin, memory.rate_epoch)
        run.last_stage = max(run.last_stage, memory.differ_from)
        by_default = math.ceil(_AUTO_PLAIN * run.max_epochs * run.steps_per_epoch)
        memory.plain_steps = by_default if is_auto(self.plain_steps) else self.plain_steps
        memory.step = 0

    def _share_to_drop(self, rate, epoch, n_epochs):
        if self.schedule == "rising":
            return rising_forget_rate(epoch, rate, self.n_gradual, n_epochs)
        return super()._share_to_drop(rate, epoch, n_epochs)

    def _train_epoch(self, run, epoch):
        self._open_epoch(run, epoch)
        memory = run.memory
        memory.n_differ, memory.n_rows = torch.zeros((), device=run.device), 0
        loss_of = self._loss_of_differing if epoch >= memory.differ_from else self._loss_of_all
        for batch, _ in run.train_batches(epoch):
            x = run.view(batch.x)
            logits = [learner(x) for learner in run.learners]  # each (batch, n_classes)
            for of_one in logits:
                run.observe(batch.index, of_one)
            differ = logits[0].argmax(1) != logits[1].argmax(1)  # (batch,)
            memory.n_differ += differ.sum()
            memory.n_rows += len(differ)
            loss, skip = loss_of(run, batch, logits, differ)
            run.step(loss, skip=skip)
            memory.step += 1
        run.log(disagreement=memory.n_differ / memory.n_rows)

    def _loss_of_all(self, run, batch, logits, differ):
        """Loss of Co-teaching, and None: the step is always taken."""
        losses = [cross_entropy(of_one, batch.y) for of_one in logits]
        return exchanged(losses, self._kept_of_all(run, batch, losses, run.memory.forget)), None

    def _loss_of_differing(self, run, batch, logits, differ):
        """Loss on rows on which the networks differ, and where the step is skipped, (), or None."""
        memory, y = run.memory, batch.y
        losses = [cross_entropy(of_one, y) for of_one in logits]
        kept_of_all = self._kept_of_all(run, batch, losses, min(memory.forget, memory.rate))
        of_all = exchanged(losses, kept_of_all)
        if self.legacy_double_softmax:
            losses = [cross_entropy(of_one.softmax(1), y) for of_one in logits]
        kept = [self._choose_among(run, y, of_one, differ) for of_one in losses]
        loss = exchanged(losses, kept)
        if self.guards:
            return torch.where(differ.sum() < _FEW * len(y), of_all, loss), None
        alike = ~differ.any()  # ()
        if memory.step >= memory.plain_steps:
            return loss, alike
        return torch.where(alike, sum(losses).mean(), loss), None

    def _kept_of_all(self, run, batch, losses, forget):
        """Weights (batch,) by each network: the small losses of the whole batch; on record."""
        kept = [self._choose(run, batch.y, of_one, forget) for of_one in losses]
        run.memory.selection.add(batch.index, (kept[0] + kept[1]) / 2)
        return kept

    def _choose_among(self, run, y, losses, rows):
        """Weights (batch,): 1 for the rows of the mask with the smallest losses, else 0."""
        forget = run.memory.forget
        if not self.per_class:
            return small_loss_among(losses, rows, forget)
        classes = torch.where(rows, y, run.n_classes)  # the others as a class of their own
        return rows * small_loss_per_class(losses, classes, forget, run.n_classes + 1)
