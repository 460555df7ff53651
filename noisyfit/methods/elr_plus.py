"""ELR+: early-learning regularisation with two networks, averaged weights and mixup."""

import torch
from torch.nn.functional import one_hot, softmax

from noisyfit._averaging import WeightAverage
from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_bool, check_real, is_auto, is_one_of
from noisyfit._early_learning import (
    EarlyLearningMixin,
    clamped_softmax,
    early_learning_penalty,
    has_few_classes,
    moving_average,
)
from noisyfit._small_tables import mixing_alpha
from noisyfit.augment import beta, mixup, random_permutation
from noisyfit.losses import soft_cross_entropy
from noisyfit.schedules import exponential_ramp

_AUTO_RAMP = 0.55  # of the training; 40000 steps of the published 200 epochs


def averaging_decay(step, decay, length=None):
    """Share of the old average at a one-based step: ramped over `length` steps.

    Without a ramp the average is the plain mean of the weights until that reaches `decay`.
    """
    if length is None:
        return min(1 - 1 / (step + 1), decay)
    return decay * exponential_ramp(step + 1, length)


def sharpened_labels(y, q):
    """Labels as distributions weighed by the targets `q`, (batch, n_classes); `y` if they exclude
    each other."""
    product = y * q
    total = product.sum(1, keepdim=True)
    return torch.where(total > 0, product / total.clamp_min(torch.finfo(total.dtype).tiny), y)


class ELRPlusClassifier(EarlyLearningMixin, BaseNoisyClassifier):
    """Two networks, each held to what the averaged weights of the other predict.

    As in `ELRClassifier` each row remembers early predictions and a term pulls new ones towards
    them. Here the predictions come from the peer, whose errors are others, and from the average
    of its weights, which is steadier than the network; each network trains on mixed pairs of rows
    and of targets.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How both networks are trained; ``Network()`` by default. Cloned, never trained in place.
    momentum : "auto" or float in [0, 1), default="auto"
        Share of the old target at each visit (beta). ``"auto"`` is 0.7 up to 20 classes, else
        0.9. Published: 0.7 for CIFAR-10 with symmetric noise, Clothing1M and WebVision, 0.9 for
        CIFAR-10 with asymmetric noise and for CIFAR-100.
    strength : "auto" or float, default="auto"
        Weight of the term (lambda); 0 leaves mixup. ``"auto"`` is 3 up to 20 classes, else 7, and
        on tables with less than 12 columns less in proportion. Published: 3 for CIFAR-10 with
        symmetric noise, Clothing1M and WebVision, 1 for CIFAR-10 with asymmetric noise, 7 for
        CIFAR-100.
    warmup : "auto" or int, default="auto"
        Epochs before the term acts and rows are mixed; predictions are remembered meanwhile.
        ``"auto"`` takes as many as end within 20 steps, on tables with many classes or few columns
        more: none unless data are few, all if they are very few.
        Published: 0.
    strength_ramp : "auto" or float, default="auto"
        Length of the rise of the weight from nearly 0 (coef_step); 0 uses it in full from the
        start. ``"auto"`` is 0 up to 20 classes, else 0.55 of the training. Published: 40000 steps
        for CIFAR-100, else 0.
    alpha : "auto" or float, default="auto"
        The mixing weight of a batch is drawn from Beta(alpha, alpha); 0 mixes nothing. ``"auto"``
        is 0.2 for images that are augmented, else 1: much mixing on top of random views is too
        much for a short training. Below 32 columns it falls in proportion, for there a mixture of
        two rows is often a row of a third class. Published: 1 for CIFAR and Clothing1M, 1.5 for
        WebVision.
    sharpen_target : "auto" or bool, default="auto"
        Weigh the mixed labels by the targets, class by class. ``"auto"`` does so above 20
        classes. Published: for CIFAR-100 only.
    average_decay : float in [0, 1), default=0.997
        Share of the old average of the weights at each step (gamma). Published for Clothing1M:
        0.9999.
    average_ramp : "auto", None or float, default="auto"
        Length of the rise of that share from nearly 0; None instead takes the plain mean of all
        weights so far until that is slower. ``"auto"`` is 0.55 of the training. Published: 40000
        steps for CIFAR, None for Clothing1M and WebVision.
    ramp_unit : {"epochs", "steps"}, default="epochs"
        Unit of both lengths; the published ones are in optimiser steps of one network.
    memory_dtype : {"float32", "float16"}, default="float32"
        Precision in which the targets, two tables of n_samples x n_classes numbers, are kept on
        the device. Computation is float32.
    averaged_weights : bool, default=False
        Predict with the averaged weights of both networks: they replace the trained ones at the
        end. Scores of validation data during training are those of the trained ones.
    ensemble : {"proba", "logits", "first", "second"}, default="proba"
        Average of the networks in prediction, or one of them.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``, before mixing. ``"auto"`` shifts images
        at random (and mirrors colour images) and leaves tables alone.
    pretrain : "auto", SimCLR, module, state dict or path, optional
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder; ``"auto"`` is ``SimCLR()`` for images. By default they start at random.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: the share of the given label in its row's target (``"auto"``),
        how often the averaged networks predicted it in training, its final probability, or a
        splitter of `noisyfit.mixtures` on one minus the second.
    random_state : int, RandomState instance or None, default=None
        Seed of starts, order, mixing, augmentation and dropout.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in sorted order.
    clean_proba_ : ndarray of shape (n_samples,)
        How likely each given label is right, in [0, 1].
    refined_labels_ : ndarray of shape (n_samples,)
        Arg max of ``refined_proba_``. ``np.flatnonzero(clf.refined_labels_ != y)`` are the labels
        that ELR's rule calls wrong, without a threshold.
    refined_proba_ : ndarray of shape (n_samples, n_classes)
        Mean of both networks' targets, normalised; rows sum to 1.
    target_ : ndarray of shape (2, n_trained, n_classes)
        The targets of each network as they are, for the rows that were trained on.
    noise_rate_ : float
        Estimated share of wrong labels, ``1 - clean_proba_.mean()``.
    dynamics_ : dict of ndarrays of shape (n_samples,)
        ``n_seen``, ``wrong_events``, ``margin`` and ``proba`` of the given labels, averaged over
        the passes in which the averaged networks see the rows before they are mixed.
    nets_ : list of skorch nets
        The two trained networks.
    history_ : list of dict
        One row per epoch, with ``average_decay`` of its last step; ``train_loss`` may be negative.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Notes
    -----
    As in the authors' code, an epoch is a pass of the first network and then one of the second,
    each in its own order; the averaged networks predict in training mode, with the statistics of
    the batch; their predictions are not clamped before they are averaged. Not followed: both
    networks train on the same labels (the code draws the noise anew for each); probabilities and
    not logits are averaged in prediction; labels that a target excludes stay as they are.

    The published ramps end after 114 of 200 epochs; by default they take this share of any
    training.

    References
    ----------
    Liu, Niles-Weed, Razavian, Fernandez-Granda, "Early-Learning Regularization Prevents
    Memorization of Noisy Labels", NeurIPS 2020.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import ELRPlusClassifier, Network
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> y_noisy = sym_excl(y, 0.2, random_state=0).y
    >>> clf = ELRPlusClassifier(Network(max_epochs=20), random_state=0).fit(X, y_noisy)
    >>> clf.score(X, y) > 0.8
    True
    """

    n_networks = 2

    def __init__(
        self,
        net=None,
        *,
        momentum="auto",
        strength="auto",
        warmup="auto",
        strength_ramp="auto",
        alpha="auto",
        sharpen_target="auto",
        average_decay=0.997,
        average_ramp="auto",
        ramp_unit="epochs",
        memory_dtype="float32",
        averaged_weights=False,
        ensemble="proba",
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.momentum = momentum
        self.strength = strength
        self.warmup = warmup
        self.strength_ramp = strength_ramp
        self.alpha = alpha
        self.sharpen_target = sharpen_target
        self.average_decay = average_decay
        self.average_ramp = average_ramp
        self.ramp_unit = ramp_unit
        self.memory_dtype = memory_dtype
        self.averaged_weights = averaged_weights
        self.ensemble = ensemble
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        for name in ("strength_ramp", "average_ramp", "alpha"):
            value = getattr(self, name)
            if not is_auto(value) and not (name == "average_ramp" and value is None):
                check_real(value, name, 0)
        check_real(self.average_decay, "average_decay", 0, 1, closed="left")
        if not is_one_of(self.ramp_unit, ("epochs", "steps")):
            raise ValueError(f"ramp_unit must be 'epochs' or 'steps', got {self.ramp_unit!r}.")
        if not is_auto(self.sharpen_target):
            check_bool(self.sharpen_target, "sharpen_target")
        check_bool(self.averaged_weights, "averaged_weights")

    def _begin(self, run):
        super()._begin(run)
        memory = run.memory
        memory.target = self._zeros(run, 2)
        memory.averages = [WeightAverage(learner, run.generator) for learner in run.learners]
        for average in memory.averages:
            average.train()
        few = has_few_classes(run.n_classes)
        auto_ramp = _AUTO_RAMP * run.max_epochs * run.steps_per_epoch
        memory.strength_ramp = self._steps(run, self.strength_ramp, 0 if few else auto_ramp)
        memory.average_ramp = self._steps(run, self.average_ramp, auto_ramp)
        memory.sharpens = not few if is_auto(self.sharpen_target) else self.sharpen_target
        by_default = mixing_alpha(1.0 if self._on_table or not run.has_views else 0.2, self._shape)
        memory.alpha = by_default if is_auto(self.alpha) else self.alpha
        memory.steps = [0, 0]

    def _steps(self, run, length, by_default):
        """Length of a ramp in steps of one network; None for none."""
        if is_auto(length):
            return by_default
        if length is None or self.ramp_unit == "steps":
            return length
        return length * run.steps_per_epoch

    def _train_epoch(self, run, epoch):
        for k in range(2):
            self._train_network(run, k, epoch)

    def _train_network(self, run, k, epoch):
        memory = run.memory
        net, average = run.learners[k], memory.averages[k]
        weights = iter(beta(memory.alpha, run.steps_per_epoch, run.rng).tolist())
        for batch, t in run.train_batches(epoch, learners=[net]):
            memory.steps[k] += 1
            weight = next(weights)
            lam = max(weight, 1 - weight) if t >= memory.warmup else 1.0
            run.step(self._batch_loss(run, k, batch, t, lam), [net])
            decay = averaging_decay(memory.steps[k], self.average_decay, memory.average_ramp)
            average.update(decay)
        run.log(average_decay=decay)

    def _batch_loss(self, run, k, batch, t, lam):
        memory = run.memory
        x, y = run.view(batch.x), one_hot(batch.y, run.n_classes).float()
        partner = random_permutation(len(y), run.generator)
        seen = memory.averages[1 - k](x)  # the peer's, of the rows before mixing
        run.observe(batch.index, seen)
        target = moving_average(
            memory.target[k], batch.index, softmax(seen, dim=1), memory.momentum
        )
        q, y = mixup(target, lam, partner), mixup(y, lam, partner)  # (batch, n_classes)
        if memory.sharpens:
            y = sharpened_labels(y, q)
        logits = run.learners[k](mixup(x, lam, partner))
        strength = self._strength(run, t) * exponential_ramp(memory.steps[k], memory.strength_ramp)
        penalty = early_learning_penalty(clamped_softmax(logits), q)
        return (soft_cross_entropy(logits, y) + strength * penalty).mean()

    def _finish(self, run):
        super()._finish(run)
        if self.averaged_weights:
            for average in run.memory.averages:
                average.replace()
