"""PENCIL: label distributions learnt by gradient descent together with the network."""

import math
import warnings

from torch.nn import functional

from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_bool, check_integer, check_real, is_auto, is_one_of
from noisyfit._small_tables import epochs_before_doubt
from noisyfit.losses import confidence_penalty, cross_entropy

_LABEL_TRAVEL = 60.0  # sum of the label steps over the correcting stage, as published
_LABEL_TRAVEL_OF_IMAGES = 20.0  # whose predictions change more; the same in published trainings
_LABEL_LR_RANGE = (0.47, 3.0)  # smallest and largest published step
_COMPATIBILITY = 0.2  # of n_classes * alpha


def classification_loss(logits, label_logits):
    """``KL(prediction || label)``, averaged over rows and classes (L_c), shape ()."""
    log_f = functional.log_softmax(logits, dim=1)
    log_d = functional.log_softmax(label_logits, dim=1)
    return (log_f.exp() * (log_f - log_d)).mean()


def compatibility_loss(label_logits, y, double_softmax=False):
    """Mean ``-log d`` of the given label (L_o), shape (); of ``softmax(d)`` in the code's form."""
    return cross_entropy(label_logits.softmax(1) if double_softmax else label_logits, y).mean()


def entropy_loss(logits):
    """Entropy of the prediction, averaged over rows and classes (L_e), shape ()."""
    return -confidence_penalty(logits).mean() / logits.shape[1]


def code_label_lr(label_lr, n_rows, n_classes):
    """Published ``lambda`` of a step per sample: undoes the mean over rows and classes."""
    return label_lr * n_rows * n_classes


def initial_scale(n_classes):
    """Logit of the given label at the start: 10; above 100 classes more, for the same trust."""
    return 10.0 if n_classes <= 100 else 10 + math.log(n_classes / 10)


class PencilClassifier(BaseNoisyClassifier):
    """One network and one label distribution per sample, both learnt by gradient descent.

    Every sample owns logits, whose softmax is its label; at the start they say the given label.
    After a plain stage at a high constant learning rate, the gradient of a divergence between
    prediction and label moves both: the network towards the label, and the label towards the
    network. In the last stage the labels stand still.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained; ``Network()`` by default. Its ``max_epochs`` counts all three
        stages, its schedule runs over the last one. Cloned, never trained in place.
    alpha : "auto" or float, default="auto"
        Weight of the given label (L_o; published: 0.1 to 0.4, asymmetric noise 0). It pulls a
        label towards ``(f + K alpha g) / (1 + K alpha)``, prediction f and given label g of K
        classes; ``"auto"`` is 0.2 / K.
    beta : float, default=0.4
        Weight of the predictions' entropy (L_e; published: 0.1 to 0.8).
    label_lr : "auto" or float, default="auto"
        Step of the labels at a visit. ``"auto"`` lets a label travel as far as in the published
        training: 60 steps of 1 in all (20 for images), but each between 0.47, as published, and
        3. 0 leaves the labels as they are, with a warning.
    scale : {"sample", "code"}, default="sample"
        Meaning of `label_lr`: the step ``label - prediction`` is multiplied by, or the published
        lambda, which is larger by batch size times classes (600 at 128 and 10 is 0.47).
    init_scale : "auto" or float, default="auto"
        Logit of the given label at the start. ``"auto"`` is 10, above 100 classes
        ``10 + log(K / 10)``.
    warmup : "auto" or int, default="auto"
        Epochs of plain training (published: 70 of 320). ``"auto"`` is 0.22 of all; on tables with
        few columns up to 0.6.
    correct_until : "auto" or int, default="auto"
        Epoch after which the labels stand still (published: 200 of 320). ``"auto"`` corrects in
        half of the epochs after the warm-up.
    lr_factor : float, default=1.0
        Constant learning rate of the first two stages, relative to the net's; published:
        0.02 to 0.06, then 0.2, so 0.1 to 0.3 with ``lr=0.2``.
    loss_weight : "auto" or float, default="auto"
        Weight of the loss in the last two stages, which is a mean over the classes too, for the
        network; the labels' step does not depend on it. ``"auto"`` is 1, as published, up to
        10 classes, then K / 10.
    double_softmax : bool, default=False
        Take L_o of an already normalised label, as the published code does: a bounded and much
        weaker pull, to which its alpha belongs.
    augment : "auto", None or callable, default="auto"
        Random view of a batch, ``augment(x, generator)``. ``"auto"`` shifts images at random
        (and mirrors colour images) and leaves tables alone.
    pretrain : "auto", SimCLR, module, state dict or path, optional
        Start of all layers but the last: `SimCLR`, trained on the rows of the fit, or a given
        encoder; ``"auto"`` is ``SimCLR()`` for images. By default they start at random.
    clean_score : {"auto", "history", "final"} or splitter, default="auto"
        Source of ``clean_proba_``: the given label's share of the learnt one (``"auto"``), how
        often the network predicted it in training, its final probability, or a splitter of
        `noisyfit.mixtures` on one minus the second.
    random_state : int, RandomState instance or None, default=None
        Seed of start, order, augmentation and dropout.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in sorted order.
    clean_proba_ : ndarray of shape (n_samples,)
        How likely each given label is right, in [0, 1].
    refined_labels_ : ndarray of shape (n_samples,)
        Arg max of ``refined_proba_``.
    refined_proba_ : ndarray of shape (n_samples, n_classes)
        The learnt labels; rows sum to 1.
    noise_rate_ : float
        Estimated share of wrong labels, ``1 - clean_proba_.mean()``.
    label_logits_ : ndarray of shape (n_trained, n_classes)
        Logits of the learnt labels.
    dynamics_ : dict of ndarrays of shape (n_samples,)
        ``n_seen``, ``wrong_events``, ``margin`` and ``proba`` of the given labels, averaged over
        the training passes of all stages.
    nets_ : list of skorch nets
        The trained network.
    history_ : list of dict
        One row per epoch, with ``relabelled``, the share of samples whose likeliest label is not
        the given one.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Warns
    -----
    UserWarning
        If ``label_lr`` is 0: all labels are then believed alike.

    Notes
    -----
    The divergence is that of the label from the prediction, ``KL(f || d)``: where the network is
    certain, labels hardly move it. Network and labels are updated from one backward pass, the
    labels by a plain step.

    Where paper and code differ, the paper is followed: the learning rate of the last stage falls
    by the schedule (an integer division makes it 0 in the code), and L_o is that of the label
    itself, see `double_softmax`. Divergence and entropy are averaged over the classes, as in the
    code, to which the published settings belong.

    Defaults differ from the published settings where small data need it, measured on tables and
    8x8 images: alpha falls with the classes (at K alpha = 1 a label ends halfway), the label's
    step grows in short trainings, and beyond ten classes a weight makes up for the
    mean.
    If no epoch was left to correct labels, the evidence is the training history.

    References
    ----------
    Yi, Wu, "Probabilistic End-to-end Noise Correction for Learning with Noisy Labels", CVPR 2019.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import Network
    >>> from noisyfit.methods.pencil import PencilClassifier
    >>> from noisyfit.noise import sym_excl
    >>> X, y = make_blobs(200, centers=3, random_state=0)
    >>> y_noisy = sym_excl(y, 0.2, random_state=0).y
    >>> clf = PencilClassifier(Network(max_epochs=30), random_state=0).fit(X, y_noisy)
    >>> clf.score(X, y) > 0.8
    True
    """

    def __init__(
        self,
        net=None,
        *,
        alpha="auto",
        beta=0.4,
        label_lr="auto",
        scale="sample",
        init_scale="auto",
        warmup="auto",
        correct_until="auto",
        lr_factor=1.0,
        loss_weight="auto",
        double_softmax=False,
        augment="auto",
        pretrain=None,
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.alpha = alpha
        self.beta = beta
        self.label_lr = label_lr
        self.scale = scale
        self.init_scale = init_scale
        self.warmup = warmup
        self.correct_until = correct_until
        self.lr_factor = lr_factor
        self.loss_weight = loss_weight
        self.double_softmax = double_softmax
        self.augment = augment
        self.pretrain = pretrain
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        check_real(self.beta, "beta", 0)
        for name in ("alpha", "label_lr"):
            if not is_auto(getattr(self, name)):
                check_real(getattr(self, name), name, 0)
        for name in ("init_scale", "loss_weight"):
            if not is_auto(getattr(self, name)):
                check_real(getattr(self, name), name, 0, closed="neither")
        check_real(self.lr_factor, "lr_factor", 0, closed="neither")
        for name in ("warmup", "correct_until"):
            if not is_auto(getattr(self, name)):
                check_integer(getattr(self, name), name, 0)
        check_bool(self.double_softmax, "double_softmax")
        if not is_one_of(self.scale, ("sample", "code")):
            raise ValueError(f"scale must be 'sample' or 'code', got {self.scale!r}.")
        if self.scale == "code" and is_auto(self.label_lr):
            raise ValueError("scale='code' needs a number as label_lr, such as 600.")

    def _begin(self, run):
        if not is_auto(self.label_lr) and self.label_lr == 0:
            warnings.warn(
                "label_lr=0 leaves the labels as they are, so that clean_proba_ is constant; use "
                "clean_score='history'.",
                UserWarning,
                stacklevel=2,
            )
        memory, n_classes = run.memory, run.n_classes
        self._stages_ = start, end = self._stages(run)
        run.last_stage = end
        memory.alpha = _COMPATIBILITY / n_classes if is_auto(self.alpha) else self.alpha
        memory.label_lr = self.label_lr
        if is_auto(self.label_lr):
            smallest, largest = _LABEL_LR_RANGE
            travel = _LABEL_TRAVEL if self._on_table else _LABEL_TRAVEL_OF_IMAGES
            memory.label_lr = min(max(travel / max(end - start, 1), smallest), largest)
        scale = initial_scale(n_classes) if is_auto(self.init_scale) else self.init_scale
        memory.label_logits = scale * functional.one_hot(run.data.y, n_classes).float()
        memory.weight = max(1.0, n_classes / 10) if is_auto(self.loss_weight) else self.loss_weight
        memory.corrected = False

    def _stages(self, run):
        """Epochs at which the correction starts and ends."""
        n, start, end = run.max_epochs, self.warmup, self.correct_until
        last = n if is_auto(end) else end
        if is_auto(start):
            short = max(1, round(0.22 * n))
            long = epochs_before_doubt(short, self._shape, run.steps_per_epoch)
            start = min(last, max(short, min(long, (3 * n) // 5)))
        if is_auto(end):
            end = start + math.ceil((n - start) / 2)
        if not start <= end <= n:
            raise ValueError(
                "The stages must fit into the training: need warmup <= correct_until <= "
                f"max_epochs, got {start}, {end} and {n}."
            )
        return start, end

    def _lr_factor(self, schedule, epoch, max_epochs):
        _, end = self._stages_
        return self.lr_factor if epoch < end else schedule(epoch - end, max_epochs - end)

    def _train_epoch(self, run, epoch):
        start, end = self._stages_
        run.memory.plain = epoch < start
        if start <= epoch < end:
            self._correct(run, epoch)
        else:
            super()._train_epoch(run, epoch)

    def _correct(self, run, epoch):
        """One epoch that updates network and labels from the same gradients."""
        memory = run.memory
        memory.corrected = True
        for batch, _ in run.train_batches(epoch):
            u = memory.label_logits[batch.index].requires_grad_()  # (batch, n_classes)
            run.step(self._correction_loss(run, batch, u))
            step = memory.label_lr
            if self.scale == "sample":
                step = code_label_lr(step, *u.shape)
            memory.label_logits.index_add_(0, batch.index, u.grad, alpha=-step / memory.weight)

    def _correction_loss(self, run, batch, u):
        logits = self._logits(run, batch)
        return run.memory.weight * (
            classification_loss(logits, u)
            + run.memory.alpha * compatibility_loss(u, batch.y, self.double_softmax)
            + self.beta * entropy_loss(logits)
        )

    def _loss(self, run, batch, t):
        logits = self._logits(run, batch)
        if run.memory.plain:
            return cross_entropy(logits, batch.y).mean()
        labels = run.memory.label_logits[batch.index]
        return run.memory.weight * classification_loss(logits, labels)

    def _logits(self, run, batch):
        logits = run.learners[0](run.view(batch.x))  # (batch, n_classes)
        run.observe(batch.index, logits)
        return logits

    def _end_epoch(self, run, epoch):
        run.log(relabelled=(run.memory.label_logits.argmax(1) != run.data.y).float().mean())

    def _finish(self, run):
        self.label_logits_ = run.memory.label_logits.cpu().numpy()

    def _posterior(self, run, logits):
        if not run.memory.corrected:
            return None
        return run.memory.label_logits.softmax(1).gather(1, run.data.y[:, None]).squeeze(1)

    def _refined_proba(self, run, rows, logits, clean_proba):
        if not run.memory.corrected:
            return super()._refined_proba(run, rows, logits, clean_proba)
        return run.memory.label_logits[rows].softmax(1)
