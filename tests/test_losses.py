"""Losses and targets against plain loops, and the figures of their papers."""

import math

import numpy as np
import pytest
import torch

from noisyfit import losses

RNG = np.random.default_rng(0)


def softmax(row):
    e = [math.exp(v - max(row)) for v in row]
    return [v / sum(e) for v in e]


@pytest.mark.parametrize(("n", "c"), [(1, 2), (5, 3), (4, 10)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_losses_equal_plain_loops(n, c, dtype):
    z = torch.tensor(RNG.normal(size=(n, c)) * 3).to(dtype)
    q = torch.tensor(RNG.dirichlet(np.ones(c), n), dtype=torch.float32)
    y = torch.tensor(RNG.integers(0, c, n))
    p = [softmax(row) for row in z.tolist()]
    tol = {"rtol": 1e-4, "atol": 1e-5}
    expected = {
        "ce": [-math.log(p[i][y[i]]) for i in range(n)],
        "soft": [-sum(q[i, k].item() * math.log(p[i][k]) for k in range(c)) for i in range(n)],
        "l2": [sum((p[i][k] - q[i, k].item()) ** 2 for k in range(c)) / c for i in range(n)],
        "conf": [sum(v * math.log(v) for v in row) for row in p],
    }
    got = {
        "ce": losses.cross_entropy(z, y),
        "soft": losses.soft_cross_entropy(z, q),
        "l2": losses.squared_error(z, q),
        "conf": losses.confidence_penalty(z),
    }
    for name, values in expected.items():
        assert got[name].dtype == torch.float32
        np.testing.assert_allclose(got[name], values, **tol)
    mean = np.mean(p, axis=0)
    balance = sum(1 / c * math.log(1 / c / m) for m in mean)
    np.testing.assert_allclose(losses.class_balance_penalty(z), balance, **tol)


def test_sharpen_has_its_published_values_and_limits():
    p = torch.tensor([0.5, 0.3, 0.2])
    expected = torch.tensor([0.657895, 0.236842, 0.105263])
    torch.testing.assert_close(losses.sharpen(p, 0.5), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(losses.sharpen(p, 1.0), p)
    torch.testing.assert_close(losses.sharpen(p, 1e-3), torch.tensor([1.0, 0, 0]))
    tie = losses.sharpen(torch.tensor([0.4, 0.4, 0.2]), 1e-3)
    torch.testing.assert_close(tie, torch.tensor([0.5, 0.5, 0]))
    zeros = losses.sharpen(torch.eye(3), 0.5)
    torch.testing.assert_close(zeros, torch.eye(3))
    rows = losses.sharpen(torch.tensor(RNG.dirichlet(np.ones(7), 20)), 0.3).sum(1)
    torch.testing.assert_close(rows, torch.ones(20, dtype=torch.float64))


def test_penalties_have_their_published_values():
    assert losses.class_balance_penalty(torch.zeros(4, 10)) == pytest.approx(0, abs=1e-6)
    skewed = torch.tensor([[0.91] + [0.01] * 9]).log()
    assert losses.class_balance_penalty(skewed) == pytest.approx(1.8515, abs=1e-4)
    assert losses.confidence_penalty(torch.zeros(1, 10)) == pytest.approx(-math.log(10))
    prior = torch.tensor([0.91] + [0.01] * 9)
    assert losses.class_balance_penalty(skewed, prior) == pytest.approx(0, abs=1e-6)


def test_class_balance_pushes_the_smallest_class_up():
    z = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
    losses.class_balance_penalty(z).backward()
    assert z.grad.argmin() == 2
    assert z.grad[0, 2] < 0


@pytest.mark.parametrize(("c", "value"), [(10, 0.0900), (100, 0.0099)])
def test_squared_error_is_averaged_over_the_classes(c, value):
    one_hot = torch.eye(c)[:1]
    assert losses.squared_error(torch.zeros(1, c), one_hot).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "soft_cross_entropy", "squared_error"])
def test_losses_stay_finite_at_certainty(name):
    z = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    target = torch.tensor([0, 0]) if name == "cross_entropy" else torch.eye(2)[[0, 0]]
    loss = getattr(losses, name)(z, target)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(z.grad).all()


def test_gradients_agree_with_differences():
    z = torch.tensor(RNG.normal(size=(3, 4)), requires_grad=True)

    def total(z):  # float64 through the float32 loss needs coarse steps
        return losses.soft_cross_entropy(z, torch.full((3, 4), 0.25)).sum()

    total(z).backward()
    expected = z.detach().softmax(1) - 0.25
    torch.testing.assert_close(z.grad, expected, rtol=1e-4, atol=1e-5)
