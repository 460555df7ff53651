"""MentorNet: weights, schedules, what a data-driven mentor learns from, and its evidence."""

import copy

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_moons
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from skorch.dataset import ValidSplit
from torch.utils.data import TensorDataset

from noisyfit import CrossEntropyClassifier, Network
from noisyfit._evidence import softmax
from noisyfit._mentor import Mentor
from noisyfit.methods.mentornet import (
    EXAMPLE_DROPOUT,
    MentorNetClassifier,
    dropout_rate,
    example_dropout,
    percent,
)
from noisyfit.noise import sym_excl

X, Y = make_blobs(160, n_features=4, centers=4, cluster_std=1.5, random_state=0)
NOISY = sym_excl(Y, 0.4, random_state=0)
MASK = np.arange(160) % 3 == 0
NAMES = np.array(["ash", "elm", "fir", "oak"])
QUICK = Network(max_epochs=6, batch_size=32)
LEARNER = Mentor(n_steps=30)  # untrained: data-driven, and quick


class Watched(MentorNetClassifier):
    """Notes what every batch did."""

    rows = []

    def _weighted_loss(self, run, batch, t):
        (net,) = run.learners
        assert net.module.training  # again, after evaluation passes
        self._state = copy.deepcopy(net.module.state_dict())
        result = super()._weighted_loss(run, batch, t)
        self.rows.append((t, batch, *(value.detach() for value in result)))
        return result

    def _weights(self, run, losses, progress):
        weights = super()._weights(run, losses, progress)
        self.seen.append((progress, losses, weights))
        return weights


@pytest.fixture(autouse=True)
def empty():
    Watched.rows, Watched.seen = [], []


# ---- schedules -------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "n_kept"), [(0.0, 128), (0.5, 64), (0.05, 121), (1.0, 0)])
def test_example_dropout_leaves_an_exact_number(rate, n_kept):
    weights = torch.linspace(0.1, 1, 128)
    left = example_dropout(weights, rate, torch.Generator().manual_seed(0))
    assert (left > 0).sum() == n_kept
    assert torch.equal(left[left > 0], weights[left > 0])


def test_example_dropout_is_uniform_and_survives_rounding():
    generator = torch.Generator().manual_seed(0)
    left = torch.stack([example_dropout(torch.ones(10), 0.3, generator) for _ in range(2000)])
    assert set(left.sum(1).tolist()) == {7.0}
    assert left.mean(0).tolist() == pytest.approx([0.7] * 10, abs=0.05)


def test_published_rates_follow_the_true_progress():
    shares = [0, 0.169, 0.17, 0.5, 0.949, 0.95, 0.999]
    rates = [dropout_rate(EXAMPLE_DROPOUT["data_driven"], s) for s in shares]
    assert rates == [0.5, 0.5, 0.05, 0.05, 0.05, 0.9, 0.9]
    rates = [dropout_rate(EXAMPLE_DROPOUT["predefined"], s) for s in shares]
    assert rates == [0.5, 0.5, 0.05, 0.05, 0.05, 0.05, 0.05]


def test_progress_is_an_integer_percentage():
    assert [percent(t, 50) for t in (0, 0.49, 0.5, 9.5, 49.999)] == [0, 0, 1, 19, 99]
    assert [percent(e, 100) for e in range(100)] == list(range(100))


@pytest.mark.parametrize(
    ("burn_in", "max_epochs", "epochs"),
    [
        (0, 10, 0),
        (3, 10, 3),
        (0.18, 10, 2),
        (0.18, 100, 18),
        (0.0, 10, 0),
        (50, 10, 9),
        (0.9, 1, 0),
        ("auto", 100, 40),  # 80 steps
        ("auto", 500, 90),
        ("auto", 10, 5),
    ],
)
def test_burn_in_is_counted_in_epochs_or_as_a_share(burn_in, max_epochs, epochs):
    class Stop(Exception):
        pass

    class Begun(MentorNetClassifier):
        def _begin(self, run):
            super()._begin(run)
            Watched.rows.append(run.memory.burn_in)
            raise Stop

    net = Network(max_epochs=max_epochs, batch_size=100)
    wide = np.random.default_rng(0).normal(size=(160, 9))
    with pytest.raises(Stop):
        Begun(net, burn_in=burn_in, percentile=0.7).fit(wide, Y)
    assert Watched.rows == [epochs]


# ---- weights ---------------------------------------------------------------------------------


def moving_percentile(losses, share, decay):
    """Naive thresholds of consecutive batches."""
    value, values = None, []
    for batch in losses:
        q = np.quantile(np.asarray(batch), share)
        value = q if value is None else decay * value + (1 - decay) * q
        values.append(value)
    return values


@pytest.mark.parametrize("mentor", ["predefined", "self_paced"])
def test_weights_are_those_of_the_formula(mentor):
    """Between 19 and 89 % both are the hard rule of self-paced learning, to the last sample."""
    clf = Watched(
        Network(max_epochs=10, batch_size=40),
        mentor=mentor,
        percentile=0.7,
        burn_in=0.2,
        example_dropout=None,
        random_state=0,
    ).fit(X, NOISY.y)
    assert all((w == 1).all() for p, _, w in Watched.seen if p < 20)
    after = [row for row in Watched.seen if row[0] >= 20]
    assert [p for p, _, _ in after] == [int(2.5 * b) for b in range(8, 40)]
    thresholds = moving_percentile([losses for _, losses, _ in after], 0.7, 0.5)
    for (progress, losses, weights), threshold in zip(after, thresholds, strict=True):
        difference = losses.numpy() - np.float32(threshold)
        clear = abs(difference) > 1e-5
        if progress < 90 or mentor == "self_paced":
            expected = (difference <= 0).astype(float)
        else:
            expected = np.clip(1 - difference, 0, 1)
        np.testing.assert_allclose(weights[clear], expected[clear], atol=1e-5)
    assert clf.threshold_ == pytest.approx(thresholds[-1], rel=1e-5)
    assert clf.forget_rate_ == pytest.approx(0.3)


def test_weights_are_constants_in_the_gradient_and_the_batch_divides():
    net = Network(max_epochs=1, batch_size=160, lr=0.1, optimizer__momentum=0.0)
    params = {"percentile": 0.6, "burn_in": 0, "mentor": "self_paced", "random_state": 0}
    clf = Watched(net, **params).fit(X, NOISY.y)
    ((_, batch, loss, weights, _),) = Watched.rows
    assert (weights > 0).sum() < 0.6 * 160  # example dropout takes half
    module = copy.deepcopy(clf.nets_[0].module_)
    module.load_state_dict(clf._state)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, weight_decay=5e-4)
    losses = torch.nn.functional.cross_entropy(module(batch.x), batch.y, reduction="none")
    expected = sum(w * one for w, one in zip(weights, losses, strict=True)) / 160
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    optimizer.step()
    for ours, naive in zip(clf.nets_[0].module_.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-4, atol=1e-6)


def test_weight_decay_can_follow_the_mean_weight():
    def half(loss, difference, progress):
        return torch.full_like(loss, 0.5)

    def fitted(lr, decay, **params):
        net = Network(max_epochs=3, lr=lr, batch_size=160, optimizer__weight_decay=decay)
        params |= {"burn_in": 0, "example_dropout": None, "random_state": 0}
        clf = MentorNetClassifier(net, percentile=0.5, **params).fit(X, Y)
        return torch.cat([p.flatten() for p in clf.nets_[0].module_.parameters()])

    # a half weight with half the decay is half the learning rate
    scaled = fitted(0.2, 0.01, mentor=half, scale_decay_by_weights=True)
    plain = fitted(0.1, 0.01, mentor=lambda *a: torch.ones_like(a[0]))
    torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-6)
    unscaled = fitted(0.2, 0.01, mentor=half)
    assert (unscaled - plain).abs().max() > 1e-4


def test_a_batch_without_weight_takes_no_step():
    def nothing(loss, difference, progress):
        return torch.zeros_like(loss)

    params = {"mentor": nothing, "percentile": 0.5, "random_state": 0}
    untouched = Watched(QUICK, burn_in=0, **params).fit(X, Y)
    first = Watched.rows[0]
    for name, value in untouched.nets_[0].module_.state_dict().items():
        assert torch.equal(value, untouched._state[name])
    assert (first[3] == 0).all()
    assert untouched.threshold_ > 0  # but the threshold moves
    everything_dropped = Watched(QUICK, example_dropout=[(1, 1)], random_state=0)
    a = everything_dropped.fit(X, Y).predict_proba(X)
    np.testing.assert_array_equal(a, untouched.predict_proba(X))


def test_a_function_weighs_even_where_no_loss_is_large():
    def by_loss(loss, difference, progress):
        return torch.exp(-loss)

    params = {"percentile": 1.0, "burn_in": 2, "example_dropout": None, "random_state": 0}
    clf = Watched(QUICK, mentor=by_loss, **params).fit(X, NOISY.y)
    weights = torch.stack([w for p, _, w in Watched.seen if p > 100 * 2 / 6])
    assert (weights < 1).all()
    assert clf.history_[-1]["selected"] < 1
    assert clf.threshold_ > 0
    rule = MentorNetClassifier(QUICK, **params).fit(X, NOISY.y)
    assert rule.threshold_ is None
    history = clone(rule).set_params(clean_score="history").fit(X, NOISY.y).clean_proba_
    np.testing.assert_allclose(rule.clean_proba_, history, rtol=1e-5)  # equal weights say nothing


def test_the_weights_of_a_module_are_constants_and_its_parameters_are_left_alone():
    class Sloped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = torch.nn.Parameter(torch.tensor(1.0))

        def forward(self, loss, difference, progress):
            return torch.exp(-self.slope * loss)

    params = {"percentile": 0.6, "burn_in": 1, "random_state": 0}
    mentor = Sloped()
    clf = MentorNetClassifier(QUICK, mentor=mentor, **params).fit(X, NOISY.y)
    assert mentor.slope.grad is None
    assert mentor.slope == 1
    same = MentorNetClassifier(QUICK, mentor=lambda x, *_: torch.exp(-x), **params)
    np.testing.assert_array_equal(clf.predict_proba(X), same.fit(X, NOISY.y).predict_proba(X))


def test_the_percentile_follows_the_noise_rate():
    for noise_rate, share in ((0.2, 0.2), (0.05, 0.1), (0.0, 0.1), (0.8, 0.5)):
        clf = MentorNetClassifier(QUICK, noise_rate=noise_rate, random_state=0).fit(X, NOISY.y)
        assert clf.forget_rate_ == pytest.approx(share)
    clf = MentorNetClassifier(QUICK, noise_rate=0.2, percentile=0.6, random_state=0)
    assert clf.fit(X, NOISY.y).forget_rate_ == pytest.approx(0.4)


def test_the_unknown_percentile_is_estimated(digits):
    images, y = digits
    noisy, x = sym_excl(y, 0.4, random_state=0), images.reshape(len(images), -1)
    net = Network(max_epochs=20)
    clf = MentorNetClassifier(net, random_state=0).fit(x, noisy.y)
    assert clf.forget_rate_ == pytest.approx(0.4, abs=0.05)
    assert [row["forget_rate"] for row in clf.history_[:4]] == [0] * 4  # 18 % of 20 epochs
    assert clf.history_[4]["forget_rate"] > 0.3
    assert clf.history_[-1]["selected"] == pytest.approx(0.6, abs=0.1)
    clean = MentorNetClassifier(net, random_state=0).fit(x, y)
    assert clean.forget_rate_ < 0.05


def test_the_estimate_is_at_most_a_half(digits):
    images, y = (part[:900] for part in digits)
    noisy = sym_excl(y, 0.75, random_state=0).y
    net = Network(max_epochs=12)
    clf = MentorNetClassifier(net, random_state=0).fit(images.reshape(900, -1), noisy)
    assert clf.forget_rate_ == 0.5


def test_an_untrained_network_estimates_nothing(digits):
    """It contradicts nearly all labels, the right ones too."""
    images, y = digits
    clf = MentorNetClassifier(Network(max_epochs=1), augment=None, random_state=0)
    clf.fit(images, y)
    assert clf.forget_rate_ == 0
    assert clf.history_[0]["selected"] == 1
    with pytest.raises(ValueError, match=r"burn_in=0 .* percentile='auto'"):
        clf.set_params(burn_in=0.0).fit(images, y)
    clf.set_params(noise_rate=0.2).fit(images, y)


def test_right_labels_of_a_small_table_are_kept():
    lost = []
    for seed in range(4):
        x, y = make_moons(1300, noise=0.25, random_state=seed)
        scores = [
            method(random_state=seed).fit(x[:300], y[:300]).score(x[300:], y[300:])
            for method in (CrossEntropyClassifier, MentorNetClassifier)
        ]
        lost.append(scores[0] - scores[1])
    assert np.mean(lost) < 0.01


# ---- trusted rows ------------------------------------------------------------------------------


def learning(**params):
    return Watched(**{"net": QUICK, "mentor": LEARNER, "random_state": 0} | params)


def test_the_mentor_is_trained_once_after_the_burn_in_and_not_by_the_student(monkeypatch):
    calls, fit = [], Mentor.fit

    def watched_fit(self, *args):
        calls.append((len(Watched.rows), *args))
        return fit(self, *args)

    monkeypatch.setattr(Mentor, "fit", watched_fit)
    clf = learning(burn_in=2).fit(X, NOISY.y, trusted=MASK, clean_labels=Y)
    ((batches, loss, difference, progress, right),) = calls
    assert (batches, progress) == (10, 33)  # two epochs of five batches
    assert right.tolist() == (~NOISY.changed[MASK]).tolist()
    share = 1 - clf.forget_rate_
    torch.testing.assert_close(loss - difference, loss.quantile(share).expand(len(loss)))
    assert all((w == 1).all() for p, _, w in Watched.seen[:10])
    assert not any((w == 1).all() for p, _, w in Watched.seen[10:])
    fresh = copy.deepcopy(clf.mentor_).fit(loss, difference, progress, right)
    at = torch.linspace(0, 5, 9)
    assert torch.equal(fresh(at, at - 1, 33), clf.mentor_(at, at - 1, 33))


def test_losses_of_trusted_rows_are_those_of_their_given_labels(monkeypatch):
    calls = []
    monkeypatch.setattr(Mentor, "fit", lambda self, *args: calls.append(args))

    class Stop(Exception):
        pass

    class Stopped(MentorNetClassifier):
        def _weighted_loss(self, run, batch, t):
            logits = run.evaluate(run.learners[0])
            calls.append(torch.nn.functional.cross_entropy(logits, run.data.y, reduction="none"))
            raise Stop

    net = Network(max_epochs=6)
    clf = Stopped(net, mentor=Mentor(), burn_in=0, percentile=0.8, mentor_percentile=0.9)
    with pytest.raises(Stop):
        clf.fit(X, NOISY.y, trusted=MASK, clean_labels=Y)
    (loss, difference, _, _), losses = calls
    torch.testing.assert_close(loss, losses[torch.from_numpy(MASK)])
    torch.testing.assert_close(difference, loss - loss.quantile(0.9))


@pytest.mark.parametrize(("n", "epochs"), [(0, [4]), (1, [4, 5]), (2, [4, 5, 15])])
def test_updates_come_as_published(n, epochs, monkeypatch):
    calls, fit = [], Mentor.fit

    def watched_fit(self, *args):
        calls.append(args[2])
        return fit(self, *args)

    monkeypatch.setattr(Mentor, "fit", watched_fit)
    net = Network(max_epochs=20, batch_size=80)
    clf = MentorNetClassifier(net, mentor=LEARNER, burn_in=0.18, n_mentor_updates=n, random_state=0)
    clf.fit(X, NOISY.y, trusted=MASK, clean_labels=Y)
    assert calls == [5 * epoch for epoch in epochs]
    assert clf.mentor_.progress_range_ == (calls[-1], calls[-1])


def test_trusted_rows_teach_the_student_their_true_label():
    clf = learning(example_dropout=None).fit(X, NOISY.y, trusted=MASK, clean_labels=Y)
    for _, batch, _, weights, _ in Watched.rows:
        assert (weights[torch.from_numpy(MASK)[batch.index]] == 1).all()
    _, batch, loss, weights, _ = Watched.rows[-1]
    module = copy.deepcopy(clf.nets_[0].module_)
    module.load_state_dict(clf._state)
    index = batch.index.numpy()
    y = torch.from_numpy(np.where(MASK, Y, NOISY.y)[index])
    losses = torch.nn.functional.cross_entropy(module(batch.x), y, reduction="none")
    assert loss == pytest.approx((weights * losses).sum().item() / len(y), rel=1e-5)


@pytest.mark.parametrize("mentor", [LEARNER, "predefined"])
def test_trusted_rows_can_be_kept_from_the_student(mentor):
    clf = learning(mentor=mentor, use_trusted_in_training=False)
    clf.fit(X, NOISY.y, trusted=MASK, clean_labels=Y)
    trained = np.unique(np.concatenate([batch.index for _, batch, *_ in Watched.rows]))
    np.testing.assert_array_equal(trained, np.flatnonzero(~MASK))
    assert (clf.dynamics_["n_seen"][MASK] == 0).all()
    assert (clf.refined_labels_[MASK] == Y[MASK]).all()
    with pytest.raises(ValueError, match="use_trusted_in_training=False leaves none"):
        clf.fit(X, NOISY.y, trusted=MASK | True, clean_labels=Y)


@pytest.mark.parametrize("kind", ["array", "list", "tensor", "column"])
def test_evidence_of_trusted_rows_with_both_labels(kind):
    clean = {"array": Y, "list": Y.tolist(), "tensor": torch.from_numpy(Y), "column": Y[:, None]}
    clf = learning().fit(X, NOISY.y, trusted=MASK, clean_labels=clean[kind])
    np.testing.assert_array_equal(clf.clean_proba_[MASK], ~NOISY.changed[MASK])
    np.testing.assert_array_equal(clf.refined_labels_[MASK], Y[MASK])
    np.testing.assert_array_equal(clf.refined_proba_[MASK], np.eye(4)[Y[MASK]])
    np.testing.assert_array_equal(clf.refined_labels_, clf.refined_proba_.argmax(1))
    assert clf.noise_rate_ == pytest.approx(1 - clf.clean_proba_.mean())


def test_only_clean_labels_of_trusted_rows_are_read():
    names = NAMES[Y].astype(object)
    names[~MASK] = None
    clf = learning().fit(X, NAMES[NOISY.y], trusted=MASK, clean_labels=names)
    assert (clf.refined_labels_[MASK] == NAMES[Y[MASK]]).all()
    gaps = np.where(MASK, Y, np.nan)
    again = learning().fit(X, NOISY.y, trusted=MASK, clean_labels=gaps)
    np.testing.assert_array_equal(again.clean_proba_, clf.clean_proba_)


def test_without_clean_labels_trusted_ones_are_true_and_made_noisy_for_the_mentor(monkeypatch):
    calls, fit = [], Mentor.fit

    def watched_fit(self, *args):
        calls.append(args[3])
        return fit(self, *args)

    monkeypatch.setattr(Mentor, "fit", watched_fit)
    y = np.where(MASK, Y, NOISY.y)
    clf = learning(noise_rate=0.25).fit(X, y, trusted=MASK)
    learning().fit(X, y, trusted=MASK)
    learning(trusted_noise="synthetic").fit(X, y, trusted=MASK, clean_labels=Y)
    n = MASK.sum()
    assert [int(n - right.sum()) for right in calls] == [round(0.25 * n), *[round(0.4 * n)] * 2]
    assert (clf.clean_proba_[MASK] == 1).all()
    assert (clf.refined_labels_[MASK] == Y[MASK]).all()
    for _, batch, *_ in Watched.rows:  # the student sees none of it
        assert (batch.y.numpy() == y[batch.index]).all()


def test_classes_without_a_trusted_row_are_no_obstacle():
    clf = learning().fit(X, NOISY.y, trusted=MASK & (Y < 2), clean_labels=Y)
    assert clf.mentor_.is_trained


def test_a_rule_does_without_trusted_rows():
    """As where a fold of a cross-validation has none."""
    none = MentorNetClassifier(QUICK, random_state=0).fit(X, NOISY.y)
    empty = MentorNetClassifier(QUICK, use_trusted_in_training=False, random_state=0)
    empty.fit(X, NOISY.y, trusted=MASK & False, clean_labels=Y)
    np.testing.assert_array_equal(empty.predict_proba(X), none.predict_proba(X))


def one_kind(right):
    return MASK & (NOISY.changed != right)


@pytest.mark.parametrize(
    ("params", "rows", "message"),
    [
        ({}, {}, "trusted=mask"),
        ({"mentor": LEARNER}, {}, "trusted=mask"),
        ({}, {"clean_labels": Y}, "trusted=mask"),
        ({"mentor": "predefined"}, {"clean_labels": Y}, "clean_labels was given without trusted"),
        ({}, {"trusted": one_kind(True), "clean_labels": Y}, "rows are right"),
        ({}, {"trusted": one_kind(False), "clean_labels": Y}, "rows are wrong"),
        ({"trusted_noise": "given"}, {"trusted": MASK}, "rows are right"),
        ({}, {"trusted": np.arange(160) == 3}, "rows are right"),
        ({}, {"trusted": MASK & False}, "trusted=mask"),
        ({}, {"trusted": MASK, "clean_labels": Y + 1}, "occur in y where trusted is True, got 4"),
        ({}, {"trusted": MASK, "clean_labels": NAMES[Y]}, "occur in y .* 'ash'"),
        ({}, {"trusted": MASK, "clean_labels": np.where(Y, Y, np.nan)}, "occur in y .* nan"),
        ({}, {"trusted": MASK, "clean_labels": Y[1:]}, "inconsistent numbers"),
        ({}, {"trusted": MASK[1:], "clean_labels": Y}, "inconsistent numbers"),
        ({}, {"trusted": MASK, "clean_labels": np.stack([Y, Y], 1)}, "1d"),
    ],
)
def test_what_a_data_driven_mentor_cannot_learn_from_is_refused_before_training(
    params, rows, message
):
    clf = Watched(QUICK, **{"mentor": "data_driven"} | params)
    with pytest.raises(ValueError, match=message):
        clf.fit(X, NOISY.y, **rows)
    assert not Watched.rows
    assert not hasattr(clf, "classes_")


def test_rows_held_out_streams_and_routing():
    split = ValidSplit(4, stratified=True)
    y = NAMES[NOISY.y]
    for source in (X, TensorDataset(torch.from_numpy(X).float())):
        clf = learning(net=Network(max_epochs=4, batch_size=32, train_split=split))
        clf.fit(source, y, trusted=MASK, clean_labels=NAMES[Y])
        np.testing.assert_array_equal(clf.clean_proba_[MASK], ~NOISY.changed[MASK])
    first = Network(max_epochs=4, train_split=ValidSplit(4))  # holds the first quarter out
    with pytest.raises(ValueError, match="trusted rows are held out"):
        learning(net=first).fit(X, y, trusted=np.arange(160) < 30)
    grid = GridSearchCV(learning(), {"n_mentor_updates": [0, 1]}, cv=3, error_score="raise")
    grid.fit(X, y, trusted=MASK, clean_labels=NAMES[Y])
    assert grid.best_estimator_.mentor_.is_trained


# ---- a mentor for another fit --------------------------------------------------------------------


def test_a_trained_mentor_can_be_used_again_from_memory_and_from_a_file(tmp_path):
    first = learning().fit(X, NOISY.y, trusted=MASK, clean_labels=Y)
    first.mentor_.save(tmp_path / "mentor.json")
    before = pickled(first.mentor_)
    again = MentorNetClassifier(QUICK, mentor=first.mentor_, random_state=1).fit(X, NOISY.y)
    by_path = clone(again).set_params(mentor=tmp_path / "mentor.json").fit(X, NOISY.y)
    cloned = clone(again).fit(X, NOISY.y)  # with a copy of the mentor
    for other in (by_path, cloned, clone(again).set_params(mentor=again.mentor_).fit(X, NOISY.y)):
        np.testing.assert_array_equal(again.predict_proba(X), other.predict_proba(X))
        np.testing.assert_array_equal(again.clean_proba_, other.clean_proba_)
    assert pickled(first.mentor_) == before
    predefined = MentorNetClassifier(QUICK, random_state=1).fit(X, NOISY.y)
    assert (predefined.predict_proba(X) != again.predict_proba(X)).any()
    assert predefined.mentor_ is None


def test_parameters_of_the_mentor_are_set_through_the_method():
    clf = learning(mentor=Mentor(n_steps=30))
    assert clf.get_params()["mentor__n_steps"] == 30
    clf.set_params(mentor__n_steps=20, mentor__architecture="lstm")
    assert (clf.mentor.n_steps, clf.mentor.architecture) == (20, "lstm")
    assert clone(clf).mentor.n_steps == 20
    grid = GridSearchCV(
        learning(mentor="data_driven"),
        {"mentor__n_steps": [10, 20], "net__max_epochs": [2]},
        cv=2,
        error_score="raise",
    )
    grid.fit(X, NOISY.y, trusted=MASK, clean_labels=Y)
    best = grid.best_params_["mentor__n_steps"]
    assert grid.best_estimator_.mentor.n_steps == grid.best_estimator_.mentor_.n_steps == best
    assert not grid.best_estimator_.mentor.is_trained
    assert "Mentor" in clf._repr_html_()


def test_parameters_without_a_mentor_to_train_are_refused():
    for mentor in ("predefined", torch.exp, "mentor.json"):
        with pytest.raises(ValueError, match="mentor__n_steps needs mentor='data_driven' or a Men"):
            MentorNetClassifier().set_params(mentor=mentor, mentor__n_steps=3)
    clf = MentorNetClassifier(mentor="data_driven")
    with pytest.raises(ValueError, match="no parameter 'depth'"):
        clf.set_params(mentor__depth=3)
    trained = Mentor(n_steps=2).imitate(n_points=10)
    with pytest.raises(ValueError, match="too late for a trained Mentor"):
        clf.set_params(mentor=trained, mentor__n_steps=3)
    assert clone(clf.set_params(**clf.get_params())).mentor.is_trained


def pickled(mentor):
    return [value.tolist() for value in mentor._module.state_dict().values()]


def test_the_seed_of_the_fit_is_that_of_the_mentor():
    fits = [
        learning(random_state=seed).fit(X, NOISY.y, trusted=MASK, clean_labels=Y)
        for seed in (0, 0, 1)
    ]
    a, b, c = (pickled(clf.mentor_) for clf in fits)
    assert a == b != c
    np.testing.assert_array_equal(fits[0].predict_proba(X), fits[1].predict_proba(X))


def test_a_mentor_that_is_not_trained_is_left_as_it_was():
    learning().fit(X, NOISY.y, trusted=MASK, clean_labels=Y)
    assert not LEARNER.is_trained
    assert LEARNER.random_state is None


def test_a_mentor_that_imitates_weighs_like_its_rule():
    imitation = Mentor(random_state=0).imitate("self_paced", n_points=20_000)
    params = {"percentile": 0.7, "burn_in": 2, "example_dropout": None, "random_state": 0}
    Watched(QUICK, mentor=imitation, **params).fit(X, NOISY.y)
    Watched(QUICK, mentor="self_paced", **params).fit(X, NOISY.y)
    ours, exact = (torch.stack([w for _, _, w in half]) for half in halves(Watched.seen))
    assert (ours - exact).abs().mean() < 0.1


def halves(rows):
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


@pytest.mark.parametrize("content", [b"not a mentor", b'{"format": "noisyfit mentor"}'])
def test_a_bad_file_is_refused_before_training(content, tmp_path):
    (tmp_path / "mentor").write_bytes(content)
    with pytest.raises(ValueError, match="mentor"):
        Watched(QUICK, mentor=str(tmp_path / "mentor")).fit(X, Y)
    with pytest.raises(ValueError, match="there is no file 'predifined'"):
        Watched(QUICK, mentor="predifined").fit(X, Y)
    assert not Watched.rows


@pytest.mark.parametrize("max_epochs", [1, 2, 3])
def test_short_trainings_train_their_mentor(max_epochs):
    clf = learning(net=Network(max_epochs=max_epochs), n_mentor_updates=2)
    clf.fit(X[:7], NOISY.y[:7], trusted=MASK[:7])
    assert clf.mentor_.is_trained
    assert np.isfinite(clf.clean_proba_).all()


# ---- what it is good for -------------------------------------------------------------------------


class BothScores(MentorNetClassifier):
    """Keeps the final probability of the given labels, which ``clean_score="final"`` would give."""

    def _posterior(self, run, logits):
        self._final = softmax(logits[0]).gather(1, run.data.y[:, None]).squeeze(1)
        return super()._posterior(run, logits)


def test_the_history_of_the_weights_ranks_better_than_the_final_loss(digits):
    images, y = digits
    x = images.reshape(len(images), -1)
    for seed in range(3):
        noisy = sym_excl(y, 0.4, random_state=seed)
        clf = BothScores(Network(max_epochs=30), random_state=seed).fit(x, noisy.y)
        by_weights = roc_auc_score(~noisy.changed, clf.clean_proba_)
        assert by_weights > roc_auc_score(~noisy.changed, clf._final)
        assert by_weights > 0.985
        assert ((clf.clean_proba_ >= 0.5) == ~noisy.changed).mean() > 0.94


def test_clean_proba_is_the_mean_weight_of_the_last_ten_epochs():
    net = Network(max_epochs=15, batch_size=80)
    params = {"percentile": 0.6, "burn_in": 2, "example_dropout": [(1, 0.5)], "random_state": 0}
    clf = Watched(net, mentor="self_paced", **params).fit(X, NOISY.y)
    weights = np.zeros((15, 160))
    for (t, batch, *_), (_, _, w) in zip(Watched.rows, Watched.seen, strict=True):
        weights[int(t), batch.index] = w
    mean = weights[5:].mean(0)  # before example dropout
    assert set(np.unique(weights)) == {0, 1}
    assert (10 * mean <= 11 * clf.clean_proba_ + 1e-5).all()
    assert (11 * clf.clean_proba_ <= 10 * mean + 1 + 1e-5).all()
    assert len(np.unique(clf.clean_proba_)) > 100  # ties are broken
    history = clone(clf).set_params(clean_score="history").fit(X, NOISY.y).clean_proba_
    np.testing.assert_allclose(clf.clean_proba_, (10 * mean + history) / 11, atol=1e-5)


@pytest.mark.parametrize("mentor", ["predefined", "self_paced", "data_driven"])
def test_it_beats_plain_training_under_noise(mentor, digits):
    images, y = digits
    x, noisy = images.reshape(len(images), -1)[:1000], sym_excl(y[:1000], 0.4, random_state=0)
    rows = {}
    if mentor == "data_driven":
        rows = {"trusted": np.arange(1000) < 100, "clean_labels": y[:1000]}
    net = Network(max_epochs=30)
    clf = MentorNetClassifier(net, mentor=mentor, random_state=0).fit(x, noisy.y, **rows)
    plain = CrossEntropyClassifier(net, random_state=0).fit(x, noisy.y)
    x_test, y_test = images.reshape(len(images), -1)[1000:], y[1000:]
    assert clf.score(x_test, y_test) > plain.score(x_test, y_test) + 0.1


@pytest.mark.parametrize(
    "params",
    [
        {"mentor": 3},
        {"mentor": None},
        {"mentor": Mentor},
        {"mentor": Mentor("gru")},
        {"mentor": lambda loss, difference, progress: loss},
        {"percentile": 1.1},
        {"percentile": None},
        {"noise_rate": 1.0},
        {"noise_rate": "low"},
        {"decay": 1.0},
        {"decay": -0.1},
        {"burn_in": -1},
        {"burn_in": 1.0},
        {"burn_in": True},
        {"burn_in": "none"},
        {"example_dropout": "dd"},
        {"example_dropout": 0.5},
        {"example_dropout": []},
        {"example_dropout": [(0.5, 0.5)]},
        {"example_dropout": [(0.5, 0.5), (0.5, 1.5)]},
        {"example_dropout": [(1, 0.5, 2)]},
        {"trusted_noise": "none"},
        {"mentor_percentile": 2},
        {"n_mentor_updates": -1},
        {"n_mentor_updates": 1.0},
        {"use_trusted_in_training": 1},
        {"scale_decay_by_weights": None},
    ],
)
def test_bad_parameters_are_refused(params):
    (name,) = params
    name = "architecture" if isinstance(params[name], Mentor) else name
    with pytest.raises((ValueError, TypeError), match=name):
        Watched(**params).fit(X, Y)
    assert not Watched.rows
