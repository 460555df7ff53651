"""Networks of published settings: sizes counted by hand, formulas recomputed step by step."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from noisyfit import CrossEntropyClassifier, Network
from noisyfit.modules import (
    CNN4,
    CNN6,
    CNN7,
    CNN8,
    MLP,
    LeNet,
    PreActResNet32,
    PreActResNetThin,
    ResNet34,
)

# name: (module with five classes, shape of one row)
NETWORKS = {
    "CNN4": (lambda: CNN4((2, 9, 7), 5), (2, 9, 7)),
    "CNN6": (lambda: CNN6((2, 12, 13), 5, dropout=0.0), (2, 12, 13)),
    "CNN7": (lambda: CNN7((2, 9, 17), 5), (2, 9, 17)),
    "CNN8": (lambda: CNN8((2, 9, 17), 5), (2, 9, 17)),
    "LeNet": (lambda: LeNet((2, 16, 19), 5), (2, 16, 19)),
    "PreActResNetThin": (lambda: PreActResNetThin(2, 5, depth=14, width=4), (2, 9, 7)),
    "PreActResNet32": (lambda: PreActResNet32(2, 5, width=4), (2, 9, 7)),
    "ResNet34": (lambda: ResNet34(2, 5, width=4), (2, 9, 7)),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def build(name, n_rows=3):
    """(module, batch of rows), both from one seed."""
    make, shape = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(), torch.randn(n_rows, *shape)


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def on_meta(make):
    """Build without memory or draws, for sizes alone."""
    with torch.device("meta"):
        return make()


# ---- sizes -----------------------------------------------------------------------------------


def conv(n_in, n_out, side=3, bias=True):
    return n_in * n_out * side**2 + bias * n_out


def norm(width):
    return 2 * width


def linear(n_in, n_out):
    return n_in * n_out + n_out


def thin(depth, n_classes, width=16):
    """Parameters of `PreActResNetThin`, block by block."""
    n_blocks = (depth - 2) // 6
    total = conv(3, width) + norm(width)
    for stage, (n_in, n_out) in enumerate([(width, width), (width, 2 * width)]):
        total += norm(n_in) * (stage > 0) + conv(n_in, n_out) + norm(n_out) + conv(n_out, n_out)
        total += conv(n_in, n_out, side=1) * (stage > 0)
        total += (n_blocks - 1) * 2 * (norm(n_out) + conv(n_out, n_out))
    total += norm(2 * width) + conv(2 * width, 4 * width) + norm(4 * width)
    total += conv(4 * width, 4 * width) + conv(2 * width, 4 * width, side=1)
    total += (n_blocks - 1) * 2 * (norm(4 * width) + conv(4 * width, 4 * width))
    return total + norm(4 * width) + linear(4 * width, n_classes)


def preact32(n_classes, width=32):
    """Parameters of `PreActResNet32`: a projection in the first block of every stage."""
    total = conv(3, width, bias=False)
    for n_in, n_out in [(width, width), (width, 2 * width), (2 * width, 4 * width)]:
        total += norm(n_in) + conv(n_in, n_out, bias=False) + conv(n_in, n_out, 1, bias=False)
        total += norm(n_out) + conv(n_out, n_out, bias=False)
        total += 4 * 2 * (norm(n_out) + conv(n_out, n_out, bias=False))
    return total + norm(4 * width) + linear(4 * width, n_classes)


def convolutions(widths):
    return sum(conv(n_in, n_out) + norm(n_out) for n_in, n_out in widths)


def pairs_of_convolutions(widths, n_flat, n_hidden, n_classes):
    return (
        convolutions(widths)
        + linear(n_flat, n_hidden)
        + norm(n_hidden)
        + linear(n_hidden, n_classes)
    )


EIGHT = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 196), (196, 196)]


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: ResNet34(), 21_282_122),
        (lambda: ResNet34(n_classes=100), 21_282_122 + 90 * 513),
        (lambda: PreActResNetThin(depth=14), thin(14, 10)),
        (lambda: PreActResNetThin(depth=32), 467_946),
        (lambda: PreActResNetThin(depth=32), thin(32, 10)),
        (lambda: PreActResNetThin(n_classes=100, depth=44), thin(44, 100)),
        (lambda: PreActResNet32(), 1_861_162),
        (lambda: PreActResNet32(), preact32(10)),
        (lambda: CNN4((1, 28, 28), 10), pairs_of_convolutions([(1, 32), (32, 64)], 3136, 128, 10)),
        (lambda: CNN8((3, 32, 32), 10), pairs_of_convolutions(EIGHT, 196 * 4 * 4, 256, 10)),
        (lambda: CNN7((3, 32, 32), 100), convolutions([*EIGHT[:5], (196, 16)]) + linear(256, 100)),
        (lambda: LeNet((3, 32, 32), 10), 62_006),
        (
            lambda: LeNet((1, 28, 28), 10),
            conv(1, 6, 5) + conv(6, 16, 5) + linear(256, 120) + linear(120, 84) + linear(84, 10),
        ),
        (
            lambda: CNN6((3, 32, 32), 100),
            conv(3, 32) + conv(32, 32) + conv(32, 64) + conv(64, 64)
            # 32 -> 30 -> 28 -> 14 -> 14 -> 12 -> 6 pixels
            + linear(64 * 6 * 6, 512) + linear(512, 100),
        ),
        (lambda: MLP(784, 10, hidden=(128, 128), dropout=0.2), 118_282),
        (lambda: MLP(784, 10, hidden=(500, 300), dropout=0.5), 545_810),
    ],
)  # fmt: skip
def test_network_has_the_number_of_parameters_counted_by_hand(make, count):
    assert n_parameters(on_meta(make)) == count


@pytest.mark.parametrize(
    ("make", "macs"),
    [
        (ResNet34, 1_159_402_496),
        # 3x3 convolutions of 32, 16 and 8 pixels, projections, the linear layer
        (
            PreActResNetThin,
            9 * (3 * 16 * 32**2 + 10 * 16**2 * 32**2)
            + 9 * (16 * 32 + 9 * 32**2) * 16**2 + 16 * 32 * 16**2
            + 9 * (32 * 64 + 9 * 64**2) * 8**2 + 32 * 64 * 8**2 + 640,
        ),
    ],
)  # fmt: skip
def test_network_makes_the_counted_multiplications(make, macs):
    net = on_meta(make).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.empty(1, 3, 32, 32, device="meta"))
    assert counter.get_total_flops() == 2 * macs


@pytest.mark.parametrize("depth", [8, 14, 20, 44])
def test_thin_network_has_as_many_layers_as_its_depth(depth):
    layers = list(on_meta(lambda: PreActResNetThin(depth=depth)).modules())
    convolutions = [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) + 1 == depth


@pytest.mark.parametrize("depth", [2, 10, 18, 34])
def test_thin_network_with_another_depth_raises(depth):
    with pytest.raises(ValueError, match="depth"):
        PreActResNetThin(depth=depth)


@pytest.mark.parametrize(
    ("cls", "least"),
    [(CNN4, 4), (CNN6, 12), (CNN7, 8), (CNN8, 8), (LeNet, 16)],
    ids=lambda value: str(value),
)
def test_network_takes_images_from_its_least_size_and_refuses_smaller_ones(cls, least):
    net = on_meta(lambda: cls((1, least, least + 1), 4))
    assert net(torch.empty(2, 1, least, least + 1, device="meta")).shape == (2, 4)
    with pytest.raises(ValueError, match=f"height == {least - 1}"):
        cls((1, least - 1, least), 4)
    with pytest.raises(ValueError, match="input_shape must be"):
        cls((least, least), 4)


# ---- what they compute -----------------------------------------------------------------------


@every_network
def test_network_is_its_linear_classifier_on_its_features(name):
    net, x = build(name)
    net.eval()
    with torch.no_grad():
        features, logits = net.features(x), net(x)
    assert features.shape == (3, net.classifier.in_features)
    assert logits.shape == (3, 5)
    assert torch.equal(net.classifier(features), logits)


@every_network
def test_network_passes_gradients_to_every_parameter_and_draws_nothing(name):
    net, x = build(name)
    before = torch.get_rng_state()
    F.cross_entropy(net(x), torch.arange(3)).backward()
    assert torch.equal(torch.get_rng_state(), before)
    for key, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all(), key
    assert next(net.parameters()).grad.any()


def batch_norm(x, layer):
    """Normalised with the statistics of the batch, in numpy."""
    mean = x.mean((0, 2, 3), keepdims=True)
    scaled = (x - mean) / np.sqrt(x.var((0, 2, 3), keepdims=True) + layer.eps)
    weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
    return scaled * weight[:, None, None] + bias[:, None, None]


def relu(x):
    return np.maximum(x, 0)


def convolve(x, layer):
    """The convolution as a loop over the pixels it makes."""
    weight = layer.weight.detach().double().numpy()  # (n_out, n_in, side, side)
    (stride, _), (padding, _), side = layer.stride, layer.padding, weight.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    rows, columns = ((length - side) // stride + 1 for length in x.shape[2:])
    out = np.zeros((len(x), len(weight), rows, columns))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, :, i * stride : i * stride + side, j * stride : j * stride + side]
            out[:, :, i, j] = np.einsum("bchw,ochw->bo", patch, weight)
    bias = 0 if layer.bias is None else layer.bias.detach().double().numpy()[:, None, None]
    return out + bias


def thin_features(net, x):
    stem, stem_norm, _, *blocks, last_norm, _, _, _ = net.body
    x = relu(batch_norm(convolve(x, stem), stem_norm))
    for i, block in enumerate(blocks):
        activated = x if i == 0 else relu(batch_norm(x, block.norm1))
        hidden = relu(batch_norm(convolve(activated, block.conv1), block.norm2))
        raw = convolve(x, block.shortcut) if i in (2, 4) else x
        x = convolve(hidden, block.conv2) + raw
    return relu(batch_norm(x, last_norm)).mean((2, 3))


def preact32_features(net, x):
    stem, *blocks, last_norm, _, _, _ = net.body
    x = convolve(x, stem)
    for i, block in enumerate(blocks):
        activated = relu(batch_norm(x, block.norm1))
        hidden = relu(batch_norm(convolve(activated, block.conv1), block.norm2))
        shortcut = convolve(activated, block.shortcut) if i % 5 == 0 else x
        x = convolve(hidden, block.conv2) + shortcut
    return relu(batch_norm(x, last_norm)).mean((2, 3))


def resnet34_features(net, x):
    stem, stem_norm, _, *blocks, _, _ = net.body
    x = relu(batch_norm(convolve(x, stem), stem_norm))
    for i, block in enumerate(blocks):
        conv1, norm1, _, conv2, norm2 = block.body
        hidden = relu(batch_norm(convolve(x, conv1), norm1))
        if i in (3, 7, 13):
            projection, its_norm = block.shortcut
            x = batch_norm(convolve(x, projection), its_norm)
        x = relu(batch_norm(convolve(hidden, conv2), norm2) + x)
    return x.mean((2, 3))


@pytest.mark.parametrize(
    ("name", "written_out"),
    [
        ("PreActResNetThin", thin_features),
        ("PreActResNet32", preact32_features),
        ("ResNet34", resnet34_features),
    ],
)
def test_residual_network_equals_its_formula_written_out(name, written_out):
    net, x = build(name, n_rows=4)
    net.double().train()
    x = x.double()
    assert_allclose(net.features(x).detach(), written_out(net, x.numpy()), rtol=1e-6, atol=1e-8)


def pool(x):
    """The largest of every two by two pixels; an odd last row or column is left out."""
    batch, channels, rows, columns = x.shape
    x = x[:, :, : rows // 2 * 2, : columns // 2 * 2]
    return x.reshape(batch, channels, rows // 2, 2, columns // 2, 2).max((3, 5))


def lenet_features(net, x):
    first, _, _, second, _, _, _, hidden, _, last, _ = net.body
    x = pool(relu(convolve(pool(relu(convolve(x, first))), second))).reshape(len(x), -1)
    for layer in (hidden, last):
        weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
        x = relu(x @ weight.T + bias)
    return x


def cnn7_features(net, x):
    layers = [m for m in net.body if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    for i in range(0, 12, 4):
        for convolution, norm in (layers[i : i + 2], layers[i + 2 : i + 4]):
            x = relu(batch_norm(convolve(x, convolution), norm))
        x = pool(x)
    return x.reshape(len(x), -1)


@pytest.mark.parametrize(
    ("name", "written_out"), [("LeNet", lenet_features), ("CNN7", cnn7_features)]
)
def test_network_of_co_teaching_plus_equals_its_formula_written_out(name, written_out):
    net, x = build(name)
    net.double().train()
    x = x.double()
    expected = written_out(net, x.numpy())
    assert_allclose(net.features(x).detach(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["CNN4", "CNN8", "PreActResNetThin", "PreActResNet32"])
def test_network_starts_as_he_et_al(name):
    net, _ = build(name)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            # the variance of n draws has a relative standard deviation of sqrt(2 / n)
            ratio = layer.weight.square().mean().item() * fan_in / 2
            assert abs(ratio - 1) < 5 * np.sqrt(2 / layer.weight.numel())
            assert layer.bias is None or not layer.bias.any()


def test_cnn6_has_the_published_dropouts_and_no_batch_norm():
    layers = list(on_meta(lambda: CNN6((3, 32, 32), 100)).modules())
    assert [m.p for m in layers if isinstance(m, nn.Dropout)] == [0.25, 0.25, 0.5]
    assert not any(isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d) for m in layers)


# ---- images through an MLP -------------------------------------------------------------------


def test_mlp_flattens_images():
    net = MLP(12, 3, hidden=(8,))
    images = torch.arange(24.0).view(2, 3, 2, 2)
    assert torch.equal(net(images), net(images.view(2, 12)))


def test_mlp_on_images_trains_as_on_the_same_table():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    images = rng.random((60, 1, 4, 4)).astype(np.float32) / 4 + y[:, None, None, None] / 4
    fits = []
    for X in (images, images.reshape(60, 16)):
        net = Network(
            MLP, module__n_features=16, max_epochs=10, normalize=None, device="cpu", batch_size=16
        )
        fits.append(CrossEntropyClassifier(net, augment=None, random_state=0).fit(X, y))
    of_images, of_table = fits
    assert_allclose(
        of_images.predict_proba(images), of_table.predict_proba(images.reshape(60, 16)), atol=1e-5
    )
    assert of_images.score(images, y) > 0.9
