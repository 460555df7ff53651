"""Strong views: operations against torchvision on each image, draws against probabilities."""

import copy
import itertools
import math
import pickle
import re
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from noisyfit import CrossEntropyClassifier, Network
from noisyfit.augment import AutoAugment, Chain, CropFlip, FixMatchRandAugment, RandAugment
from noisyfit.augment._fixmatch import paint_squares
from noisyfit.augment._operations import CODE, OPERATIONS, SIGNED, apply_operations

POLICIES = [
    AutoAugment("cifar10"),
    AutoAugment("svhn"),
    AutoAugment("imagenet", fill=0),
    RandAugment(),
    RandAugment(n_ops=3, magnitude=30, fill=255),
    FixMatchRandAugment(n_ops=2),
]
# building blocks, section 11: operation, probability, index of the magnitude
CIFAR10 = """
Invert .1/7 · Contrast .2/6 — Rotate .7/2 · TranslateX .3/9 — Sharpness .8/1 · Sharpness .9/3 —
ShearY .5/8 · TranslateY .7/9 — AutoContrast .5/8 · Equalize .9/2 — ShearY .2/7 · Posterize .3/7 —
Color .4/3 · Brightness .6/7 — Sharpness .3/9 · Brightness .7/9 — Equalize .6/5 · Equalize .5/1 —
Contrast .6/7 · Sharpness .6/5 — Color .7/7 · TranslateX .5/8 — Equalize .3/7 · AutoContrast .4/8 —
TranslateY .4/3 · Sharpness .2/6 — Brightness .9/6 · Color .2/8 — Solarize .5/2 · Invert 0/3 —
Equalize .2/0 · AutoContrast .6/0 — Equalize .2/8 · Equalize .6/4 — Color .9/9 · Equalize .6/6 —
AutoContrast .8/4 · Solarize .2/8 — Brightness .1/3 · Color .7/0 — Solarize .4/5 ·
AutoContrast .9/3 — TranslateY .9/9 · TranslateY .7/9 — AutoContrast .9/2 · Solarize .8/3 —
Equalize .8/8 · Invert .1/3 — TranslateY .7/9 · AutoContrast .9/1
"""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(shape, seed=0):
    """Noise, faint and constant images, and some with dark edges."""
    x = torch.randint(256, shape, generator=seeded(seed), dtype=torch.uint8)
    x[1::4] = 100 + x[1::4] // 8
    x[2::8] = x[2::8, :, :1, :1]
    x[3::5, :, : shape[2] // 3] = 0
    x[4::9] //= 2
    return x


def magnitudes_of(name, n_bins, height, width):
    """Magnitudes as torchvision makes them, v2 of its policies."""
    most = {"ShearX": 0.3, "ShearY": 0.3, "Rotate": 30.0}
    most |= {"TranslateX": 150.0 / 331.0 * width, "TranslateY": 150.0 / 331.0 * height}
    if name == "Posterize":
        steps = (8 - torch.arange(n_bins) / ((n_bins - 1) / 4)).round()
    elif name == "Solarize":
        steps = 255 * torch.linspace(1, 0, n_bins).double()
    elif name in SIGNED:
        steps = torch.linspace(0, most.get(name, 0.9), n_bins)
    else:
        steps = torch.zeros(1)
    return [
        sign * step for step in steps.tolist() for sign in ((1, -1) if name in SIGNED else (1,))
    ]


def torchvision_operation(image, name, magnitude, fill):
    bound = 255.0 if image.dtype == torch.uint8 else 1.0
    options = {"interpolation": InterpolationMode.NEAREST, "fill": fill * bound / 255}
    straight = {"angle": 0.0, "scale": 1.0, "shear": [0.0, 0.0], "translate": [0, 0]} | options
    degrees = math.degrees(math.atan(magnitude))
    corner = {"center": [0, 0]}
    match name:
        case "Identity":
            return image
        case "ShearX":
            return tv.affine(image, **straight | {"shear": [degrees, 0.0]} | corner)
        case "ShearY":
            return tv.affine(image, **straight | {"shear": [0.0, degrees]} | corner)
        case "TranslateX":
            return tv.affine(image, **straight | {"translate": [int(magnitude), 0]})
        case "TranslateY":
            return tv.affine(image, **straight | {"translate": [0, int(magnitude)]})
        case "Rotate":
            return tv.rotate(image, magnitude, **options)
        case "Brightness":
            return tv.adjust_brightness(image, 1.0 + magnitude)
        case "Color":
            return tv.adjust_saturation(image, 1.0 + magnitude)
        case "Contrast":
            return tv.adjust_contrast(image, 1.0 + magnitude)
        case "Sharpness":
            return tv.adjust_sharpness(image, 1.0 + magnitude)
        case "Posterize":
            return tv.posterize(image, int(magnitude))
        case "Solarize":  # refused by torchvision above 255, where it would mirror nothing
            return image if magnitude > 255 else tv.solarize(image, magnitude * bound / 255)
        case "AutoContrast":
            return tv.autocontrast(image)
        case "Equalize":
            return tv.equalize(image)
        case "Invert":
            return tv.invert(image)


def one_by_one(x, operations, magnitudes, fill):
    out = []
    for i, image in enumerate(x):
        for code, magnitude in zip(operations[:, i], magnitudes[:, i], strict=True):
            image = torchvision_operation(image, OPERATIONS[code], float(magnitude), fill)
        out.append(image)
    return torch.stack(out)


def every_operation(n_bins, height, width):
    """Codes and magnitudes (1, n) of every operation at every strength, in random order."""
    pairs = [
        (CODE[name], magnitude)
        for name in OPERATIONS
        for magnitude in magnitudes_of(name, n_bins, height, width)
    ]
    order = np.random.default_rng(0).permutation(len(pairs))
    codes, magnitudes = np.array(pairs)[order].T
    return codes.astype(int)[None], magnitudes[None]


def names_of_differing(out, expected, operations, atol=0.0):
    differs = ((out.double() - expected.double()).abs() > atol).flatten(1).any(1)
    return {
        OPERATIONS[code] for code, is_other in zip(operations[0], differs, strict=True) if is_other
    }


@pytest.mark.parametrize(
    ("shape", "n_bins", "fill"),
    [
        ((3, 32, 32), 31, 128),
        ((3, 32, 32), 10, 0),
        ((1, 28, 28), 31, 37),
        ((1, 8, 8), 10, 37),
        ((3, 9, 14), 10, 255),
        ((3, 2, 5), 10, 128),
    ],
)
def test_every_operation_equals_torchvision_on_each_image_to_the_bit(shape, n_bins, fill):
    operations, magnitudes = every_operation(n_bins, *shape[1:])
    x = images((operations.shape[1], *shape))
    expected = one_by_one(x, operations, magnitudes, fill)
    for reuse in (True, False):
        out = apply_operations(x, operations, magnitudes, fill, reuse)
        assert names_of_differing(out, expected, operations) == set()


@pytest.mark.parametrize("name", ["Brightness", "Color", "Contrast", "Sharpness"])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_enhancements_that_end_on_whole_numbers_are_cut_like_torchvision(name, n_channels):
    # Greys with a whole mean, changed by tenths: many sums lie at a whole number, give or take.
    steps = np.array(magnitudes_of(name, 10, 8, 8))
    half = torch.randint(1, 202, (10, len(steps), 1, 8, 4), generator=seeded(), dtype=torch.uint8)
    x = torch.cat([half, 202 - half], 4).flatten(0, 1).expand(-1, n_channels, -1, -1)
    operations, magnitudes = np.full((1, len(x)), CODE[name]), np.tile(steps, 10)[None]
    out = apply_operations(x, operations, magnitudes)
    assert torch.equal(out, one_by_one(x, operations, magnitudes, 128))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_solarize_mirrors_white_up_to_its_value_as_threshold(dtype):
    white = torch.full((3, 1, 4, 4), 255 if dtype == torch.uint8 else 1, dtype=dtype)
    codes = np.full((1, 3), CODE["Solarize"])
    out = apply_operations(white, codes, np.array([[255.0, 255.1, 256.0]]))
    assert (out > 0).flatten(1).all(1).tolist() == [False, True, True]


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 8, 8)])
def test_every_operation_on_floats_is_close_to_torchvision(shape):
    operations, magnitudes = every_operation(10, *shape[1:])
    x = images((operations.shape[1], *shape)).float() / 255
    out = apply_operations(x, operations, magnitudes, 128)
    expected = one_by_one(x, operations, magnitudes, 128)
    assert names_of_differing(out, expected, operations, atol=1e-6) == set()


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-5), (torch.bfloat16, 0.02)])
def test_operations_on_floats_of_other_precision_do_the_same(dtype, atol):
    operations, magnitudes = every_operation(10, 16, 16)
    x = images((operations.shape[1], 3, 16, 16)).float().div_(256)  # exact in bfloat16
    operations[operations == CODE["Solarize"]] = 0  # a threshold between two numbers
    out = apply_operations(x.to(dtype), operations, magnitudes, 128)
    assert out.dtype == dtype
    expected = apply_operations(x, operations, magnitudes, 128)
    assert names_of_differing(out, expected, operations, atol) == set()


@pytest.mark.parametrize("view", POLICIES, ids=repr)
def test_policy_equals_torchvision_operations_in_the_order_drawn(view):
    x = images((200, 3, 32, 32))
    operations, magnitudes, *squares = view.draw(len(x), 32, 32, seeded(1))
    expected = one_by_one(x, operations, magnitudes, view.fill)
    if squares:
        paint_squares(expected, *squares)
    out = view(x, seeded(1))
    assert torch.equal(out, expected)
    assert (out != x).flatten(1).any(1).float().mean() > 0.5


@pytest.mark.parametrize("view", POLICIES, ids=repr)
def test_policy_on_floats_is_close_to_its_bytes(view):
    x = images((200, 3, 16, 16))
    out = view(x.float() / 255, seeded(1))
    assert out.min() >= 0
    assert out.max() <= 1
    # Bytes are cut down after each operation; Posterize of floats has levels of its own, and
    # Equalize spreads a byte's difference.
    difference = (255 * out - view(x, seeded(1)).float()).abs().amax((1, 2, 3))
    assert difference.quantile(0.7) <= 3


def cifar10_rows():
    rows = []
    for row in CIFAR10.replace("\n", " ").split("—"):
        parts = [part.replace("/", " ").split() for part in row.split("·")]
        rows.append([(name, float(p), int(index)) for name, p, index in parts])
    return rows


def outcomes(name, p, index):
    """Share of each (operation, magnitude) that an entry of a sub-policy leads to."""
    steps = magnitudes_of(name, 10, 24, 40)
    if name in SIGNED:
        steps = steps[2 * index : 2 * index + 2]
    elif len(steps) > 1:
        steps = steps[index : index + 1]
    return [(("Identity", 0.0), 1 - p), *(((name, step), p / len(steps)) for step in steps)]


def test_auto_augment_draws_what_the_specification_lists():
    rows, n = cifar10_rows(), 100_000
    assert len(rows) == 25
    expected = Counter()
    for first, second in rows:
        for (a, p), (b, q) in itertools.product(outcomes(*first), outcomes(*second)):
            expected[a, b] += n * p * q / 25

    operations, magnitudes = AutoAugment().draw(n, 24, 40, seeded())
    magnitudes = np.where(operations == CODE["Identity"], 0.0, magnitudes)
    pairs = np.stack([operations[0], magnitudes[0], operations[1], magnitudes[1]])
    found = Counter()
    for (a, s, b, t), count in zip(*unique_columns(pairs), strict=True):
        found[(OPERATIONS[int(a)], s), (OPERATIONS[int(b)], t)] = count

    possible = [key for key, value in expected.items() if value > 0]
    assert set(found) == set(possible)  # Invert after Solarize, of probability 0, never comes
    assert ("Solarize", "Invert") in {(a, b) for (a, _), (b, _) in expected}
    assert_fits([found[key] for key in possible], [expected[key] for key in possible])


def unique_columns(array):
    columns, counts = np.unique(array, axis=1, return_counts=True)
    return columns.T.tolist(), counts.tolist()


def assert_fits(counts, expected):
    """Chi-squared within four standard deviations, from either side."""
    counts, expected = np.array(counts), np.array(expected)
    assert expected.min() > 20
    statistic, freedom = ((counts - expected) ** 2 / expected).sum(), len(expected) - 1
    assert abs(statistic - freedom) < 4 * np.sqrt(2 * freedom)


def test_rand_augment_draws_fourteen_operations_uniformly_at_one_strength_and_either_sign():
    view, n = RandAugment(magnitude=9), 100_000
    operations, magnitudes = view.draw(n, 24, 40, seeded())
    names = [name for name in OPERATIONS if name != "Invert"]
    possible = []  # (code, magnitude, share)
    for name in names:
        steps = magnitudes_of(name, 31, 24, 40)
        steps = steps[18:20] if name in SIGNED else steps[9:10] or [0.0]
        possible += [(CODE[name], step, 1 / 14 / len(steps)) for step in steps]
    expected = {
        (a, s, b, t): n * p * q for (a, s, p), (b, t, q) in itertools.product(possible, repeat=2)
    }
    columns, counts = unique_columns(
        np.stack([operations[0], magnitudes[0], operations[1], magnitudes[1]])
    )
    found = {tuple(column): count for column, count in zip(columns, counts, strict=True)}
    assert set(found) == set(expected)
    assert_fits([found[key] for key in expected], list(expected.values()))


def test_fixmatch_draws_every_strength_of_its_ranges():
    n = 70_000
    operations, magnitudes, _ = FixMatchRandAugment().draw(n, 20, 40, seeded())
    assert_fits(np.bincount(operations[0])[operations[0].min() :][:12], np.full(12, n / 14))
    ranges = dict.fromkeys(["ShearX", "ShearY"], (-0.3, 0.3))
    ranges |= {"TranslateX": (-12, 12), "TranslateY": (-6, 6), "Rotate": (-30, 30)}
    ranges |= dict.fromkeys(["Brightness", "Color", "Contrast", "Sharpness"], (-0.95, -0.05))
    ranges |= {"Posterize": (4, 8), "Solarize": (0, 256)}
    for name, (low, high) in ranges.items():
        drawn = (magnitudes[operations == CODE[name]] - low) / (high - low)
        assert_fits(np.histogram(drawn, 20, (0, 1))[0], np.full(20, len(drawn) / 20))


def test_fixmatch_squares_have_uniform_sides_and_middles():
    n = 50_000
    *_, (top, left, side) = FixMatchRandAugment().draw(n, 20, 40, seeded())
    for drawn in (side / 20, (top + side / 2) / 20, (left + side / 2) / 40):
        assert_fits(np.histogram(drawn, 20, (0, 1))[0], np.full(20, n / 20))
    assert abs(np.corrcoef([top + side / 2, left + side / 2, side]) - np.eye(3)).max() < 0.02


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_square_is_painted_where_the_middles_of_pixels_lie(dtype, n_channels):
    height, width, unit = 6, 9, 1 if dtype == torch.uint8 else 255
    squares = np.array([[1.0, -2, 4.2, 0.6], [2.0, -1, 7.1, 0.6], [3.0, 4, 9, 0.5]])
    x = images((4, n_channels, height, width)).to(dtype) / unit
    x = x.to(dtype)
    colour = torch.tensor((125, 123, 114) if n_channels == 3 else (123,)) / unit
    expected = x.clone()
    for i, (top, left, side) in enumerate(squares.T):
        for row, column in itertools.product(range(height), range(width)):
            is_below = top <= row + 0.5 < top + side
            if is_below and left <= column + 0.5 < left + side:
                expected[i, :, row, column] = colour.to(dtype)
    assert torch.equal(paint_squares(x.clone(), squares), expected)
    assert (expected != x).flatten(1).any(1).tolist() == [True, True, True, False]


@pytest.mark.parametrize("view", POLICIES, ids=repr)
def test_images_of_one_batch_are_drawn_anew_and_calls_too(view):
    x, generator = images((1, 3, 16, 16)).expand(60, -1, -1, -1), seeded()
    first, second = view(x, generator), view(x, generator)
    assert len(first.unique(dim=0)) > 20
    assert not torch.equal(first, second)


@pytest.mark.parametrize("view", POLICIES, ids=repr)
def test_policy_draws_from_its_generator_only_and_keeps_its_input(view):
    x = images((40, 3, 16, 16))
    before, state = x.clone(), torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second, other = view(x, seeded(1)), view(x, seeded(1)), view(x, seeded(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("view", POLICIES, ids=repr)
def test_policy_reads_no_value_back(view):
    # Tensors on the meta device have no values: a branch on one, or an item(), would raise.
    for dtype in (torch.uint8, torch.float32):
        x = torch.empty(64, 3, 8, 8, dtype=dtype, device="meta")
        out = view(x, seeded())
        assert (out.shape, out.dtype, out.device) == (x.shape, x.dtype, x.device)


@pytest.mark.parametrize("view", POLICIES, ids=repr)
def test_policy_takes_any_layout_and_number_of_images(view):
    x = images((30, 3, 12, 8))
    expected = view(x, seeded())
    assert torch.equal(view(x.to(memory_format=torch.channels_last), seeded()), expected)
    assert torch.equal(view(x.repeat_interleave(2, 0)[::2], seeded()), expected)
    assert view(x[:1], seeded()).shape == (1, 3, 12, 8)
    assert view(x[:0], seeded()).shape == (0, 3, 12, 8)


@pytest.mark.parametrize("view", POLICIES, ids=repr)
def test_policy_in_autocast_does_the_same(view):
    x = images((60, 3, 32, 32))
    with torch.autocast("cpu", torch.bfloat16):
        out = view(x, seeded())
    assert torch.equal(out, view(x, seeded()))


@pytest.mark.parametrize("view", [RandAugment(), RandAugment(n_ops=0), FixMatchRandAugment()])
def test_view_of_floats_enters_a_network_that_learns(view):
    weight = torch.ones(2, 3, 3, 3, requires_grad=True)
    torch.conv2d(
        view(torch.rand(8, 3, 8, 8, generator=seeded()), seeded()), weight
    ).sum().backward()
    assert weight.grad.abs().sum() > 0


def test_rand_augment_without_operations_returns_the_images():
    x = images((5, 3, 8, 8))
    assert torch.equal(RandAugment(n_ops=0)(x, seeded()), x)


@pytest.mark.parametrize("view", POLICIES, ids=repr)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 2, 8, 8), "1 or 3 channels, got (2, 2, 8, 8)"),
        (torch.zeros(2, 4, 8, 8, dtype=torch.uint8), "1 or 3 channels, got (2, 4, 8, 8)"),
        (torch.zeros(2, 8), "1 or 3 channels, got (2, 8)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), "uint8 or floating, got torch.int64"),
        (torch.full((2, 1, 8, 8), 16.0), "must lie in [0, 1] for this view, got values from 16"),
        (torch.full((2, 1, 8, 8), -1.0), "must lie in [0, 1]"),
        (torch.full((2, 1, 8, 8), torch.nan), "must lie in [0, 1]"),
    ],
)
def test_policy_on_other_images_raises(view, x, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        view(x, seeded())


@pytest.mark.parametrize("view", POLICIES, ids=repr)
def test_policy_without_a_torch_generator_raises(view):
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
        view(images((2, 3, 8, 8)), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("make", "error", "name"),
    [
        (lambda: AutoAugment("cifar100"), ValueError, "policy"),
        (lambda: AutoAugment(None), ValueError, "policy"),
        (lambda: AutoAugment(fill=256), ValueError, "fill"),
        (lambda: AutoAugment(fill=0.5), TypeError, "fill"),
        (lambda: RandAugment(n_ops=-1), ValueError, "n_ops"),
        (lambda: RandAugment(n_ops=1.0), TypeError, "n_ops"),
        (lambda: RandAugment(magnitude=31), ValueError, "magnitude"),
        (lambda: RandAugment(magnitude=-1), ValueError, "magnitude"),
        (lambda: RandAugment(n_bins=1), ValueError, "n_bins"),
        (lambda: RandAugment(fill=-1), ValueError, "fill"),
        (lambda: FixMatchRandAugment(n_ops=-1), ValueError, "n_ops"),
        (lambda: FixMatchRandAugment(fill=True), TypeError, "fill"),
        (lambda: Chain(CropFlip(), None), TypeError, "views"),
        (lambda: Chain(CropFlip), TypeError, "views"),
    ],
)
def test_view_with_a_bad_parameter_raises(make, error, name):
    with pytest.raises(error, match=name):
        make()


def test_chain_applies_its_views_in_turn():
    x, first, second = images((20, 3, 16, 16)), CropFlip(2), RandAugment()
    generator = seeded()
    expected = second(first(x, generator), generator)
    assert torch.equal(Chain(first, second)(x, seeded()), expected)
    assert not torch.equal(Chain(second, first)(x, seeded()), expected)
    assert Chain()(x, seeded()) is x


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (AutoAugment(), "AutoAugment(policy='cifar10', fill=128)"),
        (RandAugment(3), "RandAugment(n_ops=3, magnitude=9, n_bins=31, fill=128)"),
        (FixMatchRandAugment(), "FixMatchRandAugment(n_ops=1, fill=128)"),
        (
            Chain(CropFlip(), AutoAugment("svhn", fill=0)),
            "Chain(CropFlip(padding=4, flip=True), AutoAugment(policy='svhn', fill=0))",
        ),
    ],
)
def test_view_is_a_value(view, text):
    for twin in (copy.deepcopy(view), pickle.loads(pickle.dumps(view)), clone(view, safe=False)):
        assert twin == view
        assert hash(twin) == hash(view)
    assert repr(view) == text
    assert view not in (Chain(), Chain(view), RandAugment(4), AutoAugment("imagenet"))


def test_classifier_trains_on_a_chain_and_prints_it():
    x, y = images((60, 1, 8, 8)).numpy(), np.arange(60) % 2
    view = Chain(CropFlip(1), RandAugment())
    classifier = clone(
        CrossEntropyClassifier(Network(max_epochs=1), augment=view, random_state=0)
    ).fit(x, y)
    assert classifier.augment == view
    assert "Chain(CropFlip(padding=1, flip=True), RandAugment(" in repr(classifier)
