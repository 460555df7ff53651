"""Bayesian DivideMix++: its mixing weights, its masks, its start, and what it is unsure of."""

import copy
import math
import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.metrics import roc_auc_score
from skorch.dataset import ValidSplit
from torch import nn
from torch.utils.data import Dataset

from noisyfit import (
    BayesianDivideMixPP,
    CrossEntropyClassifier,
    DivideMixClassifier,
    Network,
    SimCLR,
)
from noisyfit._features import penultimate_features
from noisyfit._monte_carlo import monte_carlo_part, shared_mask, without_masks
from noisyfit.augment import CropFlip, mixup
from noisyfit.methods import dividemix
from noisyfit.methods.bayesian_dividemix_pp import uncertain_mixing_weight
from noisyfit.modules import MLP, PreActResNet18, SmallCNN
from noisyfit.noise import sym_excl

X, Y = make_blobs(120, n_features=4, centers=4, random_state=0)
NOISY = sym_excl(Y, 0.4, random_state=0)
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
LABELS = np.arange(60) % 3
QUICK = Network(MLP, module__hidden=(16, 16), module__dropout=0.1, max_epochs=4, batch_size=32)
POSITIONS = pytest.mark.parametrize("position", ["head", "blocks"])
WEIGHTINGS = pytest.mark.parametrize("weighting", ["certainty", "entropy"])


def fit(net=QUICK, x=X, y=NOISY.y, cls=BayesianDivideMixPP, **params):
    return cls(net, **{"random_state": 0, "warmup": 2} | params).fit(x, y)


@pytest.fixture(scope="module", params=["head", "blocks"])
def fitted(request):
    return fit(dropout_position=request.param)


def all_passes(clf, x):
    """Softmax (n, 2 * mc_samples, n_classes) of both networks, by loops over their masks."""
    table, passes = clf._input_scale_.table(x), []
    for net in clf.nets_:
        part, inner = monte_carlo_part(net.module_), without_masks(net.module_)
        if clf.dropout_position == "head":
            masks = shared_mask((part.n_passes, 1, part.in_features), clf.dropout, part.seed, "cpu")
            h = inner.features(table)
            logits = [nn.functional.linear(h * m, part.weight, part.bias) for m in masks]
        else:
            logits = []
            for s in range(part.n_passes):
                h, number = table, 2 * s
                for layer in inner.body:
                    if hasattr(layer, "number"):
                        h = h * shared_mask(h[:1].shape, clf.dropout, part.seed + number, "cpu")
                        number += 1
                    else:
                        h = layer(h)
                logits.append(inner.classifier(h))
        passes += [z.softmax(1) for z in logits]
    return torch.stack(passes, 1).detach().double().numpy()


def entropy(p):
    return -(p * np.log(p)).sum(-1) / math.log(p.shape[-1])


# ---- mixing weights --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("u", "lam", "weight"), [(0, 0.6, 0.5), (0, 1, 0.5), (1, 0.8, 0.9), (0.5, 0.8, 0.7), (1, 1, 1)]
)
def test_mixing_weight_has_the_values_of_the_check_list(u, lam, weight):
    assert uncertain_mixing_weight(u, lam) == pytest.approx(weight)


@WEIGHTINGS
@pytest.mark.parametrize("n_classes", [2, 10, 100])
def test_mixing_weight_lies_between_a_half_and_one_whatever_is_guessed(weighting, n_classes):
    gen = torch.Generator().manual_seed(0)
    guesses = [(20 * torch.randn(50, n_classes, generator=gen)).softmax(1) for _ in range(3)]
    for lam in (0.5, 0.8, 1.0):
        weights = BayesianDivideMixPP(uncertainty_weighting=weighting)._mixing_weight(lam, guesses)
        assert weights.shape == (150,)
        assert weights.min() >= 0.5
        assert weights.max() <= (1 + lam) / 2


@WEIGHTINGS
def test_mixing_weight_of_ten_classes_is_normalised(weighting):
    """With the entropy in nats a uniform guess would get 1.42."""
    clf = BayesianDivideMixPP(uncertainty_weighting=weighting)
    uniform, certain = clf._mixing_weight(0.8, [torch.full((1, 10), 0.1), torch.eye(10)[:1]])
    expected = {"certainty": (0.5, 0.9), "entropy": (0.9, 0.5)}[weighting]
    assert (uniform.item(), certain.item()) == pytest.approx(expected)


def test_without_weighting_the_batch_has_one_weight():
    assert BayesianDivideMixPP(uncertainty_weighting=None)._mixing_weight(0.8, None) == 0.8


def test_rows_are_mixed_each_by_its_own_weight():
    gen = torch.Generator().manual_seed(0)
    x, targets = torch.randn(12, 2, 3, generator=gen), torch.randn(12, 4, generator=gen).softmax(1)
    lam = uncertain_mixing_weight(torch.rand(12, generator=gen), 0.9)
    partner = torch.randperm(12, generator=gen)
    torch.testing.assert_close(mixup(targets, lam, partner).sum(1), torch.ones(12))
    for i in range(12):
        expected = lam[i] * x[i] + (1 - lam[i]) * x[partner[i]]
        torch.testing.assert_close(mixup(x, lam, partner)[i], expected)
    torch.testing.assert_close(mixup(x, lam, torch.arange(12)), x)
    torch.testing.assert_close(mixup(targets, lam, torch.arange(12)), targets)


@WEIGHTINGS
def test_each_row_is_mixed_by_its_unsharpened_guess(monkeypatch, weighting):
    """The guess is that of both masks and networks, before sharpening; views of a row share it."""
    mixed, guesses = [], []

    def guess(*args):
        guesses.append(dividemix_guess(*args))
        return guesses[-1]

    def spy(x, lam, partner):
        mixed.append((x, lam))
        return mixup(x, lam, partner)

    class Spy(BayesianDivideMixPP):
        def _batch_loss(self, run, net, peer, batch, clean, batch_u, lam, rise):
            mixed.clear()
            guesses.clear()
            loss = super()._batch_loss(run, net, peer, batch, clean, batch_u, lam, rise)
            (x, weights), _ = mixed
            n, n_u = len(batch.y), 0 if batch_u is None else len(batch_u.y)
            p = [guesses[0]] * 3 + ([] if n_u == 0 else [(guesses[1] + guesses[2]) / 2] * 3)
            u = entropy(torch.cat(p).double().clamp_min(1e-30).numpy())
            u = 1 - u if weighting == "certainty" else u
            np.testing.assert_allclose(weights, (u * lam + 1) / 2, atol=1e-5)
            assert len(weights) == len(x) == 3 * (n + n_u)
            checked.append(n_u)
            return loss

    checked, dividemix_guess = [], dividemix.mean_guess
    monkeypatch.setattr(dividemix, "mean_guess", guess)
    monkeypatch.setattr(dividemix, "mixup", spy)
    fit(cls=Spy, uncertainty_weighting=weighting, n_views=3)
    assert max(checked) > 0


@pytest.mark.parametrize("kind", ["table", "images"])
def test_without_its_additions_it_is_dividemix(kind):
    net, x, y, params = QUICK, X, NOISY.y, {}
    if kind == "images":
        net, x, y = Network(SmallCNN, max_epochs=4, batch_size=16), IMAGES, LABELS
    if kind == "table":
        net = Network(MLP, module__hidden=(16, 16), max_epochs=8, batch_size=32)
    plain = fit(net, x, y, DivideMixClassifier, guess_mode="eval", lambda_u=25.0, **params)
    bare = {"dropout": 0, "uncertainty_weighting": None, "strong_augment": None, "pretrain": None}
    bayesian = fit(net, x, y, lambda_u=25.0, **bare, **params)
    for ours, theirs in zip(bayesian.history_, plain.history_, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-6)
        assert ours.get("n_labelled_1") == theirs.get("n_labelled_1")
    assert 0 < bayesian.history_[-1]["n_labelled_1"] < len(y)
    np.testing.assert_allclose(bayesian.clean_proba_, plain.clean_proba_, atol=1e-4)
    p = np.mean([fit_of_one(plain, k).predict_proba(x) for k in ("first", "second")], axis=0)
    np.testing.assert_allclose(bayesian.predict_proba(x), p, atol=1e-5)


def fit_of_one(clf, which):
    other = copy.copy(clf)
    other.ensemble = which
    return other


@pytest.mark.parametrize("change", [{"dropout": 0.2}, {"uncertainty_weighting": "entropy"}])
def test_each_addition_changes_the_training(change):
    bare = {"dropout": 0, "uncertainty_weighting": None}
    losses = [fit(**bare | more).history_[-1]["train_loss"] for more in ({}, change)]
    assert losses[0] != losses[1]


# ---- masks -----------------------------------------------------------------------------------


def test_predictions_are_the_mean_over_networks_and_masks(fitted):
    passes = all_passes(fitted, X)
    assert passes.shape == (120, 20, 4)
    np.testing.assert_allclose(fitted.predict_proba(X), passes.mean(1), atol=1e-5)
    np.testing.assert_allclose(fitted.uncertainty_, entropy(passes.mean(1)), atol=1e-5)
    mutual = entropy(passes.mean(1)) - entropy(passes).mean(1)
    np.testing.assert_allclose(fitted.mutual_information_, mutual, atol=1e-5)
    assert mutual.min() > 0


def test_predictions_repeat_and_do_not_depend_on_their_batch(fitted):
    p, u = fitted.predict_proba(X), fitted.predict_uncertainty(X)
    assert p.dtype == u.dtype == np.float32
    np.testing.assert_array_equal(fitted.predict_proba(X), p)
    np.testing.assert_array_equal(fitted.predict_uncertainty(X), u)
    np.testing.assert_allclose(u, fitted.uncertainty_, atol=1e-6)
    rows = np.random.default_rng(0).permutation(120)[:50]
    np.testing.assert_allclose(fitted.predict_proba(X[rows]), p[rows], atol=1e-5)
    np.testing.assert_allclose(fitted.predict_uncertainty(X[rows]), u[rows], atol=1e-5)
    one = np.concatenate([fitted.predict_proba(row[None]) for row in X[:5]])
    np.testing.assert_allclose(one, p[:5], atol=1e-5)


def test_copies_predict_the_same_and_a_clone_is_unfitted(fitted, tmp_path):
    joblib.dump(fitted, tmp_path / "clf")
    copies = [pickle.loads(pickle.dumps(fitted)), joblib.load(tmp_path / "clf")]
    for other in [*copies, copy.deepcopy(fitted)]:
        np.testing.assert_array_equal(other.predict_proba(X), fitted.predict_proba(X))
        np.testing.assert_array_equal(other.predict_uncertainty(X), fitted.predict_uncertainty(X))
    assert not hasattr(clone(fitted), "nets_")
    assert clone(fitted).get_params()["dropout_position"] == fitted.dropout_position


@POSITIONS
def test_images_with_dropout_give_equal_bits_for_a_seed(position):
    net = Network(PreActResNet18, module__width=4, max_epochs=2, batch_size=32)
    params = {"dropout_position": position, "warmup": 1, "strong_augment": CropFlip(2)}
    params |= {"pretrain": None, "mc_samples": 2}
    x, y = IMAGES[:32], LABELS[:32]
    before = torch.get_rng_state()
    a, b, c = (fit(net, x, y, random_state=seed, **params) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(a.predict_proba(x), b.predict_proba(x))
    np.testing.assert_array_equal(a.uncertainty_, b.uncertainty_)
    assert (a.predict_proba(x) != c.predict_proba(x)).any()
    np.testing.assert_allclose(a.predict_proba(x[9:20]), a.predict_proba(x)[9:20], atol=1e-5)


@POSITIONS
def test_masks_change_with_every_epoch_and_network_and_training_draws_from_the_fit(position):
    seen, generators = [], set()

    class Spy(BayesianDivideMixPP):
        def _train_epoch(self, run, epoch):
            seen.append([monte_carlo_part(learner.module).seed for learner in run.learners])
            for learner in run.learners:
                drops = [m for m in learner.module.modules() if isinstance(m, nn.Dropout)]
                assert len(drops) == (3 if position == "head" else 2)
                generators.update(m.generator.initial_seed() for m in drops)
                assert all(type(m) is not nn.Dropout for m in drops)
            self.own = run.generator.initial_seed()
            super()._train_epoch(run, epoch)

    clf = fit(cls=Spy, dropout_position=position)
    kept = [monte_carlo_part(net.module_).seed for net in clf.nets_]
    seeds = [seed for pair in [*seen, kept] for seed in pair]
    assert len(seeds) == len(set(seeds)) == 2 * 5
    assert generators == {clf.own}
    drops = [m for m in clf.nets_[0].module_.modules() if isinstance(m, nn.Dropout)]
    assert {type(m) for m in drops} == {nn.Dropout}


def test_a_network_without_dropout_makes_one_pass():
    clf = fit(dropout=0)
    assert [monte_carlo_part(net.module_).n_passes for net in clf.nets_] == [1, 1]
    per_net = all_passes(clf, X)
    assert per_net.shape == (120, 2, 4)
    np.testing.assert_allclose(clf.predict_proba(X), per_net.mean(1), atol=1e-6)
    mutual = entropy(per_net.mean(1)) - entropy(per_net).mean(1)  # of the networks alone
    np.testing.assert_allclose(clf.mutual_information_, mutual, atol=1e-5)


@POSITIONS
def test_prediction_without_masks_is_a_deterministic_pass(position):
    clf, masked = (fit(dropout_position=position, mc_predict=flag) for flag in (False, True))
    table = clf._input_scale_.table(X)
    logits = []
    for net in clf.nets_:
        inner = without_masks(net.module_)
        logits.append(nn.functional.linear(inner.features(table), *inner.classifier.parameters()))
    expected = (sum(logits) / 2).softmax(1).detach()
    np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-6)
    # the training is the same, and what is unsure is still asked of masks
    np.testing.assert_array_equal(clf.uncertainty_, masked.uncertainty_)
    np.testing.assert_array_equal(clf.predict_uncertainty(X), masked.predict_uncertainty(X))


def test_penultimate_features_are_not_masked(fitted):
    table = fitted._input_scale_.table(X)
    for k, net in enumerate(fitted.nets_):
        expected = without_masks(net.module_).features(table).detach()
        np.testing.assert_allclose(penultimate_features(fitted, X, net=k), expected, atol=1e-6)


@pytest.mark.parametrize(("position", "cost"), [("head", 1), ("blocks", 10)])
def test_masks_before_the_head_cost_a_pass_together(fitted, position, cost):
    if fitted.dropout_position != position:
        return
    clf, calls = copy.deepcopy(fitted), []
    for net in clf.nets_:
        without_masks(net.module_).body[0].register_forward_hook(lambda *_: calls.append(1))
    clf.predict_proba(X)
    clf.predict_uncertainty(X)
    assert len(calls) == 2 * 2 * cost


# ---- start -----------------------------------------------------------------------------------


@POSITIONS
def test_networks_start_from_one_encoder_with_heads_of_their_own(position):
    starts = []

    class Spy(BayesianDivideMixPP):
        def _train_epoch(self, run, epoch):
            if not epoch:
                for learner in run.learners:
                    state = without_masks(learner.module).state_dict()
                    starts.append({k: v.clone() for k, v in state.items()})
            super()._train_epoch(run, epoch)

    simclr = SimCLR(Network(max_epochs=2, batch_size=64), random_state=3)
    fit(cls=Spy, pretrain=simclr, dropout_position=position)
    one, two = starts
    assert list(one) == list(two)
    for key in one:
        assert torch.equal(one[key], two[key]) == key.startswith("body."), key
    start = copy.deepcopy(starts)
    starts.clear()
    fit(cls=Spy, dropout_position=position)  # a table starts at random by default
    assert all((starts[k]["body.0.weight"] != start[k]["body.0.weight"]).any() for k in (0, 1))
    assert torch.equal(starts[0]["classifier.weight"], start[0]["classifier.weight"])


def test_images_are_pretrained_and_learnt_from_strong_views_by_default():
    params = BayesianDivideMixPP().get_params()
    assert (params["pretrain"], params["strong_augment"]) == ("auto", "auto")
    clf = BayesianDivideMixPP()
    clf._input_scale_ = type("Scale", (), {"shape": (1, 8, 8)})
    assert isinstance(clf._resolve_pretrain(), SimCLR)
    clf._input_scale_.shape = (4,)
    assert clf._resolve_pretrain() is None


# ---- evidence --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learnt():
    """300 rows, two fifths of the labels wrong: (X, y, noise, plain training, ours)."""
    x, y = make_blobs(600, n_features=10, centers=4, cluster_std=4.0, random_state=0)
    noisy = sym_excl(y[:300], 0.4, random_state=0)
    net = Network(max_epochs=30)
    plain = CrossEntropyClassifier(net, random_state=0).fit(x[:300], noisy.y)
    return x, y, noisy, plain, BayesianDivideMixPP(net, random_state=0).fit(x[:300], noisy.y)


def test_it_beats_plain_training_and_finds_the_wrong_labels(learnt):
    x, y, noisy, plain, clf = learnt
    assert clf.score(x[300:], y[300:]) >= plain.score(x[300:], y[300:]) + 0.08
    assert roc_auc_score(~noisy.changed, clf.clean_proba_) >= 0.95
    assert np.mean(clf.refined_labels_ == y[:300]) >= 0.9


def test_it_is_unsure_of_what_it_gets_wrong(learnt):
    x, y, _, _, clf = learnt
    for values in (clf.uncertainty_, clf.mutual_information_):
        assert values.shape == (300,)
        assert values.min() >= 0
        assert values.max() <= 1
    assert (clf.mutual_information_ <= clf.uncertainty_ + 1e-6).all()
    wrong = clf.predict(x[300:]) != y[300:]
    assert roc_auc_score(wrong, clf.predict_uncertainty(x[300:])) >= 0.8
    far = clf.predict_uncertainty((x[y == 0].mean(0) + x[y == 1].mean(0))[None] / 2)
    assert far > np.median(clf.uncertainty_)


def test_wrong_labels_leave_it_less_sure_than_right_ones():
    """As long as no label is doubted: plain training of few epochs."""
    x, y = make_blobs(300, n_features=10, centers=4, cluster_std=4.0, random_state=0)
    changed = np.arange(300) % 2 == 0
    noisy = np.where(changed & (x[:, 0] > np.median(x[:, 0])), (y + 1) % 4, y)
    clf = fit(Network(max_epochs=10), x, noisy, warmup=10)
    wrong = noisy != y
    assert clf.uncertainty_[wrong].mean() > clf.uncertainty_[~wrong].mean() + 0.1


def test_clean_rows_of_one_class_are_sure():
    clf = fit(x=X[:40], y=np.zeros(40, dtype=int))
    assert not clf.uncertainty_.any()
    assert not clf.mutual_information_.any()
    assert (clf.predict_proba(X) == 1).all()


# ---- data and nets of all kinds --------------------------------------------------------------


@POSITIONS
def test_streamed_images_and_held_out_rows_train_like_others(position):
    class Stream(Dataset):
        def __len__(self):
            return 60

        def __getitem__(self, i):
            return IMAGES[i]

    split = ValidSplit(0.2, random_state=0)
    net = Network(
        SmallCNN, module__dropout=0.1, max_epochs=2, batch_size=16, train_split=split, lr=0.01
    )
    params = {"pretrain": None, "strong_augment": CropFlip(2), "dropout_position": position}
    resident, streamed = (fit(net, x, LABELS, warmup=1, **params) for x in (IMAGES, Stream()))
    np.testing.assert_array_equal(resident.clean_proba_, streamed.clean_proba_)
    np.testing.assert_array_equal(resident.uncertainty_, streamed.uncertainty_)
    assert resident.uncertainty_.shape == (60,)
    assert {"valid_loss", "valid_acc"} <= set(resident.history_[-1])
    u = streamed.predict_uncertainty(Stream())
    np.testing.assert_allclose(u, resident.uncertainty_, atol=1e-6)


@POSITIONS
def test_bfloat16_trains(position):
    net = clone(QUICK).set_params(precision="bfloat16")
    clf = fit(net, dropout_position=position)
    assert np.isfinite(clf.predict_proba(X)).all()
    assert clf.uncertainty_.max() <= 1
    assert clf.score(X, Y) > 0.4


def test_a_linear_model_drops_its_inputs():
    clf = fit(Network(nn.Linear(4, 4), max_epochs=4))
    assert clf.mutual_information_.max() > 0
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clf)).predict(X), clf.predict(X))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dropout": 1}, "dropout == 1, must be < 1"),
        ({"dropout": -0.1}, "dropout == -0.1"),
        ({"dropout": True}, "dropout must be a number"),
        ({"dropout_position": "body"}, "dropout_position must be one of"),
        ({"mc_samples": 0}, "mc_samples == 0"),
        ({"mc_samples": 2.5}, "mc_samples must be an instance of"),
        ({"uncertainty_weighting": "nats"}, "uncertainty_weighting must be one of"),
        ({"mc_predict": 1}, "mc_predict must be True or False"),
        ({"strong_augment": 3}, "strong_augment must be"),
        ({"pretrain": 3}, "pretrain must be"),
        ({"threshold": 2}, "threshold == 2"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fit(**params)


@pytest.mark.parametrize(
    ("module", "position", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4)), "blocks", "Sequential has none"),
        (nn.Sequential(nn.Linear(4, 4), nn.Tanh()), "head", "Sequential does not end in one"),
    ],
)
def test_a_module_without_a_place_for_dropout_is_refused_before_training(
    module, position, message, monkeypatch
):
    monkeypatch.setattr(BayesianDivideMixPP, "_train_epoch", None)
    clf = BayesianDivideMixPP(Network(module, max_epochs=2), dropout_position=position)
    with pytest.raises(ValueError, match=message):
        clf.fit(X, NOISY.y)
    assert not hasattr(clf, "nets_")
