"""Networks: sizes, formulas recomputed step by step, and what draws randomness."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from noisyfit.modules import (
    CNN9,
    MLP,
    EncoderClassifier,
    PreActResNet18,
    SmallCNN,
    TorchvisionBackbone,
)

RESNET18 = "resnet18"
BACKBONES = [
    "resnet50",
    "wide_resnet50_2",
    "densenet121",
    "efficientnet_b0",
    "mobilenet_v3_small",
    "convnext_tiny",
    "vgg11_bn",
    "vit_b_16",
    "swin_t",
]


def encoder():
    """An embedding of images (2, 9, 7) with two axes."""
    return nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.AvgPool2d((2, 3)))


# name: (module, shape of one row)
NETWORKS = {
    "MLP": (lambda **kw: MLP(6, 5, hidden=(16, 8), **kw), (6,)),
    "SmallCNN": (lambda **kw: SmallCNN((2, 9, 7), 5, **kw), (2, 9, 7)),
    "CNN9": (lambda dropout=0.25: CNN9(1, 5, dropout), (1, 28, 28)),
    "PreActResNet18": (lambda dropout=0.0: PreActResNet18(2, 5, 4, dropout), (2, 9, 7)),
    "EncoderClassifier": (lambda: EncoderClassifier(encoder(), 6, 5), (2, 9, 7)),
    "TorchvisionBackbone": (lambda: TorchvisionBackbone(RESNET18, 5, in_channels=1), (1, 33, 40)),
}

WITH_DROPOUT = ["MLP", "SmallCNN", "CNN9", "PreActResNet18"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(name, seed=0, **settings):
    """(module, batch of three rows), both from the seed."""
    make, shape = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make(**settings), torch.randn(3, *shape)


def n_parameters(module):
    return sum(p.numel() for p in module.parameters())


def on_meta(make):
    """Build without memory or draws, for sizes alone."""
    with torch.device("meta"):
        return make()


@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_its_linear_classifier_on_its_features(name):
    net, x = build(name)
    net.eval()
    with torch.no_grad():
        features, logits = net.features(x), net(x)
    assert isinstance(net.classifier, nn.Linear)
    assert features.shape == (3, net.classifier.in_features)
    assert logits.shape == (3, 5)
    assert torch.equal(net.classifier(features), logits)


@pytest.mark.parametrize("name", NETWORKS)
def test_network_passes_gradients_to_every_parameter(name):
    net, x = build(name)
    with torch.random.fork_rng():
        F.cross_entropy(net(x), torch.arange(3)).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad.isfinite().all(), key
    assert all(p.grad.any() for p in net.classifier.parameters())
    assert next(net.parameters()).grad.any()


@pytest.mark.parametrize("name", NETWORKS)
def test_network_without_dropout_draws_nothing(name):
    settings = {"dropout": 0.0} if name in WITH_DROPOUT else {}
    net, x = build(name, **settings)
    before = torch.get_rng_state()
    net.train()(x)
    net.eval()(x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_network_with_dropout_draws_in_training_only(name):
    net, x = build(name, dropout=0.5)
    with torch.random.fork_rng(), torch.no_grad():
        assert not torch.equal(net.train()(x), net(x))
        before = torch.get_rng_state()
        assert torch.equal(net.eval()(x), net(x))
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_network_keeps_its_state_keys_whatever_the_dropout(name):
    without, _ = build(name, dropout=0.0)
    with_dropout, _ = build(name, dropout=0.5, seed=1)
    with_dropout.load_state_dict(without.state_dict())


@pytest.mark.parametrize("name", ["MLP", "SmallCNN", "PreActResNet18"])
def test_network_after_twenty_gradient_steps_beats_a_constant_prediction(name):
    net, _ = build(name)
    y = torch.arange(30) % 5
    centres, noise = torch.randn(2, 30, *NETWORKS[name][1], generator=seeded())
    x = centres[y] + noise
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(20):
        loss = F.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # log 5 is the best that a network can do which ignores its input
    assert loss.item() < 0.9 * np.log(5)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: SmallCNN((1, 8, 8), 10), 57_594),
        (lambda: SmallCNN((1, 28, 28), 10), 426_234),
        (lambda: SmallCNN((3, 32, 32), 10), 549_402),
        (lambda: PreActResNet18(n_classes=10), 11_171_274),
        (lambda: PreActResNet18(n_classes=100), 11_217_444),
        (lambda: MLP(4, 3), 4 * 128 + 128 + 128 * 128 + 128 + 128 * 3 + 3),
    ],
)
def test_network_has_the_published_number_of_parameters(make, count):
    assert n_parameters(on_meta(make)) == count


def test_mlp_equals_a_loop_over_units():
    net, x = build("MLP")
    units = x.numpy()
    for layer in [*net.body, net.classifier]:
        if not isinstance(layer, nn.Linear):
            continue
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        out = np.zeros((len(units), len(bias)))
        for i in range(len(units)):
            for j in range(len(bias)):
                out[i, j] = (weight[j] * units[i]).sum() + bias[j]
                if layer is not net.classifier:
                    out[i, j] = max(out[i, j], 0)
        units = out
    assert_allclose(net(x).detach(), units, rtol=1e-5, atol=1e-6)


def test_mlp_with_a_batch_of_one_trains():
    net, x = build("MLP")
    assert net.train()(x[:1]).shape == (1, 5)


def test_mlp_without_hidden_layers_is_linear():
    net = MLP(6, 5, hidden=())
    x = torch.ones(2, 6)
    assert torch.equal(net(x), net.classifier(x))


@pytest.mark.parametrize("height", [3, 4, 5, 6, 7, 8, 11])
@pytest.mark.parametrize("width", [3, 6, 9])
def test_small_cnn_takes_images_of_any_size_from_three_pixels(height, width):
    net = on_meta(lambda: SmallCNN((1, height, width), 4))
    assert net(torch.empty(2, 1, height, width, device="meta")).shape == (2, 4)


def test_small_cnn_has_the_described_layers():
    body = SmallCNN((1, 8, 8), 10, dropout=0.3).body
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    head = [nn.Flatten, nn.Linear, nn.ReLU, nn.Dropout]
    assert [type(layer) for layer in body] == [*block, *block, nn.MaxPool2d, *block, *head]
    convolutions = [layer for layer in body if isinstance(layer, nn.Conv2d)]
    assert [(c.out_channels, c.stride) for c in convolutions] == [
        (16, (2, 2)),
        (32, (1, 1)),
        (64, (1, 1)),
    ]
    assert all(c.bias is None and c.kernel_size == (3, 3) for c in convolutions)
    assert body[-1].p == 0.3


def cnn9_sizes(side):
    """Height of the map after every layer that changes it."""
    net, sizes = on_meta(lambda: CNN9(3, 10)), [side]
    for layer in net.body[:-2]:
        layer.register_forward_hook(lambda module, args, out: sizes.append(out.shape[2]))
    net(torch.empty(1, 3, side, side, device="meta").expand(2, -1, -1, -1))
    return [size for i, size in enumerate(sizes) if i == 0 or size != sizes[i - 1]]


def test_cnn9_maps_shrink_as_published():
    assert cnn9_sizes(32) == [32, 16, 8, 6, 4, 2]
    assert cnn9_sizes(28) == [28, 14, 7, 5, 3, 1]


def test_cnn9_has_nine_biased_convolutions_and_two_channel_dropouts():
    body = on_meta(lambda: CNN9(3, 10)).body
    convolutions = [layer for layer in body if isinstance(layer, nn.Conv2d)]
    widths = [128, 128, 128, 256, 256, 256, 512, 256, 128]
    assert [layer.out_channels for layer in convolutions] == widths
    assert all(layer.bias is not None for layer in convolutions)
    assert [layer.num_features for layer in body if isinstance(layer, nn.BatchNorm2d)] == widths
    assert [layer.negative_slope for layer in body if isinstance(layer, nn.LeakyReLU)] == [0.01] * 9
    assert [layer.p for layer in body if isinstance(layer, nn.Dropout2d)] == [0.25, 0.25]


def test_cnn9_drops_whole_channels():
    layer = next(m for m in on_meta(lambda: CNN9(3, 10)).body if isinstance(m, nn.Dropout2d))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = layer(torch.ones(4, 128, 3, 3)).flatten(2) == 0
    assert torch.equal(dropped.any(2), dropped.all(2))
    assert 0 < dropped.float().mean() < 0.5


@pytest.mark.parametrize("shape", [(27, 32), (32, 27)])
def test_cnn9_with_too_small_images_raises(shape):
    with pytest.raises(ValueError, match="CNN9 needs images of at least 28x28 pixels"):
        on_meta(lambda: CNN9(1, 10))(torch.empty(2, 1, *shape, device="meta"))


def norm_relu(x, norm):
    """Batch norm with the statistics of the batch, then ReLU."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = x.var((0, 2, 3), correction=0, keepdim=True)
    scaled = (x - mean) / (variance + norm.eps).sqrt()
    return (scaled * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)).clamp(min=0)


def preact_features(net, x):
    """Features of `PreActResNet18` written out, in training mode."""
    conv, norm, _, *blocks, _, _ = net.body
    x = norm_relu(F.conv2d(x, conv.weight, padding=1), norm)
    for i, block in enumerate(blocks):
        stride = 2 if i in (2, 4, 6) else 1
        activated = norm_relu(x, block.norm1)
        x = F.conv2d(activated, block.conv1.weight, stride=stride, padding=1)
        x = F.conv2d(norm_relu(x, block.norm2), block.conv2.weight, padding=1)
        # not He et al.: the shortcut carries the activated tensor, projected or not
        if stride == 2:
            activated = F.conv2d(activated, block.shortcut.weight, stride=2)
        x = x + activated
    return x.mean((2, 3))


def test_preact_resnet18_equals_its_formula():
    net = PreActResNet18(2, 5, width=4).double()
    for p in net.parameters():  # norms that are not the identity
        nn.init.normal_(p, generator=seeded(p.numel()))
    x = torch.randn(3, 2, 16, 12, dtype=torch.float64, generator=seeded())
    expected = preact_features(net, x)
    assert_allclose(net.features(x).detach(), expected.detach(), rtol=1e-9, atol=1e-9)


def test_preact_resnet18_drops_what_the_first_convolution_of_late_blocks_sees():
    """Two blocks in each of four stages; shortcuts stay whole."""
    net = PreActResNet18(2, 5, width=4, dropout=0.3)
    blocks = [block for block in net.body if hasattr(block, "conv1")]
    rates = [getattr(block.dropout, "p", 0) for block in blocks]
    assert rates == [0, 0, 0, 0, 0.3, 0.3, 0.3, 0.3]
    block = blocks[4].train()
    x, seen = torch.randn(3, 8, 5, 5, generator=seeded()), {}
    for name in ("conv1", "shortcut"):
        layer = getattr(block, name)
        layer.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block(x)
    activated = norm_relu(x, block.norm1)
    assert_allclose(seen["shortcut"].detach(), activated.detach(), atol=1e-5)
    dropped = (seen["conv1"] == 0) & (activated > 0)
    assert 0.2 < dropped.sum() / (activated > 0).sum() < 0.4
    kept = seen["conv1"][~dropped].detach()
    assert_allclose(kept, activated[~dropped].detach() / 0.7, atol=1e-5)


def test_preact_resnet18_without_dropout_is_bit_equal_to_one_whose_dropout_is_off():
    (plain, x), (dropping, _) = build("PreActResNet18"), build("PreActResNet18", dropout=0.5)
    assert torch.equal(plain.eval()(x), dropping.eval()(x))


def test_encoder_classifier_copies_its_encoder_and_flattens_what_it_makes():
    own = encoder()
    one, two = (EncoderClassifier(own, 6, 5) for _ in range(2))
    x = torch.randn(3, 2, 9, 7, generator=seeded())
    assert torch.equal(one.features(x), own(x).flatten(1))
    with torch.no_grad():
        one.body[0][0].weight.zero_()
    assert own[0].weight.any()
    assert torch.equal(two.features(x), own(x).flatten(1))


def test_preact_resnet18_on_a_cifar_image_costs_the_published_multiplications():
    net = on_meta(PreActResNet18)
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, 32, 32, device="meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(0.5555e9, rel=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (32, 32), (64, 48)])
def test_preact_resnet18_takes_images_of_any_size(shape):
    net = on_meta(PreActResNet18)
    x = torch.empty(2, 3, *shape, device="meta")
    assert net(x).shape == (2, 10)
    assert net.features(x).shape == (2, 512)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_of_every_family_has_features_and_a_new_classifier(name):
    from torchvision import models

    original = on_meta(lambda: models.get_model(name))
    net = on_meta(lambda: TorchvisionBackbone(name, n_classes=7)).eval()
    x = torch.empty(2, 3, 224, 224, device="meta")
    n_embedded = net.classifier.in_features
    assert net.features(x).shape == (2, n_embedded)
    assert net(x).shape == (2, 7)
    assert n_parameters(net) == n_parameters(original) - (n_embedded + 1) * (1000 - 7)


@pytest.fixture(scope="module")
def resnet18():
    """torchvision's own network, whose running statistics are not those of a new one."""
    from torchvision import models

    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = models.resnet18()
        with torch.no_grad():
            net(torch.randn(4, 3, 32, 32))
    return net.eval()


def embeddings(resnet18, x):
    """What torchvision's network gives to its last layer."""
    seen = []
    handle = resnet18.fc.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    with torch.no_grad():
        resnet18(x)
    handle.remove()
    return seen[0]


def state_file(path, resnet18, n_classes=1000):
    state = {key: value for key, value in resnet18.state_dict().items() if "fc." not in key}
    state |= {"fc.weight": torch.zeros(n_classes, 512), "fc.bias": torch.zeros(n_classes)}
    torch.save(state, path)
    return path


@pytest.mark.parametrize("as_type", [str, lambda path: path])
@pytest.mark.parametrize("n_classes", [1000, 3])
def test_backbone_from_a_file_embeds_like_the_saved_network(tmp_path, resnet18, as_type, n_classes):
    path = state_file(tmp_path / "weights.pt", resnet18, n_classes)
    net = TorchvisionBackbone(RESNET18, n_classes=4, weights=as_type(path)).eval()
    x = torch.randn(2, 3, 32, 32, generator=seeded())
    assert torch.equal(net.features(x), embeddings(resnet18, x))
    assert net(x).shape == (2, 4)


@pytest.mark.parametrize("spelling", ["DEFAULT", "ResNet18_Weights.IMAGENET1K_V1", "enum"])
def test_backbone_with_named_weights_asks_torchvision_for_them(monkeypatch, resnet18, spelling):
    from torchvision import models

    asked = []

    def instead_of_a_download(url, **kwargs):
        asked.append(url)
        return resnet18.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", instead_of_a_download)
    weights = models.ResNet18_Weights.DEFAULT if spelling == "enum" else spelling
    net = TorchvisionBackbone(RESNET18, n_classes=4, weights=weights).eval()
    x = torch.randn(2, 3, 32, 32, generator=seeded())
    assert asked == [models.ResNet18_Weights.IMAGENET1K_V1.url]
    assert torch.equal(net.features(x), embeddings(resnet18, x))


@pytest.mark.parametrize("in_channels", [1, 5])
def test_backbone_with_weights_answers_equal_channels_as_a_grey_colour_image(
    tmp_path, resnet18, in_channels
):
    path = state_file(tmp_path / "weights.pt", resnet18)
    net = TorchvisionBackbone(RESNET18, 4, weights=path, in_channels=in_channels).eval()
    grey = torch.randn(2, 1, 32, 32, generator=seeded())
    with torch.no_grad():
        features = net.features(grey.repeat(1, in_channels, 1, 1))
    expected = embeddings(resnet18, grey.repeat(1, 3, 1, 1))
    assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_backbone_without_weights_starts_other_channels_as_torch_starts_a_convolution():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = TorchvisionBackbone(RESNET18, 4, in_channels=6)
    kernel = net.body.conv1.weight.detach()  # (64, 6, 7, 7)
    bound = (6 * 7 * 7) ** -0.5
    assert kernel.shape == (64, 6, 7, 7)
    assert 0.99 * bound < kernel.abs().max() <= bound
    assert not torch.equal(kernel[:, 0], kernel[:, 1])


def test_backbone_from_a_file_of_another_network_raises(tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt holds another network"):
        TorchvisionBackbone(RESNET18, 4, weights=tmp_path / "weights.pt")


@pytest.mark.parametrize("weights", ["no_file.pt", "ResNet50_Weights.DEFAULT", 3])
def test_backbone_with_unknown_weights_raises_and_names_the_known_ones(weights):
    with pytest.raises(ValueError, match=r"an existing file or one of \['IMAGENET1K_V1"):
        TorchvisionBackbone(RESNET18, 4, weights=weights)


@pytest.mark.parametrize(
    "name",
    ["resnet19", "fcn_resnet50", "googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1"],
)
def test_backbone_of_a_network_that_cannot_be_adapted_raises(name):
    with pytest.raises(ValueError, match=f"name='{name}' is no classification network"):
        TorchvisionBackbone(name, 4)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MLP(0, 3), ValueError, "n_features == 0"),
        (lambda: MLP(4, 0), ValueError, "n_classes == 0"),
        (lambda: MLP(4.0, 3), TypeError, "n_features must be an instance"),
        (lambda: MLP(4, 3, hidden=(8, 0)), ValueError, r"hidden\[1\] == 0"),
        (lambda: MLP(4, 3, hidden=8), TypeError, "not iterable"),
        (lambda: MLP(4, 3, dropout=1.5), ValueError, "dropout probability"),
        (lambda: SmallCNN((8, 8), 10), ValueError, r"\(channels, height, width\), got \(8, 8\)"),
        (lambda: SmallCNN((1, 2, 8), 10), ValueError, "height == 2, must be >= 3"),
        (lambda: SmallCNN((1, 8, 2), 10), ValueError, "width == 2, must be >= 3"),
        (lambda: SmallCNN((0, 8, 8), 10), ValueError, "channels == 0"),
        (lambda: CNN9(0, 10), ValueError, "in_channels == 0"),
        (lambda: CNN9(1, 10, dropout=-0.1), ValueError, "dropout probability"),
        (lambda: PreActResNet18(width=0), ValueError, "width == 0"),
        (lambda: PreActResNet18(dropout=-0.1), ValueError, "dropout probability"),
        (lambda: EncoderClassifier(encoder(), 0, 5), ValueError, "n_embedded == 0"),
        (lambda: EncoderClassifier(encoder(), 6, 2.0), TypeError, "n_classes must be an instance"),
        (lambda: TorchvisionBackbone(RESNET18, 0), ValueError, "n_classes == 0"),
    ],
)
def test_network_with_a_bad_parameter_raises(make, error, message):
    with pytest.raises(error, match=message):
        make()
