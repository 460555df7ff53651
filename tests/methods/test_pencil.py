"""PENCIL: its losses, the step of the labels, and its three stages."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from torch import nn

from noisyfit import CrossEntropyClassifier, Network
from noisyfit.methods.pencil import (
    PencilClassifier,
    classification_loss,
    code_label_lr,
    compatibility_loss,
    entropy_loss,
    initial_scale,
)
from noisyfit.noise import sym_incl
from noisyfit.schedules import Step

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)
F = torch.tensor([[0.7, 0.2, 0.1]])


def start():
    return torch.tensor([[0.0, 10.0, 0.0]], requires_grad=True)


@pytest.mark.parametrize(
    ("n_classes", "trust"), [(3, 0.9999092), (10, 0.9995916), (100, 0.9955255)]
)
def test_labels_start_near_the_given_class(n_classes, trust):
    u = initial_scale(n_classes) * torch.eye(n_classes)[0]
    assert u.softmax(0)[0].item() == pytest.approx(trust, abs=1e-6)
    assert u.softmax(0)[1].item() == pytest.approx((1 - trust) / (n_classes - 1), rel=1e-2)


def test_a_thousand_classes_start_as_trusted_as_ten():
    d = (initial_scale(1000) * torch.eye(1000)[0]).softmax(0)
    assert d[0].item() == pytest.approx(0.9995453, abs=1e-6)  # 0.9566 at 10


def test_the_divergence_has_the_published_value_and_gradient():
    u = start()
    loss = 3 * classification_loss(F.log(), u)
    assert loss.item() == pytest.approx(7.198272, abs=1e-5)
    loss.backward()
    assert u.grad[0].tolist() == pytest.approx([-0.699955, 0.799909, -0.099955], abs=1e-6)


def test_the_divergence_moves_logits_as_written_in_the_paper():
    logits = torch.randn(1, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    u = torch.tensor([[0.0, 3.0, 1.0, 0.0]])
    (4 * classification_loss(logits, u)).backward()
    f = logits.detach().softmax(1)
    h = f.log() - u.log_softmax(1)
    torch.testing.assert_close(logits.grad, f * (h - (f * h).sum()))


@pytest.mark.parametrize(
    ("double", "value", "gradient"),
    [
        (False, 9.07957e-5, [4.54e-5, -9.08e-5, 4.54e-5]),
        (True, 0.551502, [2.886e-5, -5.773e-5, 2.886e-5]),
    ],
)
def test_compatibility_of_the_paper_and_of_the_code(double, value, gradient):
    u = start()
    loss = compatibility_loss(u, torch.tensor([1]), double)
    assert loss.item() == pytest.approx(value, rel=1e-3)
    loss.backward()
    assert u.grad[0].tolist() == pytest.approx(gradient, rel=2e-3)


def test_entropy_is_averaged_over_the_classes():
    assert entropy_loss(F.log()).item() == pytest.approx(0.267273, abs=1e-6)


def test_a_step_per_sample_converts_to_the_published_lambda():
    assert code_label_lr(0.46875, 128, 10) == pytest.approx(600)


@pytest.mark.parametrize("label_lr", [0.3, 1.0])
def test_labels_converge_to_a_fixed_prediction(label_lr):
    u, divergence = start().detach(), []
    for _ in range(300):
        u.requires_grad_()
        loss = classification_loss(F.log(), u)
        loss.backward()
        u = (u - code_label_lr(label_lr, 1, 3) * u.grad).detach()
        divergence.append(loss.item())
    assert (np.diff(divergence) <= 1e-7).all()
    torch.testing.assert_close(u.softmax(1), F, rtol=1e-3, atol=1e-3)


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


@pytest.mark.parametrize(("loss_weight", "double"), [(1.0, False), (5.0, False), (5.0, True)])
def test_one_backward_pass_moves_network_and_labels(loss_weight, double):
    """A linear network, one batch of all rows, written out in loops."""
    net = Network(
        nn.Linear(4, 3),
        max_epochs=1,
        batch_size=90,
        lr=0.1,
        lr_schedule="constant",
        optimizer__momentum=0.0,
        optimizer__weight_decay=0.0,
        normalize=None,
    )
    params = {"alpha": 0.3, "beta": 0.7, "warmup": 0, "init_scale": 2.0, "random_state": 0}
    params["double_softmax"] = double
    clf = PencilClassifier(net, label_lr=0.5, loss_weight=loss_weight, **params).fit(X, Y)
    weight, bias = (p.detach().numpy().astype(float) for p in net.module.parameters())
    expected_u, grad = np.zeros((90, 3)), np.zeros(3)
    for i in range(90):
        f, g = softmax(weight @ X[i].astype(np.float32) + bias), np.eye(3)[Y[i]]
        d = softmax(2.0 * g)
        of_given = d - g
        if double:
            of_given = d * (softmax(d) - g - d @ (softmax(d) - g))
        expected_u[i] = 2.0 * g - 0.5 * ((d - f) + 3 * 0.3 * of_given)
        h, log_f = np.log(f) - np.log(d), np.log(f)
        grad += (f * (h - f @ h) - 0.7 * f * (log_f - f @ log_f)) / (90 * 3)
    np.testing.assert_allclose(clf.label_logits_, expected_u, atol=1e-5)
    moved = clf.nets_[0].module_.bias.detach().numpy()
    np.testing.assert_allclose(moved, bias - 0.1 * loss_weight * grad, atol=1e-6)
    np.testing.assert_allclose(clf.refined_proba_, [softmax(u) for u in expected_u], atol=1e-5)
    np.testing.assert_allclose(clf.clean_proba_, clf.refined_proba_[np.arange(90), Y])
    raw = PencilClassifier(net, label_lr=0.5 * 90 * 3, scale="code", **params).fit(X, Y)
    np.testing.assert_allclose(raw.label_logits_, expected_u, atol=1e-5)


def test_labels_move_in_the_second_stage_only_and_the_rates_are_the_published_ones():
    logits = []

    class Spy(PencilClassifier):
        def _end_epoch(self, run, epoch):
            super()._end_epoch(run, epoch)
            logits.append(run.memory.label_logits.clone())

    net = Network(lr=0.2, lr_schedule=Step([1, 2]), max_epochs=7)
    clf = Spy(net, warmup=2, correct_until=4, lr_factor=0.3, random_state=0).fit(X, Y)
    moved = [not torch.equal(a, b) for a, b in pairwise(logits)]
    assert moved == [False, True, True, False, False, False]
    assert torch.equal(logits[0], 10 * torch.eye(3)[torch.from_numpy(Y)])
    rates = [row["lr"] for row in clf.history_]
    assert rates == pytest.approx([0.06] * 4 + [0.2, 0.02, 0.002])
    assert (clf.dynamics_["n_seen"] == 7).all()


def test_the_last_stage_is_the_weighted_divergence_from_the_learnt_labels_alone():
    noisy, seen = sym_incl(Y, 0.4, random_state=0).y, []

    class Spy(PencilClassifier):
        def _loss(self, run, batch, t):
            loss = super()._loss(run, batch, t)
            if t >= 4:
                f = run.learners[0](run.view(batch.x)).detach().softmax(1)
                seen.append((loss.item(), f, batch.index))
            return loss

    net = Network(max_epochs=6)
    stages = {"warmup": 1, "correct_until": 4}
    clf = Spy(net, beta=0.7, loss_weight=5.0, **stages, random_state=0).fit(X, noisy)
    d = torch.tensor(clf.label_logits_).softmax(1)
    assert len(seen) == 4
    for loss, f, index in seen:
        expected = 5 * (f * (f.log() - d[index].log())).sum() / (3 * len(index))
        assert loss == pytest.approx(expected.item(), rel=1e-4)


def test_labels_that_stand_still_are_plain_training_up_to_chance():
    X, y = make_blobs(600, centers=4, n_features=8, cluster_std=3.0, random_state=0)
    net = Network(max_epochs=30)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X[:300], y[:300])
    with pytest.warns(UserWarning, match="label_lr=0"):
        still = PencilClassifier(net, alpha=0, beta=0, label_lr=0, random_state=0).fit(
            X[:300], y[:300]
        )
    assert still.score(X[300:], y[300:]) == pytest.approx(plain.score(X[300:], y[300:]), abs=0.02)
    assert still.clean_proba_ == pytest.approx(np.exp(10) / (np.exp(10) + 3), abs=1e-6)


def test_without_an_epoch_to_correct_the_evidence_is_the_history():
    net = Network(max_epochs=1)
    plain, pencil = (
        cls(net, random_state=0).fit(X, Y) for cls in (CrossEntropyClassifier, PencilClassifier)
    )
    np.testing.assert_array_equal(pencil.clean_proba_, plain.clean_proba_)
    np.testing.assert_array_equal(pencil.refined_proba_, plain.refined_proba_)


@pytest.mark.parametrize(
    ("max_epochs", "stages"), [(1, (1, 1)), (2, (1, 2)), (3, (1, 2)), (50, (11, 31))]
)
def test_stages_follow_from_the_number_of_epochs(max_epochs, stages):
    wide = np.tile(X, (1, 2))
    clf = PencilClassifier(Network(max_epochs=max_epochs), random_state=0).fit(wide, Y)
    assert clf._stages_ == stages


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"warmup": 5}, ValueError, "max_epochs"),
        ({"correct_until": 5}, ValueError, "max_epochs"),
        ({"warmup": 3, "correct_until": 2}, ValueError, "correct_until"),
        ({"warmup": -1}, ValueError, "warmup"),
        ({"correct_until": 2.5}, TypeError, "correct_until"),
        ({"alpha": -0.1}, ValueError, "alpha"),
        ({"beta": "auto"}, TypeError, "beta"),
        ({"label_lr": -1}, ValueError, "label_lr"),
        ({"scale": "batch"}, ValueError, "scale"),
        ({"scale": "code"}, ValueError, "label_lr"),
        ({"init_scale": 0}, ValueError, "init_scale"),
        ({"lr_factor": 0}, ValueError, "lr_factor"),
        ({"loss_weight": 0}, ValueError, "loss_weight"),
    ],
)
def test_bad_parameters_are_refused_before_training(params, error, match):
    with pytest.raises(error, match=match):
        PencilClassifier(Network(max_epochs=4), **params).fit(X, Y)


def test_noise_is_found_and_repaired(digits):
    images, y = digits
    table, test, y, y_test = images[:1347].reshape(-1, 64), images[1347:], y[:1347], y[1347:]
    noisy = sym_incl(y, 0.4, random_state=0)
    plain, clf = (
        cls(random_state=0).fit(table, noisy.y)
        for cls in (CrossEntropyClassifier, PencilClassifier)
    )
    test = test.reshape(-1, 64)
    assert clf.score(test, y_test) > plain.score(test, y_test) + 0.1
    assert (clf.refined_labels_ == y).mean() > (noisy.y == y).mean() + 0.2
    assert noisy.changed[clf.label_issues()].mean() > 0.9


def test_many_classes_are_relearnt():
    """The mean over the classes alone would leave the network hardly any gradient."""
    X, y = make_blobs(1000, n_features=20, centers=50, cluster_std=3.0, random_state=0)
    noisy = sym_incl(y, 0.4, random_state=0)
    clf = PencilClassifier(random_state=0).fit(X, noisy.y)
    assert (clf.refined_labels_ == y).mean() > 0.9


@pytest.mark.parametrize(
    ("shape", "max_epochs", "label_lr"),
    [
        ((30, 1, 8, 8), 40, 20 / 16),
        ((30, 1, 8, 8), 320, 0.47),
        ((30, 1, 8, 8), 5, 3),
        ((30, 9), 80, 60 / 31),
        ((30, 9), 320, 0.48),
    ],
)
def test_labels_travel_as_far_in_a_short_training(shape, max_epochs, label_lr):
    chosen = []

    class Untrained(PencilClassifier):
        def _begin(self, run):
            super()._begin(run)
            chosen.append(run.memory.label_lr)

        def _train_epoch(self, run, epoch):
            pass

    X = np.random.default_rng(0).normal(size=shape)
    Untrained(Network(max_epochs=max_epochs), random_state=0).fit(X, np.arange(30) % 3)
    assert chosen == [pytest.approx(label_lr, rel=1e-3)]
