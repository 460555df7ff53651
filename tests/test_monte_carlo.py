"""Monte-Carlo dropout: passes against loops over masks, entropies, and where masks come from."""

import copy
import math
import pickle
from threading import Thread

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.nn import functional as F

from noisyfit import _monte_carlo
from noisyfit._monte_carlo import (
    MonteCarloLinear,
    MonteCarloNetwork,
    behind_dropout,
    log_mean,
    monte_carlo_part,
    mutual_information,
    normalized_entropy,
    shared_mask,
    showing_entropy,
    without_masks,
)
from noisyfit._random import seed_dropout, unseed_dropout
from noisyfit.modules import MLP, PreActResNet18, SmallCNN


class Channels(nn.Sequential):
    """Drops whole channels, and overwrites its input."""

    def __init__(self):
        super().__init__(
            *(nn.LeakyReLU(0.5, inplace=True), nn.Conv2d(2, 6, 3), nn.Dropout2d(0.1)),
            *(nn.Flatten(), nn.Linear(96, 3)),
        )


MODULES = {
    "MLP": (lambda: MLP(6, 3, hidden=(16, 16), dropout=0.1), (6,)),
    "SmallCNN": (lambda: SmallCNN((1, 8, 8), 3, dropout=0.1), (1, 8, 8)),
    "PreActResNet18": (lambda: PreActResNet18(1, 3, width=4, dropout=0.1), (1, 8, 8)),
    "Channels": (Channels, (2, 6, 6)),
}
POSITIONS = pytest.mark.parametrize("position", ["head", "blocks"])
every_module = pytest.mark.parametrize("name", MODULES)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(name="MLP", n=5):
    """(module in evaluation mode, whose logits are neither small nor large; batch of rows)."""
    make, shape = MODULES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = make().eval()
    x = torch.randn(n, *shape, generator=seeded())
    *_, head = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        head.weight.mul_(1.5 / module(x.clone()).std())
    return module, x


def bayesian(name="MLP", position="head", p=0.5, n_passes=4, seed=11):
    module, x = build(name)
    network = behind_dropout(module, x.clone(), position, p, n_passes)
    monte_carlo_part(network).seed = seed
    return network.eval(), x


def with_entropy(network, x):
    with torch.no_grad(), showing_entropy():
        return network(x.clone())


def masked_head(module, x, p, n_passes, seed):
    """Logits (n, n_passes, n_classes) of a loop over masks before the last linear layer."""
    *_, head = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    seen = []
    handle = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    module(x.clone())
    handle.remove()
    masks = shared_mask((n_passes, 1, head.in_features), p, seed, "cpu")
    return torch.stack([F.linear(seen[0] * mask, head.weight, head.bias) for mask in masks], 1)


def masked_blocks(module, x, p, n_passes, seed):
    """The same for masks at the module's own dropout layers, a seed for each."""
    layers = [m for m in module.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)]
    passes, seeds = [], iter(range(seed, seed + n_passes * len(layers)))

    def masked(layer, args, out):
        channels = isinstance(layer, nn.Dropout2d)
        shape = (1, out.shape[1], 1, 1) if channels else (1, *out.shape[1:])
        return out * shared_mask(shape, p, next(seeds), "cpu")

    handles = [layer.register_forward_hook(masked) for layer in layers]
    for _ in range(n_passes):
        passes.append(module(x.clone()))
    for handle in handles:
        handle.remove()
    assert next(seeds, None) is None
    return torch.stack(passes, 1)


# ---- entropies -------------------------------------------------------------------------------


def test_normalized_entropy_is_the_entropy_over_its_largest_value():
    p = torch.rand(50, 7, generator=seeded()).softmax(1) ** 3
    p /= p.sum(1, keepdim=True)
    expected = [-sum(v * math.log(v) for v in row) / math.log(7) for row in p.tolist()]
    assert_allclose(normalized_entropy(p), expected, rtol=1e-5)
    assert normalized_entropy(torch.full((1, 10), 0.1)).item() == pytest.approx(1)
    assert normalized_entropy(torch.eye(10)).tolist() == [0] * 10


@pytest.mark.parametrize("n_classes", [2, 10, 1000])
def test_normalized_entropy_stays_in_the_unit_interval(n_classes):
    z = 30 * torch.randn(200, n_classes, generator=seeded())
    p = torch.cat([z.softmax(1), torch.full((1, n_classes), 1 / n_classes)])
    h = normalized_entropy(p)
    assert h.isfinite().all()
    assert h.min() >= 0
    assert h.max() <= 1


def test_one_class_leaves_nothing_unsure():
    assert normalized_entropy(torch.ones(3, 2, 1)).tolist() == [[0, 0]] * 3


def test_log_mean_is_the_logarithm_of_the_mean_distribution():
    z = 5 * torch.randn(8, 6, 4, generator=seeded())
    assert_allclose(log_mean(z), z.softmax(2).mean(1).log(), rtol=1e-4, atol=1e-5)
    assert log_mean(torch.tensor([[[0.0, -500.0]]])).tolist() == [[0, -500]]  # no log of zero


def test_mutual_information_is_never_negative():
    of_mean, of_each = torch.tensor([0.5, 0.2]), torch.tensor([0.4, 0.2 + 1e-6])
    assert_allclose(mutual_information(of_mean, of_each), [0.1, 0], atol=1e-7)


# ---- passes ----------------------------------------------------------------------------------


def test_masks_keep_the_share_and_the_mean_and_come_from_the_seed():
    before = torch.get_rng_state()
    mask = shared_mask((100, 100), 0.2, 5, "cpu")
    assert torch.equal(mask, shared_mask((100, 100), 0.2, 5, "cpu"))
    assert not torch.equal(mask, shared_mask((100, 100), 0.2, 6, "cpu"))
    assert sorted(mask.unique().tolist()) == pytest.approx([0, 1.25])
    assert (mask == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert torch.equal(torch.get_rng_state(), before)


@POSITIONS
@every_module
def test_passes_equal_the_loop_over_masks(name, position):
    network, x = bayesian(name, position)
    loop = {"head": masked_head, "blocks": masked_blocks}[position]
    with torch.no_grad():
        logits = loop(build(name)[0], x, 0.5, 4, 11)
        log_p = network(x.clone())
    p = logits.softmax(2).double().numpy()
    assert np.ptp(p, axis=1).max() > 0.01  # the passes differ
    assert_allclose(log_p.exp(), p.mean(1), atol=1e-5)
    assert_allclose(log_p.exp().sum(1), 1, rtol=1e-5)
    shown = with_entropy(network, x)
    entropy = -(p * np.log(p)).sum(2).mean(1) / math.log(3)
    assert shown.shape == (5, 4)
    assert torch.equal(shown[:, :3], log_p)
    assert_allclose(shown[:, 3], entropy, atol=1e-5)
    of_mean = normalized_entropy(shown[:, :3].exp())
    assert (of_mean - shown[:, 3]).min() > 0  # the passes disagree on every row


@POSITIONS
def test_a_layer_without_bias_passes_too(position):
    module = nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 3, bias=False)).eval()
    x = torch.randn(5, 6, generator=seeded())
    loop = {"head": masked_head, "blocks": masked_blocks}[position]
    with torch.no_grad():
        expected = log_mean(loop(module, x, 0.5, 6, 0))
        assert_allclose(behind_dropout(module, x, position, 0.5, 6).eval()(x), expected, atol=1e-6)


@POSITIONS
@every_module
def test_a_prediction_does_not_depend_on_the_rest_of_its_batch(name, position):
    network, x = bayesian(name, position)
    with torch.no_grad():
        whole = network(x.clone())
        alone = torch.cat([network(row[None].clone()) for row in x])
        turned = network(x.flip(0)).flip(0)
    assert_allclose(alone, whole, atol=1e-5)
    assert_allclose(turned, whole, atol=1e-5)


@pytest.mark.parametrize(("position", "n"), [("head", 1), ("blocks", 4 * 2)])
def test_every_mask_has_a_seed_of_its_own(position, n, monkeypatch):
    network, x = bayesian("MLP", position)
    seeds = []

    def spy(shape, p, seed, device):
        seeds.append(seed)
        return shared_mask(shape, p, seed, device)

    monkeypatch.setattr(_monte_carlo, "shared_mask", spy)
    network(x)
    assert len(seeds) == len(set(seeds)) == n


@POSITIONS
@every_module
def test_other_seeds_give_other_predictions_and_the_same_seed_the_same_bits(name, position):
    (a, x), (b, _), (c, _) = (bayesian(name, position, seed=seed) for seed in (3, 3, 400))
    with torch.no_grad():
        before = torch.get_rng_state()
        one = a(x.clone())
        assert torch.equal(one, a(x.clone()))
        assert torch.equal(one, b(x.clone()))
        assert not torch.equal(one, c(x.clone()))
        assert torch.equal(torch.get_rng_state(), before)


@POSITIONS
@every_module
def test_without_dropout_all_passes_are_the_plain_network(name, position):
    network, x = bayesian(name, position, p=0.0)
    plain, _ = build(name)
    shown = with_entropy(network, x)
    log_p = plain(x.clone()).detach().log_softmax(1)
    assert_allclose(shown[:, :3], log_p, atol=2e-6)
    assert_allclose(mutual_information(normalized_entropy(log_p.exp()), shown[:, 3]), 0, atol=1e-6)


@POSITIONS
@every_module
def test_a_network_that_does_not_average_is_deterministic(name, position):
    network, x = bayesian(name, position)
    plain, _ = build(name)
    monte_carlo_part(network).averages = False
    with torch.no_grad():
        assert torch.equal(network(x.clone()), plain(x.clone()))
        assert torch.equal(without_masks(network)(x.clone()), plain(x.clone()))
    assert with_entropy(network, x).shape == (5, 4)  # which asks for masks all the same


@pytest.mark.parametrize(("position", "n_forward"), [("head", 1), ("blocks", 4)])
def test_masks_before_the_head_cost_one_pass_together(position, n_forward):
    network, x = bayesian("SmallCNN", position)
    calls = []
    convolution = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    convolution.register_forward_hook(lambda *_: calls.append(1))
    network(x)
    assert len(calls) == n_forward


@POSITIONS
@every_module
def test_training_masks_are_of_each_row_and_from_the_generator(name, position):
    network, x = bayesian(name, position)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda layer, _: layer.eval() and None)
    network.train()
    same = x[:1].repeat(4, *[1] * (x.ndim - 1))
    before = torch.get_rng_state()
    outs = []
    with torch.no_grad():
        for seed in (0, 0, 1):
            seed_dropout(network, seeded(seed))
            outs.append(network(same.clone()))
            unseed_dropout(network)
        assert torch.equal(outs[0], outs[1])
        assert not torch.equal(outs[0], outs[2])
        assert all((outs[0][0] != row).any() for row in outs[0][1:])
        assert torch.equal(torch.get_rng_state(), before)


def test_the_rate_replaces_that_of_the_modules_own_layers_or_leaves_it():
    blocks, _ = bayesian("MLP", "blocks", p=0.4)
    assert [m.p for m in blocks.modules() if isinstance(m, nn.Dropout)] == [0.4, 0.4]
    head, _ = bayesian("MLP", "head", p=0.4)
    assert [m.p for m in head.modules() if isinstance(m, nn.Dropout)] == [0.1, 0.1, 0.4]


@POSITIONS
def test_parameters_are_those_of_the_module(position):
    module, x = build("MLP")
    before = {id(p) for p in module.parameters()}
    network = behind_dropout(module, x, position, 0.2, 3)
    assert {id(p) for p in network.parameters()} == before
    assert isinstance(network, MLP if position == "head" else MonteCarloNetwork)
    plain, _ = build("MLP")
    inner = without_masks(network)
    assert list(inner.state_dict()) == list(plain.state_dict())


def test_a_linear_model_is_its_own_last_layer():
    x = torch.randn(5, 6, generator=seeded())
    module = nn.Linear(6, 3)
    with torch.no_grad():
        expected = log_mean(masked_head(module, x, 0.3, 4, 0))
        network = behind_dropout(module, x, "head", 0.3, 4).eval()
        assert isinstance(network, MonteCarloLinear)
        assert_allclose(network(x), expected, atol=1e-6)


def test_a_module_without_dropout_layers_is_refused_at_its_blocks():
    module, x = nn.Sequential(nn.Linear(6, 3)), torch.zeros(2, 6)
    with pytest.raises(ValueError, match="needs a module with dropout layers; Sequential has none"):
        behind_dropout(module, x, "blocks", 0.2, 3)


class Doubled(nn.Linear):
    """Not what its parameters say."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("end", [nn.Tanh(), Doubled(3, 3)])
def test_a_module_that_does_not_end_in_a_linear_layer_is_refused_at_its_head(end):
    module = nn.Sequential(nn.Linear(6, 3), end)
    with pytest.raises(ValueError, match="Sequential does not end in one"):
        behind_dropout(module, torch.ones(2, 6), "head", 0.2, 3)


@POSITIONS
@every_module
def test_copies_answer_the_same(name, position):
    network, x = bayesian(name, position)
    with torch.no_grad():
        expected = network(x.clone())
        for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert torch.equal(other(x.clone()), expected)


@POSITIONS
def test_a_network_answers_two_threads_at_once(position):
    """In the middle of a pass another thread asks for the entropy, or for no masks."""
    network, x = bayesian("MLP", position)
    with torch.no_grad():
        expected, shown = network(x), with_entropy(network, x)
        plain = without_masks(network)(x)
    answers, started = [], []

    def ask():
        with torch.no_grad():
            answers.extend([with_entropy(network, x), network(x), without_masks(network)(x)])

    def interrupt(*_):
        if not started:
            started.append(Thread(target=ask))
            started[0].start()
            started[0].join()

    first = next(m for m in network.modules() if isinstance(m, nn.Linear))
    first.register_forward_hook(interrupt)
    with torch.no_grad():
        for show in (False, True):
            started.clear()
            answer = with_entropy(network, x) if show else network(x)
            assert torch.equal(answer, shown if show else expected)
    assert len(answers) == 6
    for answer, right in zip(answers, [shown, expected, plain] * 2, strict=True):
        assert torch.equal(answer, right)


def test_an_error_in_a_pass_leaves_no_masks_on():
    network, x = bayesian("MLP", "blocks")
    with torch.no_grad():
        plain = without_masks(network)(x)
        with pytest.raises(RuntimeError), showing_entropy():
            network(torch.zeros(2, 5))
        assert torch.equal(without_masks(network)(x), plain)
        assert network(x).shape == (5, 3)
