"""INCV: what the networks start from, what they exchange, and what the cleaning must not touch."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs, make_classification, make_moons
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from skorch.dataset import ValidSplit
from torch import nn
from torch.utils.data import TensorDataset

from noisyfit import CrossEntropyClassifier, Network, SimCLR
from noisyfit._data import Batch
from noisyfit._incv import INCVCleaner
from noisyfit.losses import cross_entropy
from noisyfit.methods.incv import (
    INCVClassifier,
    candidates_per_batch,
    expected_right,
    joined,
    published_warmup,
)
from noisyfit.modules import MLP, SmallCNN
from noisyfit.noise import sym_excl

X, Y = make_blobs(180, n_features=8, centers=3, cluster_std=4.0, random_state=0)
NOISY = sym_excl(Y, 0.35, random_state=0)
NET = Network(max_epochs=12, batch_size=32)
BAYES = INCVCleaner(LogisticRegression())  # quick


class Spy(INCVClassifier):
    """Notes the run and what every step looked at."""

    def _begin(self, run):
        super()._begin(run)
        self.run, self.pools = run, []

    def _loss(self, run, pool, n_keep):
        self.pools.append((len(run.history), pool.index.clone(), n_keep))
        return super()._loss(run, pool, n_keep)


def spied(net=NET, x=X, y=NOISY.y, **params):
    params = {"cleaner": BAYES, "random_state": 0} | params
    return Spy(net, **params).fit(x, y)


# ---- formulas --------------------------------------------------------------------------------


def test_expected_right_is_the_share_expected_to_be_right():
    assert [expected_right(128, r) for r in (0, 0.0069, 0.1, 0.64)] == [128, 127, 115, 46]
    assert expected_right(3, 0.9) == 2
    assert expected_right(1, 0.9) == 1


def test_candidates_come_in_proportion_up_to_half_a_batch():
    assert candidates_per_batch(10_000, 30_000, 128) == 42
    assert candidates_per_batch(40_000, 10_000, 128) == 64
    assert candidates_per_batch(1, 200, 128) == 0
    assert candidates_per_batch(0, 200, 128) == 0


def test_warm_up_is_a_fifth_or_two_fifths():
    assert published_warmup(200, 0.5, "symmetric") == 40
    assert published_warmup(200, 0.61, "symmetric") == 80
    assert published_warmup(200, 0.2, "pair") == 80


def test_joined_batches_keep_rows_together():
    first = Batch(torch.zeros(3, 2), torch.tensor([0, 1, 2]), torch.tensor([5, 6, 7]))
    second = Batch(torch.ones(1, 2), torch.tensor([1]), torch.tensor([9]))
    both = joined(first, second)
    assert both.x[:, 0].tolist() == [0, 0, 0, 1]
    assert (both.y.tolist(), both.index.tolist()) == ([0, 1, 2, 1], [5, 6, 7, 9])


# ---- training --------------------------------------------------------------------------------


def test_selected_rows_alone_are_seen_until_the_warm_up_ends():
    clf = spied(warmup=3, guards=False, n_gradual=4)
    memory = clf.run.memory
    assert memory.n_more > 0
    assert clf.candidate_.sum() > 2 * memory.n_more
    selected, candidates = set(np.flatnonzero(clf.selected_)), set(np.flatnonzero(clf.candidate_))
    for epoch in range(12):
        pools = [pool.tolist() for e, pool, _ in clf.pools if e == epoch]
        seen = [row for pool in pools for row in pool]
        of_selected = [row for row in seen if row in selected]
        assert sorted(of_selected) == sorted(selected)
        assert (set(seen) == selected) == (epoch <= 3)
        assert set(seen) <= selected | candidates
    assert [row["n_pool"] for row in clf.history_][:4] == [len(selected)] * 4


def test_number_kept_is_that_of_the_selected_rows_of_the_batch():
    clf = spied(warmup=3, guards=False, n_gradual=4)
    wrong = 1 - clf.cleaner_.expected_precision_
    assert clf.run.memory.wrong == wrong > 0.02
    selected = torch.from_numpy(clf.selected_)
    for epoch, pool, n_keep in clf.pools:
        n = selected[pool].sum().item()
        assert n_keep == round(n * (1 - wrong * min(1, epoch / 4)))


def test_each_network_learns_what_the_other_finds_easy_in_evaluation_mode():
    class Normed(nn.Sequential):
        def __init__(self, n_features, n_classes):
            norm, drop = nn.BatchNorm1d(8), nn.Dropout(0.5)
            super().__init__(nn.Linear(n_features, 8), norm, nn.ReLU(), drop, nn.Linear(8, 3))

    clf = spied(Network(Normed, max_epochs=2, batch_size=32))
    run = clf.run
    f, g = run.learners
    rows = torch.arange(40)
    pool = Batch(run.data.x[rows], run.data.y[rows], rows)
    chosen = {}
    for net in (f, g):
        net.eval()
        losses = cross_entropy(net(pool.x), pool.y)
        chosen[net] = losses.argsort()[:17]
        net.train()
        for layer in net.module:
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0  # so that the pass can be repeated
    assert set(chosen[f].tolist()) != set(chosen[g].tolist())
    start = [copy.deepcopy(net.module.state_dict()) for net in (f, g)]
    for net, other in ((f, g), (g, f)):
        norm, easy = net.module[1], chosen[other]
        hidden = net.module[0](pool.x[easy])  # one training pass, on the kept rows
        updated = 0.9 * norm.running_mean + 0.1 * hidden.mean(0)
        net.zero_grad()
        cross_entropy(net(pool.x[easy]), pool.y[easy]).mean().backward()
        expected = [p.grad.clone() for p in net.module.parameters()]
        net.zero_grad()
        for each, state in zip((f, g), start, strict=True):
            each.module.load_state_dict(state)
        INCVClassifier._loss(clf, run, pool, 17).backward()
        for p, grad in zip(net.module.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, grad)
        torch.testing.assert_close(norm.running_mean, updated.detach())
        for each, state in zip((f, g), start, strict=True):
            each.module.load_state_dict(state)


@pytest.mark.parametrize(("noise", "n_passes"), [(0.0, 2), (0.35, 4)])
def test_selecting_passes_are_made_only_where_rows_are_dropped(noise, n_passes):
    x, y = make_blobs(120, n_features=8, centers=3, random_state=0)
    clf = spied(x=x, y=sym_excl(y, noise, random_state=0).y, n_gradual=0)
    run, heard = clf.run, []
    for learner in run.learners:
        learner.module.register_forward_hook(lambda *_: heard.append(1))
    pool = next(run.data.batches(32, torch.arange(32)))
    loss = INCVClassifier._loss(clf, run, pool, expected_right(32, run.memory.wrong))
    assert len(heard) == n_passes
    if noise == 0:
        assert clf.history_[-1]["n_kept"] == clf.history_[-1]["n_pool"] == 120
        plain = sum(cross_entropy(net(pool.x), pool.y).mean() for net in run.learners)
        torch.testing.assert_close(loss, plain)


def test_history_has_a_row_for_every_epoch_of_the_two_networks():
    clf = INCVClassifier(Network(max_epochs=6), random_state=0).fit(X, NOISY.y)
    assert [row["epoch"] for row in clf.history_] == list(range(1, 7))
    assert all({"n_pool", "n_kept", "train_acc"} <= set(row) for row in clf.history_)
    seen = clf.dynamics_["n_seen"]
    assert (seen[clf.selected_] >= 12).all()
    assert (seen[clf.discarded_] == 0).all()


class Counting(Callback):
    epochs = 0

    def on_epoch_end(self, net, **kwargs):
        type(self).epochs += 1


def test_callbacks_of_the_net_do_not_hear_of_the_cleaning():
    Counting.epochs = 0
    INCVClassifier(Network(max_epochs=5, callbacks=[Counting()])).fit(X, NOISY.y)
    assert Counting.epochs == 2 * 5


class Listening(EarlyStopping):
    heard = set()

    def on_epoch_end(self, net, **kwargs):
        type(self).heard.add(net.history[-1]["epoch"])
        super().on_epoch_end(net, **kwargs)


@pytest.mark.parametrize(
    ("params", "first"),
    [({"warmup": 3, "n_gradual": 2}, 5), ({"warmup": 0, "n_gradual": 5}, 6)],
)
def test_early_stopping_looks_on_from_the_end_of_warm_up_and_ramp(params, first):
    Listening.heard = set()
    wide = make_classification(120, 20, n_informative=6, n_classes=3, random_state=0)
    net = Network(max_epochs=8, batch_size=32, callbacks=[Listening(patience=50)])
    clf = INCVClassifier(net, cleaner=BAYES, random_state=0, guards=False, **params)
    clf.fit(wide[0], wide[1], X_val=wide[0], y_val=wide[1])
    assert min(Listening.heard) == first


def test_border_bends_before_rows_are_dropped_in_few_columns():
    x, y = make_moons(200, noise=0.2, random_state=0)
    clf = spied(Network(max_epochs=50), x, sym_excl(y, 0.2, random_state=0).y, guards=False)
    plain = clf.run.memory.plain
    assert plain == 25
    assert clf.run.memory.warmup == 25
    assert clf.run.memory.wrong > 0.02
    for epoch, pool, n_keep in clf.pools:
        assert (n_keep < len(pool)) == (epoch > plain) or len(pool) * clf.run.memory.wrong < 1


# ---- the cleaning ----------------------------------------------------------------------------


class Noting(CrossEntropyClassifier):
    """Notes how it was trained."""

    fits = []

    def fit(self, X, y=None, **kwargs):
        super().fit(X, y, **kwargs)
        type(self).fits.append((self, X))
        return self


@pytest.fixture
def noted(monkeypatch):
    Noting.fits = []
    monkeypatch.setattr("noisyfit.methods.incv.CrossEntropyClassifier", Noting)
    return Noting.fits


def test_cleaning_trains_clones_of_the_net_for_a_shorter_time(noted):
    scheduler = LRScheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.5)
    net = Network(MLP, module__hidden=(7,), max_epochs=9, lr=0.02, callbacks=[scheduler])
    clf = INCVClassifier(net, cleaning_epochs=4, augment=None, random_state=0).fit(X, NOISY.y)
    assert len(noted) >= 2
    for fit, _ in noted:
        (inner,) = fit.nets_
        assert inner.module_.body[0].out_features == 7
        assert (inner.lr, inner.max_epochs, inner.callbacks) == (0.02, 4, None)
        assert fit.augment is None
    assert isinstance(clf.nets_[0].callbacks[0], LRScheduler)
    weights = [fit.nets_[0].module_.body[0].weight for fit, _ in noted]
    assert not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize("normalize", ["auto", None, (5.0, 2.0)])
def test_a_table_is_scaled_once(noted, normalize):
    clf = INCVClassifier(Network(max_epochs=2, normalize=normalize), random_state=0)
    clf.fit(X, NOISY.y)
    for fit, rows in noted:
        assert fit._input_scale_.mean == 0
        assert fit._input_scale_.scale == 1
        all_rows = clf._input_scale_.table(X).numpy()
        assert {tuple(row) for row in rows} <= {tuple(row) for row in all_rows}


def test_images_keep_their_scale_and_their_views(noted):
    x = np.random.default_rng(0).integers(256, size=(60, 5, 5, 3), dtype=np.uint8)
    net = Network(SmallCNN, max_epochs=2, normalize=(0.4, 0.3))
    clf = INCVClassifier(net, random_state=0).fit(x, Y[:60])
    for fit, rows in noted:
        assert rows.dtype == np.uint8
        assert fit._input_scale_.scale == clf._input_scale_.scale
        assert fit.augment == "auto"


def test_streams_and_tables_are_cleaned_alike():
    x = torch.tensor(X, dtype=torch.float32)
    net = Network(max_epochs=6, normalize=None, lr=0.01)  # streamed floats are never scaled
    resident = INCVClassifier(net, random_state=0).fit(x, NOISY.y)
    streamed = INCVClassifier(net, random_state=0)
    streamed.fit(TensorDataset(x, torch.tensor(NOISY.y)))
    np.testing.assert_allclose(resident.clean_proba_, streamed.clean_proba_, atol=1e-3)


def test_held_out_rows_are_candidates_and_not_trained_on(noted):
    net = Network(max_epochs=4, train_split=ValidSplit(5, stratified=True))
    clf = INCVClassifier(net, random_state=0).fit(X, NOISY.y)
    assert "valid_acc" in clf.history_[0]
    held = clf.dynamics_["n_seen"] == 0
    held &= ~clf.discarded_
    assert held.sum() >= 36
    assert len(clf.cleaner_.selected_) == 144
    assert clf.selected_.sum() >= clf.cleaner_.selected_.sum()
    total = sum(m.astype(int) for m in (clf.selected_, clf.candidate_, clf.discarded_))
    np.testing.assert_array_equal(total, 1)
    assert all(fit.net.train_split is None for fit, _ in noted)


def test_a_users_skorch_net_is_cleaned_with():
    net = NeuralNetClassifier(
        MLP, module__n_features=8, module__n_classes=3, lr=0.05, max_epochs=4, train_split=None
    )
    clf = INCVClassifier(net, random_state=0).fit(X, NOISY.y)
    assert clf.cleaner_.base_estimator.net.max_epochs == 4
    assert clf.selected_.any()


@pytest.mark.parametrize("streamed", [False, True])
def test_the_cleaning_starts_from_the_encoder_of_the_networks(monkeypatch, streamed):
    starts, asked = [], []

    class Starting(CrossEntropyClassifier):
        def _begin(self, run):
            starts.append(copy.deepcopy(run.learners[0].module.state_dict()))

    class Asked(SimCLR):
        def encoder_for(self, *args, **params):
            asked.append(None)
            return super().encoder_for(*args, **params)

    class First(INCVClassifier):
        def _begin(self, run):
            starts.append(copy.deepcopy(run.learners[0].module.state_dict()))
            super()._begin(run)

    monkeypatch.setattr("noisyfit.methods.incv.CrossEntropyClassifier", Starting)
    net = Network(MLP, max_epochs=2)
    rows = TensorDataset(torch.tensor(X, dtype=torch.float32)) if streamed else X
    clf = First(net, pretrain=Asked(Network(max_epochs=1)), random_state=0).fit(rows, NOISY.y)
    assert len(asked) == 1  # the encoder is trained once
    first, *cleaning = starts
    assert len(cleaning) == 2 * clf.cleaner_.n_iter
    for start in cleaning:
        for name, weights in start.items():
            assert torch.equal(weights, first[name]) == name.startswith("body."), name


def test_a_cleaner_of_the_user_is_copied_seeded_and_used():
    cleaner = INCVCleaner(LogisticRegression(), n_iter=2, noise_type="pair", random_state=5)
    clf = INCVClassifier(NET, cleaner=cleaner, random_state=0).fit(X, NOISY.y)
    assert not hasattr(cleaner, "selected_")
    assert isinstance(clf.cleaner_.base_estimator, LogisticRegression)
    assert len(clf.cleaner_.history_) == 2
    assert not clf.discarded_.any()
    again = INCVClassifier(NET, cleaner=cleaner, random_state=0).fit(X, NOISY.y)
    np.testing.assert_array_equal(again.clean_proba_, clf.clean_proba_)


def test_parameters_of_the_cleaner_can_be_set_where_there_is_none():
    clf = INCVClassifier().set_params(cleaner__n_iter=2, net__lr=0.1)
    assert (clf.cleaner.n_iter, clf.net.lr) == (2, 0.1)
    clf.set_params(cleaner__cv=3)
    assert (clf.cleaner.n_iter, clf.cleaner.cv) == (2, 3)


# ---- guards ----------------------------------------------------------------------------------


def test_without_guards_training_starts_from_the_cleaners_masks():
    clf = spied(guards=False)
    np.testing.assert_array_equal(clf.selected_, clf.cleaner_.selected_)
    np.testing.assert_array_equal(clf.candidate_, clf.cleaner_.candidate_)
    np.testing.assert_array_equal(clf.discarded_, clf.cleaner_.discarded_)


def test_labels_three_times_as_likely_right_as_wrong_are_selected_too():
    clf = spied()
    accepted, clean = clf.cleaner_.selected_, clf.cleaner_.clean_proba_
    np.testing.assert_array_equal(clf.selected_, accepted | (clean > 0.75))
    added = clf.selected_ & ~accepted
    assert added.any()
    n_wrong = (1 - clf.cleaner_.expected_precision_) * accepted.sum() + (1 - clean[added]).sum()
    assert clf.run.memory.wrong == pytest.approx(n_wrong / clf.selected_.sum())


def test_a_rare_class_keeps_half_of_the_selected_share():
    x = np.random.default_rng(0).normal(size=(200, 4))
    y = np.repeat([0, 1], [180, 20])  # nothing tells class 1
    clf = spied(x=x, y=y)
    assert clf.cleaner_.selected_[y == 1].sum() == 1
    assert clf.selected_[y == 0].all()
    assert clf.selected_[y == 1].sum() >= 9


@pytest.mark.parametrize("guards", [True, False])
def test_all_rows_are_selected_where_nothing_can_be_predicted(guards):
    x, y = np.ones((200, 3)), np.arange(200) % 2
    if guards:
        clf = spied(x=x, y=y)
        assert clf.selected_.all()
        assert clf.run.memory.wrong == 0
    else:
        with pytest.warns(UserWarning, match="leaves 50% at least"):
            clf = spied(x=x, y=y, guards=False)
        assert not clf.selected_.all()


def test_pairs_of_many_classes_are_told_from_chance():
    """Ten classes of which a model predicts four tenths: under a half, four times chance."""
    x, y = make_blobs(600, n_features=8, centers=10, cluster_std=1.0, random_state=0)
    noisy = np.where(np.arange(600) % 5 < 3, np.random.default_rng(0).permutation(y), y)
    clf = spied(x=x, y=noisy, cleaner=INCVCleaner(LogisticRegression(), noise_type="pair"))
    assert 0.2 < clf.cleaner_.history_[0]["agreement"] < 0.5
    assert not clf.selected_.all()
    assert clf.run.memory.wrong > 0
    right = noisy == y
    assert right[clf.selected_].mean() > right.mean() + 0.2


def test_names_of_classes_reach_the_cleaner():
    names = np.array(["ash", "elm", "fir"])
    clf, by_number = spied(y=names[NOISY.y]), spied()
    cleaner = clf.cleaner_
    np.testing.assert_array_equal(cleaner.classes_, names)
    np.testing.assert_array_equal(
        cleaner.refined_labels_, names[by_number.cleaner_.refined_labels_]
    )
    np.testing.assert_array_equal(clf.clean_proba_, by_number.clean_proba_)
    x = np.random.default_rng(0).normal(size=(200, 4))
    rare = np.repeat(["no", "yes"], [180, 20])
    with pytest.warns(UserWarning, match=r"classes \['yes'\]"):
        spied(x=x, y=rare, guards=False)


def test_guards_keep_clean_data_whole():
    x, y = make_moons(1300, noise=0.25, random_state=0)
    guarded, bare = (
        INCVClassifier(guards=guards, random_state=0).fit(x[:300], y[:300])
        for guards in (True, False)
    )
    assert bare.selected_.mean() < 0.95 < guarded.selected_.mean()
    assert guarded.score(x[300:], y[300:]) > bare.score(x[300:], y[300:]) + 0.01


# ---- evidence --------------------------------------------------------------------------------


def test_wrong_labels_are_found_and_not_learnt():
    x, y = make_blobs(600, n_features=20, centers=5, cluster_std=4, random_state=0)
    noisy = sym_excl(y[:300], 0.4, random_state=0)
    plain, clf = (
        cls(random_state=0).fit(x[:300], noisy.y)
        for cls in (CrossEntropyClassifier, INCVClassifier)
    )
    assert clf.score(x[300:], y[300:]) > plain.score(x[300:], y[300:]) + 0.2
    right = ~noisy.changed
    assert roc_auc_score(right, clf.clean_proba_) > 0.98
    assert right[clf.selected_].mean() > 0.95
    assert clf.selected_[right].mean() > 0.95
    assert (clf.refined_labels_ == y[:300]).mean() > 0.95
    assert clf.noise_rate_ == pytest.approx(0.4, abs=0.05)


def test_evidence_is_the_posterior_by_networks_that_lacked_the_row():
    clf = spied()
    np.testing.assert_allclose(clf.clean_proba_, clf.cleaner_.clean_proba_, atol=1e-6)
    proba = clf.predict_proba(X)
    kept = clf.selected_
    np.testing.assert_array_equal(clf.refined_proba_[kept], np.eye(3)[NOISY.y[kept]])
    np.testing.assert_allclose(clf.refined_proba_[~kept], proba[~kept], atol=1e-6)


def test_prediction_is_the_mean_of_both_networks():
    clf = spied()
    both = [
        net.module_(torch.from_numpy(clf._input_scale_.table(X).numpy())).softmax(1)
        for net in clf.nets_
    ]
    expected = torch.stack(both).mean(0).detach().numpy()
    np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-6)


# ---- edges -----------------------------------------------------------------------------------


@pytest.mark.parametrize("guards", [True, False])
@pytest.mark.parametrize(
    "case", ["two rows", "one class", "seven rows", "all wrong", "batches of two"]
)
@pytest.mark.filterwarnings("ignore:No label of the classes", "ignore:The base estimator of INCV")
def test_little_or_useless_data_is_handled(case, guards):
    x, y = {
        "two rows": (np.eye(2), [0, 1]),
        "one class": (X, [0] * 180),
        "seven rows": (X[:7], Y[:7]),
        "all wrong": (X, (Y + 1) % 3),
        "batches of two": (X[:40], NOISY.y[:40]),
    }[case]

    class Normed(nn.Sequential):
        def __init__(self, n_features, n_classes):
            hidden = nn.Linear(n_features, 8), nn.BatchNorm1d(8)
            super().__init__(*hidden, nn.Linear(8, n_classes))

    size = 2 if case == "batches of two" else 32
    net = Network(Normed, max_epochs=3, batch_size=size)
    clf = INCVClassifier(net, cleaner=BAYES, guards=guards, warmup=0, n_gradual=0).fit(x, y)
    assert np.isfinite(clf.predict_proba(x)).all()
    assert set(np.asarray(y)[clf.selected_]) == set(y)


def test_networks_that_start_alike_are_refused():
    with pytest.raises(ValueError, match="pass a module class"):
        INCVClassifier(Network(MLP(8, 3), max_epochs=2)).fit(X, Y)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"cleaner": LogisticRegression()}, TypeError, "cleaner"),
        ({"cleaner": INCVCleaner(cv=1)}, ValueError, "cv"),
        ({"cleaning_epochs": 0}, ValueError, "cleaning_epochs"),
        ({"cleaning_epochs": None}, TypeError, "cleaning_epochs"),
        ({"warmup": -1}, ValueError, "warmup"),
        ({"warmup": 0.2}, TypeError, "warmup"),
        ({"n_gradual": -1}, ValueError, "n_gradual"),
        ({"guards": 1}, TypeError, "guards"),
        ({"ensemble": "mean"}, ValueError, "ensemble"),
    ],
)
def test_bad_parameters_are_refused_by_name(params, error, message):
    with pytest.raises(error, match=message):
        INCVClassifier(NET, **params).fit(X, Y)
