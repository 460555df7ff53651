"""Co-teaching: each network learns from the samples that the other finds easy."""

import torch

from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_integer, check_real, is_auto
from noisyfit._divide import ranked_in_class
from noisyfit._small_tables import epochs_before_doubt
from noisyfit.losses import cross_entropy
from noisyfit.mixtures import GaussianMixtureSplitter

_WINDOW = 10  # epochs over which the selection frequency is taken
_LARGEST_AUTO_RATE = 0.8


def forget_rate(epoch, noise_rate, n_gradual, exponent=1.0):
    """Share of a batch dropped in a zero-based epoch: ``noise_rate * min(epoch**c / T_k, 1)``."""
    if n_gradual == 0:
        return noise_rate
    return noise_rate * min(epoch**exponent / n_gradual, 1.0)


def number_to_keep(n, forget):
    """Rows kept of a batch of `n`, at least one; the small constant undoes rounding."""
    return max(1, int((1 - forget) * n + 1e-9))


def small_loss(losses, n_keep):
    """Weights (batch,): 1 for the `n_keep` smallest losses, else 0; ties go to the earlier row."""
    order = losses.detach().argsort(stable=True)
    return torch.zeros_like(losses).index_fill_(0, order[:n_keep], 1.0)


def small_loss_per_class(losses, y, forget, n_classes):
    """Weights (batch,): 1 for the kept share inside every given class, else 0."""
    smallest_first = losses.detach().argsort(stable=True)
    by_class, rank, size = ranked_in_class(smallest_first, y, n_classes)
    n_keep = ((1 - forget) * size + 1e-9).floor().clamp_min(1)  # (n_classes,)
    kept = (rank < n_keep[y[by_class]]).to(losses.dtype)
    return torch.zeros_like(losses).index_copy_(0, by_class, kept)


class CoTeachingClassifier(BaseNoisyClassifier):
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
        Share of wrong labels (tau). ``"auto"`` trains `n_gradual` epochs without dropping
        anything (up to half of all on tables with few columns), then takes the share that a
        two-component mixture on the losses calls wrong, at most 0.8.
    n_gradual : int, default=10
        Epochs in which the dropped share grows to the noise rate (T_k).
    exponent : float, default=1.0
        The share grows with ``epoch ** exponent`` (c).
    per_class : bool, default=False
        Rank the losses inside each given class, so that rare classes are not dropped first.
    ensemble : {"proba", "logits", "first", "second"}, default="proba"
        Average of the networks in prediction, or one of them, as the paper reports.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``, the same for both networks. ``"auto"``
        shifts images at random (and mirrors colour images) and leaves tables alone.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: how often a sample was selected in those of the last ten epochs
        that drop the full share (``"auto"``; as ``"history"`` if there are none); how often the
        networks predicted its label in training; its final probability; or a splitter of
        `noisyfit.mixtures` on one minus the second.
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
    the epoch, the noise rate is reached after `n_gradual` epochs, and the loss is the plain mean
    over the kept samples (the code divides by their number twice). An incomplete last batch is
    dropped as in the code, unless there are fewer than two batches.

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
        per_class=False,
        ensemble="proba",
        augment="auto",
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.noise_rate = noise_rate
        self.n_gradual = n_gradual
        self.exponent = exponent
        self.per_class = per_class
        self.ensemble = ensemble
        self.augment = augment
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        if not is_auto(self.noise_rate):
            check_real(self.noise_rate, "noise_rate", 0, 1, closed="left")
        check_integer(self.n_gradual, "n_gradual", 0)
        check_real(self.exponent, "exponent", 0, closed="neither")

    def _begin(self, run):
        f, g = (learner.module.state_dict().values() for learner in run.learners)
        if all(torch.equal(a, b) for a, b in zip(f, g, strict=True)):
            raise ValueError(
                "Both networks start with the same weights, so they would choose the same samples "
                "for ever; pass a module class to the net, not an instance."
            )
        memory = run.memory
        memory.kept, memory.seen = torch.zeros(2, len(run.data), device=run.device)
        memory.rate = None if is_auto(self.noise_rate) else float(self.noise_rate)
        memory.ramp_start = 0
        plain = epochs_before_doubt(self.n_gradual, self._shape, run.steps_per_epoch)
        memory.rate_epoch = min(plain, run.max_epochs // 2)
        run.last_stage = self.n_gradual + (memory.rate_epoch if memory.rate is None else 0)

    def _train_epoch(self, run, epoch):
        memory = run.memory
        if memory.rate is None and epoch == memory.rate_epoch:
            memory.rate, memory.ramp_start = self._estimate_rate(run), epoch
        memory.forget = forget_rate(
            epoch - memory.ramp_start, memory.rate or 0.0, self.n_gradual, self.exponent
        )
        ramp_is_over = memory.rate is not None and memory.forget >= memory.rate
        memory.counting = ramp_is_over and epoch >= run.max_epochs - _WINDOW
        run.log(forget_rate=memory.forget)
        super()._train_epoch(run, epoch)

    def _estimate_rate(self, run):
        """Share of samples that a mixture on the mean loss of both networks takes for wrong."""
        losses = sum(cross_entropy(run.evaluate(learner), run.data.y) for learner in run.learners)
        for learner in run.learners:
            learner.train()
        if losses.max() == losses.min():
            return 0.0
        clean = GaussianMixtureSplitter().fit_tensor(losses)
        return min((clean < 0.5).float().mean().item(), _LARGEST_AUTO_RATE)

    def _choose(self, run, y, losses):
        forget = run.memory.forget
        if self.per_class:
            return small_loss_per_class(losses, y, forget, run.n_classes)
        return small_loss(losses, number_to_keep(len(y), forget))

    def _loss(self, run, batch, t):
        f, g = run.learners
        x = run.view(batch.x)
        logits_f, logits_g = f(x), g(x)  # (batch, n_classes)
        run.observe(batch.index, logits_f)
        run.observe(batch.index, logits_g)
        loss_f, loss_g = cross_entropy(logits_f, batch.y), cross_entropy(logits_g, batch.y)
        kept_f = self._choose(run, batch.y, loss_f)
        kept_g = self._choose(run, batch.y, loss_g)
        if run.memory.counting:
            run.memory.kept.index_add_(0, batch.index, (kept_f + kept_g) / 2)
            run.memory.seen.index_add_(0, batch.index, torch.ones_like(kept_f))
        # each learns what the other chose
        return (loss_f * kept_g).sum() / kept_g.sum() + (loss_g * kept_f).sum() / kept_f.sum()

    def _end_epoch(self, run, epoch):
        self.forget_rate_ = run.memory.forget

    def _posterior(self, run, logits):
        memory = run.memory
        frequency = memory.kept / memory.seen.clamp_min(1)
        return torch.where(memory.seen > 0, frequency, run.dynamics.agreement())
