"""Backward correction: losses of the given labels, unmixed by the inverse of the noise."""

import math
import warnings

import numpy as np
import torch

from noisyfit._transition import backward_corrected
from noisyfit.methods.forward_correction import ForwardCorrectionClassifier

_LOG_FLOOR = math.log(1e-7)
_SAFE_CONDITION, _INVERTIBLE_CONDITION = 1e3, 1e8


class BackwardCorrectionClassifier(ForwardCorrectionClassifier):
    """Training on losses that are unmixed by the inverse of the noise.

    The losses ``-log p`` of all labels are multiplied with the inverse of the matrix T of the
    noise; the expectation of the result over the noise is the loss with the true label. Some of
    its weights are negative, so that it varies more than forward correction and memorises wrong
    labels as plain training does. Without a matrix it is estimated in a first stage, after which
    the network starts afresh.

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
        identity, and a matrix of a condition number above 3 with as little of the identity as
        brings it below, for the inverse enlarges what the estimate has wrong. False is as
        published.
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
    A matrix, given or estimated, is refused above a condition number of 1e8, with a warning above
    1e3. The loss falls below 0 where weights are negative; probabilities below 1e-7 count as 1e-7
    and bound it (the identity needs no bound and is plain training bit for bit). Systems are solved
    in float64 from one factorisation.

    An estimate by ``"confusion"`` is softer than the noise, so that its inverse asks for too much:
    on digits with 40 % of the labels redrawn it failed, where anchors gained 3 points on plain
    training and forward correction 14. For the stages see `ForwardCorrectionClassifier`.

    References
    ----------
    Patrini, Rozza, Menon, Nock, Qu, "Making Deep Neural Networks Robust to Label Noise: a Loss
    Correction Approach", CVPR 2017.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import BackwardCorrectionClassifier, Network
    >>> from noisyfit.noise import pair
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> y_noisy = pair(y, 0.2, random_state=0).y
    >>> clf = BackwardCorrectionClassifier(Network(max_epochs=20), random_state=0).fit(X, y_noisy)
    >>> clf.score(X, y) > 0.8
    True
    """

    _largest_condition = 3.0  # its inverse enlarges what the estimate has wrong

    def _use(self, run, matrix):
        condition = np.linalg.cond(matrix)
        if not condition <= _INVERTIBLE_CONDITION:
            raise ValueError(
                f"transition has the condition number {condition:.3g} and cannot be inverted; use "
                "ForwardCorrectionClassifier, or guards=True for an estimated one."
            )
        if condition > _SAFE_CONDITION:
            warnings.warn(
                f"transition has the condition number {condition:.3g}, by which its inverse may "
                "enlarge the losses; ForwardCorrectionClassifier does not invert it.",
                UserWarning,
                stacklevel=2,
            )
        super()._use(run, matrix)
        dtype = torch.float32 if run.device.type == "mps" else torch.float64
        run.memory.factors = torch.linalg.lu_factor(
            torch.as_tensor(matrix, dtype=dtype).to(run.device)
        )
        # the identity has nothing negative in its inverse, so nothing to bound
        is_identity = (matrix == np.eye(len(matrix))).all()
        run.memory.floor = -math.inf if is_identity else _LOG_FLOOR

    def _corrected(self, run, logits, y):
        return backward_corrected(logits, y, run.memory.factors, run.memory.floor)
