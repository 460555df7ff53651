"""Self-paced learning: what is selected, the loss it makes, and steps that are not taken."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_moons
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from torch import nn

from noisyfit import CrossEntropyClassifier, Network
from noisyfit._curriculum import CURRICULA, MovingPercentile
from noisyfit._data import Batch
from noisyfit._selection import SelectionRecord
from noisyfit.losses import cross_entropy
from noisyfit.methods.self_paced import SelfPacedClassifier
from noisyfit.modules import MLP, SmallCNN
from noisyfit.noise import sym_excl

X, Y = make_blobs(128, n_features=4, centers=3, random_state=0)
PUBLISHED = {"percentile": 0.7, "burn_in": 0, "lambda_init": 0.0}


# ---- one batch ---------------------------------------------------------------------------------


@pytest.fixture
def one_batch():
    """A run with a linear network, and a batch of ten rows."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(10, 4, generator=generator), torch.arange(10) % 3
    memory = SimpleNamespace(
        forget=0.4,
        selection=SelectionRecord(10, torch.device("cpu")),
        threshold=MovingPercentile(0.6, start=1.0),
    )
    run = SimpleNamespace(
        learners=[nn.Linear(4, 3)],
        n_classes=3,
        memory=memory,
        view=lambda x: x,
        observe=lambda index, logits: None,
    )
    return run, Batch(x, y, torch.arange(10))


@pytest.mark.parametrize("curriculum", CURRICULA)
def test_loss_is_the_weighted_sum_over_the_size_of_the_batch(one_batch, curriculum):
    run, batch = one_batch
    (net,) = run.learners
    clf = SelfPacedClassifier(curriculum=curriculum, width=0.5)
    weights, loss = clf._weights_and_loss(run, batch)
    losses = cross_entropy(net(batch.x), batch.y).detach().numpy()
    age = 0.5 * 1.0 + 0.5 * np.quantile(losses, 0.6)
    by_hand = {
        "hard": losses <= age,
        "linear": np.clip(1 - (losses - age) / 0.5, 0, 1),
        "hard_mining": losses >= age,
        "uniform": np.ones(10),
    }[curriculum]
    np.testing.assert_allclose(weights, by_hand, rtol=1e-5)
    assert loss.item() == pytest.approx(np.mean(by_hand * losses), rel=1e-5)


@pytest.mark.parametrize("selection", ["percentile_ema", "rank"])
def test_weights_are_constants_of_the_gradient(one_batch, selection):
    run, batch = one_batch
    (net,) = run.learners
    clf = SelfPacedClassifier(selection=selection, curriculum="linear")
    weights, loss = clf._weights_and_loss(run, batch)
    assert not weights.requires_grad
    loss.backward()
    copy = nn.Linear(4, 3)
    copy.load_state_dict(net.state_dict())
    total = (weights.clone() * cross_entropy(copy(batch.x), batch.y)).sum()
    (total / (6 if selection == "rank" else 10)).backward()
    torch.testing.assert_close(net.weight.grad, copy.weight.grad)


def test_half_the_weight_is_half_the_loss(one_batch):
    run, batch = one_batch

    class Halved(SelfPacedClassifier):
        factor = 1.0

        def _weights(self, run, y, losses):
            return self.factor * torch.ones(10)

    whole, half = Halved(), Halved()
    half.factor = 0.5
    _, a = whole._weights_and_loss(run, batch)
    _, b = half._weights_and_loss(run, batch)
    assert b.item() == pytest.approx(a.item() / 2)


# ---- the training ------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", ["percentile_ema", "rank"])
@pytest.mark.parametrize("percentile", [1.0, "auto"])
def test_dropping_nothing_is_plain_training(selection, percentile):
    net = Network(max_epochs=6, batch_size=32)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, Y)
    clf = SelfPacedClassifier(net, selection=selection, percentile=percentile, random_state=0)
    clf.fit(X, Y)
    np.testing.assert_array_equal(clf.predict_proba(X), plain.predict_proba(X))
    assert clf.forget_rate_ == 0
    assert clf.threshold_ is None
    np.testing.assert_allclose(clf.clean_proba_, plain.clean_proba_, atol=1e-6)


class Watched(SelfPacedClassifier):
    """Notes the age, the mean weight, and whether the batch changed the network."""

    def _begin(self, run):
        super()._begin(run)
        self.seen, step = [], run.step
        (net,) = run.learners

        def watched(loss, skip):
            before = [p.detach().clone() for p in net.module.parameters()]
            step(loss, skip=skip)
            moved = any(
                not torch.equal(a, b) for a, b in zip(before, net.module.parameters(), strict=True)
            )
            value = run.memory.threshold.value
            self.seen.append((float(value), bool(skip), moved, loss.item()))

        run.step = watched


def test_a_batch_without_selection_moves_the_age_only():
    net = Network(max_epochs=2, batch_size=16, lr=1e-3)
    clf = Watched(net, **PUBLISHED, random_state=0).fit(X, Y)
    ages, skipped, moved, losses = zip(*clf.seen, strict=True)
    assert any(skipped[:2])
    assert not all(skipped)
    assert [not m for m in moved] == list(skipped)
    assert all(loss == 0 for loss, s in zip(losses, skipped, strict=True) if s)
    assert ages[0] > 0
    assert ages[1] > ages[0]
    assert clf.threshold_ == ages[-1]
    # from the first batch's percentile something is selected at once
    later = Watched(net, **PUBLISHED | {"lambda_init": None}, random_state=0).fit(X, Y)
    assert not later.seen[0][1]


def test_nothing_is_ever_selected_below_an_age_out_of_reach():
    net = Network(max_epochs=2, batch_size=64)
    clf = Watched(net, percentile=0.0, burn_in=0, lambda_init=-1e9, random_state=0).fit(X, Y)
    assert all(skipped for _, skipped, _, _ in clf.seen)
    assert [row["selected"] for row in clf.history_] == [0, 0]
    assert [row["train_loss"] for row in clf.history_] == [0, 0]
    assert (clf.sample_weight_ == 0).all()


@pytest.mark.parametrize("selection", ["percentile_ema", "rank"])
def test_percentile_zero_keeps_about_the_smallest(selection):
    net = Network(max_epochs=3, batch_size=32, lr=1e-6)
    params = {"selection": selection, "percentile": 0.0, "burn_in": 0}
    clf = SelfPacedClassifier(net, **params, random_state=0).fit(X, Y)
    assert 0 < clf.history_[-1]["selected"] <= 2 / 32


def test_equal_losses_are_all_selected():
    """All rows alike, and one of another class, whose loss is once above and once below theirs."""
    net = Network(max_epochs=2, lr=1e-9, optimizer__weight_decay=0.0)
    shares = set()
    for odd in (0, 1):
        clf = SelfPacedClassifier(net, percentile=0.3, burn_in=0, random_state=0)
        clf.fit(np.zeros((60, 2)), np.r_[np.full(59, 1 - odd), odd])
        shares |= {round(60 * row["selected"]) for row in clf.history_}
    assert shares == {59, 60}


def test_burn_in_and_gradual_begin():
    net = Network(max_epochs=8, batch_size=32)
    clf = SelfPacedClassifier(net, percentile=0.6, burn_in=3, n_gradual=4, random_state=0)
    clf.fit(X, Y)
    forget = [row["forget_rate"] for row in clf.history_]
    assert forget == pytest.approx([0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4])
    selected = [row["selected"] for row in clf.history_]
    assert selected[:4] == [1, 1, 1, 1]
    assert max(selected[5:]) < 1
    at_once = SelfPacedClassifier(net, percentile=0.6, burn_in=3, random_state=0).fit(X, Y)
    assert [row["forget_rate"] for row in at_once.history_] == pytest.approx([0] * 3 + [0.4] * 5)


def test_share_selected_by_rank_and_by_age():
    net = Network(max_epochs=12, batch_size=32)
    noisy = sym_excl(Y, 0.3, random_state=0).y
    for selection, tolerance in (("rank", 0.011), ("percentile_ema", 0.12)):
        clf = SelfPacedClassifier(
            net, selection=selection, percentile=0.6, burn_in=2, random_state=0
        ).fit(X, noisy)
        shares = [row["selected"] for row in clf.history_[2:]]
        assert np.mean(shares) == pytest.approx(0.6, abs=tolerance)


def test_weight_decay_scales_with_the_weights():
    """One step on one batch by hand; nothing but the decay differs from the unscaled one."""
    net = Network(MLP, max_epochs=1, batch_size=128, optimizer__weight_decay=0.5)
    start = SelfPacedClassifier(
        Network(MLP, max_epochs=1, batch_size=128, lr=1e-30), percentile=0.6, random_state=0
    ).fit(X, Y)
    params = {"percentile": 0.6, "burn_in": 0, "random_state": 0}
    scaled, plain = (
        SelfPacedClassifier(net, scale_decay_by_weights=flag, **params).fit(X, Y)
        for flag in (True, False)
    )
    share = scaled.history_[0]["selected"]
    assert share == pytest.approx(77 / 128)
    for a, b, theta in zip(
        *(clf.nets_[0].module_.parameters() for clf in (scaled, plain, start)), strict=True
    ):
        torch.testing.assert_close(a - b, 0.05 * 0.5 * (1 - share) * theta, rtol=1e-3, atol=1e-6)


def test_the_unknown_percentile_is_estimated(digits):
    images, y = digits
    noisy = sym_excl(y, 0.4, random_state=0).y
    clf = SelfPacedClassifier(Network(max_epochs=12), augment=None, random_state=0)
    assert clf.fit(images, noisy).forget_rate_ == pytest.approx(0.4, abs=0.1)


def test_an_untrained_network_estimates_nothing(digits):
    """It contradicts nearly all labels, the right ones too."""
    images, y = digits
    net = Network(max_epochs=1)
    plain = CrossEntropyClassifier(net, augment=None, random_state=0).fit(images, y)
    clf = SelfPacedClassifier(net, augment=None, random_state=0).fit(images, y)
    assert clf.forget_rate_ == 0
    np.testing.assert_array_equal(clf.predict_proba(images), plain.predict_proba(images))
    with pytest.raises(ValueError, match=r"burn_in=0 .* percentile='auto'"):
        clf.set_params(burn_in=0).fit(images, y)


# ---- what it gives -----------------------------------------------------------------------------


@pytest.mark.parametrize("selection", ["percentile_ema", "rank"])
def test_wrong_labels_are_left_out(digits, selection):
    images, y = digits
    images, test, y, y_test = images[:1200], images[1200:], y[:1200], y[1200:]
    noisy = sym_excl(y, 0.4, random_state=0)
    net = Network(MLP, max_epochs=40)
    flat, flat_test = images.reshape(1200, -1), test.reshape(len(test), -1)
    plain = CrossEntropyClassifier(net, random_state=0).fit(flat, noisy.y)
    clf = SelfPacedClassifier(net, selection=selection, random_state=0).fit(flat, noisy.y)
    assert clf.score(flat_test, y_test) > plain.score(flat_test, y_test) + 0.1
    assert roc_auc_score(~noisy.changed, clf.clean_proba_) > 0.97
    # the selection decides, the history breaks its ties
    selected = clf.sample_weight_ >= 0.5
    assert noisy.changed[selected].mean() < noisy.changed.mean() / 2
    of_history = clone(clf).set_params(clean_score="history").fit(flat, noisy.y)
    mean = (10 * clf.sample_weight_ + of_history.clean_proba_) / 11
    np.testing.assert_allclose(clf.clean_proba_, mean, atol=1e-6)


def test_right_labels_of_a_small_table_are_kept():
    gaps = []
    for seed in range(4):
        x, y = make_moons(1300, noise=0.25, random_state=seed)
        plain, clf = (
            method(random_state=seed).fit(x[:300], y[:300]).score(x[300:], y[300:])
            for method in (CrossEntropyClassifier, SelfPacedClassifier)
        )
        gaps.append(plain - clf)
    assert np.mean(gaps) < 0.01


@pytest.mark.parametrize("curriculum", ["hard_mining", "uniform"])
def test_large_weights_of_large_losses_are_no_evidence(curriculum):
    noisy = sym_excl(Y, 0.3, random_state=0)
    clf = SelfPacedClassifier(
        Network(max_epochs=15), curriculum=curriculum, percentile=0.7, burn_in=2, random_state=0
    ).fit(X, noisy.y)
    assert roc_auc_score(~noisy.changed, clf.clean_proba_) > 0.8


@pytest.mark.parametrize("params", [{}, {"selection": "rank"}, PUBLISHED])
def test_odd_data_are_trained_on(params):
    net = Network(max_epochs=3, batch_size=2)
    for x, y in ((X[:5], [0, 1, 0, 1, 0]), (X[:4], [1, 1, 1, 1])):
        clf = SelfPacedClassifier(net, **params, random_state=0).fit(x, y)
        assert np.isfinite(clf.clean_proba_).all()


@pytest.mark.parametrize(
    "params",
    [
        {"selection": "smallest"},
        {"percentile": 1.1},
        {"percentile": -0.1},
        {"percentile": "high"},
        {"curriculum": "soft"},
        {"width": 0},
        {"decay": 1.0},
        {"lambda_init": "first"},
        {"burn_in": -1},
        {"burn_in": 1.5},
        {"n_gradual": -1},
        {"scale_decay_by_weights": 1},
    ],
)
def test_bad_parameters_are_refused(params):
    (name,) = params
    with pytest.raises((ValueError, TypeError), match=name):
        SelfPacedClassifier(**params).fit(X, Y)


# ---- the recipe of the guide -------------------------------------------------------------------


def test_dropout_is_searched_on_held_out_noisy_labels(digits):
    """ "Forgetting": plain training with much dropout, its rate chosen by cross-validation."""
    images, y = (part[:600] for part in digits)
    noisy = sym_excl(y, 0.4, random_state=0).y
    plain = CrossEntropyClassifier(Network(SmallCNN, max_epochs=3), augment=None, random_state=0)
    rates = np.arange(0.2, 1.0, 0.35)
    search = GridSearchCV(plain, {"net__module__dropout": rates}, cv=2).fit(images, noisy)
    assert len(search.cv_results_["params"]) == 3
    assert search.best_params_["net__module__dropout"] in rates
    dropout = [m for m in search.best_estimator_.nets_[0].module_.modules() if hasattr(m, "p")]
    assert [layer.p for layer in dropout] == [search.best_params_["net__module__dropout"]]
