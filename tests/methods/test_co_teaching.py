"""Co-teaching: schedule, cross-update, and what it keeps."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_blobs, make_moons
from sklearn.metrics import roc_auc_score
from torch import nn

from noisyfit import CoTeachingClassifier, CrossEntropyClassifier, Network
from noisyfit._data import Batch
from noisyfit._selection import SelectionRecord
from noisyfit._small_loss import (
    code_forget_rate,
    forget_rate,
    number_to_keep,
    small_loss,
    small_loss_per_class,
    suspected_share,
)
from noisyfit.losses import cross_entropy
from noisyfit.modules import MLP
from noisyfit.noise import sym_excl, sym_incl

X, Y = make_blobs(128, n_features=4, centers=3, random_state=0)


def test_forget_rate_rises_as_in_the_paper():
    rates = [forget_rate(e, 0.5, 10) for e in range(13)]
    assert rates == pytest.approx([0.05 * e for e in range(11)] + [0.5, 0.5])
    squared = [forget_rate(e, 0.4, 16, exponent=2) for e in (0, 2, 4, 9)]
    assert squared == pytest.approx([0, 0.1, 0.4, 0.4])
    assert forget_rate(0, 0.3, 0) == 0.3


def test_forget_rate_of_the_code_is_its_linspace():
    rates = [code_forget_rate(e, 0.5, 10) for e in range(13)]
    assert rates[:5] == pytest.approx([0, 0.0556, 0.1111, 0.1667, 0.2222], abs=1e-4)
    assert rates[8:] == pytest.approx([0.4444, 0.5, 0.5, 0.5, 0.5], abs=1e-4)
    for exponent in (0.5, 1, 2):
        for n_gradual in (0, 1, 2, 5, 15):
            ramp = np.full(20, 0.45)
            ramp[:n_gradual] = np.linspace(0, 0.45**exponent, n_gradual)
            ours = [code_forget_rate(e, 0.45, n_gradual, exponent) for e in range(20)]
            assert ours == pytest.approx(list(ramp))


def test_number_to_keep_survives_rounding():
    assert [number_to_keep(128, r) for r in (0.2, 0.45, 0.5)] == [102, 70, 64]
    assert number_to_keep(10, 0.9) == 1
    assert number_to_keep(2, 0.9) == 1


def test_small_loss_keeps_the_smallest_and_the_first_of_equals():
    losses = torch.tensor([3.0, 1.0, 2.0, 1.0, 1.0])
    assert small_loss(losses, 2).tolist() == [0, 1, 0, 1, 0]
    y = torch.tensor([0, 0, 0, 1, 1])
    kept = small_loss_per_class(losses, y, forget=0.5, n_classes=3)
    assert kept.tolist() == [0, 1, 0, 1, 0]
    assert small_loss_per_class(losses, y, forget=0.95, n_classes=2).sum() == 2
    alone = torch.zeros(75, dtype=torch.int64)  # 84 % of 75 rows are 63, in float32 a little less
    assert small_loss_per_class(torch.zeros(75), alone, forget=0.16, n_classes=1).sum() == 63


class Captured(CoTeachingClassifier):
    """Keeps the first batch, the networks and the loss."""

    def _loss(self, run, batch, t):
        loss = super()._loss(run, batch, t)
        if not hasattr(self, "_first"):
            self._first = run.learners, batch, loss, run.memory.forget
        return loss


def test_each_network_learns_from_the_choice_of_the_other():
    rng = np.random.default_rng(0)
    f, g = nn.Linear(4, 3), nn.Linear(4, 3)
    x = torch.tensor(rng.normal(size=(10, 4)), dtype=torch.float32, requires_grad=True)
    y = torch.tensor(rng.integers(0, 3, 10))
    clf = CoTeachingClassifier(augment=None)

    class Run:
        learners = (f, g)
        n_classes = 3

        class memory:
            forget, selection = 0.4, SelectionRecord(10, torch.device("cpu"))

        @staticmethod
        def view(x):
            return x

        @staticmethod
        def observe(index, logits):
            pass

    loss = clf._loss(Run, Batch(x, y, torch.arange(10)), 0.0)
    loss.backward()
    chosen_by_g = cross_entropy(g(x), y).argsort()[:6]
    chosen_by_f = cross_entropy(f(x), y).argsort()[:6]
    for net, chosen in ((f, chosen_by_g), (g, chosen_by_f)):
        copy = nn.Linear(4, 3)
        copy.load_state_dict(net.state_dict())
        cross_entropy(copy(x.detach()[chosen]), y[chosen]).mean().backward()
        torch.testing.assert_close(net.weight.grad, copy.weight.grad)
    dropped_by_both = set(range(10)) - set(chosen_by_f.tolist()) - set(chosen_by_g.tolist())
    for i in dropped_by_both:
        assert not x.grad[i].any()


def test_noise_rate_zero_is_two_plain_networks():
    net = Network(MLP, max_epochs=4, batch_size=32)
    pair = CoTeachingClassifier(net, noise_rate=0.0, random_state=0).fit(X, Y)
    batches = []

    class Spy(CoTeachingClassifier):
        def _loss(self, run, batch, t):
            batches.append(batch.index)
            return super()._loss(run, batch, t)

    start = Spy(
        Network(MLP, max_epochs=4, batch_size=32, lr=1e-30, optimizer__weight_decay=0.0),
        noise_rate=0.0,
        random_state=0,
    ).fit(X, Y)
    x = start._input_scale_.table(X)
    y = torch.from_numpy(Y)
    for trained, fresh in zip(pair.nets_, start.nets_, strict=True):
        module = fresh.module_.train()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        for b, index in enumerate(batches):
            epoch = b // 4
            optimizer.param_groups[0]["lr"] = 0.05 * (1 + np.cos(np.pi * epoch / 4)) / 2
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[index]), y[index]).backward()
            optimizer.step()
        for a, b in zip(trained.module_.parameters(), module.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_an_incomplete_last_batch_is_dropped_unless_data_are_few():
    sizes = []

    class Spy(CoTeachingClassifier):
        def _loss(self, run, batch, t):
            sizes.append(len(batch.y))
            return super()._loss(run, batch, t)

    Spy(Network(max_epochs=1, batch_size=50), random_state=0).fit(X, Y)
    Spy(Network(max_epochs=1, batch_size=100), random_state=0).fit(X, Y)
    assert sizes == [50, 50, 100, 28]


def test_the_dropped_share_follows_the_schedule():
    net = Network(max_epochs=6, batch_size=32)
    clf = CoTeachingClassifier(net, noise_rate=0.4, n_gradual=4, random_state=0).fit(X, Y)
    rates = [row["forget_rate"] for row in clf.history_]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4])
    assert clf.forget_rate_ == pytest.approx(0.4)
    rates = [row["forget_rate"] for row in clf.set_params(schedule="code").fit(X, Y).history_]
    assert rates == pytest.approx([0, 0.4 / 3, 0.8 / 3, 0.4, 0.4, 0.4])


def test_the_unknown_noise_rate_is_estimated(digits):
    images, y = digits
    noisy = sym_incl(y, 0.4, random_state=0)
    net = Network(max_epochs=25)
    clf = CoTeachingClassifier(net, augment=None, random_state=0).fit(images, noisy.y)
    assert clf.forget_rate_ == pytest.approx(noisy.info["wrong_fraction"], abs=0.1)


def test_the_ramp_starts_where_the_rate_is_estimated():
    X, y = make_blobs(400, centers=4, n_features=10, cluster_std=2, random_state=0)
    noisy = sym_excl(y, 0.4, random_state=0).y
    net = Network(max_epochs=10)
    clf = CoTeachingClassifier(net, n_gradual=4, random_state=0).fit(X, noisy)
    rate = clf.forget_rate_
    assert rate > 0.3
    rates = [row["forget_rate"] for row in clf.history_]
    assert rates == pytest.approx([0] * 5 + [rate / 4, rate / 2, 3 * rate / 4, rate, rate])


def test_an_untrained_network_estimates_nothing(digits):
    """It contradicts nearly all labels, the right ones too."""
    images, y = (part[:600] for part in digits)
    for params, max_epochs in (({"n_gradual": 0}, 15), ({}, 1)):
        net = Network(max_epochs=max_epochs)
        clf = CoTeachingClassifier(net, random_state=0, **params).fit(images.reshape(600, -1), y)
        assert clf.forget_rate_ < 0.05
        assert clf.history_[0]["forget_rate"] == 0


def test_hard_labels_are_not_counted_as_wrong():
    clean = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9])
    denied = torch.zeros(8, dtype=torch.bool)
    assert suspected_share(clean, denied) == 0
    denied[:2] = denied[7] = True  # half: rows near a border
    assert suspected_share(clean, denied) == 0
    denied[2] = True  # three of four: the mixture has found wrong labels
    assert suspected_share(clean, denied) == 4 / 8
    clean[4], denied[:] = 0.2, torch.tensor([1, 1, 1, 0, 0, 0, 0, 0])
    assert suspected_share(clean, denied) == 1 / 8
    assert suspected_share(torch.zeros(8), torch.ones(8, dtype=torch.bool)) == 0.8


def test_right_labels_of_a_small_table_are_kept():
    """Rows near the border have large losses; dropping them costs accuracy."""
    losses = []
    for seed in range(4):
        X, y = make_moons(1300, noise=0.25, random_state=seed)
        scores = [
            method(random_state=seed).fit(X[:300], y[:300]).score(X[300:], y[300:])
            for method in (CrossEntropyClassifier, CoTeachingClassifier)
        ]
        losses.append(scores[0] - scores[1])
    assert np.mean(losses) < 0.01


@pytest.mark.parametrize("max_epochs", [1, 2, 3])
def test_rows_that_no_batch_saw_are_judged_by_the_final_networks(max_epochs):
    """The incomplete last batch is dropped: a fifth of the rows of each epoch."""
    X, y = make_blobs(320, n_features=10, centers=3, random_state=0)
    net = Network(max_epochs=max_epochs, batch_size=128)
    clf = CoTeachingClassifier(net, random_state=0).fit(X, y)
    unseen = clf.dynamics_["n_seen"] == 0
    assert unseen.any()
    of_label = clf.predict_proba(X)[np.arange(320), y]
    np.testing.assert_allclose(clf.clean_proba_[unseen], of_label[unseen], rtol=1e-5)


def test_what_is_kept_is_mostly_right():
    X, y = make_blobs(600, centers=4, random_state=0)
    noisy = sym_incl(y, 0.4, random_state=0)
    clf = CoTeachingClassifier(Network(max_epochs=30), noise_rate=0.3, random_state=0)
    clf.fit(X, noisy.y)
    kept = clf.clean_proba_ >= 0.5
    assert np.mean(~noisy.changed[kept]) > 0.9
    assert roc_auc_score(~noisy.changed, clf.clean_proba_) > 0.9


def test_equal_starts_are_refused():
    net = Network(nn.Linear(4, 3), max_epochs=2)
    with pytest.raises(ValueError, match="pass a module class"):
        CoTeachingClassifier(net).fit(X, Y)
    CrossEntropyClassifier(net).fit(X, Y)


@pytest.mark.parametrize(
    "params",
    [
        {"noise_rate": 1.0},
        {"noise_rate": -0.1},
        {"noise_rate": "low"},
        {"n_gradual": -1},
        {"n_gradual": 2.5},
        {"exponent": 0},
        {"schedule": "capped"},
        {"ensemble": "mean"},
    ],
)
def test_bad_parameters_are_refused(params):
    (name,) = params
    with pytest.raises((ValueError, TypeError), match=name):
        CoTeachingClassifier(**params).fit(X, Y)


def test_per_class_selection_keeps_rare_classes():
    rng = np.random.default_rng(0)
    X = np.r_[rng.normal(0, 1, (180, 2)), rng.normal(2.5, 1, (20, 2))]
    y = np.r_[np.zeros(180, int), np.ones(20, int)]
    kept = {}
    for per_class in (False, True):
        clf = CoTeachingClassifier(
            Network(max_epochs=20), noise_rate=0.3, per_class=per_class, random_state=0
        ).fit(X, y)
        kept[per_class] = clf.clean_proba_[y == 1].mean()
    assert kept[True] > kept[False]


@pytest.mark.parametrize("max_epochs", [5, 20])
def test_short_trainings_fall_back_on_the_history(max_epochs):
    """Epochs that drop little or nothing say nothing about what was dropped."""
    X, y = make_blobs(400, centers=4, n_features=5, cluster_std=2, random_state=0)
    noisy = sym_incl(y, 0.4, random_state=0)
    clf = CoTeachingClassifier(Network(max_epochs=max_epochs), random_state=0).fit(X, noisy.y)
    assert roc_auc_score(~noisy.changed, clf.clean_proba_) > 0.95


def test_the_selection_history_ranks_wrong_labels_better_than_the_final_loss():
    X, y = load_digits(return_X_y=True)
    for seed in (0, 1):
        noisy = sym_excl(y, 0.4, random_state=seed)
        auroc = {
            score: roc_auc_score(
                ~noisy.changed,
                CoTeachingClassifier(clean_score=score, random_state=seed)
                .fit(X, noisy.y)
                .clean_proba_,
            )
            for score in ("auto", "final")
        }
        assert auroc["auto"] > auroc["final"]
