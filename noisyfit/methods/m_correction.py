"""M-correction: a beta mixture on the losses moves targets from labels to predictions."""

import warnings

import torch
from sklearn.base import clone
from torch.nn import functional

from noisyfit._base import BaseNoisyClassifier
from noisyfit._bootstrap_mix import (
    VARIANTS,
    bootstrap_target,
    class_shares,
    cooling_epochs,
    corrected_loss,
    guided_mix,
    mixed_corrected_loss,
    phase_starts,
    plain_epochs,
    predictions,
    soft_to_hard_temperature,
)
from noisyfit._checks import check_bool, check_integer, check_real, check_splitter, is_auto
from noisyfit._divide import agreement_with_doubted
from noisyfit._small_tables import epochs_before_doubt, mixing_alpha
from noisyfit.augment import beta, mixup, random_permutation
from noisyfit.losses import class_balance_penalty, cross_entropy
from noisyfit.mixtures import BetaMixtureSplitter

_NO_FIT = 0.5  # probability of a wrong label before there is a mixture
_EDGE = 1e-4
_SMALLEST_SPREAD = 2e-5  # of losses that a mixture can divide
_SMALLEST_WEIGHT = 1e-3  # of a component
_GUIDED_ALPHA = 32.0


class MCorrectionClassifier(BaseNoisyClassifier):
    """One network whose targets are corrected sample by sample, trained with mixup.

    After plain training, every epoch fits a mixture of two betas to the losses. For each row it
    gives the probability w that the label is wrong, and the target becomes ``1 - w`` parts given
    label and ``w`` parts the network's own prediction (bootstrapping). mixup keeps the network
    from memorising wrong labels, and a penalty from predicting one class only.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained; ``Network()`` by default. Cloned, never trained in place.
    variant : str, default="M-DYR-H"
        A row of the paper's tables, in any case. "CE" and "M" (mixup): given labels only. "ST-S",
        "ST-H": one w for all. "DY-S", "DY-H": w from the mixture. "M-DYR-S", "M-DYR-H": with
        mixup and penalty. "MD-DYR-H", "MD-DYR-SH": pairs mixed in proportion to ``1 - w`` as
        well. S takes the softmax as prediction, H its arg max, SH goes from the one to the other.
        The default is best at 20 to 80 % noise, "MD-DYR-SH" at 90 % or with 100 classes.
    bootstrap_start : "auto" or int, default="auto"
        First epoch with corrected targets, counted from 1. ``"auto"`` is after 35 % of all, 25 %
        without mixup; later on tables with less than 8 columns, after up to 80 %, for until a
        network has bent its border it contradicts right labels. Published: 106 of 300, for
        "MD" 111.
    guided_start : "auto" or int, default="auto"
        First epoch with guided mixing, counted from 1, for "MD". ``"auto"`` is one sixtieth of all
        epochs before `bootstrap_start`. Published: 106 of 300.
    alpha : "auto" or float, default="auto"
        The weight of a row in plain mixup is drawn from Beta(alpha, alpha); 0 mixes nothing.
        ``"auto"`` is 8 for images that are not augmented, else 1, in proportion less below 32
        columns. Published: 32, which takes longer training.
    static_weight : "auto" or float in [0, 1], default="auto"
        w of "ST". ``"auto"`` is as published: 0.05 for "ST-S", 0.2 for "ST-H".
    lambda_r : float, default=1.0
        Weight of the penalty on unbalanced predictions (eta), in corrected epochs with mixup.
    class_prior : "auto" or array-like of shape (n_classes,), default="auto"
        Expected shares of the classes for the penalty. ``"auto"`` takes those of the given labels;
        the published ones are equal.
    temperature_epochs : "auto" or int, default="auto"
        Epochs in which the temperature of "SH" falls from 1 to 0.001. ``"auto"`` is 89 / 190 of
        those with corrected targets; published: 89.
    splitter : splitter of `noisyfit.mixtures`, optional
        Divides the losses; by default ``BetaMixtureSplitter(preset="official")``.
    lookup : int, optional
        Points of the table from which the default mixture reads probabilities; 100 as in the
        published code, None computes them exactly.
    track_augment : bool, default=False
        Evaluate the losses on random views, as published, instead of the rows as they are.
    guards : bool, default=True
        Keep clean data whole: the mixture corrects no label in an epoch that follows one in which
        the network agreed with the doubted labels more often than by chance; the static w of "ST"
        stays. False is as published.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``, before mixing. ``"auto"`` shifts images
        at random (and mirrors colour images) and leaves tables alone.
    pretrain : "auto", SimCLR, module, state dict or path, optional
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder; ``"auto"`` is ``SimCLR()`` for images. By default they start at random.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: the posterior of the last mixture (``"auto"``; as ``"history"``
        where there is none or the guard holds), how often the network predicted the given label,
        its final probability, or a splitter of `noisyfit.mixtures` on one minus the second.
    random_state : int, RandomState instance or None, default=None
        Seed of start, order, mixing, augmentation and dropout.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in sorted order.
    clean_proba_ : ndarray of shape (n_samples,)
        How likely each given label is right, ``1 - w``.
    refined_labels_ : ndarray of shape (n_samples,)
        Arg max of ``refined_proba_``, of the kind of labels given to `fit`.
    refined_proba_ : ndarray of shape (n_samples, n_classes)
        The corrected targets at the end; the given labels for "CE" and "M". Rows sum to 1.
    noise_rate_ : float
        Estimated share of wrong labels, ``1 - clean_proba_.mean()``.
    bmm_ : dict or None
        Components of the last mixture (``alphas``, ``betas``, ``means``, ``weights``, clean one
        first) on the losses scaled from ``lo`` to ``hi``; None if the losses never spread.
    mixture_history_ : list of dict
        The same for every epoch.
    losses_ : ndarray of shape (1, n_trained)
        Losses after the last epoch on the axis of the last mixture, where most of them lie in
        [0, 1].
    dynamics_ : dict of ndarrays of shape (n_samples,)
        ``n_seen``, ``wrong_events``, ``margin`` and ``proba`` of the given labels, averaged over
        the evaluations that end the epochs.
    nets_ : list of skorch nets
        The trained network.
    history_ : list of dict
        One row per epoch, with ``doubted``, the share of labels more likely wrong than right, once
        there is a mixture.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Warns
    -----
    UserWarning
        Once per fit, if a component of the mixture comes out empty. The last sound mixture is then
        kept; before the first, w is 1/2.

    Notes
    -----
    Where paper and published code differ, the code is followed: losses are scaled by their 5th and
    95th percentile, w is taken in evaluation mode and the prediction in training mode on the
    unmixed view, and with guided mixing both labels of a pair weigh one half. Not followed: losses
    are tracked on rows as they are (see `track_augment`), and both extra passes keep no graph.
    The labels of guided pairs before the correction starts are weighed by draws from Beta(32, 32)
    whatever `alpha`, for the inputs do not follow the draw.

    An epoch costs a third more than plain training, two thirds more with guided mixing or
    "DY" corrections, and twice as much with mixup and corrections.

    In two or three columns the correction can cost points: it repeats what a border that has not
    bent yet gets wrong. There plain mixup (``variant="M"``) is safer.

    References
    ----------
    Eric Arazo, Diego Ortego, Paul Albert, Noel E. O'Connor, Kevin McGuinness. Unsupervised Label
    Noise Modeling and Loss Correction. ICML 2019.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import MCorrectionClassifier, Network
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, n_features=8, centers=3, random_state=0)
    >>> noisy = sym_excl(y, 0.2, random_state=0)
    >>> clf = MCorrectionClassifier(Network(max_epochs=20), random_state=0).fit(X, noisy.y)
    >>> clf.score(X, y) > 0.9
    True
    >>> bool(noisy.changed[clf.label_issues()].mean() > 0.6)
    True
    """

    def __init__(
        self,
        net=None,
        *,
        variant="M-DYR-H",
        bootstrap_start="auto",
        guided_start="auto",
        alpha="auto",
        static_weight="auto",
        lambda_r=1.0,
        class_prior="auto",
        temperature_epochs="auto",
        splitter=None,
        lookup=None,
        track_augment=False,
        guards=True,
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.variant = variant
        self.bootstrap_start = bootstrap_start
        self.guided_start = guided_start
        self.alpha = alpha
        self.static_weight = static_weight
        self.lambda_r = lambda_r
        self.class_prior = class_prior
        self.temperature_epochs = temperature_epochs
        self.splitter = splitter
        self.lookup = lookup
        self.track_augment = track_augment
        self.guards = guards
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        name = self.variant.upper() if isinstance(self.variant, str) else None
        if name not in VARIANTS:
            raise ValueError(f"variant must be one of {list(VARIANTS)}, got {self.variant!r}.")
        for name in ("bootstrap_start", "guided_start", "temperature_epochs"):
            if not is_auto(getattr(self, name)):
                check_integer(getattr(self, name), name, 1)
        if not is_auto(self.alpha):
            check_real(self.alpha, "alpha", 0)
        if not is_auto(self.static_weight):
            check_real(self.static_weight, "static_weight", 0, 1)
        check_real(self.lambda_r, "lambda_r", 0)
        for name in ("guards", "track_augment"):
            check_bool(getattr(self, name), name)
        if self.splitter is not None:
            check_splitter(self.splitter, "splitter")
        if self.lookup is not None:
            check_integer(self.lookup, "lookup", 2)
            if self.splitter is not None:
                raise ValueError("lookup belongs to the default mixture; set it on the splitter.")

    def _begin(self, run):
        memory = run.memory
        memory.variant = VARIANTS[self.variant.upper()]
        memory.guided_start, memory.boot_start = self._starts(run)
        run.last_stage = 0 if memory.variant.target is None else memory.boot_start
        by_default = mixing_alpha(1.0 if self._on_table or run.has_views else 8.0, self._shape)
        memory.alpha = by_default if is_auto(self.alpha) else self.alpha
        memory.prior = class_shares(self.class_prior, run.data.y, run.n_classes)
        by_default = cooling_epochs(run.max_epochs, memory.boot_start)
        memory.cooling = by_default if is_auto(self.temperature_epochs) else self.temperature_epochs
        memory.splitter, memory.warned = None, False
        memory.doubts = torch.ones((), dtype=torch.bool, device=run.device)
        self.bmm_, self.mixture_history_ = None, []

    def _starts(self, run):
        """Zero-based epochs from which inputs are mixed by the mixture and targets corrected."""
        n, variant = run.max_epochs, run.memory.variant
        guided, boot = (self._start(name, n) for name in ("guided_start", "bootstrap_start"))
        plain = plain_epochs(
            n,
            variant.mixing is not None,
            lambda epochs: epochs_before_doubt(epochs, self._shape, run.steps_per_epoch),
        )
        if variant.mixing != "guided":
            return n, plain if boot is None else boot
        guided, boot = phase_starts(n, plain, guided, boot)
        if guided > boot:
            raise ValueError(f"guided_start={guided + 1} lies after bootstrap_start={boot + 1}.")
        return guided, boot

    def _start(self, name, max_epochs):
        value = getattr(self, name)
        if is_auto(value):
            return None
        if value > max_epochs:
            raise ValueError(f"{name}={value} lies beyond the training of max_epochs={max_epochs}.")
        return value - 1

    def _train_epoch(self, run, epoch):
        memory = run.memory
        memory.guided = epoch >= memory.guided_start
        memory.boot = memory.variant.target is not None and epoch >= memory.boot_start
        memory.temperature = soft_to_hard_temperature(
            max(0, epoch - memory.boot_start), memory.cooling
        )
        alpha = _GUIDED_ALPHA if memory.guided else memory.alpha
        deltas = beta(alpha, len(run.data), run.rng)  # more than there are batches
        memory.deltas = iter(deltas[: run.steps_per_epoch].tolist())
        super()._train_epoch(run, epoch)

    def _loss(self, run, batch, t):
        (net,) = run.learners
        x, y, memory = run.view(batch.x), batch.y, run.memory
        w = self._wrong(run, net, x, y)
        if memory.variant.mixing is None:
            return self._unmixed_loss(run, net(x), y, w)
        if memory.boot:
            target = self._target(run, predictions(net, x, in_eval=False))
        delta, partner = next(memory.deltas), self._partners(run, len(y))
        x = guided_mix(x, w, partner) if memory.guided else mixup(x, delta, partner)
        logits = net(x)  # (batch, n_classes)
        if not memory.boot:
            rows, partners = cross_entropy(logits, y), cross_entropy(logits, y[partner])
            return (delta * rows + (1 - delta) * partners).mean()
        delta = 0.5 if memory.guided else delta
        loss = mixed_corrected_loss(logits, (y, target, w), partner, delta).mean()
        return loss + self.lambda_r * class_balance_penalty(logits, memory.prior)

    def _unmixed_loss(self, run, logits, y, w):
        if not run.memory.boot:
            return cross_entropy(logits, y).mean()
        return corrected_loss(logits, y, self._target(run, logits), w).mean()

    def _target(self, run, logits):
        return bootstrap_target(logits, run.memory.variant.target, run.memory.temperature)

    def _partners(self, run, n):
        if run.memory.alpha == 0 and not run.memory.guided:  # the order of plain training
            return torch.arange(n, device=run.device)
        return random_permutation(n, run.generator)

    def _wrong(self, run, net, x, y):
        """Probability (batch,) that each label is wrong; None in epochs that do not ask."""
        memory = run.memory
        if not (memory.guided or memory.boot):
            return None
        if memory.variant.weighting == "static":
            return torch.full(y.shape, self._static_weight(run), device=y.device)
        if memory.splitter is None:
            return torch.full(y.shape, _NO_FIT, device=y.device)
        losses = cross_entropy(predictions(net, x, in_eval=True), y)
        wrong = 1 - memory.splitter.transform_tensor(losses)
        return wrong.clamp(_EDGE, 1 - _EDGE) * memory.doubts

    def _static_weight(self, run):
        own = run.memory.variant.static_weight
        return own if is_auto(self.static_weight) else self.static_weight

    def _end_epoch(self, run, epoch):
        (net,) = run.learners
        memory, y = run.memory, run.data.y
        logits = self._tracked_logits(run, net)
        run.observe(torch.arange(len(y), device=run.device), logits)
        losses = memory.losses = cross_entropy(logits, y)
        if not torch.isfinite(losses).all():
            raise ValueError(
                f"The losses are not finite in epoch {epoch + 1}; lower net__lr or set "
                "net__gradient_clip."
            )
        self._fit_mixture(run, losses, epoch)
        if memory.splitter is None:
            return
        clean = memory.splitter.transform_tensor(losses)
        if self.guards:
            memory.doubts = agreement_with_doubted(clean, logits, y, 0.5) <= 1 / run.n_classes
        run.log(doubted=((clean < 0.5) & memory.doubts).float().mean())

    def _tracked_logits(self, run, net):
        if not (self.track_augment and run.has_views):
            return run.evaluate(net)
        net.eval()
        with torch.no_grad():
            batches = run.data.batches(run.data.evaluation_size)
            return torch.cat([net(run.view(batch.x)) for batch in batches])

    def _fit_mixture(self, run, losses, epoch):
        """Fit to the losses (n,), or keep the last mixture where they cannot be divided."""
        low, high = losses.aminmax()
        if high - low < _SMALLEST_SPREAD:
            return
        splitter = clone(
            self.splitter or BetaMixtureSplitter(preset="official", lookup=self.lookup)
        )
        splitter.fit_tensor(losses)
        if not splitter.weights_.min() >= _SMALLEST_WEIGHT:  # not a number counts as empty
            self._warn(run, epoch)
            return
        run.memory.splitter = splitter
        fitted = splitter.components()
        low, span = fitted.pop("offset"), fitted.pop("span")
        fitted |= {"lo": low, "hi": low + span}
        self.bmm_ = fitted
        # losses_ lie on the scaled axis already
        record = {"epoch": epoch + 1, "net": 1, "offset": 0.0, "span": 1.0}
        self.mixture_history_.append(record | fitted)

    def _warn(self, run, epoch):
        if run.memory.warned:
            return
        run.memory.warned = True
        warnings.warn(
            f"M-correction: a component of the mixture was empty after epoch {epoch + 1}; the last "
            "sound mixture, if any, is used.",
            UserWarning,
            stacklevel=2,
        )

    def _finish(self, run):
        memory = run.memory
        if memory.splitter is None:
            scaled = torch.zeros_like(memory.losses)
        else:
            scaled = (memory.losses - memory.splitter.offset_) / memory.splitter.span_
        self.losses_ = scaled[None].cpu().numpy()

    def _posterior(self, run, logits):
        memory = run.memory
        if memory.splitter is None:
            return None
        losses = cross_entropy(logits[0], run.data.y)
        clean = memory.splitter.transform_tensor(losses).clamp(_EDGE, 1 - _EDGE)
        return torch.where(memory.doubts, clean, run.dynamics.agreement())

    def _refined_proba(self, run, rows, logits, clean_proba):
        memory = run.memory
        given = functional.one_hot(run.data.y[rows], run.n_classes).to(clean_proba.dtype)
        if memory.variant.target is None:
            return given
        w = 1 - clean_proba
        if memory.variant.weighting == "static":
            w = torch.full_like(w, self._static_weight(run))
        return torch.lerp(given, self._target(run, logits[0]), w[:, None])
