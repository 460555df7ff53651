"""M-correction: targets, losses, phases, the mixture it keeps, and its safety."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import roc_auc_score
from torch import nn

from noisyfit import CrossEntropyClassifier, Network
from noisyfit._bootstrap_mix import (
    VARIANTS,
    bootstrap_target,
    class_shares,
    cooling_epochs,
    corrected_loss,
    guided_mix,
    guided_weights,
    mixed_corrected_loss,
    phase_starts,
    plain_epochs,
    soft_to_hard_temperature,
)
from noisyfit.augment import FeatureNoise
from noisyfit.losses import class_balance_penalty, cross_entropy
from noisyfit.methods.m_correction import MCorrectionClassifier
from noisyfit.mixtures import BetaMixtureSplitter, GaussianMixtureSplitter
from noisyfit.modules import SmallCNN
from noisyfit.noise import sym_incl
from noisyfit.plots import LossHistogramDisplay

X, Y = make_blobs(128, n_features=8, centers=3, cluster_std=3, random_state=0)
NOISY = sym_incl(Y, 0.4, random_state=0)
SKEWED = np.where((NOISY.y == 2) & (np.arange(len(X)) % 4 > 0), 0, NOISY.y)


def draws(n=7, n_classes=4, seed=0):
    """Logits, labels, targets, weights and partners of a batch."""
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(0, 2, (n, n_classes)))
    y = torch.tensor(rng.integers(0, n_classes, n))
    target = torch.tensor(rng.dirichlet(np.ones(n_classes), n))
    return logits, y, target, torch.tensor(rng.random(n)), torch.tensor(rng.permutation(n))


def log_softmax(z):
    return z - np.log(np.exp(z).sum())


def by_loops(logits, y, target, w, partner, delta):
    """The loss of each row, term by term."""
    losses = []
    for i, j in enumerate(partner):
        log_h = log_softmax(logits[i])
        brackets = []
        for k in (i, j):
            soft = -sum(t * log for t, log in zip(target[k], log_h, strict=True))
            brackets.append((1 - w[k]) * -log_h[y[k]] + w[k] * soft)
        losses.append(delta * brackets[0] + (1 - delta) * brackets[1])
    return losses


@pytest.mark.parametrize("delta", [0.0, 0.3, 1.0])
def test_mixed_loss_equals_plain_loops(delta):
    logits, y, target, w, partner = draws()
    loss = mixed_corrected_loss(logits, (y, target, w), partner, delta)
    expected = by_loops(*(values.numpy() for values in (logits, y, target, w, partner)), delta)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_weight_zero_is_cross_entropy_whatever_the_target():
    logits, y, target, _, partner = draws()
    logits, target, w = logits.float(), target.float(), torch.zeros(len(y))
    torch.testing.assert_close(corrected_loss(logits, y, target, w), cross_entropy(logits, y))
    mixed = mixed_corrected_loss(logits, (y, target, w), partner, 0.3)
    both = 0.3 * cross_entropy(logits, y) + 0.7 * cross_entropy(logits, y[partner])
    torch.testing.assert_close(mixed, both)


def test_weight_one_with_hard_targets_is_cross_entropy_with_the_arg_max():
    logits, y, *_ = draws()
    target = bootstrap_target(logits, "hard")
    loss = corrected_loss(logits, y, target, torch.ones(len(y)))
    torch.testing.assert_close(loss, cross_entropy(logits, logits.argmax(1)))


def test_soft_bootstrapping_with_equal_weights_and_no_mixing_is_the_static_one():
    logits, y, *_ = draws()
    target = bootstrap_target(logits, "soft")
    nobody = torch.arange(len(y))
    mixed = mixed_corrected_loss(logits, (y, target, torch.full((len(y),), 0.05)), nobody, 1.0)
    torch.testing.assert_close(mixed, corrected_loss(logits, y, target, 0.05))


def test_targets_pass_no_gradient():
    logits = draws()[0].requires_grad_()
    for kind in ("soft", "hard", "soft-to-hard"):
        target = bootstrap_target(logits, kind, 0.5)
        assert not target.requires_grad
        torch.testing.assert_close(target.sum(1), torch.ones(len(logits)))
    torch.testing.assert_close(
        bootstrap_target(logits, "soft-to-hard", 0.5), (2 * logits.float()).softmax(1).detach()
    )


def test_guided_weights_favour_the_row_that_is_more_likely_right():
    partner = torch.tensor([1, 0, 3, 2])
    w = torch.tensor([1e-4, 1 - 1e-4, 0.3, 0.3], dtype=torch.float64)
    a = guided_weights(w, partner)
    assert a[0] >= 0.9998
    assert a[2:].tolist() == [0.5, 0.5]
    torch.testing.assert_close(a + a[partner], torch.ones(4, dtype=torch.float64))
    x = torch.tensor([[1.0], [0.0], [4.0], [0.0]])
    mixed = guided_mix(x, w, partner)
    torch.testing.assert_close(mixed, torch.tensor([[1.0], [1.0], [2.0], [2.0]]), atol=1e-3, rtol=0)


def test_temperature_falls_as_published():
    values = [soft_to_hard_temperature(epoch, 89) for epoch in range(120)]
    np.testing.assert_allclose(values[:89], np.linspace(1, 0.001, 89), atol=1e-12)
    assert values[44] == pytest.approx(0.5005)
    assert values[88:] == pytest.approx([0.001] * 32)
    assert soft_to_hard_temperature(0, 1) == pytest.approx(0.001)


def test_coldest_target_is_the_hard_one():
    logits = torch.tensor([[0.0, 0.021, -1.0], [5.0, 1.0, 4.97]])
    cold = bootstrap_target(logits, "soft-to-hard", 0.001)
    torch.testing.assert_close(cold, bootstrap_target(logits, "hard"), atol=1e-6, rtol=0)


def test_penalty_is_zero_for_balanced_predictions_and_raises_the_rarest_class():
    assert class_balance_penalty(torch.zeros(5, 3)).item() == pytest.approx(0, abs=1e-6)
    logits = torch.tensor([[2.0, 1.0, 0.0], [2.0, 0.5, 0.0]], requires_grad=True)
    penalty = class_balance_penalty(logits)
    penalty.backward()
    assert penalty > 0
    assert (logits.grad[:, 2] < 0).all()
    assert (logits.grad[:, 0] > 0).all()


def test_phases_by_default_are_the_published_ones():
    def enough(epochs):
        return epochs

    assert plain_epochs(300, True, enough) == 105
    assert plain_epochs(120, False, enough) == 30
    assert phase_starts(300, 105) == (105, 110)
    assert phase_starts(300, 105, boot=50) == (45, 50)
    assert phase_starts(300, 105, guided=60) == (60, 65)
    assert cooling_epochs(300, 110) == 89
    assert plain_epochs(1, True, enough) == 1
    assert plain_epochs(50, True, lambda epochs: 24) == 32
    assert plain_epochs(50, True, lambda epochs: 90) == 40


class Counting(nn.Linear):
    """Counts the rows it is asked for, by mode and gradient."""

    seen = {}

    def __init__(self, n_features, n_classes):
        super().__init__(n_features, n_classes)

    def forward(self, x):
        kind = "step" if torch.is_grad_enabled() else "train" if self.training else "eval"
        Counting.seen[kind] = Counting.seen.get(kind, 0) + len(x)
        return super().forward(x)


def passes(variant, n_epochs, **params):
    """Rows per kind of pass in each epoch, in units of the data."""
    epochs = []

    class Spy(MCorrectionClassifier):
        def _train_epoch(self, run, epoch):
            Counting.seen = {}
            super()._train_epoch(run, epoch)

        def _end_epoch(self, run, epoch):
            super()._end_epoch(run, epoch)
            epochs.append({kind: rows / len(X) for kind, rows in Counting.seen.items()})

    net = Network(Counting, max_epochs=n_epochs, batch_size=50)
    Spy(net, variant=variant, random_state=0, **params).fit(X, NOISY.y)
    return epochs


PLAIN = {"step": 1, "eval": 1}
LOOKED_UP = {"step": 1, "eval": 2}
FULL = {"step": 1, "eval": 2, "train": 1}


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("CE", [PLAIN, PLAIN, PLAIN]),
        ("M", [PLAIN, PLAIN, PLAIN]),
        ("ST-H", [PLAIN, PLAIN, PLAIN]),
        ("DY-S", [PLAIN, PLAIN, LOOKED_UP]),
        ("M-DYR-H", [PLAIN, PLAIN, FULL]),
        ("MD-DYR-SH", [PLAIN, LOOKED_UP, FULL]),
    ],
)
def test_an_epoch_makes_no_pass_more_than_it_needs(variant, expected):
    assert passes(variant, 3, bootstrap_start=3) == expected


@pytest.mark.parametrize(("variant", "alpha"), [("CE", 0.5), ("M", 0)])
def test_without_correction_and_mixing_it_is_plain_training_bit_for_bit(variant, alpha):
    net = Network(max_epochs=4, batch_size=32)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, NOISY.y)
    ours = MCorrectionClassifier(net, variant=variant, alpha=alpha, random_state=0).fit(X, NOISY.y)
    np.testing.assert_array_equal(plain.predict_proba(X), ours.predict_proba(X))


def test_static_weight_zero_is_plain_training():
    net = Network(max_epochs=4, batch_size=32)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, NOISY.y).predict_proba(X)
    for weight, same in ((0, True), ("auto", False)):
        clf = MCorrectionClassifier(
            net, variant="st-h", static_weight=weight, bootstrap_start=1, random_state=0
        )
        proba = clf.fit(X, NOISY.y).predict_proba(X)
        assert np.allclose(proba, plain, atol=1e-5) == same


class Captured(MCorrectionClassifier):
    """Keeps what the last batch of each epoch made of its weights, and the mixtures."""

    def _begin(self, run):
        super()._begin(run)
        self.kept = []

    def _wrong(self, run, net, x, y):
        w = super()._wrong(run, net, x, y)
        self.last = (w, cross_entropy(net(x), y).detach(), run.memory.splitter)
        return w

    def _end_epoch(self, run, epoch):
        super()._end_epoch(run, epoch)
        self.kept.append(self.last)


class WithNorm(nn.Sequential):
    def __init__(self, n_features, n_classes):
        super().__init__(nn.Linear(n_features, 8), nn.BatchNorm1d(8), nn.Linear(8, n_classes))


class Compared(MCorrectionClassifier):
    """Keeps loss and gradient of each step, beside the same written out."""

    def _train_epoch(self, run, epoch):
        self._rng = copy.deepcopy(run.rng)
        super()._train_epoch(run, epoch)

    def _loss(self, run, batch, t):
        module = run.learners[0].module
        start, drawn = copy.deepcopy(module), run.generator.clone_state()
        loss = super()._loss(run, batch, t)
        partner = torch.randperm(len(batch.y), generator=drawn)
        expected = self._written_out(start, run.memory, batch, int(t), partner)
        ours, theirs = (
            (value, torch.autograd.grad(value, list(net.parameters()), retain_graph=True))
            for value, net in ((loss, module), (expected, start))
        )
        self._log.append((int(t), ours, theirs))
        return loss

    def _written_out(self, net, memory, batch, epoch, partner):
        """A plain epoch, then for "MD" two of guided mixing, then three of corrected targets."""
        x, y, eye = batch.x, batch.y, torch.eye(3)
        mixes, guided = self.variant[0] == "M", self.variant[:2] == "MD" and epoch > 0
        corrects = "-" in self.variant and epoch > 2
        delta, share = 1.0, torch.ones(len(y))
        w = torch.full((len(y),), {"ST-S": 0.05, "ST-H": 0.2}.get(self.variant, 0.0))
        if mixes:
            alpha = 32 if guided else 0.5
            delta = self._rng.beta(alpha, alpha)
            share = torch.full((len(y),), delta)
        if self.variant[:2] != "ST" and (guided or corrects):
            losses = nn.functional.cross_entropy(net.eval()(x), y, reduction="none").detach()
            w = (1 - memory.splitter.transform_tensor(losses)).clamp(1e-4, 1 - 1e-4)
        if guided:
            share = (1 - w) / (1 - w + 1 - w[partner])
        with torch.no_grad():
            own = net.train()(x)
        mixed = share[:, None] * x + (1 - share[:, None]) * x[partner]
        log_h = net(mixed).log_softmax(1)
        labels = eye[y]
        if corrects:
            temperature = {3: 1.0, 4: 0.5005, 5: 0.001}[epoch]
            target = {
                "S": own.softmax(1),
                "H": eye[own.argmax(1)],
                "SH": (own / temperature).softmax(1),
            }[self.variant.split("-")[-1]]
            labels = (1 - w[:, None]) * labels + w[:, None] * target
            delta = 0.5 if guided else delta
        labels = delta * labels + (1 - delta) * labels[partner]
        loss = -(labels * log_h).sum(1).mean()
        if mixes and corrects:
            prior = np.bincount(SKEWED) / len(SKEWED)
            prior = torch.tensor(prior if self.class_prior == "auto" else self.class_prior)
            loss = loss + self.lambda_r * (prior * (prior / log_h.exp().mean(0)).log()).sum()
        return loss


@pytest.mark.parametrize(
    ("variant", "class_prior"),
    [(variant, "auto") for variant in VARIANTS] + [("M-DYR-S", [0.2, 0.3, 0.5])],
)
def test_every_step_follows_the_loss_written_out(variant, class_prior):
    clf = Compared(
        Network(WithNorm, max_epochs=6, batch_size=50),
        variant=variant,
        guided_start=2,
        bootstrap_start=4,
        temperature_epochs=3,
        alpha=0.5,
        lambda_r=0.7,
        class_prior=class_prior,
        guards=False,
        random_state=0,
    )
    clf._log = []
    clf.fit(X, SKEWED)
    assert [epoch for epoch, *_ in clf._log] == np.repeat(range(6), 3).tolist()
    for _, ours, theirs in clf._log:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, check_dtype=False)


def test_weights_come_from_the_mixture_of_the_epoch_before():
    net = Network(max_epochs=4, batch_size=64)
    clf = Captured(net, bootstrap_start=3, guards=False, random_state=0).fit(X, NOISY.y)
    assert [w is None for w, *_ in clf.kept] == [True, True, False, False]
    for w, losses, splitter in clf.kept[2:]:
        expected = 1 - splitter.transform_tensor(losses)
        torch.testing.assert_close(w, expected.clamp(1e-4, 1 - 1e-4))
    before = clf.mixture_history_[2]
    assert before["epoch"] == 3
    assert before["alphas"] == clf.kept[3][2].alphas_.tolist()
    assert before["lo"] == clf.kept[3][2].offset_


def test_before_any_mixture_every_label_is_half_wrong():
    clf = Captured(Network(max_epochs=1, batch_size=64), bootstrap_start=1, random_state=0)
    w, _, splitter = clf.fit(X, NOISY.y).kept[0]
    assert splitter is None
    assert set(w.tolist()) == {0.5}


def test_posterior_of_the_largest_losses_is_the_largest():
    clf = MCorrectionClassifier(Network(max_epochs=8), guards=False, random_state=0)
    clf.fit(X, NOISY.y)
    losses = clf.losses_[0]
    assert losses.min() < 0
    assert losses.max() > 1
    beyond = clf.clean_proba_[losses >= 1]
    assert beyond.max() == beyond.min() == clf.clean_proba_.min()
    assert clf.clean_proba_.min() >= 1e-4 - 1e-9
    assert clf.clean_proba_.max() <= 1 - 1e-4 + 1e-7


def test_mixture_and_losses_can_be_drawn():
    for splitter in (None, GaussianMixtureSplitter()):
        clf = MCorrectionClassifier(Network(max_epochs=4), splitter=splitter, random_state=0)
        clf.fit(X, NOISY.y)
        assert [row["epoch"] for row in clf.mixture_history_] == [1, 2, 3, 4]
        assert clf.bmm_["kind"] == ("gaussian" if splitter else "beta")
        assert clf.bmm_["lo"] < clf.bmm_["hi"]
        assert clf.losses_.shape == (1, len(X))
        display = LossHistogramDisplay.from_estimator(clf)
        assert display.counts.sum() == len(X)
        assert display.expected.sum(0).max() > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_and_leaves_its_target(variant):
    net = Network(max_epochs=8, batch_size=32)
    clf = MCorrectionClassifier(net, variant=variant.lower(), random_state=0).fit(X, NOISY.y)
    assert roc_auc_score(~NOISY.changed, clf.clean_proba_) > 0.7
    given, proba = np.eye(3)[NOISY.y], clf.predict_proba(X)
    w = {"ST-S": 0.05, "ST-H": 0.2}.get(variant, (1 - clf.clean_proba_)[:, None])
    expected = {
        "S": (1 - w) * given + w * proba,
        "H": (1 - w) * given + w * np.eye(3)[proba.argmax(1)],
    }.get(variant.rsplit("-")[-1][-1] if "-" in variant else "", given)
    np.testing.assert_allclose(clf.refined_proba_, expected, atol=1e-3)


def test_equal_losses_keep_the_last_mixture_or_none():
    one_class = MCorrectionClassifier(Network(max_epochs=3), random_state=0)
    one_class.fit(X, np.zeros(len(X)))
    assert one_class.bmm_ is None
    assert one_class.mixture_history_ == []
    assert not one_class.losses_.any()
    assert one_class.clean_proba_.min() > 0.99

    class Flat(MCorrectionClassifier):
        def _fit_mixture(self, run, losses, epoch):
            super()._fit_mixture(run, losses if epoch < 2 else torch.ones_like(losses), epoch)

    kept = Flat(Network(max_epochs=4), random_state=0).fit(X, NOISY.y)
    assert [row["epoch"] for row in kept.mixture_history_] == [1, 2]
    assert kept.bmm_["alphas"] == kept.mixture_history_[1]["alphas"]


def test_an_empty_component_keeps_the_last_mixture_and_warns_once():
    class Emptying(BetaMixtureSplitter):
        n_fits = 0

        def fit_tensor(self, x):
            clean = super().fit_tensor(x)
            Emptying.n_fits += 1
            if Emptying.n_fits > 2:
                self.weights_ = np.array([1.0, 0.0])
            return clean

    clf = MCorrectionClassifier(Network(max_epochs=5), splitter=Emptying(), random_state=0)
    with pytest.warns(UserWarning, match="empty after epoch 3") as caught:
        clf.fit(X, NOISY.y)
    assert len(caught) == 1
    assert [row["epoch"] for row in clf.mixture_history_] == [1, 2]


def test_guard_stops_corrections_where_the_network_agrees_with_doubted_labels():
    X, y = make_blobs(200, n_features=8, centers=3, random_state=0)
    shares = {}
    for guards in (True, False):
        clf = MCorrectionClassifier(Network(max_epochs=10), guards=guards, random_state=0)
        shares[guards] = [row["doubted"] for row in clf.fit(X, y).history_]
    assert shares[False][-1] > 0.1
    assert shares[True][-1] == 0


@pytest.mark.parametrize(("variant", "weight"), [("M-DYR-H", 0.0), ("DY-S", 0.0), ("ST-H", 0.2)])
def test_after_a_failed_guard_only_static_weights_correct(variant, weight):
    class Failing(Captured):
        def _end_epoch(self, run, epoch):
            super()._end_epoch(run, epoch)
            run.memory.doubts = torch.zeros((), dtype=torch.bool)

    net = Network(max_epochs=2, batch_size=64)
    clf = Failing(net, variant=variant, bootstrap_start=2, random_state=0).fit(X, NOISY.y)
    w, _, _ = clf.kept[1]
    torch.testing.assert_close(w, torch.full((64,), weight))


def test_tracking_on_random_views_sees_other_losses():
    net, fits = Network(max_epochs=3), {}
    for flag in (False, True):
        clf = MCorrectionClassifier(
            net, augment=FeatureNoise(1.0), track_augment=flag, guards=False, random_state=0
        )
        fits[flag] = clf.fit(X, NOISY.y)
    assert fits[True].mixture_history_[0]["alphas"] != fits[False].mixture_history_[0]["alphas"]
    raw = fits[False]
    proba = raw.predict_proba(X)[np.arange(len(X)), NOISY.y]
    scaled = (-np.log(proba) - raw.bmm_["lo"]) / (raw.bmm_["hi"] - raw.bmm_["lo"])
    np.testing.assert_allclose(raw.losses_[0], scaled, atol=1e-4)


def test_tracking_on_views_that_change_nothing_sees_the_losses_of_the_rows():
    """In evaluation mode, then: batch statistics would give others."""
    net, fits = Network(WithNorm, max_epochs=3, batch_size=50), []
    for flag in (False, True):
        clf = MCorrectionClassifier(
            net, augment=lambda x, generator: x, track_augment=flag, random_state=0
        )
        fits.append(clf.fit(X, NOISY.y))
    np.testing.assert_allclose(fits[1].losses_, fits[0].losses_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fits[1].predict_proba(X), fits[0].predict_proba(X), atol=1e-6)


def test_table_of_two_points_gives_two_values_of_doubt():
    net = Network(max_epochs=3)
    clf = MCorrectionClassifier(net, lookup=2, guards=False, random_state=0).fit(X, NOISY.y)
    assert len(set(clf.clean_proba_)) <= 2


def test_prior_is_that_of_the_given_labels_unless_told():
    y = torch.tensor([0, 0, 0, 2])
    assert class_shares("auto", y, 3).tolist() == [0.75, 0, 0.25]
    assert class_shares([0.5, 0.25, 0.25], y, 3).tolist() == [0.5, 0.25, 0.25]
    with pytest.raises(ValueError, match="class_prior"):
        MCorrectionClassifier(class_prior=[0.5, 0.5]).fit(X, Y)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"variant": "DYR"}, "M-DYR-H"),
        ({"variant": None}, "variant"),
        ({"bootstrap_start": 0}, "bootstrap_start"),
        ({"bootstrap_start": 51}, "max_epochs=50"),
        ({"guided_start": 51}, "max_epochs=50"),
        ({"variant": "MD-DYR-H", "guided_start": 20, "bootstrap_start": 10}, "lies after"),
        ({"alpha": -1}, "alpha"),
        ({"static_weight": 2}, "static_weight"),
        ({"lambda_r": -1}, "lambda_r"),
        ({"temperature_epochs": 0}, "temperature_epochs"),
        ({"splitter": "beta"}, "splitter"),
        ({"lookup": 1}, "lookup"),
        ({"lookup": 100, "splitter": BetaMixtureSplitter()}, "lookup"),
    ],
)
def test_bad_parameters_are_refused_before_training(params, words):
    with pytest.raises((ValueError, TypeError), match=words):
        MCorrectionClassifier(**params).fit(X, Y)


@pytest.fixture(scope="module")
def split(digits):
    images, y = digits
    return images[:900], y[:900], images[1200:], y[1200:]


def test_corrected_targets_beat_plain_training_on_noisy_digits(split):
    images, y, test, y_test = split
    noisy = sym_incl(y, 0.4, random_state=0)
    net = Network(SmallCNN, max_epochs=30)
    plain, ours = (
        cls(net, augment=None, random_state=0).fit(images, noisy.y)
        for cls in (CrossEntropyClassifier, MCorrectionClassifier)
    )
    assert ours.score(test, y_test) > plain.score(test, y_test) + 0.1
    assert roc_auc_score(~noisy.changed, ours.clean_proba_) > 0.97
    assert np.mean(ours.refined_labels_ == y) > 1 - noisy.changed.mean() + 0.15


def test_clean_digits_cost_at_most_a_point(split):
    images, y, test, y_test = (a.reshape(len(a), -1) if a.ndim == 3 else a for a in split)
    plain, ours = (
        cls(random_state=0).fit(images, y).score(test, y_test)
        for cls in (CrossEntropyClassifier, MCorrectionClassifier)
    )
    assert ours >= plain - 0.01
