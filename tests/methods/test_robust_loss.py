"""Robust losses in training: memorisation, warm-up, clipping, and the two phases of truncation."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import roc_auc_score
from skorch.dataset import ValidSplit
from torch import nn
from torch.nn import functional

from noisyfit import CrossEntropyClassifier, Network
from noisyfit.losses import gce
from noisyfit.methods.robust_loss import (
    RobustLossClassifier,
    believed_rows,
    check_loss,
    mean_negentropy,
)
from noisyfit.modules import MLP
from noisyfit.noise import sym_incl

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)
NET = Network(max_epochs=6, batch_size=32)


class Watched(RobustLossClassifier):
    """Keeps the run."""

    def _begin(self, run):
        super()._begin(run)
        self._run = run


def test_cross_entropy_as_robust_loss_is_plain_training():
    plain = CrossEntropyClassifier(NET, random_state=0).fit(X, Y).predict_proba(X)
    named = RobustLossClassifier(NET, loss="cross_entropy", random_state=0).fit(X, Y)
    np.testing.assert_allclose(named.predict_proba(X), plain, rtol=0, atol=1e-5)


def test_a_function_and_its_name_train_the_same_network():
    named, own, other = (
        RobustLossClassifier(NET, random_state=0, warmup=1, **params).fit(X, Y).predict_proba(X)
        for params in (
            {"loss": "gce", "loss_params": {"q": 0.4}},
            {"loss": partial(gce, q=0.4)},
            {"loss": "gce"},
        )
    )
    np.testing.assert_array_equal(named, own)
    assert (named != other).any()


def test_robust_losses_resist_memorisation_where_cross_entropy_does_not():
    X, y = make_blobs(1600, n_features=30, centers=10, cluster_std=6.0, random_state=0)
    noisy = sym_incl(y[:600], 0.4, random_state=0)
    net = Network(MLP, module__hidden=(256, 256), max_epochs=50, gradient_clip=5)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X[:600], noisy.y)
    assert plain.score(X[:600], noisy.y) > 0.99
    for loss in ("gce", "nce+rce", "truncated_gce"):
        clf = RobustLossClassifier(net, loss=loss, random_state=0).fit(X[:600], noisy.y)
        assert clf.score(X[600:], y[600:]) >= plain.score(X[600:], y[600:]) + 0.05
        assert roc_auc_score(~noisy.changed, clf.clean_proba_) > 0.95


def test_many_classes_are_learnt_by_default_and_not_without_warmup():
    X, y = make_blobs(1000, n_features=10, centers=100, cluster_std=1.5, random_state=0)
    fresh, warm = (
        RobustLossClassifier(Network(max_epochs=25), warmup=w, random_state=0).fit(X, y).score(X, y)
        for w in (0, "auto")
    )
    assert fresh < 0.5
    assert warm > 0.95


@pytest.mark.parametrize(("warmup", "n_plain"), [(0, 0), (2, 2), (6, 6), ("auto", 3)])
def test_warmup_epochs_use_cross_entropy(warmup, n_plain):
    calls = []

    def loss(logits, y):
        calls.append(len(y))
        return gce(logits, y)

    clf = Watched(NET, loss=loss, warmup=warmup, random_state=0).fit(X, Y)
    assert len(calls) == 1 + 3 * (6 - n_plain)  # one to try it
    assert len(clf.history_) == 6
    assert clf._run.last_stage == n_plain


@pytest.mark.parametrize(
    ("loss", "given", "clip"),
    [
        ("gce", None, None),
        ("mae", None, None),
        ("nce+rce", None, 5.0),
        ("sce", None, 5.0),
        ("anl_ce", 2.0, 2.0),
        (gce, None, None),
    ],
)
def test_steep_losses_clip_the_gradient_unless_the_net_says_otherwise(loss, given, clip):
    net = Network(max_epochs=1, gradient_clip=given)
    clf = Watched(net, loss=loss, random_state=0).fit(X, Y)
    assert clf._run.learners[0].clip == clip


def test_l1_adds_the_sum_of_absolute_weights():
    still = Network(MLP, max_epochs=1, lr=1e-30, optimizer__weight_decay=0.0)
    free, held = (
        RobustLossClassifier(still, l1=value, random_state=0).fit(X, Y) for value in (0.0, 0.01)
    )
    total = sum(w.abs().sum().item() for w in free.nets_[0].module_.parameters())
    added = held.history_[0]["train_loss"] - free.history_[0]["train_loss"]
    assert added == pytest.approx(0.01 * total, rel=1e-5)


def test_entropy_term_is_that_of_the_mean_prediction():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(5, 4))
    mean = np.mean([np.exp(row) / np.exp(row).sum() for row in z], axis=0)
    expected = sum(m * np.log(m) for m in mean)
    assert mean_negentropy(torch.tensor(z)).item() == pytest.approx(expected)
    even = (20 * torch.eye(3)).requires_grad_()  # certain rows, all classes
    value = mean_negentropy(even)
    value.backward()
    assert value.item() == pytest.approx(-np.log(3), abs=1e-6)
    assert even.grad.abs().max() < 1e-6
    one = torch.tensor([[300.0, 0.0]] * 2, requires_grad=True)
    mean_negentropy(one).backward()
    assert torch.isfinite(one.grad).all()


def test_entropy_adds_its_term_and_keeps_classes_in_use():
    still = Network(MLP, max_epochs=1, lr=1e-30, batch_size=90, optimizer__weight_decay=0.0)
    free, held = (
        RobustLossClassifier(still, entropy=value, random_state=0).fit(X, Y) for value in (0.0, 0.5)
    )
    mean = held.predict_proba(X).mean(0)
    added = held.history_[0]["train_loss"] - free.history_[0]["train_loss"]
    assert added == pytest.approx(0.5 * (mean * np.log(mean)).sum(), rel=1e-4)
    y = np.where(np.arange(90) < 80, 0, Y)
    of_largest = [
        RobustLossClassifier(NET, entropy=value, random_state=0).fit(X, y).predict_proba(X)[:, 0]
        for value in (0.0, 5.0)
    ]
    assert of_largest[1].mean() < of_largest[0].mean() - 0.2


def test_rows_are_believed_above_k():
    p = torch.tensor([0.9, 0.51, 0.5, 0.2, 0.8])
    y = torch.zeros(5, dtype=torch.int64)
    assert believed_rows(p, y, 0.5, 1).tolist() == [True, True, False, False, True]
    assert believed_rows(p, y, 0.0, 1).all()


def test_a_fifth_of_the_rows_and_some_of_every_class_are_always_believed():
    p = torch.linspace(0.01, 0.1, 100)
    y = torch.zeros(100, dtype=torch.int64)
    believed = believed_rows(p, y, 0.5, 1)
    assert believed.sum() == 21
    assert believed[-20:].all()
    y[:10] = 1  # the least probable
    believed = believed_rows(p, y, 0.5, 2)
    assert believed[:10].tolist() == [False] * 8 + [True] * 2
    constant = believed_rows(torch.full((10,), 0.3), torch.arange(10) % 2, 0.5, 2)
    assert constant.all()


class Pruned(Watched):
    """Keeps the choice of every epoch and the network that made it."""

    def _prune(self, run):
        super()._prune(run)
        self._chosen = [*getattr(self, "_chosen", []), (len(run.history), run.memory.kept.clone())]


@pytest.mark.parametrize(
    ("start", "interval", "epochs"),
    [(4, 3, [4, 7, 10]), (0.5, 0.25, [6, 9]), ("auto", "auto", [6, 7, 8, 9, 10, 11]), (12, 1, [])],
)
def test_rows_are_chosen_at_the_start_and_then_at_intervals(start, interval, epochs):
    net = Network(max_epochs=12, batch_size=32)
    clf = Pruned(
        net,
        loss="truncated_gce",
        warmup=1,
        prune_start=start,
        prune_interval=interval,
        random_state=0,
    ).fit(X, Y)
    assert [epoch for epoch, _ in getattr(clf, "_chosen", [])] == epochs
    assert clf._run.last_stage == min(epochs, default=12)
    assert [row["selected"] == 1 for row in clf.history_][: min(epochs, default=12)].count(
        False
    ) == 0


def test_second_phase_is_gce_on_the_rows_above_k():
    noisy = sym_incl(Y, 0.4, random_state=0).y
    seen = []

    class Spy(Pruned):
        def _loss(self, run, batch, t):
            kept = run.memory.kept[batch.index]
            logits = run.learners[0](run.view(batch.x))
            loss = super()._loss(run, batch, t)
            p = functional.softmax(logits, 1)[torch.arange(len(batch.y)), batch.y]
            expected = (kept * (1 - p**0.4) / 0.4).sum() / len(batch.y)
            seen.append(((loss - expected).abs().item(), kept.mean().item()))
            return loss

        def _prune(self, run):
            p = functional.softmax(run.evaluate(run.learners[0]), 1)
            p = p[torch.arange(90), run.data.y]
            super()._prune(run)
            assert torch.equal(run.memory.kept, (p > 0.6).float())

    clf = Spy(
        Network(max_epochs=10, batch_size=32),
        loss="truncated_gce",
        loss_params={"q": 0.4, "k": 0.6},
        warmup=0,
        prune_start=6,
        guards=False,
        random_state=0,
    ).fit(X, noisy)
    assert max(error for error, _ in seen) < 1e-5
    assert min(kept for _, kept in seen) < 1
    np.testing.assert_array_equal(clf.selected_, clf._chosen[-1][1].numpy() > 0)
    assert 0 < clf.selected_.sum() < 90


class Normalised(nn.Sequential):
    """A prediction in training mode depends on the other rows and on chance."""

    def __init__(self, n_features, n_classes):
        super().__init__(
            nn.Linear(n_features, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, n_classes)
        )


def test_rows_are_chosen_by_a_pass_in_evaluation_mode():
    noisy, differs = sym_incl(Y, 0.4, random_state=0).y, []

    class Spy(Pruned):
        def _prune(self, run):
            module, rows = deepcopy(run.learners[0].module), torch.arange(90)
            x = run.plain(next(iter(run.data.batches(90))).x)
            training, evaluation = (
                module.train(mode)(x).softmax(1)[rows, run.data.y] > 0.5 for mode in (True, False)
            )
            super()._prune(run)
            assert torch.equal(run.memory.kept > 0, evaluation)
            differs.append((training != evaluation).any())

    Spy(
        Network(Normalised, max_epochs=6, batch_size=32),
        loss="truncated_gce",
        warmup=2,
        prune_start=3,
        prune_interval=1,
        guards=False,
        random_state=0,
    ).fit(X, noisy)
    assert len(differs) == 3
    assert all(differs)


def test_k_zero_is_gce():
    two_phases, one = (
        RobustLossClassifier(NET, loss=loss, loss_params=params, random_state=0)
        .fit(X, Y)
        .predict_proba(X)
        for loss, params in (("truncated_gce", {"q": 0.5, "k": 0}), ("gce", {"q": 0.5}))
    )
    np.testing.assert_allclose(two_phases, one, rtol=0, atol=1e-6)


def test_rows_are_chosen_by_the_best_network_on_validation_data():
    states, scores = [], []

    class Spy(Pruned):
        def _score(self, run, data):
            row = super()._score(run, data)
            states.append([w.clone() for w in run.learners[0].module.parameters()])
            scores.append(row["valid_acc"])
            return row

        def _prune(self, run):
            (net,) = run.learners
            now = [w.clone() for w in net.module.parameters()]
            super()._prune(run)
            self._untouched = all(map(torch.equal, now, net.module.parameters()))
            self._training = net.module.training
            best = states[int(np.argmax(scores))]
            for w, value in zip(net.module.parameters(), best, strict=True):
                w.data.copy_(value)
            p = functional.softmax(run.evaluate(net), 1)[torch.arange(90), run.data.y]
            assert torch.equal(run.memory.kept, (p > 0.9).float())
            for w, value in zip(net.module.parameters(), now, strict=True):
                w.data.copy_(value)
            net.train()

    rng = np.random.default_rng(1)
    clf = Spy(
        Network(max_epochs=6, batch_size=32, lr=0.5),
        loss="truncated_gce",
        loss_params={"k": 0.9},
        warmup=1,
        prune_start=5,
        guards=False,
        random_state=0,
    ).fit(X, Y, X_val=X[:40], y_val=rng.integers(0, 3, 40))
    assert clf._untouched
    assert clf._training
    assert np.argmax(scores[:5]) < 4  # not the current one


def test_selected_covers_all_rows_given_to_fit():
    assert RobustLossClassifier(NET, random_state=0).fit(X, Y).selected_.all()
    split = Network(max_epochs=6, batch_size=32, train_split=ValidSplit(3, stratified=True))
    clf = RobustLossClassifier(split, loss="truncated_gce", random_state=0).fit(X, Y)
    assert clf.selected_.shape == (90,)
    assert 0 < clf.selected_.sum() <= 60


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"loss": "huber"}, "'gce'.*'nce\\+rce'"),
        ({"loss": None}, "'gce'"),
        ({"loss_params": {"k": 0.5}}, "'gce' has the parameters q"),
        ({"loss_params": {"q": 2}}, "q \\(a number in"),
        ({"loss_params": 0.7}, "loss_params must be a dict"),
        ({"loss": gce, "loss_params": {"q": 0.7}}, "belong to named losses"),
        ({"loss": lambda logits, y: logits.mean()}, "one number per row"),
        ({"loss": lambda logits, y: 1.0}, "one number per row"),
        ({"loss": lambda logits, y: logits.mean(0)}, "one number per row"),
        ({"loss": lambda logits, y: logits.argmax(1)}, "one number per row"),
        ({"loss": lambda logits, y: logits.detach().numpy()[:, 0]}, "one number per row"),
        ({"loss": lambda logits, y: gce(logits.detach(), y)}, "no gradient"),
        ({"loss": lambda logits, y: y * torch.ones((), requires_grad=True)}, "no gradient"),
        ({"loss": lambda logits, y: gce(logits, y).log1p().sub(9).log()}, "not finite"),
        ({"loss": lambda logits, y: (0 * gce(logits, y)).sqrt()}, "not finite"),
        ({"warmup": -1}, "warmup"),
        ({"warmup": 51}, "warmup=51 is more than max_epochs=50"),
        ({"mixup": -1}, "mixup"),
        ({"mixup": "auto"}, "mixup"),
        ({"l1": -1}, "l1"),
        ({"entropy": -1}, "entropy"),
        ({"entropy": "auto"}, "entropy"),
        ({"prune_start": 0}, "prune_start"),
        ({"prune_start": 1.5}, "prune_start"),
        ({"prune_interval": 0}, "prune_interval"),
        ({"prune_interval": "often"}, "prune_interval"),
        ({"loss": "truncated_gce", "prune_start": 51}, "more than max_epochs=50"),
        ({"guards": 1}, "guards"),
    ],
)
def test_bad_parameters_are_refused_before_training(params, match):
    class Untrained(RobustLossClassifier):
        def _train_epoch(self, run, epoch):
            pytest.fail("trained")

    with pytest.raises((ValueError, TypeError), match=match):
        Untrained(**params).fit(X, Y)


def test_trying_a_loss_leaves_no_gradient_behind():
    weight = torch.ones((), requires_grad=True)
    check_loss(lambda logits, y: weight * gce(logits, y), 5, "cpu")
    assert weight.grad is None
