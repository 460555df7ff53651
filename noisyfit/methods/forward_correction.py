"""Forward correction: the network predicts true labels, the loss compares given ones."""

import math
from functools import partial

import numpy as np
from torch.nn import functional

from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_bool, check_integer, check_real, is_auto, is_one_of
from noisyfit._evidence import of_given
from noisyfit._small_tables import steps_to_learn
from noisyfit._transition import (
    anchor_rows,
    as_matrix,
    auto_percentile,
    check_columns,
    forward_corrected,
    given_transition,
    led_by_diagonal,
    log_odds,
    log_transition,
    posterior,
    proba_of,
    soft_confusion,
    well_conditioned,
    with_identity,
)

_FIRST_STAGE, _LONGEST_FIRST_STAGE = 0.1, 0.8  # of the epochs
_ENOUGH_AFRESH = 3  # times the steps of the first stage


class ForwardCorrectionClassifier(BaseNoisyClassifier):
    """Training against the given labels through a matrix of the noise.

    The network predicts the true label; before the loss its prediction ``p`` is multiplied with
    the matrix T of the noise, so that ``p T`` is compared with the given label. The gradient is
    that of cross-entropy with the posterior of the true label as target. Without a matrix it is
    estimated in a first stage, after which the network starts afresh if the epochs allow.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained; ``Network()`` by default. Cloned, never trained in place.
    transition : {"anchor", "confusion"} or array of shape (n_classes, n_classes), default="anchor"
        P(given = column | true = row), rows in the order of ``classes_`` (T); the caller's own
        needs no first stage. ``"anchor"`` estimates each row by the prediction for the surest
        sample of the class, ``"confusion"`` by the labels of all samples weighted by their
        predictions: less variance, but it counts the network's own doubts as noise.
    warmup : "auto" or int, default="auto"
        Epochs of the first stage, plain training from which the matrix is estimated. ``"auto"``
        is a tenth of them, or what makes 20 steps, on tables with many classes or few columns
        more, up to 0.8; if too few are left for a fresh network, the first one then goes on. The
        paper trains two full runs: half of twice as many epochs.
    percentile : "auto", None or float in (0, 100], default="auto"
        Scores from this percentile on are passed over as outliers in the search for the anchor.
        ``"auto"`` is 97 if every class holds at least 6 % of the rows, else None: the best row.
        Published: 97, and None for CIFAR-100.
    guards : bool, default=True
        Mix an estimated row whose largest entry lies off the diagonal half and half with the
        identity: the network may otherwise learn two classes interchanged. And mix a matrix of a
        condition number above 6 with as little of the identity as brings it below: a network that
        has learnt little yet makes a flat one. False is as published.
    identity_weight : float in [0, 1], default=0.0
        Share of the identity that every matrix is mixed with, given or estimated (epsilon); 1 is
        plain training. It counts on less noise than the matrix says. 0 as published.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``. ``"auto"`` shifts images at random (and
        mirrors colour images) and leaves tables alone.
    pretrain : "auto", SimCLR, module, state dict or path, optional
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder; ``"auto"`` is ``SimCLR()`` for images. By default they start at random.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: the posterior of the given label (``"auto"``); how often the
        network predicted it in training; its final probability; or a splitter of
        `noisyfit.mixtures` fitted on one minus the second.
    random_state : int, RandomState instance or None, default=None
        Seed of start, order, augmentation and dropout.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in sorted order.
    transition_ : ndarray of shape (n_classes, n_classes)
        Matrix of the last epoch.
    anchor_indices_ : ndarray of shape (n_classes,)
        Positions of the anchors; with ``transition="anchor"`` only.
    clean_proba_ : ndarray of shape (n_samples,)
        Posterior that the true label is the given one, in [0, 1].
    refined_labels_ : ndarray of shape (n_samples,)
        Arg max of the posterior of the true label.
    refined_proba_ : ndarray of shape (n_samples, n_classes)
        Posterior of the true label given row and label; rows sum to 1.
    noise_rate_ : float
        Estimated share of wrong labels, ``1 - clean_proba_.mean()``.
    dynamics_ : dict of ndarrays of shape (n_samples,)
        ``n_seen``, ``wrong_events``, ``margin`` and ``proba`` of the given labels, averaged over
        the training passes.
    nets_ : list of skorch nets
        The trained network, which predicts true labels.
    history_ : list of dict
        One row per epoch.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Notes
    -----
    The stages have a schedule each, unless one network makes both; a known matrix costs no more
    than plain training, an estimate one more pass without gradient. The paper estimates with a
    fully trained network and keeps checkpoints by held-out noisy labels. Here nothing is held out,
    and the first stage is short: a network that has memorised labels sees no noise in them. Raise
    `warmup` for rows that are hard to learn.

    The published code overwrites the scores while it looks for anchors, which alters the rows of
    later classes; here, as in the paper, they stay. Anchors are ranked by log-odds, which order as
    the probabilities do but do not round to 1. An exact zero of the matrix is an impossible label,
    not a small number, so that the identity is plain training bit for bit.

    References
    ----------
    Patrini, Rozza, Menon, Nock, Qu, "Making Deep Neural Networks Robust to Label Noise: a Loss
    Correction Approach", CVPR 2017.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import ForwardCorrectionClassifier, Network
    >>> from noisyfit.noise import pair
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> y_noisy = pair(y, 0.2, random_state=0).y
    >>> clf = ForwardCorrectionClassifier(Network(max_epochs=20), random_state=0).fit(X, y_noisy)
    >>> clf.score(X, y) > 0.8
    True
    """

    def __init__(
        self,
        net=None,
        *,
        transition="anchor",
        warmup="auto",
        percentile="auto",
        guards=True,
        identity_weight=0.0,
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.transition = transition
        self.warmup = warmup
        self.percentile = percentile
        self.guards = guards
        self.identity_weight = identity_weight
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        if isinstance(self.transition, str) and not is_one_of(
            self.transition, ("anchor", "confusion")
        ):
            raise ValueError(
                "transition must be 'anchor', 'confusion' or a matrix (n_classes, n_classes), "
                f"got {self.transition!r}."
            )
        if not is_auto(self.warmup):
            check_integer(self.warmup, "warmup", 1)
        if self.percentile is not None and not is_auto(self.percentile):
            check_real(self.percentile, "percentile", 0, 100, closed="right")
        check_bool(self.guards, "guards")
        check_real(self.identity_weight, "identity_weight", 0, 1)

    def _begin(self, run):
        run.memory.log_transition = None
        self._n_first_, self._afresh_ = 0, True
        if isinstance(self.transition, str):
            self._n_first_, self._afresh_ = self._first_stage(run)
            run.last_stage = self._n_first_
            if self._afresh_:
                run.learners[0].keep_start()
        else:
            matrix = given_transition(self.transition, run.n_classes)
            matrix = with_identity(matrix, self.identity_weight)
            check_columns(matrix, self._n_given(run))
            self._use(run, matrix)

    def _first_stage(self, run):
        """Epochs of the first stage, and whether the second one starts afresh."""
        n = run.max_epochs
        if not is_auto(self.warmup):
            if self.warmup > n:
                raise ValueError(
                    f"warmup={self.warmup} is longer than the training of max_epochs={n}."
                )
            return self.warmup, True
        least = math.ceil(steps_to_learn(run.n_classes, self._shape) / run.steps_per_epoch)
        first = max(math.ceil(_FIRST_STAGE * n), min(least, int(_LONGEST_FIRST_STAGE * n)))
        return first, n - first >= _ENOUGH_AFRESH * least

    def _n_given(self, run):
        return run.data.y.bincount(minlength=run.n_classes).cpu().numpy()

    _largest_condition = 6.0  # of an estimate; that of 40 % pair flips is 5

    def _guarded(self, matrix):
        """An estimated matrix that can be trained with."""
        return well_conditioned(led_by_diagonal(matrix), self._largest_condition)

    def _use(self, run, matrix):
        self.transition_ = matrix
        run.memory.log_transition = log_transition(matrix, run.device)

    def _lr_factor(self, schedule, epoch, max_epochs):
        first = self._n_first_ if self._afresh_ else 0
        return (
            schedule(epoch, first) if epoch < first else schedule(epoch - first, max_epochs - first)
        )

    def _train_epoch(self, run, epoch):
        (net,) = run.learners
        if run.memory.log_transition is None and epoch == self._n_first_:
            self._estimate(run)
            if self._afresh_:
                net.restart()
            net.train()
        super()._train_epoch(run, epoch)

    def _estimate(self, run):
        logits = run.evaluate(run.learners[0])
        if self.transition == "anchor":
            percentile = self.percentile
            if is_auto(percentile):
                percentile = auto_percentile(self._n_given(run))
            rows = anchor_rows(log_odds(logits), percentile)
            self.anchor_indices_ = rows.cpu().numpy()
            matrix = as_matrix(proba_of(logits[rows]))
        else:
            matrix = as_matrix(soft_confusion(proba_of(logits), run.data.y))
        if self.guards:
            matrix = self._guarded(matrix)
        self._use(run, with_identity(matrix, self.identity_weight))

    def _loss(self, run, batch, t):
        (net,) = run.learners
        logits = net(run.view(batch.x))  # (batch, n_classes)
        run.observe(batch.index, logits)
        if run.memory.log_transition is None:
            return functional.cross_entropy(logits, batch.y)
        return self._corrected(run, logits, batch.y).mean()

    def _corrected(self, run, logits, y):
        return forward_corrected(logits, run.memory.log_transition.t()[y])

    def _finish(self, run):
        if run.memory.log_transition is None:  # all epochs, or those before a stop, were plain
            self._estimate(run)

    def _gather_evidence(self, run, data, train_rows):
        super()._gather_evidence(run, data, train_rows)
        if train_rows is not None and hasattr(self, "anchor_indices_"):
            self.anchor_indices_ = np.asarray(train_rows)[self.anchor_indices_]

    def _posterior(self, run, logits):
        return of_given(partial(self._refined_proba, run), logits, run.data.y)

    def _refined_proba(self, run, rows, logits, clean_proba=None):
        return posterior(logits[0], run.memory.log_transition.t()[run.data.y[rows]])
