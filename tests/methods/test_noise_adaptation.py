"""Noise adaptation: the channel, its start, and the layer that it reads."""

import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_blobs
from torch import nn

from noisyfit import CrossEntropyClassifier, Network
from noisyfit._head import inputs_of, last_linear
from noisyfit._transition import forward_corrected, log_transition
from noisyfit.methods.noise_adaptation import (
    NoiseAdaptationClassifier,
    allowed_entries,
    channel_given,
    symmetric_bias,
)
from noisyfit.modules import CNN9, MLP, PreActResNet18, SmallCNN, TorchvisionBackbone
from noisyfit.noise import pair

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)
CHANNELS = pytest.mark.parametrize("channel", ["simple", "complex"])


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def test_a_channel_that_is_the_log_of_a_matrix_is_forward_correction():
    rng = np.random.default_rng(0)
    matrix = rng.random((4, 4)) + 0.1
    matrix /= matrix.sum(1, keepdims=True)
    bias = torch.tensor(matrix, dtype=torch.float32).log()
    torch.testing.assert_close(bias.softmax(1), torch.tensor(matrix, dtype=torch.float32))
    y = torch.tensor([0, 1, 2, 3, 3])
    z = torch.tensor(rng.normal(size=(5, 4)), dtype=torch.float32)
    results = []
    for given in (channel_given(y, bias), log_transition(matrix, "cpu").t()[y]):
        logits = z.clone().requires_grad_()
        loss = forward_corrected(logits, given)
        loss.sum().backward()
        results.append((loss, logits.grad))
    for ours, forward in zip(*results, strict=True):
        torch.testing.assert_close(ours, forward, rtol=0, atol=1e-6)


def test_the_complex_channel_agrees_with_loops():
    rng = np.random.default_rng(1)
    n, k, d = 6, 3, 4
    bias, weight = rng.normal(size=(k, k)), rng.normal(size=(k, k, d))
    h, y = rng.normal(size=(n, d)), rng.integers(0, k, n)
    expected = np.zeros((n, k))
    for t in range(n):
        for i in range(k):
            scores = np.array([weight[i, j] @ h[t] + bias[i, j] for j in range(k)])
            expected[t, i] = np.log(softmax(scores)[y[t]])
    tensors = [torch.tensor(a) for a in (y, bias, weight, h)]
    np.testing.assert_allclose(channel_given(*tensors), expected)
    tensors[2] = torch.zeros(k, k, d, dtype=torch.float64)
    torch.testing.assert_close(channel_given(*tensors), channel_given(*tensors[:2]))


def test_the_start_without_a_trained_network_is_a_symmetric_channel():
    bias = symmetric_bias(5, 0.2, torch.Generator().manual_seed(0), "cpu")
    channel = np.exp(bias.numpy())
    np.testing.assert_allclose(np.diag(channel), 0.8, rtol=0.05)
    np.testing.assert_allclose(channel[0, 1:], 0.05, rtol=0.05)
    assert torch.isfinite(symmetric_bias(1, 0.2, torch.Generator(), "cpu")).all()


def test_only_the_largest_entries_and_the_diagonal_stay():
    bias = torch.tensor([[0.1, 0.5, 0.4], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]]).log()
    expected = [[True, True, False], [False, True, False], [True, False, True]]
    assert allowed_entries(bias, 1).tolist() == expected
    assert allowed_entries(bias, 9).all()


class Spy(NoiseAdaptationClassifier):
    """Keeps the channel's parameters."""

    def _start_channel(self, run):
        super()._start_channel(run)
        self._at_start = run.memory.bias.detach().exp().numpy().copy()
        if run.memory.weight is not None:
            self._weight_at_start = run.memory.weight.detach().clone()

    def _finish(self, run):
        super()._finish(run)
        self._kept = run.memory
        self._groups = run.learners[0].optimizers[0].param_groups


@CHANNELS
def test_network_and_channel_train_together_after_the_warm_up(channel):
    y = pair(Y, 0.3, random_state=0).y
    clf = Spy(Network(max_epochs=9), channel=channel, warmup=3, random_state=0).fit(X, y)
    plain = Spy(Network(max_epochs=9), channel=channel, warmup=9, random_state=0).fit(X, y)
    assert (clf.predict_proba(X) != plain.predict_proba(X)).any()
    assert np.abs(clf._kept.bias.detach().exp().numpy() - clf._at_start).max() > 1e-3
    np.testing.assert_array_equal(plain._kept.bias.detach().exp().numpy(), plain._at_start)
    network, own = clf._groups
    assert own["weight_decay"] == 0
    assert own["lr"] == pytest.approx(0.1 * network["lr"])
    assert len(own["params"]) == (2 if channel == "complex" else 1)
    if channel == "complex":
        assert not clf._weight_at_start.any()
        assert clf._kept.weight.detach().abs().max() > 1e-4


def test_the_channel_starts_from_the_confusion_of_the_warm_up():
    y = pair(Y, 0.3, random_state=0).y
    net = Network(max_epochs=4)
    for confusion in ("soft", "hard"):
        clf = Spy(net, warmup=4, confusion=confusion, guards=False, random_state=0).fit(X, y)
        p = clf.predict_proba(X).astype(float)
        if confusion == "hard":
            p = np.eye(3)[p.argmax(1)]
        expected = p.T @ np.eye(3)[y] / p.sum(0)[:, None]
        np.testing.assert_allclose(clf._at_start, expected, atol=1e-6)
        np.testing.assert_allclose(clf.transition_, expected, atol=1e-6)


@CHANNELS
def test_the_evidence_is_the_posterior_of_the_true_label(channel):
    y = pair(Y, 0.3, random_state=0).y
    net = Network(MLP, module__hidden=(8,), max_epochs=9)
    clf = Spy(net, channel=channel, random_state=0).fit(X, y)
    p = clf.predict_proba(X).astype(float)
    bias = clf._kept.bias.detach().numpy().astype(float)
    joint, total = np.zeros((90, 3)), np.zeros((3, 3))
    features = np.zeros((90, 8))
    if channel == "complex":
        x = clf._input_scale_.table(X)
        features = clf.nets_[0].module_.features(x).detach().numpy()
        weight = clf._kept.weight.detach().numpy()
    for t in range(90):
        for i in range(3):
            scores = bias[i] + (weight[i] @ features[t] if channel == "complex" else 0)
            joint[t, i] = p[t, i] * softmax(scores)[y[t]]
            total[i] += p[t, i] * softmax(scores)
    expected = joint / joint.sum(1, keepdims=True)
    np.testing.assert_allclose(clf.refined_proba_, expected, atol=1e-5)
    np.testing.assert_allclose(clf.clean_proba_, expected[np.arange(90), y], atol=1e-5)
    np.testing.assert_allclose(clf.transition_, total / total.sum(1, keepdims=True), atol=1e-5)


@CHANNELS
@pytest.mark.parametrize(("max_epochs", "rate", "kept"), [(1, 0.3, 0.7), (3, "auto", 0.8)])
def test_training_without_warm_up_starts_from_the_rate(channel, max_epochs, rate, kept):
    net = Network(max_epochs=max_epochs, lr=1e-4)
    clf = Spy(net, channel=channel, warmup=0, noise_rate=rate, random_state=0).fit(X, Y)
    np.testing.assert_allclose(np.diag(clf._at_start), kept, rtol=0.03)
    if channel == "complex":
        width = np.sqrt(6 / (3 + 128))
        assert 0.45 * width < clf._weight_at_start.abs().max() <= 0.5 * width


def test_one_step_through_the_complex_channel_also_moves_what_makes_the_features():
    """One batch of all rows, with the same step taken by hand."""

    class AtStart(Spy):
        def _start_channel(self, run):
            super()._start_channel(run)
            self._module = deepcopy(run.learners[0].module)

    net = Network(
        MLP,
        module__hidden=(8,),
        max_epochs=1,
        batch_size=90,
        lr=0.5,
        lr_schedule="constant",
        optimizer__momentum=0.0,
        optimizer__nesterov=False,
        optimizer__weight_decay=0.0,
        normalize=None,
    )
    clf = AtStart(net, channel="complex", warmup=0, random_state=0).fit(X, Y)
    module, x = clf._module, torch.tensor(X, dtype=torch.float32)
    h, p = module.features(x), module(x).softmax(1)
    bias = torch.tensor(clf._at_start).log()
    channel = torch.einsum("ijd,td->tij", clf._weight_at_start, h) + bias
    given = channel.softmax(2)[torch.arange(90), :, Y]  # (90, true)
    (-(p * given).sum(1).log().mean()).backward()
    for start, end in zip(module.parameters(), clf.nets_[0].module_.parameters(), strict=True):
        torch.testing.assert_close(end, start - 0.5 * start.grad, rtol=0, atol=1e-6)


def test_a_sparse_channel_stays_sparse():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 5))
    y = rng.integers(0, 8, 200)
    for channel in ("simple", "complex"):
        clf = NoiseAdaptationClassifier(
            Network(max_epochs=4), channel=channel, top_k=2, random_state=0
        ).fit(X, y)
        assert ((clf.transition_ > 0).sum(1) <= 3).all()
        assert (np.diag(clf.transition_) > 0).all()


def test_a_channel_that_interchanges_classes_is_reported():
    class Swapped(NoiseAdaptationClassifier):
        def _confusion(self, run):
            return torch.tensor([[0.1, 0.9, 0.05], [0.9, 0.1, 0.05], [0.05, 0.05, 0.9]])

    clf = Swapped(Network(max_epochs=4), random_state=0)
    with pytest.warns(UserWarning, match="interchanged"):
        clf.fit(X, Y)


MODULES = {
    "MLP": lambda: (MLP(4, 3), (2, 4)),
    "linear": lambda: (MLP(4, 3, hidden=()), (2, 4)),
    "SmallCNN": lambda: (SmallCNN((1, 8, 8), 3), (2, 1, 8, 8)),
    "CNN9": lambda: (CNN9(1, 3), (2, 1, 28, 28)),
    "PreActResNet18": lambda: (PreActResNet18(3, 3, width=2), (2, 3, 8, 8)),
    "torchvision": lambda: (TorchvisionBackbone("mobilenet_v3_small", 3), (2, 3, 32, 32)),
    "sequential": lambda: (nn.Sequential(nn.Linear(4, 3)), (2, 4)),
    "itself": lambda: (nn.Linear(4, 3), (2, 4)),
}


@pytest.mark.parametrize("name", MODULES)
def test_the_last_layer_is_found_in_every_module(name):
    module, shape = MODULES[name]()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    name, layer = last_linear(module.eval(), x)
    assert layer is module.get_submodule(name)
    with inputs_of(layer) as received:
        logits = module(x)
    torch.testing.assert_close(layer(received[0]), logits)
    assert not layer._forward_pre_hooks


class NotLast(nn.Module):
    def __init__(self, n_features, n_classes):
        super().__init__()
        self.embed, self.weight = nn.Linear(n_features, 5), nn.Parameter(torch.ones(5, n_classes))

    def forward(self, x):
        return self.embed(x) @ self.weight


class SameWidth(NotLast):
    def __init__(self, n_features, n_classes):
        super().__init__(n_features, n_classes)
        self.embed = nn.Linear(n_features, n_classes)
        self.weight = nn.Parameter(torch.ones(n_classes, n_classes))


@pytest.mark.parametrize("module", [NotLast, SameWidth])
def test_a_module_that_does_not_end_in_a_linear_layer_is_refused_by_the_complex_channel(module):
    net = Network(module, max_epochs=2)
    with pytest.raises(ValueError, match=f"{module.__name__} does not end in one"):
        NoiseAdaptationClassifier(net, channel="complex", random_state=0).fit(X, Y)
    NoiseAdaptationClassifier(net, channel="simple", random_state=0).fit(X, Y)


def test_a_compiled_network_is_refused_by_the_complex_channel():
    net = Network(max_epochs=1, compile=True, compile__backend="eager")
    with pytest.raises(ValueError, match="compile=False"):
        NoiseAdaptationClassifier(net, channel="complex").fit(X, Y)


@CHANNELS
def test_no_hook_stays_behind(channel):
    clf = NoiseAdaptationClassifier(Network(max_epochs=3), channel=channel, random_state=0)
    clf.fit(X, Y)
    assert not any(m._forward_pre_hooks for m in clf.nets_[0].module_.modules())
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize(
    "params",
    [
        {"channel": "c-model"},
        {"confusion": "none"},
        {"warmup": -1},
        {"warmup": 51},
        {"top_k": 0},
        {"top_k": 1.5},
        {"noise_rate": 0},
        {"channel_lr": -1},
        {"noise_rate": 1.0},
    ],
)
def test_bad_parameters_are_refused(params):
    (name,) = params
    with pytest.raises((ValueError, TypeError), match=name):
        NoiseAdaptationClassifier(**params).fit(X, Y)


@pytest.mark.parametrize(
    ("shape", "n_classes", "batch_size", "expected"),
    [
        ((200, 64), 10, 50, 14),  # 56 steps
        ((200, 64), 3, 50, 5),  # 20 steps, a tenth of the epochs are 3
        ((200, 4), 3, 50, 24),  # 100 steps, but 0.8 of the epochs
        ((200, 1, 8, 8), 10, 50, 5),
    ],
)
def test_the_warm_up_has_the_steps_that_a_network_needs(shape, n_classes, batch_size, expected):
    chosen = []

    class Unadapted(NoiseAdaptationClassifier):
        def _begin(self, run):
            super()._begin(run)
            chosen.append(run.memory.warmup)

        def _train_epoch(self, run, epoch):
            pass

    X = np.random.default_rng(0).normal(size=shape)
    net = Network(max_epochs=30, batch_size=batch_size)
    Unadapted(net, random_state=0).fit(X, np.arange(200) % n_classes)
    assert chosen == [expected]


def test_a_small_clean_table_is_learnt_as_by_plain_training():
    X, y = load_digits(return_X_y=True)
    net = Network(max_epochs=20)
    plain, adapted = (
        cls(net, random_state=0).fit(X[:200], y[:200]).score(X[200:], y[200:])
        for cls in (CrossEntropyClassifier, NoiseAdaptationClassifier)
    )
    assert adapted > plain - 0.01


def test_the_final_channel_of_a_bfloat16_training_is_computed_in_float32():
    precise = []

    class Watched(NoiseAdaptationClassifier):
        def _evaluate_channel(self, run):
            def note(*passed):
                precise.append(not torch.is_autocast_enabled("cpu"))

            run.learners[0].module.register_forward_hook(note)
            return super()._evaluate_channel(run)

    net = Network(max_epochs=4, precision="bfloat16")
    Watched(net, channel="complex", warmup=2, random_state=0).fit(X, Y)
    assert precise
    assert all(precise)
