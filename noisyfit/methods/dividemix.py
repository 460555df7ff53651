"""DivideMix: two networks split the data for each other and train semi-supervised."""

import math

import torch
from torch import nn

from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import (
    check_bool,
    check_integer,
    check_real,
    check_splitter,
    check_view,
    is_auto,
)
from noisyfit._co_divide import CoDivideMixin
from noisyfit._divide import labelled_rows
from noisyfit._mixmatch import co_refine, mean_guess, mixmatch_loss, unlabelled_batches
from noisyfit._small_tables import mixing_alpha
from noisyfit._usual_views import resolve_strong
from noisyfit.augment import beta, mixup, random_permutation
from noisyfit.losses import confidence_penalty, cross_entropy, sharpen
from noisyfit.schedules import ramp

_LAMBDA_U_IF_MOST_ARE_WRONG = 5.0


class DivideMixClassifier(CoDivideMixin, BaseNoisyClassifier):
    """Two networks that divide the data for each other and learn semi-supervised.

    After a short plain training, every epoch fits a mixture of two Gaussians to the losses of each
    network. Rows with small losses keep their labels, in part; the others lose them and get the
    guess of both networks. On these two parts the *other* network is trained by MixMatch. Nothing
    about the noise needs to be known.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How both networks are trained; ``Network()`` by default. A step takes ``batch_size / 2``
        labelled rows and as many unlabelled ones. Cloned, never trained in place.
    warmup : "auto" or int, default="auto"
        Epochs of plain training before the first division. ``"auto"`` is 2 and a tenth of all, at
        most a third of them and at most 10; longer on tables with less than 8 columns, up to 200
        steps, for until a network has bent its border it contradicts right labels. Published: 10
        (CIFAR-10), 30 (CIFAR-100), 1 (Clothing1M, WebVision).
    threshold : float, default=0.5
        Labels with a larger clean posterior are used (tau). Published: 0.6 at 90 % noise.
    temperature : float, default=0.5
        Sharpening of refined and guessed labels (T).
    alpha : "auto" or float, default="auto"
        Parameter of the Beta distribution of the mixing weight; 0 mixes nothing. ``"auto"`` is 4
        for images, as published for CIFAR, and 0.5 for tables, in proportion less below 32
        columns, where little room is between the classes. Published: 0.5 for Clothing1M and
        WebVision.
    lambda_u : "auto" or float, default="auto"
        Weight of the unlabelled part. ``"auto"`` is 0 unless the first division calls more than
        half of the labels wrong, then 5. Published for CIFAR-10: 0 at 20 % symmetric and 40 %
        asymmetric noise, 25 at 50 and 80 %, 50 at 90 %; for CIFAR-100 25 at 20 %, else 150. The
        script's default 25 costs 4 to 10 points where 0 is right, among them human labels.
    ramp_up : float, default=16
        Epochs over which `lambda_u` rises from 0 after the warm-up.
    lambda_r : float, default=1.0
        Weight of the penalty on unbalanced predictions.
    confidence_penalty : float, default=0.0
        Weight of the negative entropy in the warm-up; 1 for asymmetric noise as published.
    n_views : int, default=2
        Random views of each row (M).
    loss_history : int, default=1
        Epochs whose losses are averaged before the division; 5 is published for 90 % noise. At
        80 % that gained ten points on digits, where the division is unsteady, and lost seven on
        MNIST in 12 epochs, where old losses hold it back.
    splitter : splitter of `noisyfit.mixtures`, optional
        Divides the min-max scaled losses; by default the published Gaussian mixture.
    guards : bool, default=True
        Keep clean data whole: labels are not doubted where both networks agree with the doubted
        ones more often than chance, and every given class keeps a share of the believed rows. In
        the evidence, where the networks contradict most of the labels that the mixture believes,
        contradicted labels are doubted. False is as published.
    guess_mode : {"auto", "train", "eval"}, default="auto"
        Mode of the trained network while it guesses. ``"train"`` is as published; ``"auto"`` is
        ``"eval"`` for modules with dropout or 1-d batch normalisation, else ``"train"``.
    skip_unlabelled_forward : bool, default=False
        Train on the labelled rows of the mixture only, as for Clothing1M and WebVision. Cheaper
        where `lambda_u` is 0.
    class_prior : "auto", None or array-like of shape (n_classes,), default="auto"
        Expected shares of the classes for the penalty. None is uniform, as published. ``"auto"``
        is uniform too, unless a given class holds less than half of an equal share; then it is
        the shares of the given labels.
    epoch_rows : int, optional
        Work on a fresh class-balanced subset of this size in each epoch, twice as many in the
        warm-up (Clothing1M: 32000).
    ensemble : {"logits", "proba", "first", "second"}, default="logits"
        Average of the networks in prediction, or one of them.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``. ``"auto"`` shifts images at random (and
        mirrors colour images) and leaves tables alone, whose views are then equal.
    strong_augment : None, "auto" or callable, optional
        Another random view, of the rows that are mixed and learnt from; labels are guessed and
        losses compared on views of `augment` (AugDesc). ``"auto"`` adds `AutoAugment` to it for
        images of 8 pixels or more. By default both are the same.
    pretrain : "auto", SimCLR, module, state dict or path, optional
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder; ``"auto"`` is ``SimCLR()`` for images. By default they start at random.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: the posterior of the final division (``"auto"``), how often
        the networks predicted the given label, its final probability, or a splitter of
        `noisyfit.mixtures` on one minus the second.
    random_state : int, RandomState instance or None, default=None
        Seed of starts, order, mixing, augmentation and dropout.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in sorted order.
    clean_proba_ : ndarray of shape (n_samples,)
        Mean of both networks' posteriors that the given label is right, in [0, 1].
    clean_proba_per_net_ : ndarray of shape (2, n_trained)
        The same for each network, for the rows that were trained on.
    refined_labels_ : ndarray of shape (n_samples,)
        Arg max of ``refined_proba_``, of the kind of labels given to `fit`.
    refined_proba_ : ndarray of shape (n_samples, n_classes)
        Sharpened mean of given label and prediction, weighed by ``clean_proba_``; the sharpened
        prediction alone for doubted labels. Rows sum to 1.
    noise_rate_ : float
        Estimated share of wrong labels, ``1 - clean_proba_.mean()``.
    lambda_u_ : float
        Weight that was used.
    losses_ : ndarray of shape (2, n_trained)
        Losses of each network that the final division saw, scaled to [0, 1].
    mixture_history_ : list of dict
        Components and convergence of the mixture by epoch and network, the final division last.
    dynamics_ : dict of ndarrays of shape (n_samples,)
        ``n_seen``, ``wrong_events``, ``margin`` and ``proba`` of the given labels, averaged over
        the training passes of the warm-up and the evaluations that precede each division.
    nets_ : list of skorch nets
        The two trained networks.
    history_ : list of dict
        One row per epoch, with ``n_labelled_1`` and ``n_labelled_2``, the rows whose labels each
        network used.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Warns
    -----
    UserWarning
        Once per fit, if a division is degenerate: constant losses, hardly any believed label, or
        one network that believes ten times as many labels as the other.

    Notes
    -----
    Where paper and published code differ, the code is followed, to which the published settings
    belong: the squared error is averaged over the classes too, a batch is half labelled and half
    unlabelled, and the logits of both networks are averaged. Not followed: exactly ``max_epochs``
    epochs are run, and everything is seeded. An unlabelled batch is never cut short; the stream
    goes on with a new shuffle.

    References
    ----------
    Li, Socher, Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised Learning",
    ICLR 2020.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import DivideMixClassifier, Network
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> noisy = sym_excl(y, 0.2, random_state=0)
    >>> clf = DivideMixClassifier(Network(max_epochs=20), random_state=0).fit(X, noisy.y)
    >>> clf.score(X, y) > 0.8
    True
    >>> bool(noisy.changed[clf.label_issues()].mean() > 0.6)
    True
    """

    n_networks = 2

    def __init__(
        self,
        net=None,
        *,
        warmup="auto",
        threshold=0.5,
        temperature=0.5,
        alpha="auto",
        lambda_u="auto",
        ramp_up=16,
        lambda_r=1.0,
        confidence_penalty=0.0,
        n_views=2,
        loss_history=1,
        splitter=None,
        guards=True,
        guess_mode="auto",
        skip_unlabelled_forward=False,
        class_prior="auto",
        epoch_rows=None,
        ensemble="logits",
        augment="auto",
        strong_augment=None,
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.warmup = warmup
        self.threshold = threshold
        self.temperature = temperature
        self.alpha = alpha
        self.lambda_u = lambda_u
        self.ramp_up = ramp_up
        self.lambda_r = lambda_r
        self.confidence_penalty = confidence_penalty
        self.n_views = n_views
        self.loss_history = loss_history
        self.splitter = splitter
        self.guards = guards
        self.guess_mode = guess_mode
        self.skip_unlabelled_forward = skip_unlabelled_forward
        self.class_prior = class_prior
        self.epoch_rows = epoch_rows
        self.ensemble = ensemble
        self.augment = augment
        self.strong_augment = strong_augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        check_view(self.strong_augment, "strong_augment")
        check_real(self.threshold, "threshold", 0, 1)
        check_real(self.temperature, "temperature", 0, closed="neither")
        for name in ("ramp_up", "lambda_r", "confidence_penalty", "alpha", "lambda_u"):
            if not is_auto(getattr(self, name)) or name not in ("alpha", "lambda_u"):
                check_real(getattr(self, name), name, 0)
        for name in ("guards", "skip_unlabelled_forward"):
            check_bool(getattr(self, name), name)
        for name in ("n_views", "loss_history"):
            check_integer(getattr(self, name), name, 1)
        if not is_auto(self.warmup):
            check_integer(self.warmup, "warmup", 0)
        if self.guess_mode not in ("auto", "train", "eval"):
            raise ValueError(
                f"guess_mode must be 'auto', 'train' or 'eval', got {self.guess_mode!r}."
            )
        if self.splitter is not None:
            check_splitter(self.splitter, "splitter")
        if self.epoch_rows is not None:
            check_integer(self.epoch_rows, "epoch_rows", 1)
            if self.loss_history > 1:
                raise ValueError(
                    "epoch_rows changes the rows of each epoch; loss_history must be 1."
                )

    def _check_run(self, run):
        memory = run.memory
        memory.warmup = run.last_stage = self._warmup_epochs(run)
        memory.prior = self._prior(run)
        memory.strong = resolve_strong(self.strong_augment, run, self)

    def _begin(self, run):
        memory = run.memory
        memory.losses = [[] for _ in run.learners]  # scaled, of each epoch
        memory.lambda_u = None if is_auto(self.lambda_u) else float(self.lambda_u)
        memory.guess_in_eval = self._guesses_in_eval(run.learners[0].module)
        by_default = mixing_alpha(0.5 if self._on_table else 4.0, self._shape)
        memory.alpha = by_default if is_auto(self.alpha) else self.alpha
        memory.warned = False
        self.mixture_history_ = []

    def _guesses_in_eval(self, module):
        if self.guess_mode != "auto":
            return self.guess_mode == "eval"
        return any(
            isinstance(layer, nn.BatchNorm1d)
            or (isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0)
            for layer in module.modules()
        )

    def _train_epoch(self, run, epoch):
        if epoch < run.memory.warmup:
            for learner in run.learners:
                self._warm_up(run, learner, epoch)
            return
        divisions = [self._divide(run, k, epoch) for k in range(2)]  # before a network changes
        parts = self._guarded(run, divisions)
        self._check_collapse(run, [clean for _, clean in parts])
        if run.memory.lambda_u is None:
            wrong = torch.cat([clean <= self.threshold for _, clean in parts]).float().mean()
            run.memory.lambda_u = _LAMBDA_U_IF_MOST_ARE_WRONG if wrong > 0.5 else 0.0
        for k, (rows, clean) in enumerate(reversed(parts)):  # each learns on its peer's division
            self._semi_supervised_epoch(run, k, rows, clean, epoch)

    def _finish(self, run):
        self.lambda_u_ = float(run.memory.lambda_u or 0.0)

    def _warm_up(self, run, learner, epoch):
        rows = None if self.epoch_rows is None else self._rows(run, 2 * self.epoch_rows)
        for batch, _ in run.train_batches(epoch, run.shuffled(rows), learners=[learner]):
            logits = learner(run.view(batch.x))
            run.observe(batch.index, logits)
            loss = cross_entropy(logits, batch.y).mean()
            if self.confidence_penalty:
                loss = loss + self.confidence_penalty * confidence_penalty(logits).mean()
            run.step(loss, [learner])

    def _semi_supervised_epoch(self, run, k, rows, clean, epoch):
        net, peer = run.learners[k], run.learners[1 - k]
        net.train()
        peer.eval()
        size = max(1, run.batch_size // 2)
        n_min = min(len(clean), max(run.n_classes, size))
        labelled = labelled_rows(clean, self.threshold, n_min)
        if (clean > self.threshold).sum() < n_min <= len(clean) // 4:
            self._warn(run, f"fewer than {n_min} labels are believed")
        rows = torch.arange(len(clean), device=run.device) if rows is None else rows
        trust = torch.zeros(len(run.data), device=run.device).index_copy_(0, rows, clean)
        x_rows, u_rows = rows[labelled], rows[~labelled]
        run.log(**{f"n_labelled_{k + 1}": len(x_rows)})
        n_batches = math.ceil(len(x_rows) / size)
        n_ramp = len(x_rows) // size + 1  # N_b
        weights = beta(run.memory.alpha, n_batches, run.rng).tolist()
        unlabelled = unlabelled_batches(run, u_rows, size, n_batches)
        labelled_batches = run.train_batches(epoch, run.shuffled(x_rows), size, [net])
        for b, (batch, _) in enumerate(labelled_batches):
            rise = ramp(epoch + b / n_ramp, run.memory.warmup, self.ramp_up)
            lam = max(weights[b], 1 - weights[b])
            loss = self._batch_loss(
                run, net, peer, batch, trust[batch.index], next(unlabelled), lam, rise
            )
            run.step(loss, [net])

    def _batch_loss(self, run, net, peer, batch, clean, batch_u, lam, rise):
        in_eval, strong = run.memory.guess_in_eval, run.memory.strong
        with torch.no_grad():
            views = self._views(run, batch)
            guess = mean_guess(net, views, in_eval)
            guesses = [guess] * self.n_views
            targets = [co_refine(batch.y, guess, clean, self.temperature)] * self.n_views
            learnt = views if strong is None else self._views(run, batch, strong)
            if batch_u is not None:
                views = self._views(run, batch_u)
                guess = (mean_guess(net, views, in_eval) + mean_guess(peer, views)) / 2
                guesses += [guess] * self.n_views
                targets += [sharpen(guess, self.temperature)] * self.n_views
                learnt = learnt + (views if strong is None else self._views(run, batch_u, strong))
            x, target = torch.cat(learnt), torch.cat(targets)
            partner = random_permutation(len(x), run.generator)
            lam = self._mixing_weight(lam, guesses)
            x, target = mixup(x, lam, partner), mixup(target, lam, partner)
        n_labelled = self.n_views * len(batch.y)
        logits = net(x[:n_labelled] if self.skip_unlabelled_forward else x)
        lambda_u = run.memory.lambda_u * rise
        return mixmatch_loss(logits, target, n_labelled, lambda_u, self.lambda_r, run.memory.prior)

    def _views(self, run, batch, augment=None):
        return [run.view(batch.x, augment) for _ in range(self.n_views)]

    def _mixing_weight(self, lam, guesses):
        """Weight of the row itself in its mixture, a float or (n_rows,), from `lam` of the batch.

        `guesses` are the unsharpened ones (batch, n_classes) of all parts of the rows.
        """
        return lam
