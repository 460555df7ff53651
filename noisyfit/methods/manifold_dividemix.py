"""Manifold DivideMix: DivideMix for wrong labels and rows of no class, with mixed embeddings."""

import math
import warnings
from functools import partial

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import (
    check_bool,
    check_integer,
    check_real,
    check_splitter,
    check_view,
    is_auto,
    is_one_of,
)
from noisyfit._co_divide import CoDivideMixin
from noisyfit._divide import agreement_with_doubted, labelled_rows
from noisyfit._gaussian_em import usual_bins
from noisyfit._head import last_linear
from noisyfit._learner import precision_of
from noisyfit._mixematch import (
    Encoder,
    batch_norms,
    confident,
    farthest,
    masked_mean,
    mixed_loss,
    projection_head,
    rows_set_aside,
    scaled_by,
    soft_sce,
    without_meaning,
)
from noisyfit._mixmatch import co_refine, unlabelled_batches
from noisyfit._random import spawn_seeds
from noisyfit._run import forward_all
from noisyfit._small_tables import mixing_alpha
from noisyfit._usual_views import resolve_strong
from noisyfit.augment import beta, mixup, random_permutation
from noisyfit.losses import (
    class_balance_penalty,
    cross_entropy,
    nt_xent,
    sce,
    sharpen,
    soft_cross_entropy,
)
from noisyfit.mixtures import GaussianMixtureSplitter, sample_kinds
from noisyfit.outliers import KNNOutlierFilter, count_of, knn_distances
from noisyfit.schedules import ramp

_PUBLISHED_DIVISIONS = 30  # in all epochs, one in ten of 300
_BACKBONE_LR = 0.1
_OOD_SHARE = 0.02  # of all rows that are set aside whatever their labels say
_N_PROJECTED = 128
_MAX_ITER = 20  # of the mixture
_NUMBERS = ("ramp_up", "lambda_e", "lambda_r")


class ManifoldDivideMixClassifier(
    CoDivideMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseNoisyClassifier
):
    """DivideMix with one network, mixed embeddings too, and rows of no class set aside.

    Some rows have no right label: they are of no class at all. In the features of a self-supervised
    start they lie far from their neighbours. The farthest are set aside; a mixture of the losses
    divides the rest, and the network learns from both parts by MixMatch, on mixed strong views and
    on their mixed embeddings. Which rows are set aside is decided anew at each division.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained; ``Network()`` by default. Its module must end in a
        `torch.nn.Linear`. A step takes ``batch_size / 2`` labelled rows and as many unlabelled
        ones. Cloned, never trained in place.
    warmup : "auto" or int, default="auto"
        Epochs of plain training before the first division. ``"auto"`` is 2 and a tenth of all, at
        most a third of them and at most 10; longer on tables with less than 8 columns, up to 200
        steps. Published: 20 of 300 (CIFAR), 10 of 50 (mini-ImageNet).
    redivide_every : "auto", int or None, default="auto"
        Epochs between divisions. ``"auto"`` is a thirtieth of all epochs, None divides once.
        Published: 10.
    threshold : float in [0, 1], default=0.3
        Labels with a larger clean posterior are used (tau).
    temperature : float, default=0.5
        Sharpening of refined and guessed labels (T).
    confidence : float, default=0.9
        Guessed labels count where the largest sharpened share is at least this (c); elsewhere a
        row takes part as the partner of others only.
    alpha : "auto" or float, default="auto"
        Parameter of the Beta distribution of the mixing weight; 0 mixes nothing. ``"auto"`` is 4
        for images, as published, and 0.5 for tables, in proportion less below 32 columns.
    lambda_u : "auto" or float, default="auto"
        Weight of the unlabelled part. ``"auto"`` is 25 for a network that starts pre-trained, else
        5. Published: 100, for encoders that were trained far longer. On 1200 images of CIFAR-10
        with 40 epochs of SimCLR it cost 6 points against 25; on digits at 90 % noise it gained 5
        against 5. It kept small tables from being learnt (63 instead of 84 % on a clean one of 400
        rows and 20 columns).
    lambda_e : float, default=1.0
        Weight of the losses on mixed embeddings; 0 saves the pass through the labelled rows that
        are not mixed.
    lambda_c : "auto" or float, default="auto"
        Weight of the contrastive loss between two views of the unlabelled rows. ``"auto"`` is 1,
        as published, for a network that starts pre-trained, else 0: features from scratch are torn
        apart by it (digits as images at 50 % noise: 37 instead of 95 %).
    lambda_r : float, default=1.0
        Weight of the penalty on unbalanced predictions.
    ramp_up : float, default=16
        Epochs over which `lambda_u` rises from 0 after the warm-up.
    contrastive_temperature : float, default=0.05
        Of the contrastive loss.
    loss : {"auto", "sce", "ce"}, default="auto"
        Of labelled rows, in the warm-up too: symmetric cross-entropy or cross-entropy. ``"auto"``
        is the first, as published, for a network that starts pre-trained, else the second, which
        learns faster from scratch.
    rce : {"code", "standard"}, default="code"
        Reverse part of the symmetric cross-entropy with soft targets: as in the authors' code, with
        the softmax of the target in place of its logarithm, or as usually defined, nine times as
        steep.
    ood_share : "auto", float in [0, 1) or None, default="auto"
        Largest share of the rows that is set aside. ``"auto"`` goes by the labels: as many of the
        farthest rows as have labels that the network finds no more often than by chance, and in
        training 2 % more. None, as published, sets no bound: 38 % at the end of the published
        settings for CIFAR, whatever the noise.
    ood_initial : float in [0, 1], default=0.01
        Share that is set aside at the start, if not more than `ood_share`. Published: 0.1 for
        CIFAR-100 with other images, 0.01 for mini-ImageNet.
    ood_step : float in [0, 1], default=0.01
        Share that each division adds, up to `ood_share`. Published: 0.01.
    n_neighbors : int, default=10
        Neighbours whose distance is averaged over.
    splitter : splitter of `noisyfit.mixtures`, optional
        Divides the min-max scaled losses; by default a Gaussian mixture of 20 steps, as published.
    gmm_exclude_ood : bool, default=False
        Fit the mixture without the rows that are set aside.
    guards : bool, default=True
        Keep clean data whole: labels are not doubted where the network agrees with the doubted ones
        more often than chance, and every given class keeps a share of the believed rows. False is
        as published.
    class_prior : "auto", None or array-like of shape (n_classes,), default="auto"
        Expected shares of the classes for the penalty. None is uniform, as published. ``"auto"``
        is uniform too, unless a given class holds less than half of an equal share; then it is
        the shares of the given labels.
    backbone_lr : "auto" or float, default="auto"
        Learning rate of all layers below the last, as a factor of that of the net. ``"auto"`` is
        0.1 for a network that starts pre-trained, else 1. Published: 0.01, for encoders that were
        trained far longer than the rest; after 40 epochs of SimCLR 0.1 gained 1.5 points on clean
        digits and 4 at 50 % noise.
    bn_mode : {"train", "frozen"}, default="train"
        ``"frozen"`` keeps batch norm in evaluation mode from the start, as in the authors' code.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``, for the warm-up and for guesses.
        ``"auto"`` shifts images at random (and mirrors colour images) and leaves tables alone.
    strong_augment : None, "auto" or callable, default="auto"
        Random view of what is mixed and learnt from. ``"auto"`` adds `AutoAugment` to the weak one
        for images of 8 pixels or more; None takes the same views as `augment`.
    pretrain : "auto", SimCLR, module, state dict or path, optional, default="auto"
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder. ``"auto"`` is ``SimCLR()`` for images, which takes longer than the rest, and
        nothing for tables. With None they start at random, and nothing is set aside before the
        first division.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: the posterior of the final division (``"auto"``), how often
        the network predicted the given label, its final probability, or a splitter of
        `noisyfit.mixtures` on one minus the second.
    random_state : int, RandomState instance or None, default=None
        Seed of starts, order, mixing and augmentation.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in sorted order.
    clean_proba_ : ndarray of shape (n_samples,)
        Posterior that the given label is right, in [0, 1]; 0 for rows of no class.
    gmm_clean_proba_ : ndarray of shape (n_samples,)
        The posterior of the mixture alone, for those rows too and before the guards.
    in_distribution_ : bool ndarray of shape (n_samples,)
        False for rows that are set aside as of no class.
    ood_score_ : ndarray of shape (n_samples,)
        How typical each row is of the others, in (0, 1], small for rows of no class.
    sample_kind_ : ndarray of shape (n_samples,), str
        "clean", "wrong label" or "out of distribution", see `noisyfit.mixtures.sample_kinds`.
    refined_labels_ : ndarray of shape (n_samples,)
        Arg max of ``refined_proba_``, of the kind of labels given to `fit`. They mean nothing where
        ``in_distribution_`` is False.
    refined_proba_ : ndarray of shape (n_samples, n_classes)
        Sharpened mean of given label and prediction, weighed by ``clean_proba_``; the sharpened
        prediction alone for doubted labels. Rows sum to 1.
    noise_rate_ : float
        Estimated share of wrong labels, ``1 - clean_proba_.mean()``; rows of no class count.
    losses_ : ndarray of shape (1, n_trained)
        Losses that the final division saw, scaled to [0, 1].
    mixture_history_ : list of dict
        Components and convergence of the mixture by epoch, the final division last.
    dynamics_ : dict of ndarrays of shape (n_samples,)
        ``n_seen``, ``wrong_events``, ``margin`` and ``proba`` of the given labels, averaged over
        the training passes of the warm-up and the evaluations that precede each division.
    nets_ : list of skorch nets
        The trained network.
    history_ : list of dict
        One row per epoch, with ``n_out``, the rows set aside, and after the warm-up
        ``n_labelled``, the rows whose labels are used.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Warns
    -----
    UserWarning
        Once per fit, if a division is degenerate (constant losses), and if `ood_share` leaves too
        few rows to fill batches and classes, so that less is set aside.

    Notes
    -----
    The article was at hand as a summary, and its code line by line. Where they differ the summary
    is followed: rows set aside do not teach in the warm-up (there they did), `lambda_u` rises from
    0 (there it began at full height), batch norm is trained (there it stayed frozen by oversight;
    `bn_mode`). The logits of mixed embeddings equal mixed logits, as the last layer is linear.

    The published amount that is set aside grows with time and has nothing to do with the data. On
    clean digits 10 % cost a point; by default up to 2 % take no part in training there, and none is
    called of no class in the end. The price is that a row of no class whose label the network has
    learnt stays, with a low ``ood_score_``. Each of ``ood_initial`` and ``ood_step`` bounds the
    amount too: short trainings cannot set many aside.

    An epoch costs 28 forward passes a labelled row: four guesses, a step on four strong views and
    one on four mixed rows. A division costs one pass, and the neighbours of n rows n**2 times the
    size of an embedding multiplications. For `pretrain` see `SimCLR`. At ``batch_size=128`` a step
    holds the activations of 512 rows.

    References
    ----------
    Fooladgar, To, Mousavi, Abolmaesumi, "Manifold DivideMix: A Semi-Supervised Contrastive Learning
    Framework for Severe Label Noise", CVPR Workshops 2024.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import ManifoldDivideMixClassifier, Network
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> noisy = sym_excl(y, 0.2, random_state=0)
    >>> clf = ManifoldDivideMixClassifier(Network(max_epochs=20), random_state=0).fit(X, noisy.y)
    >>> clf.score(X, y) > 0.8
    True
    >>> clf.predict_ood(X).shape
    (200,)
    """

    def __init__(
        self,
        net=None,
        *,
        warmup="auto",
        redivide_every="auto",
        threshold=0.3,
        temperature=0.5,
        confidence=0.9,
        alpha="auto",
        lambda_u="auto",
        lambda_e=1.0,
        lambda_c="auto",
        lambda_r=1.0,
        ramp_up=16,
        contrastive_temperature=0.05,
        loss="auto",
        rce="code",
        ood_share="auto",
        ood_initial=0.01,
        ood_step=0.01,
        n_neighbors=10,
        splitter=None,
        gmm_exclude_ood=False,
        guards=True,
        class_prior="auto",
        backbone_lr="auto",
        bn_mode="train",
        augment="auto",
        strong_augment="auto",
        pretrain="auto",
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.warmup = warmup
        self.redivide_every = redivide_every
        self.threshold = threshold
        self.temperature = temperature
        self.confidence = confidence
        self.alpha = alpha
        self.lambda_u = lambda_u
        self.lambda_e = lambda_e
        self.lambda_c = lambda_c
        self.lambda_r = lambda_r
        self.ramp_up = ramp_up
        self.contrastive_temperature = contrastive_temperature
        self.loss = loss
        self.rce = rce
        self.ood_share = ood_share
        self.ood_initial = ood_initial
        self.ood_step = ood_step
        self.n_neighbors = n_neighbors
        self.splitter = splitter
        self.gmm_exclude_ood = gmm_exclude_ood
        self.guards = guards
        self.class_prior = class_prior
        self.backbone_lr = backbone_lr
        self.bn_mode = bn_mode
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
        check_real(self.confidence, "confidence", 0)
        for name in ("temperature", "contrastive_temperature"):
            check_real(getattr(self, name), name, 0, closed="neither")
        for name in _NUMBERS:
            check_real(getattr(self, name), name, 0)
        for name, names in (
            ("loss", ("auto", "sce", "ce")),
            ("rce", ("code", "standard")),
            ("bn_mode", ("train", "frozen")),
        ):
            if not is_one_of(getattr(self, name), names):
                raise ValueError(f"{name} must be one of {names}, got {getattr(self, name)!r}.")
        for name in ("ood_initial", "ood_step"):
            check_real(getattr(self, name), name, 0, 1)
        if not (self.ood_share is None or is_auto(self.ood_share)):
            check_real(self.ood_share, "ood_share", 0, 1, closed="left")
        for name in ("alpha", "backbone_lr", "lambda_u", "lambda_c"):
            if not is_auto(getattr(self, name)):
                check_real(getattr(self, name), name, 0)
        check_integer(self.n_neighbors, "n_neighbors", 1)
        for name in ("guards", "gmm_exclude_ood"):
            check_bool(getattr(self, name), name)
        if not is_auto(self.warmup):
            check_integer(self.warmup, "warmup", 0)
        if not (self.redivide_every is None or is_auto(self.redivide_every)):
            check_integer(self.redivide_every, "redivide_every", 1)
        if self.splitter is not None:
            check_splitter(self.splitter, "splitter")

    # ---- start -----------------------------------------------------------------------------------

    def _check_run(self, run):
        memory, (net,) = run.memory, run.learners
        memory.warmup = run.last_stage = self._warmup_epochs(run)
        memory.prior = self._prior(run)
        memory.strong = resolve_strong(self.strong_augment, run, self)
        net.eval()
        x = run.plain(next(iter(run.data.batches(2))).x.clone())
        self._head_, memory.layer = last_linear(net.module, x)
        if memory.layer is None:
            raise ValueError(
                "Manifold DivideMix mixes the input of the torch.nn.Linear that gives the logits; "
                f"{type(net.module).__name__} does not end in one. Modules such as those of "
                "noisyfit.modules do."
            )

    def _begin(self, run):
        memory, (net,) = run.memory, run.learners
        memory.encoder = Encoder(net.module, memory.layer)
        is_pretrained = self._resolve_pretrain() is not None
        of_head = set(memory.layer.parameters())
        backbone = [p for p in net.module.parameters() if p not in of_head]
        factor = _BACKBONE_LR if is_pretrained else 1.0
        net.scale_lr(backbone, factor if is_auto(self.backbone_lr) else self.backbone_lr)
        (seed,) = spawn_seeds(run.generator.initial_seed(), 1)
        n_embedded = memory.layer.in_features
        memory.project = projection_head(n_embedded, _N_PROJECTED, seed, run.device)
        net.add_parameters(memory.project.parameters())
        memory.norms = batch_norms(net.module, memory.project) if self.bn_mode == "frozen" else []
        memory.interval = self._interval(run.max_epochs)
        by_default = mixing_alpha(0.5 if self._on_table else 4.0, self._shape)
        memory.alpha = by_default if is_auto(self.alpha) else self.alpha
        lambda_u, lambda_c = (25.0, 1.0) if is_pretrained else (5.0, 0.0)
        memory.lambda_u = lambda_u if is_auto(self.lambda_u) else self.lambda_u
        memory.lambda_c = lambda_c if is_auto(self.lambda_c) else self.lambda_c
        by_default = "sce" if is_pretrained else "ce"
        memory.symmetric = (by_default if is_auto(self.loss) else self.loss) == "sce"
        memory.warned = memory.warned_of_cap = False
        memory.n_out, memory.n_divisions = 0, 0
        memory.inside = torch.ones(len(run.data), dtype=torch.bool, device=run.device)
        self.mixture_history_ = []
        if is_pretrained:
            embeddings, _ = self._measure(run, run.data)
            self._set_aside(run, embeddings)

    def _interval(self, max_epochs):
        if is_auto(self.redivide_every):
            return max(1, round(max_epochs / _PUBLISHED_DIVISIONS))
        return self.redivide_every or max_epochs

    # ---- division --------------------------------------------------------------------------------

    def _measure(self, run, data, exact=False):
        """Embeddings (n, n_embedded) and logits (n, n_classes) of un-augmented rows, one pass.

        They are computed in the precision of training, or if `exact` in float32.
        """
        (net,), layer = run.learners, run.memory.layer
        net.eval()
        encoder, dtype = run.memory.encoder, None if exact else net.dtype
        embeddings = forward_all(encoder, data, run.constants, layer.in_features, dtype)
        with torch.no_grad(), precision_of(run.device):
            return embeddings, layer(embeddings)

    def _set_aside(self, run, embeddings, logits=None):
        """Keep for training all rows but those far from their neighbours.

        Before any training there are no `logits` to ask.
        """
        memory = run.memory
        distance = knn_distances(embeddings, self.n_neighbors)
        memory.n_out = self._n_out(run, distance, logits)
        memory.inside = ~farthest(distance, memory.n_out)

    def _n_out(self, run, distance, logits):
        n, by_labels = len(distance), is_auto(self.ood_share)
        if n < 3:
            return 0
        wanted = rows_set_aside(n, run.memory.n_divisions, self.ood_initial, self.ood_step)
        if by_labels:
            bound = count_of(_OOD_SHARE, n)
            if logits is not None:
                bound += self._n_meaningless(run, distance, logits)
        else:
            bound = n if self.ood_share is None else count_of(self.ood_share, n)
        wanted = min(wanted, bound)
        most = max(0, n - 2 * max(run.batch_size // 2, run.n_classes))
        if wanted > most and not by_labels:
            self._warn_of_cap(run, most)
        return min(wanted, most)

    def _n_meaningless(self, run, distance, logits):
        agrees = logits.argmax(1) == run.data.y
        return without_meaning(distance, agrees, run.n_classes).item()

    def _warn_of_cap(self, run, most):
        if run.memory.warned_of_cap:
            return
        run.memory.warned_of_cap = True
        warnings.warn(
            f"Manifold DivideMix: no more than {most} of {len(run.data)} rows are set aside, so "
            "that batches and classes can be filled.",
            UserWarning,
            stacklevel=2,
        )

    def _divide(self, run, epoch):
        memory, y = run.memory, run.data.y
        embeddings, logits = self._measure(run, run.data)
        if not torch.stack(logits.aminmax()).isfinite().all():
            raise ValueError(
                f"The losses of the network are not finite in epoch {epoch + 1}; lower net__lr or "
                "set net__gradient_clip."
            )
        run.observe(torch.arange(len(y), device=run.device), logits)
        memory.n_divisions += 1
        self._set_aside(run, embeddings, logits)
        fitted = memory.inside if self.gmm_exclude_ood else slice(None)
        _, clean, mixture = self._clean_posterior(run, logits, y, fitted)
        self.mixture_history_.append({"epoch": epoch + 1, "net": 1} | mixture)
        rows = memory.inside.nonzero().squeeze(1)
        agreement = agreement_with_doubted(clean[rows], logits[rows], y[rows], self.threshold)
        ((_, believed),) = self._guarded(run, [(rows, clean[rows], agreement)])
        memory.clean = clean.index_copy(0, rows, believed)
        size = max(1, run.batch_size // 2)
        labelled = labelled_rows(believed, self.threshold, max(run.n_classes, size))
        memory.labelled, memory.unlabelled = rows[labelled], rows[~labelled]

    def _clean_posterior(self, run, logits, y, fitted):
        """Scaled losses (n,), posterior that each label is right (n,), the mixture's record.

        The scale and the mixture are those of the `fitted` rows.
        """
        raw = cross_entropy(logits, y)
        losses = scaled_by(raw, raw[fitted])
        if not losses[fitted].any():
            if raw[fitted].any():  # else every label is met without any doubt
                self._warn(run, "the losses are constant, so that every label is believed")
            return losses, torch.ones_like(losses), {}
        bins = usual_bins(len(losses[fitted]))
        by_default = GaussianMixtureSplitter(normalize=None, max_iter=_MAX_ITER, bins=bins)
        splitter = clone(self.splitter or by_default)
        splitter.fit_tensor(losses[fitted])
        return losses, splitter.transform_tensor(losses), splitter.components()

    # ---- training --------------------------------------------------------------------------------

    def _train_epoch(self, run, epoch):
        memory = run.memory
        past = epoch - memory.warmup
        if past >= 0 and past % memory.interval == 0:
            self._divide(run, epoch)
        self._to_training(run)
        if past < 0:
            self._warm_up(run, epoch)
        else:
            self._semi_supervised_epoch(run, epoch)
        run.log(n_out=memory.n_out)

    def _to_training(self, run):
        (net,) = run.learners
        net.train()
        for layer in run.memory.norms:
            layer.eval()

    def _warm_up(self, run, epoch):
        (net,) = run.learners
        for batch, _ in run.train_batches(epoch):
            logits = net(run.view(batch.x))
            run.observe(batch.index, logits)
            losses = self._given_loss(run, logits, batch.y)
            if not run.memory.n_out:
                run.step(losses.mean())
                continue
            inside = run.memory.inside[batch.index]
            run.step(masked_mean(losses, inside), skip=~inside.any())

    def _given_loss(self, run, logits, y):
        return sce(logits, y, alpha=1.0) if run.memory.symmetric else cross_entropy(logits, y)

    def _labelled_loss(self, run):
        if run.memory.symmetric:
            return partial(soft_sce, kind=self.rce)
        return soft_cross_entropy

    def _semi_supervised_epoch(self, run, epoch):
        memory = run.memory
        size = max(1, run.batch_size // 2)
        x_rows = memory.labelled
        run.log(n_labelled=len(x_rows))
        n_batches = math.ceil(len(x_rows) / size)
        n_ramp = len(x_rows) // size + 1  # N_b
        weights = beta(memory.alpha, n_batches, run.rng).tolist()
        unlabelled = unlabelled_batches(run, memory.unlabelled, size, n_batches)
        labelled = run.train_batches(epoch, run.shuffled(x_rows), size)
        for b, (batch, _) in enumerate(labelled):
            rise = ramp(epoch + b / n_ramp, memory.warmup, self.ramp_up)
            lam = max(weights[b], 1 - weights[b])
            run.step(self._batch_loss(run, batch, next(unlabelled), lam, rise))

    def _batch_loss(self, run, batch, batch_u, lam, rise):
        net, memory = run.learners[0], run.memory
        parts = [batch] if batch_u is None else [batch, batch_u]
        n_labelled = 2 * len(batch.y)
        with torch.no_grad():
            target, weight = self._targets(run, net, batch, parts)
            x = torch.cat([run.view(part.x, memory.strong) for part in parts for _ in range(2)])
            partner = random_permutation(len(x), run.generator)
            target, weight = mixup(target, lam, partner), mixup(weight, lam, partner)
        self._to_training(run)
        lambda_u = memory.lambda_u * rise
        loss = 0.0
        embedded = x if self.lambda_e else x[n_labelled:]
        contrasts = bool(memory.lambda_c) and batch_u is not None
        if self.lambda_e or contrasts:
            v = net.forward(memory.encoder, embedded)
        if contrasts:
            first, second = memory.project(v[-2 * len(batch_u.y) :]).chunk(2)
            losses = nt_xent(first, second, self.contrastive_temperature)
            loss = loss + memory.lambda_c * losses.mean()
        of_both = (target, weight, n_labelled, self._labelled_loss(run), lambda_u)
        if self.lambda_e:
            z = net.forward(memory.layer, mixup(v, lam, partner))
            loss = loss + self.lambda_e * mixed_loss(z, *of_both)
        logits = net(mixup(x, lam, partner))
        loss = loss + mixed_loss(logits, *of_both)
        return loss + self.lambda_r * class_balance_penalty(logits, memory.prior)

    def _targets(self, run, net, batch, parts):
        """Targets (n_rows, n_classes) and weights (n_rows,) of two views of each row."""
        views = torch.cat([run.view(part.x) for part in parts for _ in range(2)])
        net.eval()
        p = net(views).softmax(1).split([2 * len(part.y) for part in parts])
        guesses = [sum(of_part.chunk(2)) / 2 for of_part in p]
        clean = run.memory.clean[batch.index]
        target = [co_refine(batch.y, guesses[0], clean, self.temperature)] * 2
        weight = [torch.ones_like(clean)] * 2
        for guess in guesses[1:]:
            q = sharpen(guess, self.temperature)
            target += [q] * 2
            weight += [confident(q, self.confidence)] * 2
        return torch.cat(target), torch.cat(weight)

    # ---- evidence --------------------------------------------------------------------------------

    def _gather_evidence(self, run, data, train_rows):
        memory = run.memory
        all_rows = torch.arange(len(data), device=run.device)
        rows = all_rows if train_rows is None else train_rows.to(run.device)
        embeddings, logits = self._measure(run, data, exact=True)
        scores, inside = self._final_outliers(run, embeddings, logits, rows)
        fitted = rows[memory.inside] if self.gmm_exclude_ood else rows
        losses, clean, mixture = self._clean_posterior(run, logits, data.y, fitted)
        record = {"epoch": len(run.history) + 1, "net": 1}
        self.mixture_history_.append(record | mixture)
        memory.logits, memory.clean = logits, clean[rows]
        super()._gather_evidence(run, data, train_rows)
        self.losses_ = losses[rows][None].cpu().numpy()
        self.ood_score_, self.in_distribution_ = scores.cpu().numpy(), inside.cpu().numpy()
        self.gmm_clean_proba_ = clean.cpu().numpy().astype(np.float64).clip(0, 1)
        self.clean_proba_[~self.in_distribution_] = 0.0  # of rows held out too
        self.noise_rate_ = float(1 - self.clean_proba_.mean())
        self.sample_kind_ = sample_kinds(self.clean_proba_, self.in_distribution_, self.threshold)

    def _final_outliers(self, run, embeddings, logits, rows):
        """Scores and membership (n,) of all rows, of which those at `rows` were trained on."""
        own = embeddings[rows]
        distance = knn_distances(own, self.n_neighbors)
        n_out = run.memory.n_out
        if is_auto(self.ood_share) and n_out:
            n_out = min(n_out, self._n_meaningless(run, distance, logits[rows]))
        run.memory.inside = inside = ~farthest(distance, n_out)
        device = "cpu" if run.device.type == "cpu" else "auto"  # it may be loaded elsewhere
        self._neighbours_ = KNNOutlierFilter(self.n_neighbors, share=0.0, device=device)
        self._neighbours_.fit(own[inside].cpu().numpy())
        of_own = torch.exp(-distance).clamp_min(torch.finfo(distance.dtype).tiny)
        held = torch.ones(len(embeddings), dtype=torch.bool, device=run.device)
        held[rows] = False
        scores, kept = embeddings.new_zeros(len(embeddings)), ~held
        scores[rows], kept[rows] = of_own, inside
        if held.any():
            of_held = self._neighbours_.transform(embeddings[held].cpu().numpy())[:, 0]
            scores[held] = torch.from_numpy(of_held).to(scores)
            kept[held] = scores[held] >= of_own[inside].min() if n_out else True
        return scores, kept

    def _final_logits(self, run, data):
        return run.memory.logits[None]

    def _clean_proba(self, run, logits):
        return torch.where(run.memory.inside, super()._clean_proba(run, logits), 0.0)

    def _posterior(self, run, logits):
        clean, rows = run.memory.clean.clone(), run.memory.inside.nonzero().squeeze(1)
        if self.guards:
            (clean[rows],) = self._guarded_evidence(run, logits[:, rows], [clean[rows]], rows)
        return clean

    # ---- prediction ------------------------------------------------------------------------------

    def transform(self, X):
        """Embed rows as they are, in evaluation mode.

        Parameters
        ----------
        X : like the `X` of `fit`

        Returns
        -------
        ndarray of shape (n_samples, n_embedded), float32
            What the last layer of the network is fed.
        """
        check_is_fitted(self)
        module = self.nets_[0].module_.eval()
        layer = module.get_submodule(self._head_)
        data = self._data_to_predict(X)
        constants = self._input_scale_.constants(data.device)
        encoder = Encoder(module, layer)
        return forward_all(encoder, data, constants, layer.in_features).cpu().numpy()

    def predict_ood(self, X):
        """How typical rows are of the training rows in distribution.

        Parameters
        ----------
        X : like the `X` of `fit`

        Returns
        -------
        ndarray of shape (n_samples,), float32
            ``exp(-d)`` with the mean distance `d` of the embedding to its nearest neighbours among
            those rows, in (0, 1], small for rows of no class. A training row is not its own
            neighbour.
        """
        return self._neighbours_.transform(self.transform(X))[:, 0]

    @property
    def _n_features_out(self):
        return self.nets_[0].module_.get_submodule(self._head_).in_features

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags
