"""Steps taken on paper: gradients through them, buffers left alone, learning to reweight."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from noisyfit import Network
from noisyfit._learner import Learner
from noisyfit._lookahead import LookAhead

CPU = torch.device("cpu")


def learner_of(module):
    net = Network(module, device="cpu").initialize()
    return Learner(net, CPU, torch.Generator().manual_seed(0))


def bent():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2))


def batch(n=6):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, generator=generator), torch.arange(n) % 2


@pytest.mark.parametrize("second_order", [True, False])
def test_the_gradient_through_a_step_is_that_of_differences(second_order):
    torch.manual_seed(0)
    learner = learner_of(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double())
    learner.forward = lambda module, x: module(x)  # in double precision
    look = LookAhead(learner)
    x, y = batch()
    x = x.double()
    lr = 0.7

    def after_a_step():
        loss = functional.cross_entropy(look(x, look.parameters), 1 - y)
        ahead = look.step(look.gradient(loss, second_order), lr)
        return functional.cross_entropy(look(x, ahead), y)

    learner.zero_grad()
    after_a_step().backward()
    weight = learner.module[0].weight
    got, differences = weight.grad[1, 2].item(), []
    for shift in (1e-5, -1e-5):
        with torch.no_grad():
            weight[1, 2] += shift
        differences.append(after_a_step().item())
        with torch.no_grad():
            weight[1, 2] -= shift
    expected = (differences[0] - differences[1]) / 2e-5
    assert (abs(got - expected) < 1e-4 * abs(expected)) is second_order


def test_passes_leave_the_buffers_alone_and_use_the_batch():
    learner = learner_of(bent())
    look = LookAhead(learner)
    x, _ = batch()
    before = {name: b.clone() for name, b in learner.module.named_buffers()}
    logits = look(x, look.parameters)
    for name, buffer in learner.module.named_buffers():
        assert torch.equal(buffer, before[name])
    torch.testing.assert_close(logits, learner(x))
    assert not torch.equal(learner.module[1].running_mean, before["1.running_mean"])


def test_two_passes_can_be_differentiated_together():
    learner = learner_of(bent())
    look = LookAhead(learner)
    x, y = batch()
    losses = [functional.cross_entropy(look(x, look.parameters), t) for t in (y, 1 - y)]
    first = look.gradient(losses[0])
    both = look.gradient(losses[0] + losses[1])
    second = look.gradient(losses[1])
    for name, g in both.items():
        torch.testing.assert_close(g, first[name] + second[name])


def test_unused_and_frozen_parameters():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)
            self.used.bias.requires_grad_(False)

        def forward(self, x):
            return self.used(x)

    look = LookAhead(learner_of(Odd()))
    x, y = batch()
    gradient = look.gradient(functional.cross_entropy(look(x, look.parameters), y))
    assert set(gradient) == {"used.weight", "unused.weight", "unused.bias"}
    assert not gradient["unused.weight"].any()


def test_learning_to_reweight_in_one_forward_pass():
    """Ren et al., ICML 2018: how much a step on each noisy sample would help a clean one."""
    module = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(module.weight)
    look = LookAhead(learner_of(module))
    clean = functional.cross_entropy(
        look(torch.tensor([[1.0, 0.0]]), look.parameters), torch.tensor([1])
    )
    direction = look.gradient(clean)
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    y = torch.tensor([1, 0, 1, 1])

    def losses(parameters):
        return functional.cross_entropy(look(x, parameters), y, reduction="none")

    value, u = look.along(losses, direction)
    torch.testing.assert_close(value, losses(look.parameters).detach())
    # a softmax over two classes has twice the gradient of the logistic toy, in both factors
    torch.testing.assert_close(u / 2, torch.tensor([0.25, -0.25, 0.0, 0.5]))
    weights = u.clamp_min(0) / u.clamp_min(0).sum()
    torch.testing.assert_close(weights, torch.tensor([1 / 3, 0, 0, 2 / 3]))
    steps = [look.gradient(loss) for loss in losses(look.parameters)]
    by_hand = [sum((g[k] * direction[k]).sum() for k in g) for g in steps]
    torch.testing.assert_close(u, torch.stack(by_hand))


def test_modules_that_hide_their_weights_are_refused():
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)
            self.cached = [self.linear.weight]

        def forward(self, x):
            return x @ self.cached[0].T

    x, _ = batch()
    with pytest.raises(ValueError, match="Cached does not compute its output"):
        LookAhead(learner_of(Cached())).check(x)
    LookAhead(learner_of(bent())).check(x)
    weight_norm = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    LookAhead(learner_of(weight_norm)).check(x)


def test_a_network_that_starts_at_zero_is_not_refused():
    module = nn.Linear(3, 2)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    LookAhead(learner_of(module)).check(batch()[0])


def test_a_check_of_second_derivatives_leaves_no_gradient_and_finds_who_has_none():
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return 2 * g * ctx.saved_tensors[0]

    class Once(nn.Linear):
        def forward(self, x):
            return Square.apply(super().forward(x))

    x, _ = batch()
    learner = learner_of(bent())
    buffers = [b.clone() for b in learner.module.buffers()]
    LookAhead(learner).check(x, second_order=True)
    assert learner.module.training
    assert all(p.grad is None for p in learner.module.parameters())
    for before, after in zip(buffers, learner.module.buffers(), strict=True):
        assert torch.equal(before, after)
    once = LookAhead(learner_of(Once(3, 2)))
    once.check(x)
    with pytest.raises(ValueError, match=r"Once cannot be differentiated twice .* second_order"):
        once.check(x, second_order=True)


def test_compiled_networks_are_refused():
    net = Network(bent(), device="cpu", compile=True, compile__backend="eager").initialize()
    with pytest.raises(ValueError, match="compile=True"):
        LookAhead(Learner(net, CPU, torch.Generator())).check(batch()[0])
