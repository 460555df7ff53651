"""The mentor: its rules, its training, its file."""

import copy
import inspect
import json
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss, roc_auc_score

from noisyfit._mentor import Mentor, predefined, self_paced
from noisyfit._mentor_lesson import Lesson, with_wrong_labels
from noisyfit._mentor_network import MentorModule, published_grid, train_module

DIFFERENCE = torch.tensor([-0.5, 0.0, 0.25, 1.5])
both = pytest.mark.parametrize("architecture", ["mlp", "lstm"])


def losses_of(n, seed, overlap=True):
    """Losses (n,) of right and wrong labels, and whether they are right."""
    rng = np.random.default_rng(seed)
    right = rng.random(n) < 0.6
    right[:2] = True, False
    loss = np.where(right, rng.gamma(0.6, 1.0, n), rng.gamma(4.0, 1.0, n))
    return (loss if overlap else np.where(right, 0.1, 3.0) * rng.uniform(0.5, 1.5, n)), right


@pytest.fixture(scope="module")
def learnt():
    """A mentor that learnt from 100 samples after 18 % of a training."""
    loss, right = losses_of(100, 0)
    return Mentor(n_steps=200, random_state=0).fit(loss, loss - np.quantile(loss, 0.75), 18, right)


# ---- rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "weights"),
    [
        (0, [1, 1, 1, 1]),
        (18, [1, 1, 1, 1]),
        (19, [1, 1, 0, 0]),
        (89, [1, 1, 0, 0]),
        (90, [1, 1, 0.75, 0]),
        (99, [1, 1, 0.75, 0]),
    ],
)
def test_predefined_rule_has_the_published_values(progress, weights):
    assert predefined(DIFFERENCE + 2, DIFFERENCE, progress).tolist() == weights


def test_self_paced_rule_is_the_middle_of_the_predefined_one():
    for progress in (0, 50, 99):
        assert self_paced(DIFFERENCE + 2, DIFFERENCE, progress).tolist() == [1, 1, 0, 0]


# ---- network ---------------------------------------------------------------------------------


@both
def test_the_network_has_fewer_than_a_thousand_parameters(architecture):
    module = MentorModule(architecture, torch.Generator())
    assert sum(p.numel() for p in module.parameters()) < 1000
    assert module.embedding.requires_grad == (architecture == "mlp")


def test_lstm_is_the_cell_state_after_one_step_of_both_directions():
    module = MentorModule("lstm", torch.Generator().manual_seed(0))
    with torch.no_grad():
        module.gates_bias.normal_(generator=torch.Generator().manual_seed(1))
    lstm = torch.nn.LSTM(2, 1, bidirectional=True)
    with torch.no_grad():
        for d, suffix in enumerate(("", "_reverse")):
            w, b = getattr(lstm, "weight_ih_l0" + suffix), getattr(lstm, "bias_ih_l0" + suffix)
            getattr(lstm, "bias_hh_l0" + suffix).zero_()
            w[0], w[2] = module.gates[d], module.gates[2 + d]  # order: input, forget, cell, output
            b[0], b[2] = module.gates_bias[d], module.gates_bias[2 + d]
        loss, difference = torch.tensor([0.3, 2.0, 7.0]), torch.tensor([-1.0, 0.2, 4.0])
        _, (_, cell) = lstm(torch.stack([loss, difference], 1)[None])  # one step, batch of 3
        features = torch.cat([cell.squeeze(-1).T, module.embedding[[4, 4, 4]]], 1)
        hidden = torch.tanh(features @ module.hidden.T + module.hidden_bias)
        expected = (hidden @ module.out.T + module.out_bias).squeeze(1)
        torch.testing.assert_close(module(loss, difference, 4), expected)


def test_the_published_grid_has_1_2_million_different_points():
    points = torch.stack(published_grid(2_000_000, torch.Generator()))
    assert points.shape == (3, 1_200_000)
    assert [len(values.unique()) for values in points] == [120, 100, 100]
    code = (points * torch.tensor([[10.0], [10.0], [1.0]])).round().long()
    code = (code * torch.tensor([[100_000], [1000], [1]])).sum(0)
    assert len(code.unique()) == 1_200_000
    assert points.amin(1).tolist() == [0, -5, 0]
    torch.testing.assert_close(points.amax(1), torch.tensor([29.0, 4.9, 99.0]))
    few = published_grid(1000, torch.Generator().manual_seed(0))
    assert all(len(values) == 1000 for values in few)
    assert few[2].float().mean() == pytest.approx(49.5, abs=5)


@both
def test_imitated_rule_is_near_and_falls_with_the_difference(architecture):
    mentor = Mentor(architecture, random_state=0).imitate("predefined")
    assert mentor.error_ < 0.05
    assert mentor.progress_range_ == (0, 99)
    difference = torch.linspace(-5, 4.9, 20)
    for loss in (0.5, 2.0, 8.0):
        weights = mentor(torch.full((20,), loss), difference, 50)
        assert weights.diff().max() < 5e-3  # of 1: rounding of the sigmoid's tails
        assert weights[0] > 0.9
        assert weights[-1] < 0.1
    assert mentor(torch.full((20,), 2.0), difference, 10).min() > 0.8


def test_other_rules_can_be_imitated():
    def by_loss(loss, difference, progress):
        return (loss < 2).float() * (progress < 50)

    mentor = Mentor(n_steps=500, random_state=0).imitate(by_loss, n_points=20_000)
    assert mentor.error_ < 0.02
    assert (mentor([1.0, 5.0], [0.0, 0.0], 20) > 0.5).tolist() == [True, False]
    assert mentor([1.0], [0.0], 80) < 0.5


@both
def test_separable_losses_are_told_apart(architecture):
    loss, right = losses_of(200, 0, overlap=False)
    mentor = Mentor(architecture, n_steps=300, random_state=0)
    mentor.fit(loss, loss - np.quantile(loss, 0.9), 18, right)
    loss, right = losses_of(500, 1, overlap=False)
    weights = mentor(loss, loss - np.quantile(loss, 0.9), 60)
    assert roc_auc_score(right, weights) >= 0.99
    assert mentor.error_ < 0.01


@pytest.mark.parametrize("target", [[1.0, 0, 1, 0], [1.0, 0, 0.5, 0]])
def test_the_error_is_cross_entropy_for_binary_targets_and_squared_for_others(target):
    target = torch.tensor(target)
    loss = torch.tensor([0.2, 1.0, 3.0, 0.5])
    points = loss, loss - 1, torch.tensor([18, 18, 40, 41])
    module = MentorModule("mlp", torch.Generator().manual_seed(0))
    naive = copy.deepcopy(module)
    train_module(module, points, target, 1, 8, 0.0, torch.Generator().manual_seed(1))
    rows = torch.randint(4, (8,), generator=torch.Generator().manual_seed(1))
    p, t = naive(*(values[rows] for values in points)).sigmoid(), target[rows]
    if 0.5 in target:
        error = (p - t) ** 2
    else:
        error = -t * p.log() - (1 - t) * (1 - p).log()
    error.mean().backward()
    ours, expected = (
        torch.cat([q.grad.flatten() for q in m.parameters()]) for m in (module, naive)
    )
    cut = min(1, 5 / expected.norm().item())  # the published clipping
    torch.testing.assert_close(ours, cut * expected, rtol=1e-4, atol=1e-6)
    step = (naive.out - module.out).abs()  # the first step of Adam has the learning rate's size
    torch.testing.assert_close(step, torch.full_like(step, 0.1), rtol=1e-2, atol=1e-4)


def test_weights_of_binary_targets_are_probabilities():
    """Cross-entropy, as published: the weight is the share of right labels at that loss."""
    loss, right = losses_of(4000, 0)
    mentor = Mentor(n_steps=300, random_state=0).fit(loss, loss - 2, 18, right)
    weights = mentor(loss, loss - 2, 18).numpy()
    for low in np.arange(0, 1, 0.2):
        here = (weights >= low) & (weights < low + 0.2)
        assert weights[here].mean() == pytest.approx(right[here].mean(), abs=0.08)


def test_the_penalty_keeps_few_samples_from_being_learnt_by_heart():
    new, is_right = losses_of(2000, 9)
    errors = {}
    for penalty in (0.0, 0.3):
        errors[penalty] = []
        for seed in range(3):
            loss, right = losses_of(20, seed)
            mentor = Mentor(n_steps=300, penalty=penalty, random_state=0)
            weights = mentor.fit(loss, loss - 2, 18, right)(new, new - 2, 18)
            errors[penalty].append(log_loss(is_right, weights))
    assert np.mean(errors[0.3]) < 0.4
    assert np.mean(errors[0.3]) < 0.7 * np.mean(errors[0.0])


def test_inputs_outside_the_grid_are_clipped(learnt):
    inside = learnt([30.0, 0.0], [5.0, -5.0], 18)
    assert torch.equal(learnt([1e6, -1.0], [1e6, -1e6], 18), inside)
    assert learnt.progress_range_ == (18, 18)
    assert torch.equal(learnt([2.0], [0.5], 97), learnt([2.0], [0.5], 18))
    assert torch.equal(learnt([2.0], [0.5], 0), learnt([2.0], [0.5], 18))


def test_weights_carry_no_gradient(learnt):
    loss = torch.tensor([0.5, 3.0], requires_grad=True)
    weights = learnt(loss, loss - 1, 18)
    assert not weights.requires_grad
    assert ((weights >= 0) & (weights <= 1)).all()


def test_training_repeats_and_leaves_the_global_generator_alone():
    loss, right = losses_of(50, 0)
    before = torch.get_rng_state()
    a, b, c = (
        Mentor(n_steps=20, random_state=seed).fit(loss, loss - 1, 18, right)(loss, loss - 1, 18)
        for seed in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_anew_forgets_what_was_learnt():
    loss, right = losses_of(50, 0)
    mentor = Mentor(n_steps=50, random_state=0)
    other = mentor.fit(loss, loss - 1, 18, right)(loss, loss - 1, 18)
    mentor.fit(loss, loss - 1, 40, ~right)
    assert torch.equal(mentor.fit(loss, loss - 1, 18, right)(loss, loss - 1, 18), other)


def test_a_mentor_that_is_not_trained_says_so(tmp_path):
    assert repr(Mentor()) == "<Mentor: mlp, not trained>"
    with pytest.raises(NotFittedError, match="not trained"):
        Mentor()([1.0], [0.0], 18)
    with pytest.raises(NotFittedError, match="not trained"):
        Mentor().save(tmp_path / "mentor")
    assert not (tmp_path / "mentor").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [0.0], 18, [1, 0]), "same length"),
        (([], [], 18, []), "at least 1"),
        (([1.0, np.nan], [0.0, 0.0], 18, [1, 0]), "finite"),
        (([1.0, 2.0], [0.0, np.inf], 18, [1, 0]), "finite"),
        (([[1.0, 2.0]], [0.0, 1.0], 18, [1, 0]), "loss must have one axis"),
        (([1.0, 2.0], [0.0, 1.0], 100, [1, 0]), "progress must lie in 0"),
        (([1.0, 2.0], [0.0, 1.0], [0, -1], [1, 0]), "progress must lie in 0"),
        (([1.0, 2.0], [0.0, 1.0], 0.18, [1, 0]), "progress must be an integer"),
        (([1.0, 2.0], [0.0, 1.0], 18, [1, 2]), "weight must lie"),
        (([1.0, 2.0], [0.0, 1.0], 18, [1, np.nan]), "weight must lie"),
        (([1.0, 2.0], [0.0, 1.0], 18, [1]), "weight must hold 2"),
    ],
)
def test_bad_samples_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mentor(n_steps=1).fit(*arguments)


@pytest.mark.parametrize(
    "params",
    [
        {"architecture": "gru"},
        {"architecture": None},
        {"n_steps": 0},
        {"n_steps": 1.5},
        {"batch_size": 0},
        {"penalty": -1},
        {"penalty": np.nan},
    ],
)
def test_bad_parameters_are_refused(params):
    (name,) = params
    for train in (lambda m: m.fit([1.0, 2.0], [0.0, 1.0], 18, [1, 0]), lambda m: m.imitate()):
        with pytest.raises((ValueError, TypeError), match=name):
            train(Mentor(**params))


def too_large(loss, difference, progress):
    return 1 + loss


def not_one_each(loss, difference, progress):
    return loss.mean()


@pytest.mark.parametrize("rule", ["hard", torch.nn.Tanh, None, too_large, not_one_each])
def test_bad_rules_are_refused(rule):
    with pytest.raises((ValueError, TypeError), match="rule"):
        Mentor().imitate(rule)


# ---- as a parameter --------------------------------------------------------------------------


def test_parameters_are_got_and_set_by_name():
    mentor = Mentor("lstm", n_steps=7, penalty=0, random_state=3)
    names = set(inspect.signature(Mentor).parameters)
    assert set(mentor.get_params()) == set(mentor.get_params(deep=False)) == names
    again = Mentor(**mentor.get_params())
    assert again.get_params() == mentor.get_params()
    assert mentor.set_params(batch_size=5, n_steps=8) is mentor
    assert (mentor.batch_size, mentor.n_steps, mentor.penalty) == (5, 8, 0)
    with pytest.raises(ValueError, match="no parameter 'depth'"):
        mentor.set_params(n_steps=9, depth=2)
    assert mentor.n_steps == 8


def test_clones_keep_what_was_learnt(learnt):
    loss, _ = losses_of(20, 1)
    fresh = clone(Mentor(n_steps=7))
    assert (fresh.n_steps, fresh.is_trained) == (7, False)
    copied = clone(learnt)
    assert copied._module is not learnt._module
    assert torch.equal(copied(loss, loss - 1, 50), learnt(loss, loss - 1, 50))


def test_a_trained_mentor_refuses_what_would_have_no_effect(learnt):
    mentor = clone(learnt)
    for params in ({"n_steps": 3}, {"architecture": "lstm"}, {"penalty": 0.0}):
        (name,) = params
        with pytest.raises(ValueError, match=f"{name}=.* too late for a trained Mentor"):
            mentor.set_params(**params)
    assert mentor.set_params(**learnt.get_params()).is_trained
    assert mentor.set_params(random_state=5).random_state == 5


# ---- file ------------------------------------------------------------------------------------


@both
def test_saved_mentor_comes_back_bit_for_bit(architecture, tmp_path):
    loss, right = losses_of(60, 0)
    mentor = Mentor(architecture, n_steps=30, random_state=0).fit(loss, loss - 1, 21, right)
    mentor.save(tmp_path / "mentor.json")
    loaded = Mentor.load(str(tmp_path / "mentor.json"))
    for other in (loaded, copy.deepcopy(mentor), pickle.loads(pickle.dumps(mentor))):
        assert torch.equal(other(loss, loss - 1, 50), mentor(loss, loss - 1, 50))
        assert other.progress_range_ == (21, 21)
        assert other.error_ == mentor.error_
        assert repr(other) == f"<Mentor: {architecture}>"


@pytest.mark.parametrize("content", [b"", b"\x80\x04}.", b"PK\x03\x04", b"[1, 2]", b'{"a": 1}'])
def test_a_file_that_holds_no_mentor_is_refused(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="file' is no file of a mentor"):
        Mentor.load(tmp_path / "file")


def test_nothing_in_a_pickle_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    (tmp_path / "file").write_bytes(pickle.dumps(Trap()))
    torch.save({"weights": Trap()}, tmp_path / "file2")
    for name in ("file", "file2"):
        with pytest.raises(ValueError, match="no file of a mentor"):
            Mentor.load(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        Mentor.load(tmp_path / "none")


def changed(path, **entries):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | entries))
    return path


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_of_the_format_is_refused(version, learnt, tmp_path):
    learnt.save(tmp_path / "file")
    with pytest.raises(ValueError, match=f"version {version!r}.*reads version 1"):
        Mentor.load(changed(tmp_path / "file", version=version))


@pytest.mark.parametrize(
    "entries",
    [
        {"architecture": "lstm"},
        {"architecture": "gru"},
        {"weights": {}},
        {"weights": [1.0]},
        {"weights": {"hidden": "a"}},
        {"progress_range": [18]},
        {"progress_range": [18, 100]},
        {"progress_range": None},
        {"error": None},
    ],
)
def test_a_damaged_file_is_refused(entries, learnt, tmp_path):
    learnt.save(tmp_path / "file")
    with pytest.raises(ValueError, match="damaged"):
        Mentor.load(changed(tmp_path / "file", **entries))


def test_weights_that_are_not_finite_are_refused(learnt, tmp_path):
    learnt.save(tmp_path / "file")
    content = json.loads((tmp_path / "file").read_text())
    content["weights"]["out_bias"] = [float("nan")]
    with pytest.raises(ValueError, match="damaged"):
        Mentor.load(changed(tmp_path / "file", weights=content["weights"]))


# ---- what it learns from -----------------------------------------------------------------------


@pytest.mark.parametrize(("n", "rate", "n_wrong"), [(100, 0.4, 40), (5, 0.0, 1), (5, 1.0, 4)])
def test_wrong_labels_are_of_other_classes(n, rate, n_wrong):
    y = torch.arange(n) % 5
    noisy = with_wrong_labels(y, rate, 5, np.random.default_rng(0))
    assert (noisy != y).sum() == n_wrong
    assert ((noisy >= 0) & (noisy < 5)).all()
    assert torch.equal(y, torch.arange(n) % 5)


def test_wrong_labels_are_uniform():
    y = torch.zeros(9000, dtype=torch.int64)
    noisy = with_wrong_labels(y, 0.9, 4, np.random.default_rng(0))
    assert noisy.bincount().tolist() == pytest.approx([900, 2700, 2700, 2700], rel=0.1)


@pytest.mark.parametrize("y", [[0, 1, 2], [1, 2, 0]])
def test_a_lesson_needs_right_and_wrong_labels(y):
    with pytest.raises(ValueError, match="all 3 trusted rows are"):
        Lesson(torch.arange(3), torch.tensor(y), torch.tensor([0, 1, 2]))


def test_one_row_or_one_class_makes_no_lesson():
    rng = np.random.default_rng(0)
    for y, n_classes in ((torch.zeros(1, dtype=torch.int64), 3), (torch.zeros(9).long(), 1)):
        with pytest.raises(ValueError, match="right"):
            Lesson(torch.arange(len(y)), with_wrong_labels(y, 0.4, n_classes, rng), y)
