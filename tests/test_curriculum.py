"""Weights of samples from their losses: the moving percentile, the curricula, scaled decay."""

import numpy as np
import pytest
import torch

from noisyfit import CrossEntropyClassifier, Network
from noisyfit._curriculum import (
    CURRICULA,
    DecayInLoss,
    MovingPercentile,
    curriculum_weights,
    hard_weights,
    linear_weights,
)

DIFFERENCE = torch.tensor([-0.5, 0.0, 0.25, 1.5])


def test_moving_percentile_follows_its_recursion():
    threshold = MovingPercentile(0.3, decay=0.5, start=0.0)
    constant = torch.full((8,), 2.0)
    assert [threshold.update(constant).item() for _ in range(3)] == [1.0, 1.5, 1.75]
    assert threshold.value.item() == 1.75


@pytest.mark.parametrize("share", [0.0, 0.25, 0.7, 1.0])
def test_moving_percentile_is_numpys_written_out(share):
    rng = np.random.default_rng(0)
    threshold, expected = MovingPercentile(share, decay=0.8), None
    for size in (7, 1, 32):
        losses = rng.exponential(size=size).astype(np.float32)
        now = np.quantile(losses, share)
        expected = now if expected is None else 0.8 * expected + 0.2 * now
        assert threshold.update(torch.from_numpy(losses)).item() == pytest.approx(expected, 1e-6)


def test_moving_percentile_has_no_gradient():
    losses = torch.rand(8, requires_grad=True)
    assert not MovingPercentile(0.5).update(losses).requires_grad


def test_curricula_have_the_published_values():
    expected = {
        "hard": [1, 1, 0, 0],
        "linear": [1, 1, 0.75, 0],
        "hard_mining": [0, 1, 1, 1],
        "uniform": [1, 1, 1, 1],
    }
    assert set(expected) == set(CURRICULA)
    for name, weights in expected.items():
        assert curriculum_weights(name, DIFFERENCE).tolist() == weights
    assert curriculum_weights("linear", DIFFERENCE, 0.5).tolist() == [1, 1, 0.5, 0]
    assert linear_weights(DIFFERENCE, 3.0)[3] == 0.5


def test_equal_losses_are_all_selected():
    losses = torch.full((6,), 0.7)
    assert hard_weights(losses - MovingPercentile(0.2).update(losses)).tolist() == [1] * 6


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_selected_share_tends_to_the_percentile(share):
    generator = torch.Generator().manual_seed(0)
    threshold, selected = MovingPercentile(share), []
    for _ in range(400):
        losses = torch.rand(64, generator=generator) ** 3
        selected.append(hard_weights(losses - threshold.update(losses)).mean())
    assert torch.stack(selected).mean().item() == pytest.approx(share, abs=0.02)


X, Y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3


class DecayingInLoss(CrossEntropyClassifier):
    """Plain training with the weight decay in the loss, times `factor`."""

    def __init__(self, net=None, *, factor=1.0, random_state=0):
        super().__init__(net, random_state=random_state)
        self.factor = factor

    def _begin(self, run):
        self.decay = DecayInLoss(run.learners[0])

    def _loss(self, run, batch, t):
        return super()._loss(run, batch, t) + self.factor * self.decay()

    def _finish(self, run):
        self.decay.give_back()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_decay_in_the_loss_is_the_decay_of_the_optimiser(optimizer):
    def net(decay):
        options = {"optimizer": optimizer, "optimizer__weight_decay": decay}
        return Network(max_epochs=5, lr=0.01, **options)

    def proba(clf):
        return clf.fit(X, Y).predict_proba(X)

    of_optimizer = proba(CrossEntropyClassifier(net(0.1), random_state=0))
    np.testing.assert_allclose(proba(DecayingInLoss(net(0.1))), of_optimizer, atol=1e-4)
    halved = proba(DecayingInLoss(net(0.1), factor=0.5))
    of_half = proba(CrossEntropyClassifier(net(0.05), random_state=0))
    np.testing.assert_allclose(halved, of_half, atol=1e-4)
    assert np.abs(halved - of_optimizer).max() > 1e-3


def test_decay_is_given_back():
    clf = DecayingInLoss(Network(max_epochs=1, optimizer__weight_decay=0.1)).fit(X, Y)
    assert [g["weight_decay"] for g in clf.nets_[0].optimizer_.param_groups] == [0.1]


def test_no_decay_is_no_term():
    net = Network(max_epochs=2, optimizer__weight_decay=0.0)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, Y).predict_proba(X)
    np.testing.assert_array_equal(DecayingInLoss(net).fit(X, Y).predict_proba(X), plain)
