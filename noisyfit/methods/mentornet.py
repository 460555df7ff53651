"""MentorNet: a curriculum, predefined or learnt, that weighs the samples of a student network."""

import copy
import math
import os
from numbers import Integral
from pathlib import Path

import numpy as np
import torch

from noisyfit._base import BaseNoisyClassifier
from noisyfit._callbacks import with_callbacks
from noisyfit._checks import check_bool, check_integer, check_real, is_auto, is_one_of
from noisyfit._curriculum import DecayInLoss, MovingPercentile
from noisyfit._mentor import CURRICULA, Mentor, check_rule
from noisyfit._mentor_lesson import Lesson, with_wrong_labels
from noisyfit._small_loss import SmallLossMixin, refuse_no_burn_in
from noisyfit._small_tables import epochs_before_doubt
from noisyfit._trusted import TrustedMixin
from noisyfit.losses import cross_entropy

EXAMPLE_DROPOUT = {
    "predefined": [(0.17, 0.5), (0.83, 0.05)],
    "data_driven": [(0.17, 0.5), (0.78, 0.05), (0.05, 0.9)],
}
_BURN_IN, _STEPS_BEFORE_DOUBT = 0.18, 80
_UPDATES = 0.21, 0.75  # published, by share of the training
_SYNTHETIC_RATE = 0.4
_SMALLEST_FORGOTTEN, _LARGEST_FORGOTTEN = 0.1, 0.5  # of the rule of thumb for percentiles
_ROUNDING = 1e-9


def percent(t, max_epochs):
    """Progress of the training after `t` epochs as an integer from 0 to 99."""
    return min(int(100 * t / max_epochs + _ROUNDING), 99)


def dropout_rate(schedule, share):
    """Rate of example dropout when a `share` of the training has passed."""
    end = 0.0
    for length, rate in schedule:
        end += length
        if share < end - _ROUNDING:
            return rate
    return schedule[-1][1]


def example_dropout(weights, rate, generator):
    """`weights` (batch,) with all but ``int(batch * (1 - rate))`` of them, at random, set to 0.

    Of few rows one stays, unless the rate is 1.
    """
    n_keep = max(int(len(weights) * (1 - rate) + _ROUNDING), int(rate < 1))
    if n_keep == len(weights):
        return weights
    draws = torch.rand(len(weights), generator=generator, device=weights.device)
    kept = draws.argsort()[:n_keep]
    return torch.zeros_like(weights).index_copy_(0, kept, weights[kept])


def is_untrained(curriculum):
    """Whether it is a mentor that still has to learn its weights."""
    return isinstance(curriculum, Mentor) and not curriculum.is_trained


class MentorNetClassifier(TrustedMixin, SmallLossMixin, BaseNoisyClassifier):
    """One network whose samples are weighed by a curriculum, which can itself be a network.

    Networks learn right labels before wrong ones. A mentor looks at the loss of a sample, at its
    distance to a running percentile of the losses and at the progress of the training, and gives
    the sample a weight in the loss. The predefined mentor is a rule: all samples, then those below
    the percentile. The data-driven one is a network of less than 1000 parameters which learns
    from rows whose true label is known what the losses of wrong labels look like.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained; ``Network()`` by default. Cloned, never trained in place.
    mentor : {"predefined", "self_paced", "data_driven"}, Mentor, path or callable, \
default="predefined"
        ``"predefined"`` (PD) trusts all samples in the first 19 % of the training, those with
        losses up to the percentile until 90 %, and then also larger ones, with weights that fall;
        ``"self_paced"`` keeps to the second of these. ``"data_driven"`` (DD) trains a `Mentor`
        after the burn-in and needs `trusted` rows. A `Mentor` that is trained, or the path of a
        saved one, is used as it is; one that is not says how to train the data-driven one. A
        function ``(loss, difference, progress)`` of two tensors (batch,) and an integer from 0 to
        99 returns weights (batch,), which are taken as constants.
    percentile : "auto" or float in [0, 1], default="auto"
        Share of the losses below the running threshold (p). ``"auto"`` is ``1 - noise_rate``,
        kept within 0.5 and 0.9 where that is a number. Published: 0.75 at 20 and 40 % noise and 0.5
        at 80 % (PD), 0.8, 0.6 and 0.5 (DD).
    noise_rate : "auto" or float in [0, 1), default="auto"
        Share of wrong labels. ``"auto"`` takes the share that a two-component mixture on the
        losses calls wrong after the burn-in, at most a half; less where the network agrees with
        more than a quarter of those labels.
    decay : float in [0, 1), default=0.5
        Weight of the past in the running threshold (beta).
    burn_in : "auto", int or float in [0, 1), default="auto"
        Epochs, or share of the training, in which all weights are 1. ``"auto"`` is a share of
        0.18, at least 80 steps, and more on tables with few columns, up to half of all epochs.
        Published: 0 (PD), 0.18 (DD); 0 needs a `percentile` or a `noise_rate`.
    example_dropout : {"predefined", "data_driven"}, list of pairs or None, default="predefined"
        Pairs (share of the training, rate), one after the other: a random part of each batch, as
        large as the rate, has no weight. ``"predefined"`` is half for 17 %, then 0.05;
        ``"data_driven"`` ends with 0.9 in the last 5 %.
    trusted_noise : {"auto", "given", "synthetic"}, default="auto"
        Where a data-driven mentor finds wrong labels: among the given labels of the trusted rows,
        if `fit` gets their `clean_labels`, or by replacing a part of them, `noise_rate` or 0.4,
        by random others. ``"auto"`` does the first if it can.
    mentor_percentile : float in [0, 1], optional
        Percentile that is subtracted from the losses of the trusted rows; that of the training by
        default. Published: 0.9.
    n_mentor_updates : int, default=0
        How often a data-driven mentor is trained anew, from 21 to 75 % of the training. The paper
        has 2, its published program 0.
    use_trusted_in_training : bool, default=True
        Train on trusted rows too, with their true label and weight 1. Published: False.
    scale_decay_by_weights : bool, default=False
        Multiply the weight decay of each step by the batch's mean weight, as the published
        residual network does. It then becomes a term of the loss.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``. ``"auto"`` shifts images at random
        (and mirrors colour images) and leaves tables alone.
    pretrain : "auto", SimCLR, module, state dict or path, optional
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder; ``"auto"`` is ``SimCLR()`` for images. By default they start at random.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: the mean weight of a sample over the last ten epochs, before
        example dropout, with the next one as an eleventh (``"auto"``); how often the network
        predicted its label in training; its final probability; or a splitter of
        `noisyfit.mixtures` on one minus the second.
    random_state : int, RandomState instance or None, default=None
        Seed of start, order, augmentation, dropout and mentor.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in sorted order.
    clean_proba_ : ndarray of shape (n_samples,)
        How likely each given label is right, in [0, 1].
    refined_labels_ : ndarray of shape (n_samples,)
        The true label of trusted rows; else the given one where ``clean_proba_`` is at least 0.5,
        and the network's elsewhere.
    refined_proba_ : ndarray of shape (n_samples, n_classes)
        The same as distributions; rows sum to 1.
    noise_rate_ : float
        Estimated share of wrong labels, ``1 - clean_proba_.mean()``.
    forget_rate_ : float
        Share of the losses above the percentile in the last epoch.
    threshold_ : float or None
        The running threshold after the last batch; None if there was none.
    mentor_ : Mentor or None
        The trained mentor, for another fit or for `Mentor.save`; None if a rule weighs.
    dynamics_ : dict of ndarrays of shape (n_samples,)
        ``n_seen``, ``wrong_events``, ``margin`` and ``proba`` of the given labels, averaged over
        the training passes.
    nets_ : list of skorch nets
        The trained network, the student.
    history_ : list of dict
        One row per epoch, with ``forget_rate`` and ``selected``, the mean weight before example
        dropout.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Notes
    -----
    Rules are evaluated as they are. The published program lets a network imitate them, which is
    ``mentor=Mentor("lstm", n_steps=30000, batch_size=32, penalty=0).imitate("predefined")``. The
    estimated percentile is this library's; the published 0.75 costs accuracy where labels are
    right: 3 points on two moons, 1.5 on digits. Where a rule given by name leaves nothing out,
    ``clean_proba_`` is as with ``clean_score="history"``, for equal weights say nothing.

    A data-driven mentor is trained on the trusted rows by one evaluation pass. It sees the losses
    of one moment, so its weights are probabilities for that moment; as the network goes on
    learning they become too large for wrong labels. With a tenth of the rows trusted it was as
    good as the predefined mentor on digits with 40 % symmetric noise, and better under 40 % pair
    flips: 79 % accuracy against 77, 84 with two updates, 90 with ``trusted_noise="synthetic"``,
    whose random wrong labels make it stricter. In use the threshold is the moving percentile of
    the batches, in its training the percentile of the trusted rows, as published.

    Where the published code departs from the paper: example dropout follows the true progress, the
    burn-in has its full length, and the label is no input of the mentor, as it is always 0 there.
    A batch in which all weights are 0 takes no step.

    References
    ----------
    Jiang, Zhou, Leung, Li, Fei-Fei, "MentorNet: Learning Data-Driven Curriculum for Very Deep
    Neural Networks on Corrupted Labels", ICML 2018.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import MentorNetClassifier, Network
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> noisy = sym_excl(y, 0.2, random_state=0)
    >>> net = Network(max_epochs=20)
    >>> clf = MentorNetClassifier(net, random_state=0).fit(X, noisy.y)
    >>> clf.score(X, y) > 0.8
    True

    Of the first forty rows the true labels are known:

    >>> import numpy as np
    >>> learnt = MentorNetClassifier(net, mentor="data_driven", random_state=0)
    >>> _ = learnt.fit(X, noisy.y, trusted=np.arange(200) < 40, clean_labels=y)
    >>> learnt.mentor_
    <Mentor: mlp>
    """

    needs_every_class = False
    n_gradual, exponent, per_class = 0, 1.0, False  # of dropping by rank

    def __init__(
        self,
        net=None,
        *,
        mentor="predefined",
        percentile="auto",
        noise_rate="auto",
        decay=0.5,
        burn_in="auto",
        example_dropout="predefined",
        trusted_noise="auto",
        mentor_percentile=None,
        n_mentor_updates=0,
        use_trusted_in_training=True,
        scale_decay_by_weights=False,
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.mentor = mentor
        self.percentile = percentile
        self.noise_rate = noise_rate
        self.decay = decay
        self.burn_in = burn_in
        self.example_dropout = example_dropout
        self.trusted_noise = trusted_noise
        self.mentor_percentile = mentor_percentile
        self.n_mentor_updates = n_mentor_updates
        self.use_trusted_in_training = use_trusted_in_training
        self.scale_decay_by_weights = scale_decay_by_weights
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def set_params(self, **params):
        """Set parameters by name; ``mentor__*`` make a `Mentor` of ``"data_driven"``.

        Parameters
        ----------
        **params : dict
            As in scikit-learn, nested names included.

        Returns
        -------
        self
        """
        mentor = params.get("mentor", self.mentor)
        of_mentor = [name for name in params if name.startswith("mentor__")]
        if of_mentor and is_one_of(mentor, ("data_driven",)):
            params = params | {"mentor": Mentor()}
        elif of_mentor and not isinstance(mentor, Mentor):
            raise ValueError(
                f"{of_mentor[0]} needs mentor='data_driven' or a Mentor, not {mentor!r}."
            )
        return super().set_params(**params)

    @property
    def needs_trusted(self):
        """A data-driven mentor learns from rows whose true label is known."""
        return is_untrained(self._resolve_mentor())

    @with_callbacks
    def fit(self, X, y=None, *, trusted=None, clean_labels=None, X_val=None, y_val=None):
        """Train on `X` with labels of which some may be wrong and some are known.

        Parameters
        ----------
        X : array-like, tensor, data frame, torch Dataset or list of image paths
            As in the other methods: a table, images, or a source that is streamed.
        y : array-like of shape (n_samples,), optional
            Given labels of any kind that scikit-learn takes. None reads them from a `Dataset`.
        trusted : bool array-like of shape (n_samples,), optional
            True where the true label is known. Cross-validation slices it with the rows; with
            metadata routing ask for it by ``set_fit_request(trusted=True)``.
        clean_labels : array-like of shape (n_samples,), optional
            True labels, of the same kind as `y`, read where `trusted` is True only. Without it the
            trusted labels in `y` are taken for true.
        X_val, y_val : like `X` and `y`, optional
            Scored after every epoch, never trained on.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            Before any training, for data or parameters that cannot be used; ValueError also when
            the training loss stops being finite. The estimator is then unfitted.
        """
        return self._fit_or_forget(X, y, X_val, y_val, trusted=trusted, clean_labels=clean_labels)

    def _check_parameters(self):
        super()._check_parameters()
        self._resolve_mentor()
        if not is_auto(self.percentile):
            check_real(self.percentile, "percentile", 0, 1)
        if self.mentor_percentile is not None:
            check_real(self.mentor_percentile, "mentor_percentile", 0, 1)
        check_real(self.decay, "decay", 0, 1, closed="left")
        if isinstance(self.burn_in, Integral):
            check_integer(self.burn_in, "burn_in", 0)
        elif not is_auto(self.burn_in):
            check_real(self.burn_in, "burn_in", 0, 1, closed="left")
        if is_auto(self.percentile) and is_auto(self.noise_rate):
            refuse_no_burn_in(self.burn_in, "percentile", "give a number, or a noise_rate")
        self._resolve_dropout()
        if not is_one_of(self.trusted_noise, ("auto", "given", "synthetic")):
            raise ValueError(
                f"trusted_noise must be 'auto', 'given' or 'synthetic', got {self.trusted_noise!r}."
            )
        check_integer(self.n_mentor_updates, "n_mentor_updates", 0)
        check_bool(self.use_trusted_in_training, "use_trusted_in_training")
        check_bool(self.scale_decay_by_weights, "scale_decay_by_weights")

    def _resolve_mentor(self):
        """A rule, or a mentor of its own for this fit, which may not be trained yet."""
        mentor = self.mentor
        if isinstance(mentor, Mentor):
            mentor._check_parameters()
            return copy.deepcopy(mentor)
        if is_one_of(mentor, CURRICULA):
            return CURRICULA[mentor]
        if is_one_of(mentor, ("data_driven",)):
            return Mentor()
        if isinstance(mentor, str | os.PathLike):
            if not Path(mentor).is_file():
                raise ValueError(
                    "mentor must be 'predefined', 'self_paced', 'data_driven', a Mentor, the path "
                    f"of a saved one or a function; there is no file {str(mentor)!r}."
                )
            return Mentor.load(mentor)
        check_rule(mentor, "mentor")
        return mentor

    def _resolve_dropout(self):
        """Pairs (share of the training, rate)."""
        schedule = self.example_dropout
        if schedule is None:
            return [(1.0, 0.0)]
        if is_one_of(schedule, EXAMPLE_DROPOUT):
            return EXAMPLE_DROPOUT[schedule]
        error = ValueError(
            f"example_dropout must be one of {sorted(EXAMPLE_DROPOUT)}, None, or pairs (share of "
            f"the training, rate) of numbers in [0, 1] whose shares sum to 1, got {schedule!r}."
        )
        try:
            pairs = [(float(share), float(rate)) for share, rate in schedule]
        except (TypeError, ValueError):
            raise error from None
        inside = all(0 <= number <= 1 for pair in pairs for number in pair)
        if not inside or abs(sum(share for share, _ in pairs) - 1) > 1e-6:
            raise error
        return pairs

    def _check_run(self, run):
        memory, rows = run.memory, run.data.rows
        memory.trusted = rows.get("trusted")
        memory.true = rows.get("true", run.data.y)
        memory.train_rows = None
        if memory.trusted is not None and not self.use_trusted_in_training:
            memory.train_rows = (~memory.trusted).nonzero().squeeze(1)
            if len(memory.train_rows) == 0:
                raise ValueError("All rows are trusted; use_trusted_in_training=False leaves none.")
        memory.curriculum = self._resolve_mentor()
        if is_untrained(memory.curriculum):
            self._prepare_lesson(run)

    def _prepare_lesson(self, run):
        """What a data-driven mentor learns from."""
        memory, mentor = run.memory, run.memory.curriculum
        if mentor.random_state is None:
            mentor.random_state = int(run.rng.integers(2**31))
        rows = memory.trusted.nonzero().squeeze(1)
        y, true = run.data.y[rows], memory.true[rows]
        noise = self.trusted_noise
        if noise == "synthetic" or (noise == "auto" and "true" not in run.data.rows):
            rate = _SYNTHETIC_RATE if is_auto(self.noise_rate) else self.noise_rate
            y = with_wrong_labels(true, rate, run.n_classes, run.rng)
        memory.lesson = Lesson(rows, y, true)

    def _begin(self, run):
        super()._begin(run)
        memory = run.memory
        memory.schedule = self._resolve_dropout()
        memory.threshold = MovingPercentile(1.0, self.decay)
        memory.burn_in = memory.ramp_start = self._resolve_burn_in(run)
        memory.rate_epoch = max(1, memory.burn_in)
        if not is_auto(self.percentile):
            memory.rate = 1.0 - self.percentile
        elif memory.rate is not None:
            memory.rate = min(max(memory.rate, _SMALLEST_FORGOTTEN), _LARGEST_FORGOTTEN)
        self._plan_mentor(run)
        if self.scale_decay_by_weights:
            memory.weight_decay = DecayInLoss(run.learners[0])

    def _resolve_burn_in(self, run):
        n = run.max_epochs
        if not is_auto(self.burn_in):
            is_share = not isinstance(self.burn_in, Integral)
            epochs = math.ceil(self.burn_in * n - _ROUNDING) if is_share else self.burn_in
            return min(epochs, n - 1)
        least = math.ceil(_STEPS_BEFORE_DOUBT / run.steps_per_epoch)
        epochs = max(math.ceil(_BURN_IN * n), least)
        return min(epochs_before_doubt(epochs, self._shape, run.steps_per_epoch), n // 2)

    def _plan_mentor(self, run):
        """When a data-driven mentor is trained."""
        memory, mentor = run.memory, run.memory.curriculum
        memory.updates = []
        run.last_stage = memory.burn_in
        self.mentor_ = mentor if isinstance(mentor, Mentor) and mentor.is_trained else None
        if not is_untrained(mentor):
            return
        later = np.linspace(*_UPDATES, self.n_mentor_updates) * run.max_epochs
        later = [min(max(memory.burn_in + 1, round(e)), run.max_epochs - 1) for e in later]
        memory.updates = [memory.burn_in, *later]
        run.last_stage = max(memory.updates)

    def _estimate_rate(self, run):
        return min(super()._estimate_rate(run), _LARGEST_FORGOTTEN)

    def _share_to_drop(self, rate, epoch, n_epochs):
        return rate if epoch >= 0 else 0.0

    def _train_epoch(self, run, epoch):
        self._open_epoch(run, epoch)
        memory = run.memory
        memory.threshold.share = 1 - memory.forget
        if epoch in memory.updates:
            share = self.mentor_percentile
            share = memory.threshold.share if share is None else share
            memory.lesson.teach(memory.curriculum, run, share, percent(epoch, run.max_epochs))
            self.mentor_ = memory.curriculum
        if isinstance(memory.curriculum, Mentor) and memory.curriculum.is_trained:
            memory.curriculum._to(run.device)  # at once, not in the first batch
        keeps_all = memory.forget == 0 and memory.curriculum in CURRICULA.values()
        memory.weighs = epoch >= memory.burn_in and not keeps_all
        memory.selection.is_open &= memory.weighs
        order = None if memory.train_rows is None else run.shuffled(memory.train_rows)
        selected = n_batches = 0
        for batch, t in run.train_batches(epoch, order):
            loss, weights, mean_weight = self._weighted_loss(run, batch, t)
            run.step(loss, skip=~(weights > 0).any())
            selected, n_batches = selected + mean_weight, n_batches + 1
        run.log(selected=selected / n_batches)

    def _weighted_loss(self, run, batch, t):
        """Scalar loss, weights (batch,) without gradient, their mean before example dropout."""
        (net,), memory = run.learners, run.memory
        logits = net(run.view(batch.x))  # (batch, n_classes)
        run.observe(batch.index, logits)
        losses = cross_entropy(logits, batch.y)
        weights = self._weights(run, losses.detach(), percent(t, run.max_epochs))
        if memory.trusted is not None:
            weights = weights.masked_fill(memory.trusted[batch.index], 1.0)
            losses = cross_entropy(logits, memory.true[batch.index])
        memory.selection.add(batch.index, weights)
        mean_weight = weights.mean()
        rate = dropout_rate(memory.schedule, t / run.max_epochs)
        weights = example_dropout(weights, rate, run.generator)
        loss = (weights * losses).sum() / len(weights)
        if self.scale_decay_by_weights:
            loss = loss + weights.mean() * memory.weight_decay()
        return loss, weights, mean_weight

    def _weights(self, run, losses, progress):
        """Weights (batch,) for `losses` with the given labels; moves the threshold."""
        memory = run.memory
        if not memory.weighs:
            return torch.ones_like(losses)
        difference = losses - memory.threshold.update(losses)
        with torch.no_grad():  # a function may have parameters
            return memory.curriculum(losses, difference, progress).to(losses.dtype)

    def _finish(self, run):
        super()._finish(run)
        value = run.memory.threshold.value
        self.threshold_ = None if value is None else float(value)
        if self.scale_decay_by_weights:
            run.memory.weight_decay.give_back()
        if self.mentor_ is not None:
            self.mentor_ = self.mentor_._to(torch.device("cpu"))
