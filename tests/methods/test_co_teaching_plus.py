"""Co-teaching+: schedule, choice among rows on which the networks differ, batches without any."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.datasets import make_blobs
from sklearn.metrics import roc_auc_score
from skorch.callbacks import EarlyStopping
from torch import nn

from noisyfit import CoTeachingClassifier, CrossEntropyClassifier, Network
from noisyfit._selection import SelectionRecord
from noisyfit._small_loss import number_to_keep
from noisyfit.methods.co_teaching_plus import (
    CoTeachingPlusClassifier,
    rising_forget_rate,
    small_loss_among,
)
from noisyfit.modules import MLP
from noisyfit.noise import sym_excl, sym_incl

X, Y = make_blobs(128, n_features=4, centers=3, cluster_std=3.0, random_state=0)
TOLD = {"noise_rate": 0.4, "n_gradual": 2, "init_epoch": 0, "random_state": 0}


# ---- schedule --------------------------------------------------------------------------------


def test_rising_rate_is_the_published_formula():
    for rate in (0.2, 0.45, 0.5):
        for e in range(200):
            published = min(e / 10 * rate, (1 + (e - 10) / 190) * rate)
            assert rising_forget_rate(e, rate, 10, 200) == pytest.approx(published)


def test_rising_rate_stays_a_share_whatever_the_length():
    for rate in (0.0, 0.3, 0.8):
        for n_gradual, n_epochs in ((10, 3), (10, 10), (10, 12), (0, 5)):
            rates = [rising_forget_rate(e, rate, n_gradual, n_epochs) for e in range(n_epochs)]
            assert rates == sorted(rates)
            assert all(0 <= r < 1 for r in rates)


@pytest.mark.parametrize("schedule", ["capped", "rising"])
def test_dropped_share_follows_the_schedule(schedule):
    net = Network(max_epochs=8, batch_size=32)
    clf = CoTeachingPlusClassifier(
        net, noise_rate=0.4, n_gradual=4, schedule=schedule, init_epoch=2, random_state=0
    ).fit(X, Y)
    further = [0.0, 0.1, 0.2, 0.3] if schedule == "rising" else [0.0] * 4
    expected = [0, 0.1, 0.2, 0.3, *(0.4 + more for more in further)]
    assert [row["forget_rate"] for row in clf.history_] == pytest.approx(expected)
    assert clf.noise_rate_ == pytest.approx(0.4, abs=0.03)  # of the record, whatever is dropped


# ---- choice ----------------------------------------------------------------------------------


def chosen_by_hand(losses, rows, forget):
    """Weights of the kept share of the mask `rows`, as the official code counts it."""
    candidates = [i for i in np.argsort(losses, kind="stable") if rows[i]]
    n_keep = int((1 - forget) * len(candidates) + 1e-9)
    kept = candidates[:n_keep] if n_keep else candidates
    return np.isin(np.arange(len(losses)), kept).astype(float)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_small_losses_among_rows_equal_the_choice_by_hand(share):
    rng = np.random.default_rng(0)
    for forget in (0.0, 0.16, 0.2, 0.45, 0.9, 1.0):
        for n in (1, 7, 75, 128):
            losses = rng.integers(0, 20, n).astype(np.float32)  # with ties
            rows = rng.random(n) < share
            ours = small_loss_among(torch.tensor(losses), torch.tensor(rows), forget)
            np.testing.assert_array_equal(ours, chosen_by_hand(losses, rows, forget))


def test_count_on_the_device_equals_the_count_on_the_host():
    for forget in np.arange(0, 100) / 100:
        for n in range(1, 300):
            losses = torch.zeros(n)
            kept = small_loss_among(losses, torch.ones(n, dtype=torch.bool), forget).sum()
            exact = int((1 - forget) * n + 1e-9)
            assert kept == (number_to_keep(n, forget) if exact else n)


class Captured(CoTeachingPlusClassifier):
    """Keeps what the loss of differing rows was made of and gave."""

    def _loss_of_differing(self, run, batch, logits, differ):
        loss, skip = super()._loss_of_differing(run, batch, logits, differ)
        self.seen = {"y": batch.y, "logits": [z.detach() for z in logits], "skip": skip}
        self.seen |= {"loss": loss.item(), "differ": differ, "forget": run.memory.forget}
        return loss, skip


def cross_entropies(logits, y, twice=False):
    z = softmax(logits, axis=1) if twice else logits
    return -log_softmax(z, axis=1)[np.arange(len(y)), y]


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("per_class", [False, True])
def test_loss_is_the_mean_over_the_choice_of_the_other_among_differing_rows(twice, per_class):
    net = Network(max_epochs=3, batch_size=64, lr=0.01)
    params = TOLD | {"legacy_double_softmax": twice, "per_class": per_class}
    clf = Captured(net, **params).fit(X, Y)
    y, (f, g) = clf.seen["y"].numpy(), (z.double().numpy() for z in clf.seen["logits"])
    differ = f.argmax(1) != g.argmax(1)
    np.testing.assert_array_equal(clf.seen["differ"], differ)
    assert 4 < differ.sum() < 60
    losses = cross_entropies(f, y, twice), cross_entropies(g, y, twice)
    kept = []
    for of_one in losses:
        weights = np.zeros(len(y))
        for rows in [differ & (y == c) for c in range(3)] if per_class else [differ]:
            n_keep = max(number_to_keep(rows.sum(), 0.4), 1)
            weights[[i for i in of_one.argsort(kind="stable") if rows[i]][:n_keep]] = 1
        kept.append(weights)
    assert (kept[0] != kept[1]).any()
    expected = np.average(losses[0], weights=kept[1]) + np.average(losses[1], weights=kept[0])
    assert clf.seen["loss"] == pytest.approx(expected, rel=1e-5)
    if twice:  # bounded: log(2 + e) - 1 and log(2 + e)
        assert 2 * 0.55 < clf.seen["loss"] < 2 * 1.56


def test_dropped_and_agreed_rows_give_no_gradient():
    clf = CoTeachingPlusClassifier(**TOLD)
    torch.manual_seed(0)
    nets = nn.Linear(4, 3), nn.Linear(4, 3)
    x = torch.randn(40, 4, requires_grad=True)

    class Run:
        n_classes = 3

        class memory:
            forget, rate, step, plain_steps = 0.4, 0.4, 10, 0
            selection = SelectionRecord(40, torch.device("cpu"))

    class Rows:
        y, index = torch.randint(3, (40,)), torch.arange(40)

    logits = [net(x) for net in nets]
    differ = logits[0].argmax(1) != logits[1].argmax(1)
    loss, skip = clf._loss_of_differing(Run, Rows, logits, differ)
    loss.backward()
    assert not skip
    moved = x.grad.any(1)
    assert not moved[~differ].any()
    losses = [cross_entropies(z.detach().numpy(), Rows.y.numpy()) for z in logits]
    kept = [chosen_by_hand(of_one, differ.numpy(), 0.4) for of_one in losses]
    np.testing.assert_array_equal(moved, (kept[0] + kept[1]) > 0)


# ---- the same as Co-teaching, and batches without a difference --------------------------------


def weights_of(clf):
    return torch.cat([p.detach().flatten() for net in clf.nets_ for p in net.module_.parameters()])


class Differing(CoTeachingPlusClassifier):
    """All rows count as rows on which the networks differ, or none."""

    always = True

    def _loss_of_differing(self, run, batch, logits, differ):
        return super()._loss_of_differing(run, batch, logits, torch.full_like(differ, self.always))


class Agreeing(Differing):
    always = False


def test_networks_that_always_differ_are_co_teaching():
    net = Network(max_epochs=4, batch_size=32)
    told = {"noise_rate": 0.4, "n_gradual": 2, "random_state": 0}
    plain = CoTeachingClassifier(net, **told).fit(X, Y)
    for always, init_epoch in ((True, 0), (True, 2), (False, 4)):
        cls = Differing if always else Agreeing
        plus = cls(net, init_epoch=init_epoch, plain_steps=0, **told).fit(X, Y)
        torch.testing.assert_close(weights_of(plus), weights_of(plain))
        np.testing.assert_array_equal(plus.clean_proba_, plain.clean_proba_)
    assert not torch.equal(weights_of(CoTeachingPlusClassifier(net, **TOLD).fit(X, Y)), plain)


class WithNorm(nn.Sequential):
    def __init__(self, n_features, n_classes):
        norm = nn.BatchNorm1d(8)
        super().__init__(nn.Linear(n_features, 8), norm, nn.ReLU(), nn.Linear(8, n_classes))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_networks_that_always_agree_change_no_parameter_once_the_steps_are_over(optimizer):
    """Four steps an epoch; neither momentum nor weight decay acts on."""
    after = {}
    for epochs in (2, 3, 5):
        net = Network(
            WithNorm,
            max_epochs=epochs,
            batch_size=32,
            lr_schedule="constant",
            optimizer=optimizer,
            lr=0.01,
            optimizer__weight_decay=0.01,
        )
        clf = Agreeing(net, **TOLD | {"plain_steps": 10}).fit(X, Y)
        after[epochs] = weights_of(clf)
        losses = [row["train_loss"] for row in clf.history_]
        assert all(loss > 0 for loss in losses[:3])
        assert losses[3:] == [0] * (epochs - 3)
    assert not torch.equal(after[2], after[3])  # steps 9 and 10
    assert torch.equal(after[3], after[5])


def test_batches_without_a_difference_are_plain_training_at_first():
    """The mean over the whole batch with nothing dropped, whatever the noise rate."""
    net = Network(max_epochs=4, batch_size=32)
    agreed = Agreeing(net, **TOLD | {"plain_steps": 5000}).fit(X, Y)
    plain = CoTeachingClassifier(net, noise_rate=0.0, random_state=0).fit(X, Y)
    torch.testing.assert_close(weights_of(agreed), weights_of(plain))


def test_plain_steps_by_default_are_a_sixteenth_and_the_begin_half_of_the_epochs():
    seen = {}

    class Spy(CoTeachingPlusClassifier):
        def _begin(self, run):
            super()._begin(run)
            seen.update(vars(run.memory), last_stage=run.last_stage)

    Spy(Network(max_epochs=32, batch_size=16), random_state=0).fit(X, Y)
    assert (seen["plain_steps"], seen["differ_from"], seen["last_stage"]) == (16, 16, 20 + 6)
    Spy(Network(max_epochs=9, batch_size=16), noise_rate=0.2, random_state=0).fit(X, Y)
    assert (seen["differ_from"], seen["last_stage"]) == (5, 10)
    Spy(Network(max_epochs=9), noise_rate=0.2, n_gradual=2, init_epoch=6).fit(X, Y)
    assert (seen["differ_from"], seen["last_stage"]) == (6, 6)


@pytest.mark.parametrize(("init_epoch", "first"), [(0, 5), (5, 5), (7, 7)])
def test_rows_are_not_left_out_before_an_unknown_rate_is_estimated(init_epoch, first):
    epochs = []

    class Spy(CoTeachingPlusClassifier):
        def _loss_of_differing(self, run, batch, logits, differ):
            epochs.append(len(run.history))
            return super()._loss_of_differing(run, batch, logits, differ)

    net = Network(max_epochs=9)
    Spy(net, n_gradual=5, init_epoch=init_epoch, random_state=0).fit(*big_table())
    assert set(epochs) == set(range(first, 9)) - ({5} if first == 7 else set())


def big_table():
    """Enough columns and steps that the rate is estimated after `n_gradual` epochs."""
    X, y = make_blobs(300, n_features=10, centers=3, random_state=0)
    return X, y
