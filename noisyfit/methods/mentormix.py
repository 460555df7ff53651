"""MentorMix: mixing in which what looks right is drawn more often and weighs more."""

import math
import warnings
from contextlib import contextmanager

import torch
from torch.nn.functional import one_hot, softmax

from noisyfit._averaging import WeightAverage
from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_bool, check_real, is_auto, is_one_of
from noisyfit._curriculum import CURRICULA, MovingPercentile, curriculum_weights
from noisyfit._evidence import for_all_rows
from noisyfit._selection import SelectionRecord
from noisyfit._small_loss import estimated_rate, refuse_no_burn_in
from noisyfit._small_tables import epochs_before_doubt, mixing_alpha
from noisyfit.augment import beta, mixup
from noisyfit.losses import cross_entropy, soft_cross_entropy

_PASS_MODES = ("train", "eval")
_PERCENTILE, _ALPHA = 0.7, 2.0
_BURN_IN, _EPOCHS_BEFORE_DOUBT = 0.1, 10
_SMALLEST_BATCH = 8


def partner_probabilities(v, temperature=1.0):
    """Chance (batch,) of each row to be drawn as a partner, ``softmax(v / T)``."""
    return softmax(v / temperature, dim=0)


def mixing_weights(lam, v):
    """Weight (batch,) of each row's own image: large where it looks right, small elsewhere."""
    lam = torch.maximum(lam, 1 - lam)
    return v * lam + (1 - v) * (1 - lam)


def settings_for(noise_rate):
    """Percentile, alpha and second weighting that suit a share of wrong labels.

    They follow the published ones, down to no wrong label, where all losses count as small.
    """
    return max(1 - noise_rate, 0.1), _ALPHA if noise_rate < 0.3 else 8.0, noise_rate > 0.5


@contextmanager
def buffers_kept(module):
    """Passes inside leave the buffers of `module`, such as running statistics, as they are."""
    buffers = list(module.buffers())
    before = [buffer.clone() for buffer in buffers]
    yield
    for buffer, old in zip(buffers, before, strict=True):
        buffer.copy_(old)


class MentorMixClassifier(BaseNoisyClassifier):
    """One network trained on mixed pairs of rows, led by those with small losses.

    In every batch a pass without gradient finds the rows with a small loss, which are mostly
    right. Each row is mixed with a partner; rows that look right are drawn more often, and in
    each mixture the row itself dominates if it looks right, its partner otherwise. So a wrong
    label is diluted rather than left out. The mixtures may be weighted a second time.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained; ``Network()`` by default. Cloned, never trained in place.
    noise_rate : "auto", float in [0, 1] or None, default="auto"
        Share of wrong labels, which sets the next three parameters where they are ``"auto"``.
        ``"auto"`` mixes nothing in the burn-in and then takes the share that a two-component
        mixture on the losses calls wrong, at most 0.8; less where the network agrees with more
        than a quarter of those labels. None leaves it open.
    percentile : "auto" or float in [0, 1], default="auto"
        Share of the losses that counts as small (gamma_p). ``"auto"`` is one minus the noise
        rate, at least 0.1; 0.7 while the rate is open.
    alpha : "auto" or float, default="auto"
        The weight in a mixture is drawn from Beta(alpha, alpha), one for each row; 0 mixes
        nothing. ``"auto"`` is 8 from a noise rate of 0.3 on, else 2; below 32 columns it falls in
        proportion, for there a mixture of two rows is often a row of a third class.
    second_reweight : "auto" or bool, default="auto"
        Weight the mixtures by their own losses too. ``"auto"`` does so above a noise rate of 0.5.
    burn_in : "auto" or float in [0, 1], default="auto"
        Share of the training in which all weights are 1; 0.1 was published. ``"auto"`` is the
        longer of this and ten epochs (more on tables with few columns), up to half of all.
    curriculum : {"hard", "linear", "hard_mining", "uniform"}, default="hard"
        Weight of a row by its loss minus the moving percentile: 1 up to 0, else 0; 1 up to 0,
        falling to 0 at `width`; 1 from 0 on, else 0; always 1.
    width : float, default=1.0
        Of the linear fall.
    decay : float in [0, 1), default=0.5
        Weight of the past in the moving percentiles (beta).
    temperature : float, default=1.0
        Partners are drawn with probability ``softmax(weight / temperature)`` (T).
    binary_mixing : bool, default=False
        Let weights count as 0 or 1 in the mixture, as in the published code; only a difference
        for the linear curriculum.
    weight_pass_mode : {"train", "eval"}, default="train"
        Mode of the network in the pass that finds the weights. In neither does it change the
        running statistics.
    ema_decay : float in [0, 1), optional
        Average the weights over the steps with this decay, after a plain mean of the first ones,
        and predict with the average, also after early stopping with ``load_best=True``; 0.9999 was
        published. By default the last ones predict.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``, before mixing. ``"auto"`` shifts images
        at random (and mirrors colour images) and leaves tables alone.
    pretrain : "auto", SimCLR, module, state dict or path, optional
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder; ``"auto"`` is ``SimCLR()`` for images. By default they start at random.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: ``sample_weight_`` with its ties broken by how often the network
        predicted the label in training (``"auto"``; only the latter where small losses have no
        larger weights), the latter alone, its final probability, or a splitter of
        `noisyfit.mixtures` on one minus the second.
    random_state : int, RandomState instance or None, default=None
        Seed of start, order, mixing, augmentation and dropout.
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
    percentile_ : float
        Share of the losses that counted as small in the last epoch.
    alpha_ : float
        Parameter of the Beta distribution in the last epoch.
    second_reweight_ : bool
        Whether mixtures were weighted in the last epoch.
    sample_weight_ : ndarray of shape (n_samples,)
        Mean first weight of each row in the last ten epochs, burn-in left out; if nothing is left,
        how often the network predicted the label; nan for rows held out.
    dynamics_ : dict of ndarrays of shape (n_samples,)
        ``n_seen``, ``wrong_events``, ``margin`` and ``proba`` of the given labels, averaged over
        the passes that find the weights, in which rows are not mixed.
    nets_ : list of skorch nets
        The trained network.
    history_ : list of dict
        One row per epoch, with ``selected``, the mean first weight.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Notes
    -----
    The rule that sets percentile, alpha and second weighting is read off the authors' table of
    settings. The estimated noise rate is this library's, and so is a burn-in that does not mix:
    mixing makes a network less sure, and its losses divide worse. A moving percentile begins with
    that of the first batch, not with 0. Weights enter the mixture as they are, as in the paper;
    the authors' code rounds them. Their runs with a second weighting have no weight decay; here
    the network's own setting holds.

    An epoch costs a training step and a forward pass for each row. Batches below 8 rows are too
    small for a percentile, and warned of. Inputs must bear to be averaged: one-hot columns of a
    table become fractional, and columns of codes mean something else.

    References
    ----------
    Jiang, Huang, Liu, Yang, "Beyond Synthetic Noise: Deep Learning on Controlled Noisy Labels",
    ICML 2020.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import MentorMixClassifier, Network
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> y_noisy = sym_excl(y, 0.2, random_state=0).y
    >>> clf = MentorMixClassifier(Network(max_epochs=20), random_state=0).fit(X, y_noisy)
    >>> clf.score(X, y) > 0.8
    True
    """

    def __init__(
        self,
        net=None,
        *,
        noise_rate="auto",
        percentile="auto",
        alpha="auto",
        second_reweight="auto",
        burn_in="auto",
        curriculum="hard",
        width=1.0,
        decay=0.5,
        temperature=1.0,
        binary_mixing=False,
        weight_pass_mode="train",
        ema_decay=None,
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.noise_rate = noise_rate
        self.percentile = percentile
        self.alpha = alpha
        self.second_reweight = second_reweight
        self.burn_in = burn_in
        self.curriculum = curriculum
        self.width = width
        self.decay = decay
        self.temperature = temperature
        self.binary_mixing = binary_mixing
        self.weight_pass_mode = weight_pass_mode
        self.ema_decay = ema_decay
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        if self.noise_rate is not None and not is_auto(self.noise_rate):
            check_real(self.noise_rate, "noise_rate", 0, 1)
        for name, highest in (("percentile", 1), ("alpha", None), ("burn_in", 1)):
            value = getattr(self, name)
            if not is_auto(value):
                check_real(value, name, 0, highest)
        if is_auto(self.noise_rate):
            refuse_no_burn_in(self.burn_in, "noise_rate", "give a number, or None")
        if not is_auto(self.second_reweight):
            check_bool(self.second_reweight, "second_reweight")
        if not is_one_of(self.curriculum, CURRICULA):
            raise ValueError(f"curriculum must be one of {CURRICULA}, got {self.curriculum!r}.")
        check_real(self.width, "width", 0, closed="neither")
        check_real(self.decay, "decay", 0, 1, closed="left")
        check_real(self.temperature, "temperature", 0, closed="neither")
        check_bool(self.binary_mixing, "binary_mixing")
        if not is_one_of(self.weight_pass_mode, _PASS_MODES):
            raise ValueError(
                f"weight_pass_mode must be one of {_PASS_MODES}, got {self.weight_pass_mode!r}."
            )
        if self.ema_decay is not None:
            check_real(self.ema_decay, "ema_decay", 0, 1, closed="left")

    def _begin(self, run):
        if run.batch_size < _SMALLEST_BATCH:
            warnings.warn(
                f"The percentile of the losses of {run.batch_size} rows says little; raise "
                f"net__batch_size to {_SMALLEST_BATCH} at least.",
                UserWarning,
                stacklevel=2,
            )
        memory = run.memory
        memory.burn_in = self._burn_in_epochs(run)
        run.last_stage = math.ceil(memory.burn_in)
        memory.of_single, memory.of_mixed = (MovingPercentile(1.0, self.decay) for _ in range(2))
        memory.selection = SelectionRecord(len(run.data), run.device)
        memory.average, memory.n_steps = None, 0
        if self.ema_decay is not None:
            memory.average = WeightAverage(run.learners[0], run.generator)
        self._settle(None if is_auto(self.noise_rate) else self.noise_rate, run)

    def _burn_in_epochs(self, run):
        """Length in epochs; the end may lie inside one unless the rate is estimated then."""
        if not is_auto(self.burn_in):
            length = self.burn_in * run.max_epochs
            return math.ceil(length) if is_auto(self.noise_rate) else length
        plain = epochs_before_doubt(_EPOCHS_BEFORE_DOUBT, self._shape, run.steps_per_epoch)
        longest = max(int(is_auto(self.noise_rate)), run.max_epochs // 2)
        return min(max(plain, math.ceil(_BURN_IN * run.max_epochs)), longest)

    def _settle(self, rate, run):
        """Fix what depends on the noise rate, None while that is open."""
        by_rate = (_PERCENTILE, _ALPHA, False) if rate is None else settings_for(rate)
        percentile, alpha, second = by_rate
        self.percentile_ = percentile if is_auto(self.percentile) else float(self.percentile)
        by_default = is_auto(self.alpha)
        self.alpha_ = mixing_alpha(alpha, self._shape) if by_default else float(self.alpha)
        if rate is None and is_auto(self.noise_rate):
            self.alpha_ = 0.0  # the estimate needs a network that is sure of itself
        self.second_reweight_ = second if is_auto(self.second_reweight) else self.second_reweight
        run.memory.of_single.share = run.memory.of_mixed.share = self.percentile_

    def _train_epoch(self, run, epoch):
        memory = run.memory
        if is_auto(self.noise_rate) and epoch == math.ceil(memory.burn_in):
            self._settle(estimated_rate(run, self.ensemble), run)
        in_window = memory.selection.open_in_last_epochs(epoch, run.max_epochs)
        says_something = epoch >= memory.burn_in and self.percentile_ < 1
        memory.selection.is_open = in_window and says_something
        lam = beta(self.alpha_, len(run.data), run.rng)
        memory.lam = torch.as_tensor(lam, dtype=torch.float32, device=run.device)
        memory.selected = 0.0
        for batch, t in run.train_batches(epoch):
            loss, nothing = self._loss_and_skip(run, batch, t)
            run.step(loss, skip=nothing)
            self._average(run)
        run.log(selected=memory.selected / len(run.data))

    def _loss_and_skip(self, run, batch, t):
        """Scalar loss, and whether no mixture has a weight (None where all have one)."""
        (net,) = run.learners
        memory = run.memory
        x, y = run.view(batch.x), one_hot(batch.y, run.n_classes).float()  # (batch, n_classes)
        plain = t < memory.burn_in
        logits = self._weight_pass(net, x)
        run.observe(batch.index, logits)
        v = self._weights(memory.of_single, cross_entropy(logits, batch.y), plain)
        memory.selection.add(batch.index, v)
        memory.selected += v.sum()

        partner, lam = self._draw(run, batch.index, v)
        logits = net(mixup(x, lam, partner))
        losses = soft_cross_entropy(logits, mixup(y, lam, partner))  # (batch,)
        if not self.second_reweight_:
            return losses.mean(), None
        v = self._weights(memory.of_mixed, losses.detach(), plain)
        return (v * losses).mean(), ~(v > 0).any()

    def _weight_pass(self, net, x):
        """Logits (batch, n_classes) of rows that are not mixed, without gradient."""
        with torch.no_grad(), buffers_kept(net.module):
            if self.weight_pass_mode == "train":
                return net(x)
            net.eval()
            logits = net(x)
            net.train()
            return logits

    def _weights(self, threshold, losses, plain):
        """Weights (batch,) of `losses` against a moving percentile, which moves; 1 if `plain`."""
        difference = losses - threshold.update(losses)
        if plain or threshold.share == 1:
            return torch.ones_like(losses)
        return curriculum_weights(self.curriculum, difference, self.width).nan_to_num()

    def _draw(self, run, index, v):
        """Partner (batch,) of each row, and the weight (batch,) of the row itself."""
        if self.alpha_ == 0:
            return torch.arange(len(v), device=run.device), torch.ones_like(v)
        chances = partner_probabilities(v, self.temperature)
        partner = torch.multinomial(chances, len(v), replacement=True, generator=run.generator)
        in_mixture = (v >= 0.5).to(v.dtype) if self.binary_mixing else v
        return partner, mixing_weights(run.memory.lam[index], in_mixture)

    def _average(self, run):
        memory = run.memory
        if memory.average is not None:
            memory.n_steps += 1
            memory.average.update(min(1 - 1 / (memory.n_steps + 1), self.ema_decay))

    def _finish(self, run):
        super()._finish(run)
        memory = run.memory
        if memory.average is not None:  # the running statistics stay the network's own
            averages = memory.average.module.parameters()
            with torch.no_grad():
                for own, average in zip(run.learners[0].module.parameters(), averages, strict=True):
                    own.copy_(average)

    def _gather_evidence(self, run, data, train_rows):
        super()._gather_evidence(run, data, train_rows)
        weights = run.memory.selection.frequency(run.dynamics.agreement())
        self.sample_weight_ = for_all_rows(weights, train_rows, len(data), torch.nan)

    def _posterior(self, run, logits):
        if self.curriculum in ("hard_mining", "uniform"):
            return None
        return run.memory.selection.clean_proba(self._history(run, logits))
