"""Co-teaching+: schedule, choice among rows on which the networks differ, batches without any."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.datasets import make_blobs, make_moons
from sklearn.metrics import roc_auc_score
from sklearn.utils import Bunch
from skorch.callbacks import EarlyStopping
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from noisyfit import CoTeachingClassifier, CrossEntropyClassifier, Network
from noisyfit._selection import SelectionRecord
from noisyfit._small_loss import number_to_keep, rows_to_keep
from noisyfit.methods.co_teaching_plus import (
    CoTeachingPlusClassifier,
    rising_forget_rate,
    small_loss_among,
)
from noisyfit.noise import sym_excl

X, Y = make_blobs(128, n_features=4, centers=3, cluster_std=3.0, random_state=0)
TOLD = {"noise_rate": 0.4, "n_gradual": 2, "random_state": 0}
AS_PUBLISHED = TOLD | {"init_epoch": 0, "guards": False}


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
    n = torch.arange(1, 513)
    for forget in np.arange(0, 100) / 100:
        exact = [int((1 - forget) * rows + 1e-9) for rows in n.tolist()]
        assert rows_to_keep(n, forget).tolist() == exact


class Captured(CoTeachingPlusClassifier):
    """Keeps the batch with the most differing rows and the loss that was made of it."""

    most = 0

    def _loss_of_differing(self, run, batch, logits, differ):
        loss, skip = super()._loss_of_differing(run, batch, logits, differ)
        if differ.sum() > self.most:
            self.most = differ.sum().item()
            self.logits = [z.detach().double().numpy() for z in logits]
            self.y, self.differ, self.loss = batch.y.numpy(), differ.numpy(), loss.item()
        return loss, skip


def cross_entropies(logits, y, twice=False):
    z = softmax(logits, axis=1) if twice else logits
    return -log_softmax(z, axis=1)[np.arange(len(y)), y]


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("per_class", [False, True])
def test_loss_is_the_mean_over_the_choice_of_the_other_among_differing_rows(twice, per_class):
    net = Network(max_epochs=3, batch_size=64, lr=0.01)
    params = AS_PUBLISHED | {"legacy_double_softmax": twice, "per_class": per_class, "n_gradual": 0}
    clf = Captured(net, **params).fit(X, Y)
    y, differ, (f, g) = clf.y, clf.differ, clf.logits
    np.testing.assert_array_equal(differ, f.argmax(1) != g.argmax(1))
    assert 5 < differ.sum() < 60
    losses = cross_entropies(f, y, twice), cross_entropies(g, y, twice)
    kept = []
    for of_one in losses:
        weights = np.zeros(len(y))
        for rows in [differ & (y == c) for c in range(3)] if per_class else [differ]:
            n_keep = number_to_keep(rows.sum(), 0.4)
            weights[[i for i in of_one.argsort(kind="stable") if rows[i]][:n_keep]] = 1
        kept.append(weights)
    assert (kept[0] != kept[1]).any()
    expected = np.average(losses[0], weights=kept[1]) + np.average(losses[1], weights=kept[0])
    assert clf.loss == pytest.approx(expected, rel=1e-5)
    if twice:  # of three classes each loss lies between log(e + 2) - 1 and log(e + 2)
        assert 2 * 0.55 < clf.loss < 2 * 1.56


def made_run(n, step=10):
    """A run as far as the loss looks at it, and a batch of `n` rows."""
    memory = Bunch(forget=0.4, rate=0.4, step=step, plain_steps=step)
    memory.selection = SelectionRecord(n, torch.device("cpu"))
    memory.selection.is_open = True
    batch = Bunch(y=torch.arange(n) % 3, index=torch.arange(n))
    return Bunch(n_classes=3, memory=memory), batch


def test_dropped_and_agreed_rows_give_no_gradient():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(40, 4)), requires_grad=True)
    logits = [x @ torch.tensor(rng.normal(size=(4, 3))) for _ in range(2)]
    differ = logits[0].argmax(1) != logits[1].argmax(1)
    run, batch = made_run(40)
    clf = CoTeachingPlusClassifier(guards=False)
    loss, skip = clf._loss_of_differing(run, batch, logits, differ)
    loss.backward()
    assert not skip
    losses = [cross_entropies(z.detach().numpy(), batch.y.numpy()) for z in logits]
    kept = [chosen_by_hand(of_one, differ.numpy(), 0.4) for of_one in losses]
    assert 0 < (kept[0] + kept[1] > 0).sum() < differ.sum()
    np.testing.assert_array_equal(x.grad.any(1), kept[0] + kept[1] > 0)


@pytest.mark.parametrize("params", [{}, {"guards": False}, {"per_class": True}])
def test_no_step_asks_the_device(params):
    """Tensors without values refuse whatever depends on them."""
    clf = CoTeachingPlusClassifier(**params)
    with FakeTensorMode():
        run, batch = made_run(40)
        logits = [torch.empty(40, 3, requires_grad=True) for _ in range(2)]
        differ = torch.empty(40, dtype=torch.bool)
        with pytest.raises(DataDependentOutputException):
            bool(differ.any())
        for loss_of in (clf._loss_of_all, clf._loss_of_differing):
            loss_of(run, batch, logits, differ)[0].backward()


# ---- the same as Co-teaching, and batches without a difference --------------------------------


def weights_of(clf):
    return torch.cat([p.detach().flatten() for net in clf.nets_ for p in net.module_.parameters()])


class Differing(CoTeachingPlusClassifier):
    """All rows count as rows on which the networks differ, or none."""

    always = True

    def _loss_of_differing(self, run, batch, logits, differ):
        return super()._loss_of_differing(run, batch, logits, torch.full_like(differ, self.always))


class Agreeing(Differing):
    """Counts the steps that may not be skipped."""

    always, n_taken = False, 0

    def _loss_of_differing(self, run, batch, logits, differ):
        loss, skip = super()._loss_of_differing(run, batch, logits, differ)
        self.n_taken += skip is None
        return loss, skip


def test_networks_that_always_differ_are_co_teaching():
    net = Network(max_epochs=4, batch_size=32)
    plain = CoTeachingClassifier(net, **TOLD).fit(X, Y)
    for cls, params in (
        (Differing, {}),
        (Differing, {"init_epoch": 2}),
        (Differing, {"guards": True}),
        (Agreeing, {"guards": True}),
        (Agreeing, {"init_epoch": 4}),
    ):
        plus = cls(net, **AS_PUBLISHED | {"plain_steps": 0} | params).fit(X, Y)
        torch.testing.assert_close(weights_of(plus), weights_of(plain))
        np.testing.assert_array_equal(plus.clean_proba_, plain.clean_proba_)
    other = CoTeachingPlusClassifier(net, **AS_PUBLISHED).fit(X, Y)
    assert (weights_of(other) - weights_of(plain)).abs().max() > 0.01


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
        clf = Agreeing(net, **AS_PUBLISHED | {"plain_steps": 10}).fit(X, Y)
        after[epochs] = weights_of(clf)
        assert clf.n_taken == min(10, 4 * epochs)
        losses = [row["train_loss"] for row in clf.history_]
        assert all(loss > 0 for loss in losses[:3])
        assert losses[3:] == [0] * (epochs - 3)
    assert not torch.equal(after[2], after[3])  # steps 9 and 10
    assert torch.equal(after[3], after[5])


def test_batches_without_a_difference_are_plain_training_at_first():
    """The mean over the whole batch with nothing dropped, whatever the noise rate."""
    net = Network(max_epochs=4, batch_size=32)
    agreed = Agreeing(net, **AS_PUBLISHED | {"plain_steps": 5000}).fit(X, Y)
    plain = CoTeachingClassifier(net, noise_rate=0.0, random_state=0).fit(X, Y)
    torch.testing.assert_close(weights_of(agreed), weights_of(plain))


def test_the_guard_takes_a_step_of_co_teaching_where_few_rows_differ():
    net = Network(max_epochs=2, batch_size=32)

    class Few(CoTeachingPlusClassifier):
        n_differ = 0

        def _loss_of_differing(self, run, batch, logits, differ):
            differ = torch.arange(len(differ)) < self.n_differ
            return super()._loss_of_differing(run, batch, logits, differ)

    co_teaching = weights_of(CoTeachingClassifier(net, **TOLD).fit(X, Y))
    for n_differ, taken in ((0, True), (3, True), (4, False), (31, False)):
        clf = Few(net, **AS_PUBLISHED | {"guards": True, "legacy_double_softmax": True})
        clf.n_differ = n_differ
        ours = weights_of(clf.fit(X, Y))
        assert ours.isfinite().all()
        assert ((ours - co_teaching).abs().max() < 1e-5) == taken


class Spy(CoTeachingPlusClassifier):
    """Keeps the memory of the run and the epochs of the second stage."""

    def _begin(self, run):
        super()._begin(run)
        self.memory, self.last_stage, self.epochs = run.memory, run.last_stage, set()

    def _loss_of_differing(self, run, batch, logits, differ):
        self.epochs.add(len(run.history))
        return super()._loss_of_differing(run, batch, logits, differ)


def test_stages_by_default_are_a_tenth_of_the_epochs_and_a_sixteenth_of_the_steps():
    net = Network(max_epochs=32, batch_size=16)
    clf = Spy(net, noise_rate=0.2, random_state=0).fit(X, Y)
    assert clf.memory.plain_steps == 32 * 8 // 16
    assert clf.epochs == set(range(4, 32))
    assert clf.last_stage == 10  # the ramp is longer
    clf = Spy(Network(max_epochs=9), noise_rate=0.2, n_gradual=2, init_epoch=6).fit(X, Y)
    assert clf.epochs == {6, 7, 8}
    assert clf.last_stage == 6


@pytest.mark.parametrize(("init_epoch", "first"), [(0, 3), ("auto", 3), (5, 5)])
def test_no_row_is_left_out_before_an_unknown_rate_is_estimated(init_epoch, first):
    X, y = make_blobs(150, n_features=10, centers=3, random_state=0)
    clf = Spy(Network(max_epochs=8), n_gradual=3, init_epoch=init_epoch, random_state=0).fit(X, y)
    assert clf.epochs == set(range(first, 8))
    assert clf.last_stage == 6


# ---- evidence --------------------------------------------------------------------------------


def test_record_is_how_often_a_row_was_among_the_small_losses_of_its_whole_batch():
    counts = np.zeros((2, 128))

    class Counting(CoTeachingPlusClassifier):
        def _loss_of_differing(self, run, batch, logits, differ):
            index, y = batch.index.numpy(), batch.y.numpy()
            for z in logits:
                order = cross_entropies(z.detach().double().numpy(), y).argsort(kind="stable")
                counts[0, index[order[: number_to_keep(len(y), 0.4)]]] += 1
            counts[1, index] += 2
            return super()._loss_of_differing(run, batch, logits, differ)

    net = Network(max_epochs=8, batch_size=32)
    for schedule in ("capped", "rising"):
        counts[:] = 0
        clf = Counting(net, **AS_PUBLISHED | {"n_gradual": 0, "schedule": schedule}).fit(X, Y)
        n, wrong, _, proba = clf.dynamics_.values()
        history = (n * (1 - wrong) + proba) / (n + 1)
        expected = (10 * counts[0] / counts[1] + history) / 11
        np.testing.assert_allclose(clf.clean_proba_, expected, atol=1e-6)


def test_wrong_labels_of_digits_are_found_and_do_less_harm_than_in_plain_training(digits):
    images, y = digits
    X = images.reshape(-1, 64) / 16
    noisy = sym_excl(y[:1200], 0.4, random_state=0)
    net = Network(max_epochs=40)
    clf = CoTeachingPlusClassifier(net, random_state=0).fit(X[:1200], noisy.y)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X[:1200], noisy.y)
    assert clf.score(X[1200:], y[1200:]) > plain.score(X[1200:], y[1200:]) + 0.1
    assert roc_auc_score(~noisy.changed, clf.clean_proba_) > 0.9
    kept = clf.clean_proba_ >= 0.5
    assert (~noisy.changed[kept]).mean() > 0.85
    assert clf.forget_rate_ == pytest.approx(0.4, abs=0.1)
    assert all(0 <= row["disagreement"] <= 1 for row in clf.history_)
    assert clf.history_[15]["disagreement"] > 0.03


def test_right_labels_of_a_small_table_cost_nothing():
    """Without the guard two moons lost two points and more."""
    lost = []
    for seed in range(4):
        X, y = make_moons(1300, noise=0.25, random_state=seed)
        plain, ours = (
            method(random_state=seed).fit(X[:300], y[:300]).score(X[300:], y[300:])
            for method in (CrossEntropyClassifier, CoTeachingPlusClassifier)
        )
        lost.append(plain - ours)
    assert np.mean(lost) < 0.01


# ---- around ----------------------------------------------------------------------------------


def test_equal_starts_are_refused():
    with pytest.raises(ValueError, match="pass a module class"):
        CoTeachingPlusClassifier(Network(nn.Linear(4, 3), max_epochs=2)).fit(X, Y)


@pytest.mark.parametrize(
    "params",
    [
        {"noise_rate": 1.0},
        {"n_gradual": -1},
        {"init_epoch": -1},
        {"init_epoch": "late"},
        {"init_epoch": 2.5},
        {"schedule": "paper"},
        {"plain_steps": -1},
        {"plain_steps": True},
        {"guards": "no"},
        {"legacy_double_softmax": 1},
        {"ensemble": "mean"},
    ],
)
def test_bad_parameters_are_refused(params):
    (name,) = params
    with pytest.raises((ValueError, TypeError), match=name):
        CoTeachingPlusClassifier(**params).fit(X, Y)


def test_published_form_takes_odd_data():
    for n, batch_size in ((2, 64), (5, 2), (65, 32)):
        net = Network(max_epochs=3, batch_size=batch_size)
        for params in ({}, {"per_class": True}, {"legacy_double_softmax": True}):
            clf = CoTeachingPlusClassifier(net, **AS_PUBLISHED | {"plain_steps": 2} | params)
            assert np.isfinite(clf.fit(X[:n], Y[:n]).predict_proba(X)).all()
            alone = clf.fit(X[:n], np.zeros(n))
            assert (alone.predict(X) == 0).all()


def test_streamed_images_in_bfloat16_stop_early():
    images = torch.rand(60, 1, 8, 8)
    source = torch.utils.data.TensorDataset(images)
    y = np.arange(60) % 3
    stop = EarlyStopping(monitor="valid_loss", patience=1, threshold=1.0)
    net = Network(max_epochs=9, batch_size=16, precision="bfloat16", callbacks=[stop])
    clf = CoTeachingPlusClassifier(net, **TOLD | {"init_epoch": 4, "guards": False})
    clf.fit(source, y, X_val=images, y_val=y)
    assert len(clf.history_) == 6
