"""ELR+: its ramps, its targets by the peer's average, and one step written out."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import roc_auc_score
from torch import nn

from noisyfit import CrossEntropyClassifier, Network
from noisyfit.methods.elr_plus import ELRPlusClassifier, averaging_decay, sharpened_labels
from noisyfit.noise import sym_incl

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)


class WithNorm(nn.Sequential):
    def __init__(self, n_features, n_classes):
        super().__init__(nn.Linear(n_features, 8), nn.BatchNorm1d(8), nn.Linear(8, n_classes))


def test_averaging_decay_rises_as_published():
    decays = [averaging_decay(s, 0.997, 40000) for s in (1, 20000, 40000, 10**6)]
    assert decays == pytest.approx([0.006721, 0.285681, 0.997, 0.997], abs=1e-6)
    without_ramp = [averaging_decay(s, 0.997) for s in (1, 4, 331, 333)]
    assert without_ramp == pytest.approx([0.5, 0.8, 331 / 332, 0.997])
    assert averaging_decay(1, 0.997, 0) == 0.997


def test_labels_are_sharpened_by_the_target_unless_it_excludes_them():
    y, q = torch.tensor([[0.0, 0.6, 0.4]]), torch.tensor([[0.5, 0.3, 0.2]])
    sharpened = sharpened_labels(y, q)[0].tolist()
    assert sharpened == pytest.approx([0, 0.692308, 0.307692], abs=1e-6)
    assert sharpened_labels(y, 1e-20 * q)[0].tolist() == pytest.approx(sharpened, abs=1e-5)
    excluded = sharpened_labels(y, torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(excluded, y)


class Recorded(ELRPlusClassifier):
    """Keeps the state before and after each step."""

    def _batch_loss(self, run, k, batch, t, lam):
        memory = run.memory
        before = copy.deepcopy((run.learners[k].module, memory.averages[1 - k].module))
        history = memory.target[k].clone()
        drawn = run.generator.clone_state()
        loss = super()._batch_loss(run, k, batch, t, lam)
        partner = torch.randperm(len(batch.y), generator=drawn)
        steps = list(memory.steps)
        record = (k, t, steps, batch, lam, partner, before, history, loss.item())
        self._log.append((record, memory.target[k].clone()))
        return loss

    def _begin(self, run):
        super()._begin(run)
        self._log = []

    def _finish(self, run):
        super()._finish(run)
        self._averages = [copy.deepcopy(a.module) for a in run.memory.averages]


@pytest.mark.parametrize("sharpens", [False, True])
def test_every_step_follows_the_loop_written_out(sharpens):
    clf = Recorded(
        Network(WithNorm, max_epochs=3, batch_size=32),
        alpha=1.0,
        momentum=0.7,
        strength=3,
        strength_ramp=2,
        warmup=0,
        sharpen_target=sharpens,
        random_state=0,
    ).fit(X, Y)
    assert [record[0] for record, _ in clf._log] == [0, 0, 0, 1, 1, 1] * 3
    for (k, _, steps, batch, lam, partner, (f, g), history, loss), after in clf._log:
        assert 0.5 <= lam <= 1
        assert g.training
        eye = torch.eye(3)
        with torch.no_grad():
            s = g(batch.x).softmax(1)  # the peer's average, un-mixed rows, batch statistics
            z = f(lam * batch.x + (1 - lam) * batch.x[partner])
        total = 0.0
        for b, i in enumerate(batch.index.tolist()):
            history[i] = 0.7 * history[i] + 0.3 * s[b]
        torch.testing.assert_close(after, history)
        ramp = np.exp(-5 * (1 - min(steps[k], 6) / 6) ** 2)
        for b, i in enumerate(batch.index.tolist()):
            j = batch.index[partner[b]].item()
            q = lam * history[i] + (1 - lam) * history[j]
            y = lam * eye[batch.y[b]] + (1 - lam) * eye[batch.y[partner[b]]]
            if sharpens:
                y = y * q / (y * q).sum()
            p = z[b].softmax(0).clamp(1e-4, 1 - 1e-4)
            total += -(y * z[b].log_softmax(0)).sum() + 3 * ramp * (1 - (q * p).sum()).log()
        assert loss == pytest.approx((total / len(batch.y)).item(), rel=1e-4, abs=1e-5)
    assert clf.target_.shape == (2, 90, 3)
    mean = clf.target_.mean(0)
    np.testing.assert_allclose(
        clf.refined_proba_, mean / mean.sum(1, keepdims=True), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(clf.clean_proba_, clf.refined_proba_[np.arange(90), Y])


class Steep(nn.Linear):
    """Starts with predictions that the clamp holds back."""

    def __init__(self, n_features, n_classes):
        super().__init__(n_features, n_classes)
        nn.init.normal_(self.weight, std=8)


class Started(Recorded):
    """Keeps what training starts from."""

    def _begin(self, run):
        super()._begin(run)
        nets = copy.deepcopy([learner.module for learner in run.learners])
        self._start = nets, run.data.x, run.generator.clone_state(), copy.deepcopy(run.rng)


@pytest.mark.parametrize("ramp", [4, None])
def test_training_equals_a_loop_written_out(ramp):
    clf = Started(
        Network(Steep, max_epochs=2, batch_size=32, lr_schedule="constant"),
        momentum=0.7,
        strength=3,
        warmup=0,
        strength_ramp=0,
        alpha=1.0,
        average_decay=0.6,
        average_ramp=ramp,
        ramp_unit="steps",
        random_state=0,
    ).fit(X, Y)
    nets, x, generator, rng = clf._start
    averages, labels = copy.deepcopy(nets), torch.eye(3)[torch.from_numpy(Y)]
    optimizers = [
        torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4) for net in nets
    ]
    target, losses, decays, n_clamped = torch.zeros(2, 90, 3), [], [], 0
    for epoch, k in ((0, 0), (0, 1), (1, 0), (1, 1)):
        for b, index in enumerate(torch.randperm(90, generator=generator).split(32)):
            lam = rng.beta(1.0, 1.0)
            lam = max(lam, 1 - lam)
            partner = index[torch.randperm(len(index), generator=generator)]
            with torch.no_grad():
                seen = averages[1 - k](x[index]).softmax(1)
            target[k][index] = 0.7 * target[k][index] + 0.3 * seen
            q, y, mixed = (
                lam * values[index] + (1 - lam) * values[partner]
                for values in (target[k], labels, x)
            )
            logits = nets[k](mixed)
            p = logits.softmax(1)
            n_clamped += (p > 1 - 1e-4).sum()
            term = (1 - (q * p.clamp(1e-4, 1 - 1e-4)).sum(1)).log()
            loss = nn.functional.cross_entropy(logits, y) + 3 * term.mean()
            optimizers[k].zero_grad()
            loss.backward()
            optimizers[k].step()
            losses.append(loss.item())
            step = 3 * epoch + b + 1
            if ramp is None:
                decay = min(1 - 1 / (step + 1), 0.6)
            else:
                decay = 0.6 * np.exp(-5 * (1 - min(step + 1, ramp) / ramp) ** 2)
            decays.append(decay)
            with torch.no_grad():
                for old, new in zip(averages[k].parameters(), nets[k].parameters(), strict=True):
                    old.copy_(decay * old + (1 - decay) * new)
    assert n_clamped > 30
    trained = [net.module_ for net in clf.nets_]
    for ours, theirs in zip(trained + clf._averages, nets + averages, strict=True):
        torch.testing.assert_close(
            dict(ours.named_parameters()), dict(theirs.named_parameters()), rtol=1e-4, atol=1e-5
        )
    np.testing.assert_allclose(clf.target_, target, atol=1e-5)
    by_epoch = np.reshape(losses, (2, 6)).mean(1)
    np.testing.assert_allclose([row["train_loss"] for row in clf.history_], by_epoch, rtol=1e-4)
    assert [row["average_decay"] for row in clf.history_] == pytest.approx(decays[5::6])


def test_networks_are_shuffled_apart():
    clf = Recorded(Network(max_epochs=1, batch_size=32), random_state=0).fit(X, Y)
    orders = [torch.cat([r[3].index for r, _ in clf._log if r[0] == k]) for k in range(2)]
    assert (orders[0] != orders[1]).any()
    assert all(sorted(order.tolist()) == list(range(90)) for order in orders)


def test_averages_lag_behind_and_replace_the_networks_on_request():
    def fit(averaged):
        net = Network(WithNorm, max_epochs=4, batch_size=32)
        return Recorded(net, averaged_weights=averaged, average_ramp=None, random_state=0).fit(X, Y)

    trained, averaged = fit(False), fit(True)
    for k in range(2):
        average = trained._averages[k].state_dict()
        for name, value in averaged.nets_[k].module_.state_dict().items():
            torch.testing.assert_close(value, average[name])
        last = trained.nets_[k].module_.state_dict()
        assert (last["0.weight"] - average["0.weight"]).abs().max() > 1e-3
    np.testing.assert_array_equal(trained.target_, averaged.target_)
    assert (trained.predict_proba(X) != averaged.predict_proba(X)).any()


def test_ramps_are_equal_in_epochs_and_in_steps():
    net = Network(max_epochs=6, batch_size=30)
    epochs, steps = (
        ELRPlusClassifier(
            net, ramp_unit=unit, strength_ramp=2 * n, average_ramp=4 * n, random_state=0
        ).fit(X, Y)
        for unit, n in (("epochs", 1), ("steps", 3))
    )
    np.testing.assert_array_equal(epochs.predict_proba(X), steps.predict_proba(X))
    assert [row["average_decay"] for row in epochs.history_][3:] == [0.997] * 3
    by_default = ELRPlusClassifier(net, random_state=0).fit(X, Y)
    ramped = [0.997 * np.exp(-5 * (1 - min(3 * e + 1, 9.9) / 9.9) ** 2) for e in range(1, 7)]
    assert [row["average_decay"] for row in by_default.history_] == pytest.approx(ramped)


def test_auto_settings_follow_the_number_of_classes():
    chosen = []

    class Spy(ELRPlusClassifier):
        def _begin(self, run):
            super()._begin(run)
            memory = run.memory
            chosen.append((memory.momentum, memory.strength, memory.sharpens, memory.strength_ramp))

    X = np.random.default_rng(0).normal(size=(210, 30))
    for n_classes in (20, 21):
        Spy(Network(max_epochs=2, batch_size=21), random_state=0).fit(X, np.arange(210) % n_classes)
    assert chosen == [(0.7, 3, False, 0), (0.9, 7, True, pytest.approx(11))]


def test_nothing_mixed_and_no_term_is_two_plain_networks():
    net = Network(max_epochs=5, batch_size=32)
    pair = ELRPlusClassifier(net, alpha=0, strength=0, random_state=0).fit(X, Y)
    assert pair.score(X, Y) >= CrossEntropyClassifier(net, random_state=0).fit(X, Y).score(X, Y)
    for record, _ in Recorded(net, alpha=0, strength=0, random_state=0).fit(X, Y)._log:
        _, _, _, batch, lam, _, (f, _), _, loss = record
        assert lam == 1
        plain = nn.functional.cross_entropy(f(batch.x), batch.y).item()
        assert loss == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    "params",
    [
        {"momentum": 1.0},
        {"strength": -1},
        {"strength_ramp": -1},
        {"strength_ramp": None},
        {"warmup": 1.5},
        {"warmup": 51},
        {"alpha": -0.5},
        {"alpha": "strong"},
        {"sharpen_target": "yes"},
        {"average_decay": 1.0},
        {"average_ramp": -1},
        {"ramp_unit": "batches"},
        {"memory_dtype": "int8"},
        {"averaged_weights": "ema"},
        {"ensemble": "mean"},
    ],
)
def test_bad_parameters_are_refused(params):
    (name,) = params
    with pytest.raises((ValueError, TypeError), match=name):
        ELRPlusClassifier(**params).fit(X, Y)


def test_it_does_not_memorise_where_plain_training_does(digits):
    images, y = digits
    table = images.reshape(len(images), -1)
    X, X_test, y, y_test = table[:1297], table[1297:], y[:1297], y[1297:]
    noisy = sym_incl(y, 0.4, random_state=0)
    net = Network(max_epochs=40)
    plain, ours = (
        cls(net, random_state=0).fit(X, noisy.y)
        for cls in (CrossEntropyClassifier, ELRPlusClassifier)
    )
    assert ours.score(X_test, y_test) >= plain.score(X_test, y_test) + 0.10
    assert roc_auc_score(~noisy.changed, ours.clean_proba_) >= 0.95
    assert np.mean(ours.refined_labels_ == y) >= 0.95


def test_no_rows_are_mixed_before_the_term_acts():
    net = Network(max_epochs=4, batch_size=32)
    unmixed, warm, mixed = (
        ELRPlusClassifier(net, random_state=0, **params).fit(X, Y).predict_proba(X)
        for params in (
            {"alpha": 0, "warmup": 4},
            {"alpha": 1, "warmup": 4},
            {"alpha": 1, "warmup": 3},
        )
    )
    np.testing.assert_array_equal(warm, unmixed)
    assert np.abs(mixed - unmixed).max() > 1e-3
