"""MentorMix: who is mixed with whom, by how much, and what leaves no trace."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_classification
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import nn

from noisyfit import CrossEntropyClassifier, Network
from noisyfit._curriculum import MovingPercentile
from noisyfit._data import Batch
from noisyfit._selection import SelectionRecord
from noisyfit.losses import cross_entropy
from noisyfit.methods.mentormix import (
    MentorMixClassifier,
    buffers_kept,
    mixing_weights,
    partner_probabilities,
    settings_for,
)
from noisyfit.modules import MLP
from noisyfit.noise import sym_excl

X, Y = make_blobs(96, n_features=4, centers=3, random_state=0)
OPEN = {"noise_rate": None, "burn_in": 0.0}


class WithNorm(nn.Sequential):
    def __init__(self, n_features, n_classes):
        super().__init__(nn.Linear(n_features, 8), nn.BatchNorm1d(8), nn.Linear(8, n_classes))


# ---- formulas ----------------------------------------------------------------------------------


def test_partners_have_the_published_chances():
    v = torch.tensor([1.0, 1.0, 0.0, 0.0])
    chances = partner_probabilities(v)
    torch.testing.assert_close(
        chances, torch.tensor([0.3655, 0.3655, 0.1345, 0.1345]), atol=5e-5, rtol=0
    )
    clean_looking = partner_probabilities((torch.arange(128) < 70).float())[:70].sum()
    assert clean_looking.item() == pytest.approx(0.766, abs=5e-4)
    for equal in (torch.zeros(4), torch.ones(4)):
        torch.testing.assert_close(partner_probabilities(equal), torch.full((4,), 0.25))
    assert partner_probabilities(v, temperature=0.1)[:2].sum() > 0.999


def test_the_row_dominates_where_it_looks_right_and_its_partner_elsewhere():
    lam = torch.from_numpy(np.random.default_rng(0).beta(2, 2, 1000))
    own, other = mixing_weights(lam, torch.ones(1000)), mixing_weights(lam, torch.zeros(1000))
    assert (own >= 0.5).all()
    assert (other <= 0.5).all()
    torch.testing.assert_close(own, torch.where(lam > 0.5, lam, 1 - lam))
    torch.testing.assert_close(other, 1 - own)
    half = mixing_weights(lam, torch.full((1000,), 0.5))
    np.testing.assert_allclose(half, 0.5)


@pytest.mark.parametrize(
    ("rate", "percentile", "alpha", "second"),
    [
        (0, 1, 2, False),
        (0.2, 0.8, 2, False),
        (0.3, 0.7, 8, False),
        (0.5, 0.5, 8, False),
        (0.6, 0.4, 8, True),
        (0.95, 0.1, 8, True),
    ],
)
def test_settings_follow_the_noise_rate(rate, percentile, alpha, second):
    assert settings_for(rate) == (pytest.approx(percentile), alpha, second)
    clf = MentorMixClassifier(Network(max_epochs=1), noise_rate=rate, random_state=0)
    clf.fit(np.random.default_rng(0).normal(size=(40, 40)), np.arange(40) % 2)
    assert (clf.percentile_, clf.alpha_) == (pytest.approx(percentile), alpha)
    assert clf.second_reweight_ is second


def test_given_settings_go_before_those_of_the_noise_rate():
    own = {"percentile": 0.3, "alpha": 4.0, "second_reweight": False}
    clf = MentorMixClassifier(Network(max_epochs=2), noise_rate=0.8, **own, random_state=0)
    clf.fit(X, Y)
    assert (clf.percentile_, clf.alpha_, clf.second_reweight_) == (0.3, 4.0, False)
    # an open rate: mildly mixed in four columns
    clf = MentorMixClassifier(Network(max_epochs=2), **OPEN, random_state=0).fit(X, Y)
    assert (clf.percentile_, clf.alpha_, clf.second_reweight_) == (0.7, 2 * 4 / 32, False)


# ---- one batch ---------------------------------------------------------------------------------


def one_batch(clf, alpha=2.0, n=64, share=0.5):
    """A run with a linear network in epoch 1, and a batch of `n` rows."""
    generator = torch.Generator().manual_seed(0)
    clf.alpha_, clf.second_reweight_ = alpha, bool(clf.second_reweight is True)
    lam = np.random.default_rng(0).beta(alpha or 1, alpha or 1, n)
    net = nn.Linear(4, 3)
    memory = SimpleNamespace(
        burn_in=0.0,
        selected=0.0,
        of_single=MovingPercentile(share),
        of_mixed=MovingPercentile(share),
        selection=SelectionRecord(n, torch.device("cpu")),
        lam=torch.from_numpy(lam).float(),
    )
    net.module = net
    run = SimpleNamespace(
        learners=[net],
        n_classes=3,
        memory=memory,
        generator=generator,
        device=torch.device("cpu"),
        view=lambda x: x,
        observe=lambda index, logits: None,
    )
    x = torch.randn(n, 4, generator=generator)
    return run, Batch(x, torch.arange(n) % 3, torch.randperm(n, generator=generator))


def test_partners_are_drawn_with_replacement_by_their_chances():
    clf = MentorMixClassifier()
    run, _ = one_batch(clf, n=4)
    v = torch.tensor([1.0, 1.0, 0.0, 0.0])
    drawn = torch.stack([clf._draw(run, torch.arange(4), v)[0] for _ in range(5000)])
    assert (drawn == torch.arange(4)).any()  # itself is allowed
    expected = 5000 * partner_probabilities(v.double()).numpy()
    for row in drawn.T:  # independently for every row
        assert chisquare(np.bincount(row, minlength=4), expected).pvalue > 1e-3


def test_loss_is_that_of_the_recipe_written_out(monkeypatch):
    clf = MentorMixClassifier(second_reweight=True)
    run, batch = one_batch(clf)
    (net,) = run.learners
    losses = cross_entropy(net(batch.x), batch.y).detach().numpy()
    v = losses <= np.quantile(losses, 0.5)
    seen = {}
    draw = clf._draw
    monkeypatch.setattr(
        clf, "_draw", lambda *args: seen.update(v=args[2], drawn=draw(*args)) or seen["drawn"]
    )
    loss, nothing = clf._loss_and_skip(run, batch, 1.0)
    np.testing.assert_array_equal(seen["v"].numpy(), v)
    partner, lam = (part.numpy() for part in seen["drawn"])
    of_row = run.memory.lam[batch.index].numpy()
    big = np.maximum(of_row, 1 - of_row)
    np.testing.assert_allclose(lam, np.where(v, big, 1 - big), rtol=1e-6)
    x, y = batch.x.numpy(), np.eye(3)[batch.y]
    mixed = lam[:, None] * x + (1 - lam[:, None]) * x[partner]
    target = lam[:, None] * y + (1 - lam[:, None]) * y[partner]
    np.testing.assert_allclose(target.sum(1), 1, rtol=1e-6)
    log_p = net(torch.from_numpy(mixed)).log_softmax(1).detach().numpy()
    of_mixed = -(target * log_p).sum(1)
    second = of_mixed <= np.quantile(of_mixed, 0.5)
    assert loss.item() == pytest.approx((second * of_mixed).mean(), rel=1e-4)
    assert not nothing
    run.memory.of_mixed.value = torch.tensor(-100.0)
    loss, nothing = clf._loss_and_skip(run, batch, 1.0)
    assert loss == 0
    assert nothing


def test_no_gradient_reaches_the_pass_that_finds_the_weights():
    gradients = []
    for of_copy in (False, True):
        torch.manual_seed(0)
        clf = MentorMixClassifier(curriculum="linear", second_reweight=True)
        run, batch = one_batch(clf)
        (net,) = run.learners
        if of_copy:
            other = copy.deepcopy(net)
            clf._weight_pass = lambda net, x, other=other: other(x).detach()
        loss, _ = clf._loss_and_skip(run, batch, 1.0)
        loss.backward()
        gradients.append(net.weight.grad)
    torch.testing.assert_close(*gradients)


def test_extreme_alpha():
    for alpha in (1e9, 1e-9):
        clf = MentorMixClassifier(percentile=1.0)
        run, batch = one_batch(clf, alpha=alpha, share=1.0)
        _, lam = clf._draw(run, batch.index, torch.ones(64))
        np.testing.assert_allclose(lam, 0.5 if alpha > 1 else 1.0, atol=1e-3)
        loss, _ = clf._loss_and_skip(run, batch, 1.0)
        plain = cross_entropy(run.learners[0](batch.x), batch.y).mean()
        assert (loss == plain) == (alpha < 1)


def test_fractional_weights_are_rounded_only_on_request():
    v = torch.tensor([0.2, 0.5, 0.8, 1.0])
    for binary, used in ((False, v), (True, torch.tensor([0.0, 1.0, 1.0, 1.0]))):
        clf = MentorMixClassifier(binary_mixing=binary)
        run, _ = one_batch(clf, n=4)
        _, lam = clf._draw(run, torch.arange(4), v)
        torch.testing.assert_close(lam, mixing_weights(run.memory.lam, used))


# ---- the training ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_mixing_nothing_is_plain_training(mode):
    """The pass that finds the weights leaves running statistics, mode and draws alone."""
    net = Network(WithNorm, max_epochs=4, batch_size=32)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, Y)
    clf = MentorMixClassifier(net, alpha=0, weight_pass_mode=mode, **OPEN, random_state=0)
    clf.fit(X, Y)
    ours, theirs = (c.nets_[0].module_.state_dict() for c in (clf, plain))
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name


def test_modes_of_the_pass_that_finds_the_weights():
    seen = {}

    class Spy(MentorMixClassifier):
        def _weight_pass(self, net, x):
            before = [b.clone() for b in net.module.buffers()]
            logits = super()._weight_pass(net, x)
            assert not logits.requires_grad
            assert all(torch.equal(a, b) for a, b in zip(before, net.module.buffers(), strict=True))
            assert net.module.training
            with torch.no_grad(), buffers_kept(net.module):
                by_batch = net(x)
            seen.setdefault(self.weight_pass_mode, torch.equal(logits, by_batch))
            return logits

    for mode in ("train", "eval"):
        net = Network(WithNorm, max_epochs=2, batch_size=32)
        Spy(net, weight_pass_mode=mode, **OPEN, random_state=0).fit(X, Y)
    assert seen == {"train": True, "eval": False}


def watch(clf):
    """Fit a copy that notes the first weights, with their losses and averages, batch by batch."""
    notes = []

    class Spy(MentorMixClassifier):
        def _weights(self, threshold, losses, plain):
            v = super()._weights(threshold, losses, plain)
            notes.append((threshold, losses, float(threshold.value), v))
            return v

    Spy(**clf.get_params(deep=False)).fit(X, Y)
    first = notes[0][0]
    return [n[1:] for n in notes if n[0] is first], [n[1:] for n in notes if n[0] is not first]


def test_moving_percentiles_of_single_and_mixed_rows_are_independent():
    net = Network(max_epochs=3, batch_size=32, lr=1e-30, optimizer__weight_decay=0.0)
    params = {"noise_rate": None, "percentile": 0.6, "random_state": 0, "burn_in": 0.0}
    once, none = watch(MentorMixClassifier(net, second_reweight=False, **params))
    single, mixed = watch(MentorMixClassifier(net, second_reweight=True, **params))
    assert none == []
    assert [n[1] for n in once] == [n[1] for n in single]
    for notes in (single, mixed):
        expected = None
        for losses, value, v in notes:
            now = np.quantile(losses, 0.6)
            expected = now if expected is None else 0.5 * expected + 0.5 * now
            assert value == pytest.approx(expected, rel=1e-5)
            assert torch.equal(v, (losses <= value).float())


def test_weights_are_one_in_the_burn_in_and_the_average_moves():
    net = Network(max_epochs=4, batch_size=24)  # 4 batches an epoch
    params = {"noise_rate": None, "second_reweight": True, "random_state": 0}
    for notes in watch(MentorMixClassifier(net, burn_in=0.375, **params)):
        plain = [bool((v == 1).all()) for _, _, v in notes]
        assert plain[:6] == [True] * 6
        assert not any(plain[6:])
        assert len({value for _, value, _ in notes[:6]}) == 6
    single, _ = watch(MentorMixClassifier(net, burn_in=1.0, **params))
    assert all((v == 1).all() for _, _, v in single)


def test_auto_burn_in_is_at_least_ten_epochs_and_at_most_half():
    def length(max_epochs, columns):
        clf = MentorMixClassifier()
        run = SimpleNamespace(max_epochs=max_epochs, steps_per_epoch=2)
        clf._input_scale_ = SimpleNamespace(shape=(columns,))
        return clf._burn_in_epochs(run)

    assert [length(e, 64) for e in (200, 50, 10, 1)] == [20, 10, 5, 1]
    assert length(200, 2) == 75


def test_an_untrained_network_estimates_nothing():
    """It contradicts nearly all labels, the right ones too; one epoch is plain training."""
    net = Network(max_epochs=1, batch_size=32)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, Y)
    clf = MentorMixClassifier(net, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(clf.predict_proba(X), plain.predict_proba(X))
    np.testing.assert_allclose(clf.clean_proba_, plain.clean_proba_, atol=1e-6)
    with pytest.raises(ValueError, match=r"burn_in=0 .* noise_rate='auto'"):
        clf.set_params(burn_in=0.0).fit(X, Y)


def test_the_rate_is_estimated_before_anything_is_mixed(digits):
    images, y = digits
    flat = images.reshape(len(images), -1)[:900]
    noisy = sym_excl(y[:900], 0.4, random_state=0).y
    net = Network(MLP, max_epochs=12)
    alphas = []

    class Spy(MentorMixClassifier):
        def _train_epoch(self, run, epoch):
            super()._train_epoch(run, epoch)
            alphas.append(self.alpha_)

    clf = Spy(net, burn_in=0.8, random_state=0).fit(flat, noisy)
    assert alphas == [0.0] * 10 + [8.0] * 2
    assert clf.percentile_ == pytest.approx(0.6, abs=0.1)
    selected = [row["selected"] for row in clf.history_]
    assert selected[:10] == [1.0] * 10
    assert selected[11] == pytest.approx(clf.percentile_, abs=0.1)


def test_averaged_weights_predict():
    steps = []

    class Spy(MentorMixClassifier):
        def _average(self, run):
            super()._average(run)
            net = run.learners[0].module
            steps.append([p.detach().clone() for p in net.parameters()])
            self.statistics = net[1].running_mean.clone()

    net = Network(WithNorm, max_epochs=3, batch_size=32)
    clf = Spy(net, ema_decay=0.8, **OPEN, random_state=0).fit(X, Y)
    start = MentorMixClassifier(clone(net).set_params(lr=1e-30), **OPEN, random_state=0).fit(X, Y)
    average = [p.detach() for p in start.nets_[0].module_.parameters()]
    for t, weights in enumerate(steps, 1):
        decay = min(t / (t + 1), 0.8)
        average = [decay * a + (1 - decay) * w for a, w in zip(average, weights, strict=True)]
    fitted = clf.nets_[0].module_
    for ours, by_hand in zip(fitted.parameters(), average, strict=True):
        torch.testing.assert_close(ours.detach(), by_hand, rtol=1e-4, atol=1e-6)
    assert torch.equal(fitted[1].running_mean, clf.statistics)


def test_nothing_selected_by_the_second_weights_takes_no_step():
    moved = []

    class Spy(MentorMixClassifier):
        def _begin(self, run):
            super()._begin(run)
            run.memory.of_mixed.value = torch.tensor(-1e9)

        def _average(self, run):
            p = next(run.learners[0].module.parameters()).detach().clone()
            moved.append(p)

    net = Network(max_epochs=2, batch_size=32)
    clf = Spy(net, second_reweight=True, **OPEN, random_state=0).fit(X, Y)
    assert all(torch.equal(p, moved[0]) for p in moved)
    assert [row["train_loss"] for row in clf.history_] == [0, 0]


def test_small_batches_are_warned_of():
    with pytest.warns(UserWarning, match="net__batch_size to 8"):
        MentorMixClassifier(Network(max_epochs=1, batch_size=7), random_state=0).fit(X, Y)
    MentorMixClassifier(Network(max_epochs=1, batch_size=8), random_state=0).fit(X, Y)


# ---- what it gives -----------------------------------------------------------------------------


def test_wrong_labels_are_diluted_and_found(digits):
    images, y = digits
    flat = images.reshape(len(images), -1)
    flat, test, y, y_test = flat[:1200], flat[1200:], y[:1200], y[1200:]
    noisy = sym_excl(y, 0.4, random_state=0)
    net = Network(MLP, max_epochs=40)
    plain = CrossEntropyClassifier(net, random_state=0).fit(flat, noisy.y)
    clf = MentorMixClassifier(net, random_state=0).fit(flat, noisy.y)
    assert clf.score(test, y_test) > plain.score(test, y_test) + 0.15
    assert roc_auc_score(~noisy.changed, clf.clean_proba_) > 0.97
    of_history = MentorMixClassifier(net, clean_score="history", random_state=0)
    mean = (10 * clf.sample_weight_ + of_history.fit(flat, noisy.y).clean_proba_) / 11
    np.testing.assert_allclose(clf.clean_proba_, mean, atol=1e-6)


@pytest.mark.parametrize("params", [{"burn_in": 0.875}, {"percentile": 1.0}])
def test_epochs_that_leave_nothing_out_are_no_evidence(params):
    """The weights of seven epochs, or of all eight, are 1; they say nothing."""
    clf = MentorMixClassifier(Network(max_epochs=8), noise_rate=0.3, random_state=0, **params)
    noisy = sym_excl(Y, 0.3, random_state=0).y
    history = clone(clf).set_params(clean_score="history").fit(X, noisy).clean_proba_
    weights = clf.fit(X, noisy).sample_weight_
    if "percentile" in params:
        np.testing.assert_allclose(clf.clean_proba_, history, rtol=1e-5)
    else:
        assert set(np.unique(weights)) == {0, 1}  # of the last epoch alone
        assert 0.1 < 1 - weights.mean() < 0.5


def test_right_labels_of_rare_classes_are_learnt():
    """A network that mixes is less sure of them, so that a mixture called them wrong."""
    lost = []
    for seed in range(4):
        x, y = make_classification(
            600,
            20,
            n_informative=8,
            n_classes=4,
            weights=[0.8, 0.1, 0.06, 0.04],
            class_sep=1.5,
            flip_y=0,
            random_state=seed,
        )
        x, test, y, y_test = train_test_split(x, y, test_size=0.5, stratify=y, random_state=seed)
        plain, clf = (
            method(random_state=seed).fit(x, y).score(test, y_test)
            for method in (CrossEntropyClassifier, MentorMixClassifier)
        )
        lost.append(plain - clf)
    assert np.mean(lost) < 0.01


@pytest.mark.parametrize("curriculum", ["hard_mining", "uniform"])
def test_large_weights_of_large_losses_are_no_evidence(curriculum):
    noisy = sym_excl(Y, 0.3, random_state=0)
    clf = MentorMixClassifier(
        Network(max_epochs=15), curriculum=curriculum, noise_rate=0.3, random_state=0
    ).fit(X, noisy.y)
    assert roc_auc_score(~noisy.changed, clf.clean_proba_) > 0.8


@pytest.mark.parametrize(
    "params",
    [
        {"noise_rate": 1.5},
        {"noise_rate": "low"},
        {"percentile": -0.1},
        {"percentile": None},
        {"alpha": -1},
        {"second_reweight": 1},
        {"burn_in": 2},
        {"curriculum": "soft"},
        {"width": 0},
        {"decay": 1.0},
        {"temperature": 0},
        {"binary_mixing": "yes"},
        {"weight_pass_mode": "both"},
        {"ema_decay": 1.0},
    ],
)
def test_bad_parameters_are_refused(params):
    (name,) = params
    with pytest.raises((ValueError, TypeError), match=name):
        MentorMixClassifier(**params).fit(X, Y)
