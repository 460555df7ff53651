"""ELR: targets, loss, gradient, memory, and that it does not memorise."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, make_blobs
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import nn

from noisyfit import CrossEntropyClassifier, Network
from noisyfit._early_learning import (
    clamped_softmax,
    early_learning_penalty,
    moving_average,
    normalised,
    target_or_prediction,
)
from noisyfit.methods.elr import ELRClassifier, elr_loss
from noisyfit.methods.elr_plus import ELRPlusClassifier
from noisyfit.methods.moment_elr import MomentELRClassifier
from noisyfit.noise import sym_incl

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)
P = torch.tensor([[0.7, 0.2, 0.1]])


def test_target_log_term_and_loss_have_the_published_values_at_each_visit():
    memory, logits, y = torch.zeros(1, 3), P.log(), torch.tensor([1])
    terms, losses = [], []
    for visit in range(1, 6):
        target = moving_average(memory, torch.tensor([0]), P, 0.7)
        torch.testing.assert_close(target, (1 - 0.7**visit) * P)
        p = clamped_softmax(logits)
        terms.append(early_learning_penalty(p, target).item())
        losses.append(elr_loss(logits, y, p, target, 3.0).item())
    assert [terms[k] for k in (0, 1, 2, 4)] == pytest.approx(
        [-0.176737, -0.322136, -0.438164, -0.596460], abs=2e-6
    )
    assert [losses[k] for k in (0, 1, 2, 4)] == pytest.approx(
        [1.079226, 0.643031, 0.294946, -0.179942], abs=5e-6
    )


def test_gradient_of_the_log_term_is_the_written_one_and_sums_to_zero():
    logits = P.log().requires_grad_()
    early_learning_penalty(clamped_softmax(logits), 0.51 * P).sum().backward()
    expected = torch.tensor([[-0.0788297, 0.0478609, 0.0309688]])
    torch.testing.assert_close(logits.grad, expected, rtol=0, atol=1e-6)
    assert logits.grad.sum().item() == pytest.approx(0, abs=1e-7)


def test_penalty_equals_a_loop_and_is_bounded_for_certain_predictions():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, 5)) * 10
    target = rng.dirichlet(np.ones(5), 20) * rng.uniform(size=(20, 1))
    expected = []
    for z, t in zip(logits, target, strict=True):
        p = np.clip(np.exp(z - z.max()) / np.exp(z - z.max()).sum(), 1e-4, 1 - 1e-4)
        expected.append(np.log(1 - sum(a * b for a, b in zip(t, p, strict=True))))
    p = clamped_softmax(torch.tensor(logits))
    ours = early_learning_penalty(p, torch.tensor(target, dtype=torch.float32))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
    p = clamped_softmax(torch.tensor([[1e4, 0.0, 0.0]]))
    worst = early_learning_penalty(p, torch.tensor([[1.0003, 1e-4, 1e-4]]))  # rounded up in half
    assert worst.item() == pytest.approx(np.log(1e-4), abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_moving_average_changes_its_rows_only_and_returns_them(dtype):
    rng = np.random.default_rng(0)
    old, p = rng.dirichlet(np.ones(4), 6), rng.dirichlet(np.ones(4), 2)
    memory = torch.tensor(old, dtype=dtype)
    rows = moving_average(memory, torch.tensor([4, 1]), torch.tensor(p, dtype=torch.float32), 0.9)
    assert rows.dtype == torch.float32
    expected = old.copy()
    expected[4], expected[1] = 0.9 * old[4] + 0.1 * p[0], 0.9 * old[1] + 0.1 * p[1]
    np.testing.assert_allclose(memory.float(), expected, atol=5e-4)
    np.testing.assert_allclose(rows, expected[[4, 1]], atol=5e-4)
    untouched = [0, 2, 3, 5]
    assert torch.equal(memory[untouched], torch.tensor(old[untouched], dtype=dtype))


def test_rows_never_visited_take_the_prediction():
    target = torch.tensor([[0.0, 0.0], [0.1, 0.3]])
    proba = torch.tensor([[0.6, 0.4], [0.5, 0.5]])
    torch.testing.assert_close(
        target_or_prediction(target, proba), torch.tensor([[0.6, 0.4], [0.25, 0.75]])
    )
    assert normalised(target)[0].tolist() == [0, 0]


@pytest.mark.parametrize("params", [{"strength": 0}, {"warmup": 5}])
def test_without_the_term_it_is_plain_training(params):
    net = Network(max_epochs=5, batch_size=32)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, Y).predict_proba(X)
    clf = ELRClassifier(net, random_state=0, **params).fit(X, Y)
    np.testing.assert_allclose(clf.predict_proba(X), plain, atol=1e-6)
    held = ELRClassifier(net, warmup=0, random_state=0).fit(X, Y)
    assert not np.allclose(held.predict_proba(X), plain)


def test_targets_are_the_average_of_the_predictions_written_out():
    seen = []

    class Spy(ELRClassifier):
        def _loss(self, run, batch, t):
            with torch.no_grad():
                p = run.learners[0](run.view(batch.x)).softmax(1).clamp(1e-4, 1 - 1e-4)
            seen.append((batch.index, p / p.sum(1, keepdim=True)))
            return super()._loss(run, batch, t)

    clf = Spy(Network(max_epochs=4, batch_size=32), momentum=0.8, random_state=0).fit(X, Y)
    target = np.zeros((90, 3))
    for index, p in seen:
        for i, row in zip(index.tolist(), p.tolist(), strict=True):
            target[i] = 0.8 * target[i] + 0.2 * np.array(row)
    np.testing.assert_allclose(clf.target_, target, atol=1e-5)
    np.testing.assert_allclose(clf.target_.sum(1), 1 - 0.8**4, atol=1e-5)
    share = target / target.sum(1, keepdims=True)
    np.testing.assert_allclose(clf.refined_proba_, share, atol=1e-5)
    np.testing.assert_allclose(clf.clean_proba_, share[np.arange(90), Y], atol=1e-5)


class Steep(nn.Linear):
    """Starts with predictions that the clamp holds back."""

    def __init__(self, n_features, n_classes):
        super().__init__(n_features, n_classes)
        nn.init.normal_(self.weight, std=8)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_training_equals_a_loop_written_out(momentum):
    class Spy(ELRClassifier):
        def _begin(self, run):
            super()._begin(run)
            self._log = copy.deepcopy(run.learners[0].module), run.data.x, []

        def _loss(self, run, batch, t):
            self._log[2].append(batch.index)
            return super()._loss(run, batch, t)

    net = Network(Steep, max_epochs=3, batch_size=32, lr_schedule="constant")
    clf = Spy(net, momentum=momentum, strength=3, warmup=1, random_state=0).fit(X, Y)
    module, x, batches = clf._log
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    target, losses, n_clamped = torch.zeros(90, 3), [], 0
    for step, index in enumerate(batches):
        logits, y = module(x[index]), torch.from_numpy(Y)[index]
        p = logits.softmax(1)
        n_clamped += (p > 1 - 1e-4).sum()
        p = p.clamp(1e-4, 1 - 1e-4)
        seen = (p / p.sum(1, keepdim=True)).detach()
        target[index] = momentum * target[index] + (1 - momentum) * seen  # first, then used
        term = (1 - (target[index] * p).sum(1)).log()
        loss = nn.functional.cross_entropy(logits, y) + (3 if step >= 3 else 0) * term.mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert n_clamped > 30
    torch.testing.assert_close(
        dict(clf.nets_[0].module_.named_parameters()),
        dict(module.named_parameters()),
        rtol=1e-4,
        atol=1e-5,
    )
    np.testing.assert_allclose(clf.target_, target, atol=1e-5)
    by_epoch = np.reshape(losses, (3, 3)).mean(1)
    np.testing.assert_allclose([row["train_loss"] for row in clf.history_], by_epoch, rtol=1e-4)


def test_half_precision_keeps_half_the_memory_and_nearly_the_result():
    noisy = sym_incl(Y, 0.3, random_state=0).y
    whole, half = (
        ELRClassifier(Network(max_epochs=15), memory_dtype=dtype, random_state=0).fit(X, noisy)
        for dtype in ("float32", "float16")
    )
    assert half.target_.dtype == np.float16
    assert half.clean_proba_.dtype == np.float64
    np.testing.assert_allclose(half.clean_proba_, whole.clean_proba_, atol=0.02)


def test_auto_settings_follow_the_number_of_classes_and_columns():
    chosen = []

    class Spy(ELRClassifier):
        def _begin(self, run):
            super()._begin(run)
            chosen.append((run.memory.momentum, run.memory.strength, run.memory.warmup))

    net, rng = Network(max_epochs=5, batch_size=8), np.random.default_rng(0)
    for n_classes, n_columns in ((20, 12), (21, 30), (3, 4)):
        Spy(net, random_state=0).fit(rng.normal(size=(210, n_columns)), np.arange(210) % n_classes)
    Spy(Network(max_epochs=90, batch_size=30), random_state=0).fit(X, Y)
    assert chosen == [(0.7, 3, 2), (0.9, 7, 2), (0.7, 1, 3), (0.7, 1, 33)]


@pytest.mark.parametrize(
    "params",
    [
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"momentum": "high"},
        {"strength": -1},
        {"strength": None},
        {"warmup": -1},
        {"warmup": 3},
        {"memory_dtype": "bfloat16"},
        {"memory_dtype": torch.float16},
    ],
)
def test_bad_parameters_are_refused(params):
    (name,) = params
    with pytest.raises((ValueError, TypeError), match=name):
        ELRClassifier(Network(max_epochs=2), **params).fit(X, Y)


def test_elr_does_not_memorise_where_plain_training_does(digits):
    images, y = digits
    table = images.reshape(len(images), -1)
    X, X_test, y, y_test = table[:1297], table[1297:], y[:1297], y[1297:]
    noisy = sym_incl(y, 0.4, random_state=0)
    net = Network(max_epochs=60)
    scores, aurocs = [], []
    for cls in (CrossEntropyClassifier, ELRClassifier):
        clf = cls(net, random_state=0).fit(X, noisy.y, X_val=X_test, y_val=y_test)
        scores.append(np.mean([row["valid_acc"] for row in clf.history_[-10:]]))
        aurocs.append(roc_auc_score(~noisy.changed, clf.clean_proba_))
    assert scores[1] >= scores[0] + 0.10
    assert aurocs[1] >= 0.95
    assert np.mean(clf.refined_labels_ != y) < noisy.changed.mean() / 3
    doubted = np.flatnonzero(clf.refined_labels_ != noisy.y)  # the paper's rule
    assert noisy.changed[doubted].mean() > 0.9
    assert min(row["train_loss"] for row in clf.history_) < 0


@pytest.mark.parametrize("cls", [ELRClassifier, MomentELRClassifier, ELRPlusClassifier])
def test_fifty_steps_leave_no_time_to_hold_on_to_early_predictions(cls):
    """Of iris with 30 clean rows the term cost 2 to 4 points."""
    X, y = load_iris(return_X_y=True)
    X, _, y, _ = train_test_split(X, y, train_size=30, stratify=y, random_state=0)
    by_default, plain, held = (
        cls(random_state=0, **params).fit(X, y).predict_proba(X)
        for params in ({}, {"warmup": 50}, {"warmup": 0})
    )
    np.testing.assert_array_equal(by_default, plain)
    assert np.abs(held - plain).max() > 0.01
    if cls is not ELRPlusClassifier:
        plain = CrossEntropyClassifier(random_state=0).fit(X, y).predict_proba(X)
        np.testing.assert_allclose(by_default, plain, atol=1e-5)
