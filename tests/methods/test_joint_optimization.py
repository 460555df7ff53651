"""Joint optimisation: its penalties, the ring of predictions, and its two steps."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs, make_classification
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import Subset

from noisyfit import CrossEntropyClassifier, Network
from noisyfit.losses import soft_cross_entropy
from noisyfit.methods.joint_optimization import (
    JointOptimizationClassifier,
    balance_loss,
    entropy_loss,
    mean_of_slots,
    momentum_for,
    rows_to_balance,
    running_mean,
)
from noisyfit.noise import sym_incl
from noisyfit.schedules import Step

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)
P = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
UNIFORM = torch.full((3,), 1 / 3)


def test_the_loss_has_the_published_value():
    logits = P.log()
    labels = torch.eye(3)[[0, 2]]
    parts = (
        soft_cross_entropy(logits, labels).mean(),
        balance_loss(P.mean(0), UNIFORM),
        entropy_loss(logits),
    )
    assert [part.item() for part in parts] == pytest.approx(
        [1.329630, 0.205395, 0.720425], abs=2e-6
    )
    total = parts[0] + 1.2 * parts[1] + 0.8 * parts[2]
    assert total.item() == pytest.approx(2.152445, abs=2e-6)


def test_penalties_vanish_where_they_should():
    mean = UNIFORM.clone().requires_grad_()
    balance_loss(mean.log().softmax(0), UNIFORM).backward()
    assert mean.grad.abs().max() < 1e-6
    assert entropy_loss(torch.eye(3) * 200).item() == 0
    assert entropy_loss(torch.zeros(2, 5)).item() == pytest.approx(np.log(5))
    assert torch.isfinite(balance_loss(torch.tensor([1.0, 0.0, 0.0]), UNIFORM))


def test_earlier_batches_enter_the_value_but_not_the_gradient():
    mean = torch.tensor([0.5, 0.5], requires_grad=True)
    mixed = running_mean(mean, torch.tensor([0.1, 0.9]), 0.75)
    assert mixed.tolist() == pytest.approx([0.2, 0.8])
    mixed[0].backward()
    assert mean.grad.tolist() == [1, 0]


def test_a_batch_counts_alone_if_it_holds_two_rows_of_the_rarest_class():
    assert rows_to_balance(torch.full((10,), 0.1), 1000) == pytest.approx(20)
    assert rows_to_balance(torch.tensor([0.0, 0.01, 0.99]), 1000) == pytest.approx(200)
    assert rows_to_balance(torch.tensor([0.01, 0.99]), 120) == 120
    assert [momentum_for(n, 20) for n in (5, 20, 64)] == [0.75, 0, 0]


def test_rounded_slots_average_to_distributions():
    rng = np.random.default_rng(0)
    slots = rng.dirichlet(np.ones(7), (4, 20))
    ring = torch.tensor(slots).half()
    mean = mean_of_slots(ring, 3)
    np.testing.assert_allclose(mean.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(mean, slots[:3].mean(0), atol=1e-3)


class Cycling(nn.Module):
    """Predicts class 0, 1, 2, 0, ... for all rows, one after the other in training passes."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(n_classes))
        self.n_passes = 0

    def forward(self, x):
        logits = 0 * self.bias.expand(len(x), -1)
        if self.training:
            logits = logits + 200 * torch.eye(3)[self.n_passes % 3]
            self.n_passes += 1
        return logits


class Recorded(JointOptimizationClassifier):
    def _begin(self, run):
        super()._begin(run)
        self.targets = [run.memory.target]

    def _end_epoch(self, run, epoch):
        super()._end_epoch(run, epoch)
        self.targets.append(run.memory.target)


@pytest.mark.parametrize("ring_dtype", ["float32", "float16"])
def test_labels_are_the_mean_of_the_last_predictions_from_the_warm_up_on(ring_dtype):
    net = Network(Cycling, max_epochs=12, batch_size=90)
    clf = Recorded(net, warmup=5, window=10, retrain=False, ring_dtype=ring_dtype).fit(X, Y)
    for count, target in enumerate(clf.targets):
        expected = np.eye(3)[Y]
        if count >= 5:
            expected = np.eye(3)[np.arange(max(0, count - 10), count) % 3].mean(0)[None]
        np.testing.assert_allclose(target, np.broadcast_to(expected, (90, 3)), atol=1e-6)
    np.testing.assert_array_equal(clf.refined_proba_, clf.targets[-1])
    np.testing.assert_allclose(clf.clean_proba_, clf.refined_proba_[np.arange(90), Y])


def test_hard_labels_are_the_arg_max_and_leave_the_evidence_soft():
    net = Network(Cycling, max_epochs=4, batch_size=90)
    clf = Recorded(net, warmup=1, window=4, retrain=False, soft_labels=False).fit(X, Y)
    np.testing.assert_array_equal(clf.targets[-1], np.eye(3)[np.zeros(90, int)])
    np.testing.assert_allclose(clf.refined_proba_[0], [0.5, 0.25, 0.25])


def test_without_penalties_and_new_labels_it_is_plain_training_bit_for_bit():
    net = Network(max_epochs=5, lr_schedule="constant", batch_size=32)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, Y).predict_proba(X)
    joint = JointOptimizationClassifier(
        net, alpha=0, beta=0, warmup=5, retrain=False, random_state=0
    ).fit(X, Y)
    np.testing.assert_array_equal(joint.predict_proba(X), plain)


def test_published_rates_and_stages_can_be_expressed():
    net = Network(lr=0.2, lr_schedule=Step([2, 4]), max_epochs=9)
    clf = JointOptimizationClassifier(net, lr_factor=0.4, warmup=1, relabel_until=3).fit(X, Y)
    rates = [row["lr"] for row in clf.history_]
    assert rates == pytest.approx([0.08] * 3 + [0.2] * 2 + [0.02] * 2 + [0.002] * 2)


def test_the_second_step_trains_a_fresh_network_on_labels_that_stand_still():
    starts, targets = [], []

    class Spy(JointOptimizationClassifier):
        def _loss(self, run, batch, t):
            if t in (0, 3):
                starts.append([p.detach().clone() for p in run.learners[0].module.parameters()])
                assert not run.learners[0].optimizers[0].state
            if t >= 3:
                targets.append(run.memory.target)
            return super()._loss(run, batch, t)

    clf = Spy(Network(max_epochs=6), relabel_until=3, retrain=True, random_state=0).fit(X, Y)
    for first, second in zip(*starts, strict=True):
        torch.testing.assert_close(first, second)
    assert all(target is targets[0] for target in targets)
    assert (clf.dynamics_["n_seen"] == 6).all()


def test_the_second_step_is_cross_entropy_with_the_refined_labels_and_nothing_else():
    noisy, seen = sym_incl(Y, 0.4, random_state=0).y, []

    class Spy(JointOptimizationClassifier):
        def _loss(self, run, batch, t):
            loss = super()._loss(run, batch, t)
            if t >= 3:
                logits = run.learners[0](run.view(batch.x)).detach()
                seen.append((loss.item(), logits, batch.index))
            return loss

    clf = Spy(
        Network(max_epochs=6), alpha=1.2, beta=0.8, warmup=1, relabel_until=3, random_state=0
    ).fit(X, noisy)
    refined = torch.tensor(clf.refined_proba_)
    assert (refined - torch.eye(3)[noisy]).abs().max() > 0.1
    for loss, logits, index in seen:
        expected = -(refined[index] * logits.log_softmax(1)).sum() / len(index)
        assert loss == pytest.approx(expected.item(), rel=1e-4)


def test_stages_follow_from_the_number_of_epochs():
    def first_step(X, **params):
        clf = JointOptimizationClassifier(Network(max_epochs=20), **params)
        return clf.fit(X, Y)._relabel_epochs_

    wide = np.tile(X, (1, 2))
    assert first_step(wide) == 10
    assert first_step(wide, retrain=False) == 20
    assert first_step(X) == 20  # ten epochs of two steps do not fit a network in four columns
    assert first_step(X, retrain=True) == 10


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"relabel_until": 5}, ValueError, "relabel_until=5"),
        ({"warmup": 3, "relabel_until": 2}, ValueError, "warmup=3"),
        ({"relabel_until": 2, "retrain": False}, ValueError, "retrain=False"),
        ({"relabel_until": 0}, ValueError, "relabel_until"),
        ({"warmup": 1.5}, TypeError, "warmup"),
        ({"window": 0}, ValueError, "window"),
        ({"alpha": -1}, ValueError, "alpha"),
        ({"beta": "high"}, TypeError, "beta"),
        ({"lr_factor": 0}, ValueError, "lr_factor"),
        ({"prior_momentum": 1}, ValueError, "prior_momentum"),
        ({"retrain": "yes"}, TypeError, "retrain"),
        ({"class_prior": "uniform"}, ValueError, "class_prior"),
        ({"class_prior": [0.5, 0.6, 0.1]}, ValueError, "class_prior"),
        ({"ring_dtype": "int8"}, ValueError, "ring_dtype"),
    ],
)
def test_bad_parameters_are_refused_before_training(params, error, match):
    with pytest.raises(error, match=match):
        JointOptimizationClassifier(Network(max_epochs=4), **params).fit(X, Y)


def test_the_prior_is_that_of_the_given_labels_equal_or_the_callers_own():
    y = np.r_[np.zeros(60, int), np.arange(1, 3).repeat(15)]
    seen = {}

    class Spy(JointOptimizationClassifier):
        def _end_epoch(self, run, epoch):
            seen[str(self.class_prior)] = run.memory.prior.tolist()

    for prior in ("given", None, [0.2, 0.3, 0.5]):
        Spy(Network(max_epochs=1), class_prior=prior).fit(X, y)
    assert seen["given"] == pytest.approx([2 / 3, 1 / 6, 1 / 6])
    assert seen["None"] == pytest.approx([1 / 3] * 3)
    assert seen["[0.2, 0.3, 0.5]"] == pytest.approx([0.2, 0.3, 0.5])


def test_the_class_balance_keeps_all_classes():
    X, y = make_blobs(400, centers=8, n_features=8, cluster_std=6.0, random_state=1)
    noisy = sym_incl(y, 0.7, random_state=0)
    net = Network(max_epochs=30, lr=0.3, lr_schedule="constant")
    n_classes = {}
    for alpha in (0.0, 1.2):
        clf = JointOptimizationClassifier(
            net, alpha=alpha, beta=2.0, warmup=3, retrain=False, random_state=0
        ).fit(X, noisy.y)
        n_classes[alpha] = len(np.unique(clf.refined_labels_))
    assert n_classes[1.2] == 8
    assert n_classes[0.0] < 8


def test_batches_with_few_rows_per_class_are_balanced_together():
    X, y = make_blobs(1000, n_features=20, centers=100, cluster_std=3.0, random_state=0)
    noisy = sym_incl(y, 0.4, random_state=0)
    net = Network(max_epochs=30, batch_size=32)
    right = {}
    for momentum in (0.0, "auto"):
        clf = JointOptimizationClassifier(net, prior_momentum=momentum, random_state=0)
        right[momentum] = (clf.fit(X, noisy.y).refined_labels_ == y).mean()
    assert right["auto"] > 0.9
    assert right["auto"] > right[0.0] + 0.05


def test_refined_labels_repair_most_wrong_ones(digits):
    images, y = digits
    noisy = sym_incl(y, 0.4, random_state=0)
    clf = JointOptimizationClassifier(random_state=0).fit(images.reshape(-1, 64), noisy.y)
    assert (clf.refined_labels_ == y).mean() > (noisy.y == y).mean() + 0.2
    np.testing.assert_allclose(clf.refined_proba_.sum(1), 1, atol=1e-5)


def test_a_rare_class_is_learnt_before_labels_are_replaced():
    """100 rows, 5 of the rarest class: plain training knows it after 67 steps, two an epoch."""
    X, y = make_classification(
        3100,
        10,
        n_informative=6,
        n_redundant=0,
        n_classes=3,
        n_clusters_per_class=1,
        weights=[0.75, 0.2, 0.05],
        flip_y=0,
        random_state=0,
    )
    X, test, y, y_test = train_test_split(X, y, train_size=100, stratify=y, random_state=0)
    plain, by_default, early = (
        cls(random_state=0, **params).fit(X, y)
        for cls, params in (
            (CrossEntropyClassifier, {}),
            (JointOptimizationClassifier, {}),
            (JointOptimizationClassifier, {"warmup": 9, "retrain": True}),
        )
    )
    assert by_default._relabel_epochs_ == 50
    right = [
        balanced_accuracy_score(y_test, clf.predict(test)) for clf in (plain, by_default, early)
    ]
    assert right[1] > right[0] - 0.02
    assert right[1] > right[2] + 0.1


def test_classes_without_a_training_row_are_no_error():
    y = np.where(np.arange(90) == 0, 3, Y)
    net = Network(max_epochs=3, train_split=FirstHeldOut())
    JointOptimizationClassifier(net, random_state=0).fit(X, y)


class FirstHeldOut:
    def __call__(self, dataset, y=None, **kwargs):
        return Subset(dataset, range(10, 90)), Subset(dataset, range(10))
