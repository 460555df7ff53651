"""Noise adaptation layer: a channel from true to given labels, learnt with the network."""

import math
import warnings
from functools import partial

import torch
from torch.nn import functional

from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_bool, check_integer, check_real, is_auto, is_one_of
from noisyfit._evidence import of_given
from noisyfit._head import inputs_of, last_linear
from noisyfit._small_tables import steps_to_learn
from noisyfit._transition import (
    as_matrix,
    forward_corrected,
    is_led_by_diagonal,
    led_by_diagonal,
    posterior,
    proba_of,
    soft_confusion,
)

_WARMUP = 0.1  # of the epochs
_LONGEST_WARMUP = 0.8
_CHUNK = 2**22  # entries of the complex channel that are held at once
_SMALL = 1e-8


def symmetric_bias(n_classes, noise_rate, generator, device):
    """Logarithm of a symmetric channel plus a little noise: a start without a trained network."""
    others = noise_rate / max(n_classes - 1, 1)
    channel = torch.full((n_classes, n_classes), others, device=device)
    channel.fill_diagonal_(1 - noise_rate)
    noise = torch.randn(channel.shape, generator=generator, device=device)
    return channel.log() + 0.01 * noise


def allowed_entries(bias, top_k):
    """Mask of the `top_k` largest entries per row, and of the diagonal."""
    largest = bias.topk(min(top_k, len(bias)), dim=1).indices
    diagonal = torch.eye(len(bias), dtype=torch.bool, device=bias.device)
    return torch.zeros_like(diagonal).scatter(1, largest, True) | diagonal


def channel_given(y, bias, weight=None, features=None):
    """``log P(given label y | true label)``, (batch, n_classes).

    The rows of `bias` are logits of the channel; with `weight` (n_classes, n_classes, d) those of
    a row of `features` (batch, d) add ``weight @ features``.
    """
    if weight is None:
        return functional.log_softmax(bias, dim=1).t()[y]
    scores = complex_scores(bias, weight, features)  # (batch, true, given)
    return of_label(scores, y) - scores.logsumexp(2)


def complex_scores(bias, weight, features):
    """Logits of the complex channel, (batch, true, given)."""
    by_features = features @ weight.flatten(0, 1).t()
    return by_features.unflatten(1, weight.shape[:2]) + bias


def of_label(scores, y):
    """Entries of (batch, true, given) that belong to the given labels, (batch, true)."""
    return scores.gather(2, y[:, None, None].expand(-1, scores.shape[1], 1)).squeeze(2)


class NoiseAdaptationClassifier(BaseNoisyClassifier):
    """A network and a layer behind it that turns true labels into given ones, learnt together.

    The network predicts ``p`` of the true label, the layer holds the probabilities of each given
    label under each true one. Their product is compared with the given label; predictions are
    ``p``. Since the classes of ``p`` could as well be interchanged, both start from a network that
    was trained plainly for a while and from its confusion.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained; ``Network()`` by default. Cloned, never trained in place.
    channel : {"simple", "complex"}, default="simple"
        One matrix for all rows (S-Model), or one that depends on the features before the last
        layer of the network (C-Model), with ``n_classes ** 2`` weights per feature.
    warmup : "auto" or int, default="auto"
        Epochs of plain training. ``"auto"`` is a tenth of them, or what makes 20 steps, on tables
        with many classes or few columns more, up to 0.8; 0 starts from a symmetric channel.
        Published: until early stopping.
    confusion : {"soft", "hard"}, default="soft"
        The channel starts from the given labels weighted by the predictions, or counted by the
        predicted class, as the published code does by default.
    top_k : int, optional
        Entries of each row that the starting channel keeps, besides the diagonal; the others stay
        0. Published for many classes: 5.
    noise_rate : "auto" or float in (0, 1), default="auto"
        Noise of the starting channel where ``warmup=0``; ``"auto"`` is 0.2. Published: 0.46, the
        true one.
    channel_lr : float, default=0.1
        Learning rate of the layer in units of the network's. Published: 1.
    guards : bool, default=True
        Mix a row of the starting channel whose largest entry lies off the diagonal half and half
        with the identity. False is as published.
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
        P(given = column | true = row) as learnt; of the complex channel the mean over the training
        rows, weighted by their predictions.
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

    Warns
    -----
    UserWarning
        If the learnt channel says that a class is mostly called by another name.

    Notes
    -----
    Network and layer are one optimisation over all epochs; the layer has no weight decay. A layer
    that learns as fast as the network gives the noise up while the network memorises it: on
    digits with 40 % of the labels redrawn a rate of 1 after a third of the epochs gained nothing on
    plain training, the defaults gain 12 points. The complex channel can also explain a wrong label
    by the row itself and gains less; at the end it costs one more pass without gradient, whose
    features of all rows are held in memory.

    References
    ----------
    Goldberger, Ben-Reuven, "Training Deep Neural-Networks Using a Noise Adaptation Layer", ICLR
    2017.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import NoiseAdaptationClassifier, Network
    >>> from noisyfit.noise import pair
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> y_noisy = pair(y, 0.2, random_state=0).y
    >>> clf = NoiseAdaptationClassifier(Network(max_epochs=20), random_state=0).fit(X, y_noisy)
    >>> clf.score(X, y) > 0.8
    True
    """

    def __init__(
        self,
        net=None,
        *,
        channel="simple",
        warmup="auto",
        confusion="soft",
        top_k=None,
        noise_rate="auto",
        channel_lr=0.1,
        guards=True,
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.channel = channel
        self.warmup = warmup
        self.confusion = confusion
        self.top_k = top_k
        self.noise_rate = noise_rate
        self.channel_lr = channel_lr
        self.guards = guards
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        check_real(self.channel_lr, "channel_lr", 0)
        for name, names in (("channel", ("simple", "complex")), ("confusion", ("soft", "hard"))):
            if not is_one_of(getattr(self, name), names):
                raise ValueError(f"{name} must be one of {names}, got {getattr(self, name)!r}.")
        check_bool(self.guards, "guards")
        if not is_auto(self.warmup):
            check_integer(self.warmup, "warmup", 0)
        if self.top_k is not None:
            check_integer(self.top_k, "top_k", 1)
        if not is_auto(self.noise_rate):
            check_real(self.noise_rate, "noise_rate", 0, 1, closed="neither")

    def _begin(self, run):
        (net,) = run.learners
        memory, n = run.memory, run.n_classes
        memory.warmup = run.last_stage = self._warmup_epochs(run)
        memory.adapting = False
        memory.forbidden = None
        memory.bias = torch.zeros(n, n, device=run.device, requires_grad=True)
        memory.layer = memory.weight = None
        parameters = [memory.bias]
        if self.channel == "complex":
            if getattr(net.net, "compile", False):  # a compiled graph passes hooks by
                raise ValueError("channel='complex' needs a net with compile=False.")
            batch = next(iter(run.data.batches(2)))
            net.eval()
            _, memory.layer = last_linear(net.module, run.plain(batch.x.clone()))
            if memory.layer is None:
                raise ValueError(
                    "channel='complex' reads the input of the torch.nn.Linear that gives the "
                    f"logits; {type(net.module).__name__} does not end in one. Use "
                    "channel='simple', or a module such as those of noisyfit.modules."
                )
            shape = (n, n, memory.layer.in_features)
            memory.weight = torch.zeros(shape, device=run.device, requires_grad=True)
            parameters.append(memory.weight)
        net.add_parameters(parameters, weight_decay=0.0, lr=self.channel_lr * net.lr)

    def _warmup_epochs(self, run):
        n = run.max_epochs
        if is_auto(self.warmup):
            least = math.ceil(steps_to_learn(run.n_classes, self._shape) / run.steps_per_epoch)
            return max(math.ceil(_WARMUP * n), min(least, int(_LONGEST_WARMUP * n)))
        if self.warmup > n:
            raise ValueError(f"warmup={self.warmup} is longer than the training of max_epochs={n}.")
        return self.warmup

    def _train_epoch(self, run, epoch):
        if epoch == run.memory.warmup:
            self._start_channel(run)
        super()._train_epoch(run, epoch)

    def _start_channel(self, run):
        memory = run.memory
        n, g, device = run.n_classes, run.generator, run.device
        memory.adapting = True
        if memory.warmup == 0:
            bias = symmetric_bias(n, self._initial_rate(), g, device)
        else:
            bias = self._confusion(run).log()
        if self.top_k is not None:
            memory.forbidden = ~allowed_entries(bias, self.top_k)
        with torch.no_grad():
            memory.bias.copy_(bias)
            if memory.weight is not None and memory.warmup == 0:
                d = memory.weight.shape[2]
                memory.weight.uniform_(-0.5, 0.5, generator=g).mul_(math.sqrt(6 / (n + d)))

    def _initial_rate(self):
        return 0.2 if is_auto(self.noise_rate) else self.noise_rate

    def _confusion(self, run):
        """The channel that the predictions after the warm-up say, (n_classes, n_classes)."""
        (net,) = run.learners
        p = proba_of(run.evaluate(net))
        net.train()
        if self.confusion == "hard":
            p = functional.one_hot(p.argmax(1), run.n_classes).float()
        matrix = as_matrix(soft_confusion(p, run.data.y) + _SMALL)
        if self.guards:
            matrix = led_by_diagonal(matrix)
        return torch.as_tensor(matrix, dtype=torch.float32, device=run.device)

    def _bias(self, run):
        memory = run.memory
        if memory.forbidden is None:
            return memory.bias
        return memory.bias.masked_fill(memory.forbidden, -torch.inf)

    def _loss(self, run, batch, t):
        logits, features = self._pass(run, run.view(batch.x))
        run.observe(batch.index, logits)
        if not run.memory.adapting:
            return functional.cross_entropy(logits, batch.y)
        log_given = channel_given(batch.y, self._bias(run), run.memory.weight, features)
        return forward_corrected(logits, log_given).mean()

    def _pass(self, run, x):
        """Logits (batch, n_classes) and, for the complex channel, features (batch, d)."""
        (net,) = run.learners
        if run.memory.layer is None:
            return net(x), None
        with inputs_of(run.memory.layer) as received:
            logits = net(x)
        return logits, received[0].float()

    def _finish(self, run):
        trained = run.memory.adapting
        if not trained:  # all epochs, or those before a stop, were plain
            self._start_channel(run)
        with torch.no_grad():
            mean, of_predicted = self._evaluate_channel(run)
        self.transition_ = as_matrix(mean)
        if trained and not is_led_by_diagonal(of_predicted.cpu().numpy()):
            warnings.warn(
                "The learnt channel is not largest on its diagonal, so the classes of the network "
                "may be interchanged; a longer warmup or a lower learning rate may help.",
                UserWarning,
                stacklevel=2,
            )

    def _evaluate_channel(self, run):
        """Keep ``P(given label | true label)`` of every row; return the mean channel, weighted by
        the probabilities and, to judge it, over the rows of each predicted class."""
        memory, y = run.memory, run.data.y
        bias = self._bias(run)
        if memory.layer is None:
            memory.log_given = channel_given(y, bias)
            return bias.softmax(1), bias.softmax(1)
        with inputs_of(memory.layer) as received:
            p = proba_of(run.evaluate(run.learners[0], exact=True))
        features = torch.cat(received).float()
        memory.log_given = torch.empty_like(p)
        weights = torch.stack([p, functional.one_hot(p.argmax(1), run.n_classes).float()])
        size = max(1, _CHUNK // run.n_classes**2)
        totals = torch.zeros(2, *bias.shape, device=run.device)
        for rows in torch.arange(len(y), device=run.device).split(size):
            channel = complex_scores(bias, memory.weight, features[rows]).log_softmax(2)
            memory.log_given[rows] = of_label(channel, y[rows])
            totals += torch.einsum("sbi,bij->sij", weights[:, rows], channel.exp())
        sums = weights.sum(1)[:, :, None]  # 0 for a class that is never predicted
        eye = torch.eye(run.n_classes, device=run.device)
        return torch.where(sums > 0, totals / sums.clamp_min(1e-30), eye)

    def _posterior(self, run, logits):
        return of_given(partial(self._refined_proba, run), logits, run.data.y)

    def _refined_proba(self, run, rows, logits, clean_proba=None):
        return posterior(logits[0], run.memory.log_given[rows])
