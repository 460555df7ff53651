"""Learning from the samples with small losses: how many are dropped, which, and the record."""

import torch

from noisyfit._checks import check_integer, check_real, is_auto
from noisyfit._divide import ranked_in_class
from noisyfit._evidence import predicted
from noisyfit._selection import SelectionRecord
from noisyfit._small_tables import epochs_before_doubt
from noisyfit.losses import cross_entropy
from noisyfit.mixtures import GaussianMixtureSplitter

_LARGEST_AUTO_RATE = 0.8
_CONTRADICTED = 0.75  # of the suspected labels at least, where labels are wrong
_PLAIN_EPOCHS = 10  # before an estimate where no ramp says how many


def refuse_no_burn_in(burn_in, name, remedy):
    """Raise if the parameter `name` is to be estimated before the first step.

    An untrained network contradicts nearly all labels, the right ones too.
    """
    if not is_auto(burn_in) and burn_in == 0:
        raise ValueError(
            f"burn_in=0 leaves no epoch after which {name}='auto' could be estimated; {remedy}."
        )


def forget_rate(epoch, noise_rate, n_gradual, exponent=1.0):
    """Share of a batch dropped in a zero-based epoch: ``noise_rate * min(epoch**c / T_k, 1)``."""
    if n_gradual == 0:
        return noise_rate
    return noise_rate * min(epoch**exponent / n_gradual, 1.0)


def epochs_to_rate(n_gradual, exponent, most):
    """Zero-based epoch in which `forget_rate` is first the noise rate, at most `most`."""
    return next((e for e in range(most) if e**exponent >= n_gradual), most)


def code_forget_rate(epoch, noise_rate, n_gradual, exponent=1.0):
    """The same as in the authors' code: T_k equal steps from 0 to ``tau**c``, then tau."""
    if epoch >= n_gradual:
        return noise_rate
    return noise_rate**exponent * (epoch / max(1, n_gradual - 1))


def number_to_keep(n, forget):
    """Rows kept of a batch of `n`, at least one; the small constant undoes rounding."""
    return max(1, int((1 - forget) * n + 1e-9))


def rows_to_keep(n, forget):
    """Kept share of `n` rows (integer tensor) rounded down on its device, where it may be 0."""
    return ((1 - forget) * n + 1e-4).floor()  # float32 errs more


def small_loss(losses, n_keep):
    """Weights (batch,): 1 for the `n_keep` smallest losses, else 0; ties go to the earlier row."""
    order = losses.detach().argsort(stable=True)
    return torch.zeros_like(losses).index_fill_(0, order[:n_keep], 1.0)


def small_loss_per_class(losses, y, forget, n_classes):
    """Weights (batch,): 1 for the kept share inside every given class, else 0."""
    smallest_first = losses.detach().argsort(stable=True)
    by_class, rank, size = ranked_in_class(smallest_first, y, n_classes)
    n_keep = rows_to_keep(size, forget).clamp_min(1)  # (n_classes,)
    kept = (rank < n_keep[y[by_class]]).to(losses.dtype)
    return torch.zeros_like(losses).index_copy_(0, by_class, kept)


def exchanged(losses, kept):
    """Scalar loss by which each of two networks learns what the other kept.

    `losses` and `kept`, weights 0 or 1, are pairs of tensors (batch,). 0 where nothing is kept.
    """
    (loss_f, loss_g), (kept_f, kept_g) = losses, kept
    of_f = (loss_f * kept_g).sum() / kept_g.sum().clamp_min(1)
    return of_f + (loss_g * kept_f).sum() / kept_f.sum().clamp_min(1)


def suspected_share(clean, contradicted):
    """Share of wrong labels, from a mixture's probabilities `clean` (n,) that labels are right.

    A mixture finds a group of larger losses among right labels too: rows near a border, half of
    which a network contradicts, while it contradicts nearly all wrong labels. So where fewer than
    three quarters of the suspected labels are `contradicted` (mask (n,)), only as many count as
    wrong as more are contradicted than not.
    """
    suspected = clean < 0.5
    n_suspected, n_both = suspected.sum().item(), (suspected & contradicted).sum().item()
    border = n_both < _CONTRADICTED * n_suspected
    n_wrong = max(0, 2 * n_both - n_suspected) if border else n_suspected
    return min(n_wrong / len(clean), _LARGEST_AUTO_RATE)


def estimated_rate(run, ensemble):
    """Share of wrong labels by a mixture on the mean loss of the networks."""
    logits = run.evaluate_all()
    for learner in run.learners:
        learner.train()
    y = run.data.y
    losses = sum(cross_entropy(of_one, y) for of_one in logits)
    if losses.max() == losses.min():
        return 0.0
    clean = GaussianMixtureSplitter().fit_tensor(losses)
    return suspected_share(clean, predicted(logits, ensemble) != y)


class SmallLossMixin:
    """Schedule and record of a method that drops the largest losses of each batch.

    It needs the parameters ``noise_rate``, ``n_gradual``, ``exponent`` and ``per_class``, and sets
    ``run.memory.forget``, the share to be dropped in this epoch, and ``run.memory.selection``.
    """

    def _check_parameters(self):
        super()._check_parameters()
        if not is_auto(self.noise_rate):
            check_real(self.noise_rate, "noise_rate", 0, 1, closed="left")
        check_integer(self.n_gradual, "n_gradual", 0)
        check_real(self.exponent, "exponent", 0, closed="neither")

    def _begin(self, run):
        memory = run.memory
        memory.selection = SelectionRecord(len(run.data), run.device)
        memory.rate = None if is_auto(self.noise_rate) else float(self.noise_rate)
        memory.ramp_start = 0
        plain = self.n_gradual or _PLAIN_EPOCHS
        plain = epochs_before_doubt(plain, self._shape, run.steps_per_epoch)
        memory.rate_epoch = max(1, min(plain, run.max_epochs // 2))
        run.last_stage = self._ramp_length(run.max_epochs)
        run.last_stage += memory.rate_epoch if memory.rate is None else 0

    def _train_epoch(self, run, epoch):
        self._open_epoch(run, epoch)
        super()._train_epoch(run, epoch)

    def _open_epoch(self, run, epoch):
        """Estimate the rate if it is time, set the share to be dropped and open the record."""
        memory = run.memory
        if memory.rate is None and epoch == memory.rate_epoch:
            memory.rate, memory.ramp_start = self._estimate_rate(run), epoch
        rate, since = memory.rate or 0.0, epoch - memory.ramp_start
        memory.forget = self._share_to_drop(rate, since, run.max_epochs - memory.ramp_start)
        in_window = memory.selection.open_in_last_epochs(epoch, run.max_epochs)
        ramp_is_over = memory.rate is not None and memory.forget >= memory.rate
        memory.selection.is_open = in_window and ramp_is_over
        run.log(forget_rate=memory.forget)

    def _share_to_drop(self, rate, epoch, n_epochs):
        """Share dropped in an epoch counted from the ramp's begin, of `n_epochs` from there on."""
        return forget_rate(epoch, rate, self.n_gradual, self.exponent)

    def _ramp_length(self, max_epochs):
        """Epochs until the full share is dropped."""
        return epochs_to_rate(self.n_gradual, self.exponent, max_epochs)

    def _estimate_rate(self, run):
        return estimated_rate(run, self.ensemble)

    def _choose(self, run, y, losses, forget=None):
        """Weights (batch,): 1 for the rows with the smallest losses, else 0.

        `forget` is the share dropped, by default that of the epoch.
        """
        forget = run.memory.forget if forget is None else forget
        if self.per_class:
            return small_loss_per_class(losses, y, forget, run.n_classes)
        return small_loss(losses, number_to_keep(len(y), forget))

    def _end_epoch(self, run, epoch):
        self.forget_rate_ = run.memory.forget

    def _posterior(self, run, logits):
        return run.memory.selection.clean_proba(self._history(run, logits))


def refuse_equal_starts(run):
    """Raise if two networks start alike: they would choose alike for ever."""
    f, g = (learner.module.state_dict().values() for learner in run.learners)
    if all(torch.equal(a, b) for a, b in zip(f, g, strict=True)):
        raise ValueError(
            "Both networks start with the same weights, so they would choose the same samples for "
            "ever; pass a module class to the net, not an instance."
        )
