"""Contrastive views and loss against torchvision's functions and plain loops."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import ks_2samp
from torch.nn import functional as F
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from noisyfit.augment import FeatureCorruption, SimCLRView
from noisyfit.augment._contrastive import draw_boxes, simclr_view
from noisyfit.augment._draws import on_host
from noisyfit.augment._pixels import blend, remove_colours, resized_crop, turn_hue
from noisyfit.losses import nt_xent

ADJUST = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)
PLAIN = {"jitter_probability": 0, "grey_probability": 0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(shape, seed=0):
    """Half noise, half smooth, with grey, black and white ones among them."""
    x = torch.randint(256, shape, generator=seeded(seed), dtype=torch.uint8)
    n, channels, height, width = shape
    coarse = torch.rand(n // 2, channels, 4, 4, generator=seeded(seed)) * 255
    x[: n // 2] = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255).byte()
    x[0], x[1], x[2] = 0, 255, x[2, :1]
    return x


def one_by_one(x, draws):
    """The view by torchvision's functions, image by image."""
    out = []
    for i, image in enumerate(x):
        size = list(image.shape[1:])
        top, left, height, width = draws.box[:, i].int().tolist()
        image = TF.resized_crop(image, top, left, height, width, size, antialias=True)
        image = TF.horizontal_flip(image) if draws.mirror[i] else image
        place = draws.place[i].item()
        if place < 4:
            steps = [(ADJUST[k], draws.factors[i, k].item()) for k in draws.order[i].tolist()]
            steps.insert(place, (TF.adjust_hue, draws.turn[i].item()))
            for adjust, amount in steps:
                image = adjust(image, amount)
        if draws.grey[i] and len(image) == 3:
            image = TF.rgb_to_grayscale(image, num_output_channels=3)
        out.append(image)
    return torch.stack(out)


def gap(a, b):
    """Absolute differences of bytes."""
    return (a.int() - b.int()).abs()


# --- SimCLRView: the pixels ---


@pytest.mark.parametrize("shape", [(64, 3, 32, 32), (40, 1, 28, 28), (30, 2, 9, 14)])
def test_crop_is_torchvision_s_within_a_level(shape):
    x, view = images(shape), SimCLRView(**PLAIN)
    draws = view.draw(len(x), *shape[2:], seeded(1))
    out, expected = simclr_view(x, draws), one_by_one(x, draws)
    assert out.dtype == torch.uint8
    assert gap(out, expected).max() <= 1
    # torchvision rounds whole numbers twice; from floats its result is ours
    exact = torch.round(one_by_one(x.float(), draws)).byte()
    assert (gap(out, exact) > 0).float().mean() < 1e-2  # at halves


def test_crop_of_the_whole_image_returns_it():
    x = images((20, 3, 28, 20))
    view = SimCLRView(scale=(1, 1), ratio=(20 / 28, 20 / 28), flip=False, **PLAIN)
    assert torch.equal(view(x, seeded()), x)
    mirrored = SimCLRView(scale=(1, 1), ratio=(20 / 28, 20 / 28), **PLAIN)
    draws = mirrored.draw(20, 28, 20, seeded())
    assert 0 < draws.mirror.sum() < 20
    expected = torch.where(draws.mirror[:, None, None, None], x.flip(3), x)
    assert torch.equal(simclr_view(x, draws), expected)


def test_crop_sees_nothing_outside_its_box():
    x = torch.full((1, 1, 8, 8), 200.0)
    x[0, 0, 2:5, 1:4] = 7
    box = torch.tensor([[2.0], [1], [3], [3]])
    assert_allclose(resized_crop(x, box, torch.tensor([False])), 7, rtol=1e-6)


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_contrast_and_saturation_are_torchvision_s(step, channels):
    x = images((64, channels, 16, 16))
    factor = torch.rand(64, generator=seeded(1)) * 1.4 + 0.2
    rest, zero = 1 - factor, torch.zeros(64)
    shares = [(zero, zero), (rest, zero), (zero, rest)][step]
    if channels == 1 and step == 2:
        factor, shares = zero + 1, (zero, zero)  # as the view has it: nothing to saturate
    out = x.float()
    blend(out, *(c[:, None, None] for c in (factor, *shares)), torch.uint8)
    expected = torch.stack([ADJUST[step](image, f.item()) for image, f in zip(x, factor)])  # noqa: B905
    assert gap(out, expected).max() <= 1
    assert (gap(out, expected) > 0).float().mean() < 5e-3


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.03, 0.1, 0.5])
def test_hue_is_torchvision_s(turn):
    x = images((64, 3, 16, 16))
    out = x.float()
    turn_hue(out, torch.full((64, 1, 1), turn), torch.uint8)
    expected = TF.adjust_hue(x, turn)
    assert gap(out, expected).max() <= 1
    assert (gap(out, expected) > 0).float().mean() < 1e-3


def test_colours_are_removed_as_in_torchvision():
    x = images((20, 3, 8, 8))
    mask = torch.arange(20) % 3 == 0
    out = remove_colours(x.clone(), mask)
    assert torch.equal(out[mask], TF.rgb_to_grayscale(x[mask], num_output_channels=3))
    assert torch.equal(out[~mask], x[~mask])


@pytest.mark.parametrize("channels", [1, 3])
def test_view_is_that_of_torchvision_with_the_same_draws(channels):
    x = images((128, channels, 32, 32))
    draws = SimCLRView().draw(128, 32, 32, seeded(3))
    off = gap(simclr_view(x, draws), one_by_one(x, draws)).float()
    # the crop's levels of one are carried through four changes
    assert off.mean() < 0.2
    assert (off > 3).float().mean() < 1e-3


def test_floating_images_are_not_clipped_and_otherwise_as_in_torchvision():
    x = torch.rand(64, 3, 16, 16, generator=seeded()) * 0.2 + 0.3
    draws = SimCLRView().draw(64, 16, 16, seeded(1))
    out, expected = simclr_view(x, draws), one_by_one(x, draws)
    assert out.dtype == torch.float32
    assert expected.max() < 1
    assert_allclose(out, expected, atol=2e-5)
    assert_allclose(simclr_view(x * 50, draws), 50 * out, atol=1e-3)
    assert simclr_view(x.double(), draws).dtype == torch.float64


def test_images_of_two_channels_change_in_brightness_and_contrast_only():
    x = images((40, 2, 8, 8)).float()
    view = SimCLRView(scale=(1, 1), ratio=(1, 1), flip=False, jitter_probability=1)
    draws = view.draw(40, 8, 8, seeded())
    # an affine map of each image
    for image, result in zip(x[3:], simclr_view(x, draws)[3:], strict=True):
        slope, shift = np.polyfit(image.flatten(), result.flatten(), 1)
        assert_allclose(slope * image + shift, result, atol=1e-2)


def test_jitter_of_zero_returns_the_images():
    x = images((20, 3, 8, 8))
    view = SimCLRView((1, 1), (1, 1), (0, 0, 0, 0), 1, 0, False)
    assert torch.equal(view(x, seeded()), x)


def test_view_keeps_its_input_and_reads_no_value_back():
    x = images((9, 3, 8, 8))
    before = x.clone()
    view = SimCLRView()
    view(x, seeded())
    assert torch.equal(x, before)
    out = view(x.to("meta"), seeded())  # has no values: a branch on one, or an item(), would raise
    assert (out.shape, out.dtype) == (x.shape, torch.uint8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_view_on_an_accelerator_is_that_of_the_host_and_waits_for_nothing():
    x, view = images((40, 3, 16, 16)), SimCLRView()
    draws = view.draw(40, 16, 16, seeded())
    off = gap(simclr_view(x.cuda(), draws).cpu(), simclr_view(x, draws))
    assert (off > 1).float().mean() < 1e-3
    generator = torch.Generator("cuda").manual_seed(0)
    there = x.cuda()
    view(there, generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        first, second = view(there, generator), view(there, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not torch.equal(first, second)
    again = view(there, torch.Generator("cuda").manual_seed(0))
    assert torch.equal(again, view(there, generator.manual_seed(0)))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_view_of_few_images(n):
    x = images((6, 3, 5, 7))[:n]
    for seed in range(10):
        assert SimCLRView()(x, seeded(seed)).shape == x.shape


# --- SimCLRView: the draws ---


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [
        ((32, 32), (0.2, 1.0), (3 / 4, 4 / 3)),
        ((20, 90), (0.2, 1.0), (3 / 4, 4 / 3)),
        ((64, 64), (0.02, 0.3), (0.2, 4)),
    ],
)
def test_boxes_have_the_distribution_of_torchvision(size, scale, ratio):
    n = 3000
    crop = v2.RandomResizedCrop(size, scale=scale, ratio=ratio)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.empty(1, *size)
        params = [crop.make_params([image]) for _ in range(n)]
    boxes = draw_boxes(n, *size, scale, ratio, seeded()).numpy()
    for name, ours in zip(("top", "left", "height", "width"), boxes, strict=True):
        assert ks_2samp([p[name] for p in params], ours).pvalue > 1e-3
    top, left, height, width = boxes
    assert (np.minimum(top, left) >= 0).all()
    assert (top + height).max() <= size[0]
    assert (left + width).max() <= size[1]


@pytest.mark.parametrize(
    ("size", "ratio", "expected"),
    [
        ((10, 40), (1, 2), [0, 10, 10, 20]),
        ((41, 10), (1, 2), [15, 0, 10, 10]),
        ((9, 9), (0.5, 3), [0, 0, 9, 9]),
    ],
)
def test_box_that_never_fits_is_the_largest_one_in_the_middle(size, ratio, expected):
    box = draw_boxes(5, *size, (40.0, 50.0), ratio, seeded())  # forty times the image
    assert box.T.tolist() == [expected] * 5


def test_jitter_comes_in_every_order_equally_often():
    n = 24_000
    draws = SimCLRView(jitter_probability=0.5).draw(n, 8, 8, seeded())
    jittered = draws.place < 4
    code = ((draws.place * 3 + draws.order[:, 0]) * 3 + draws.order[:, 1])[jittered]
    counts = torch.bincount(code)
    counts = counts[counts > 0].double()
    expected = jittered.sum() / 24
    assert len(counts) == 24
    # chi-squared with 23 degrees of freedom exceeds 58 once in 10^4 seeds
    assert ((counts - expected) ** 2 / expected).sum() < 58
    assert abs(jittered.double().mean() - 0.5) < 4 * 0.5 / math.sqrt(n)


def test_amounts_are_uniform_in_their_ranges_and_shares_as_given():
    n = 20_000
    view = SimCLRView(jitter=(0.4, 1.5, 0.2, 0.1), grey_probability=0.3)
    draws = view.draw(n, 8, 8, seeded())
    ranges = [(0.6, 1.4), (0, 2.5), (0.8, 1.2), (-0.1, 0.1)]
    amounts = [*draws.factors.T, draws.turn]
    for (low, high), amount in zip(ranges, amounts, strict=True):
        assert ks_2samp(amount, np.linspace(low, high, n)).pvalue > 1e-3
    shares = (draws.grey, 0.3), (draws.mirror, 0.5), (draws.place == 4, 0.2)
    for mask, share in shares:
        assert abs(mask.double().mean() - share) < 4 * math.sqrt(share * (1 - share) / n)
    every = np.stack([*amounts, draws.grey, draws.mirror, draws.place == 4, *draws.box])
    correlation = np.corrcoef(every)[:7]
    np.fill_diagonal(correlation, 0)
    assert abs(correlation).max() < 5 / math.sqrt(n)


def test_draws_on_the_host_come_from_the_generator_itself():
    generator = seeded()
    assert on_host(generator) is generator


@pytest.mark.parametrize("view", [SimCLRView(), FeatureCorruption()])
def test_view_draws_from_its_generator_only(view):
    x = images((8, 3, 6, 6))
    x = x.flatten(1).float() if isinstance(view, FeatureCorruption) else x
    before = torch.get_rng_state()
    first, second, other = view(x, seeded(1)), view(x, seeded(1)), view(x, seeded(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    generator = seeded(1)
    assert not torch.equal(view(x, generator), view(x, generator))


@pytest.mark.parametrize("view", [SimCLRView(), FeatureCorruption()])
@pytest.mark.parametrize("generator", [None, 0, np.random.default_rng(0)])
def test_view_without_a_torch_generator_raises(view, generator):
    x = torch.zeros((2, 1, 4, 4)[: 4 if isinstance(view, SimCLRView) else 2])
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
        view(x, generator)


@pytest.mark.parametrize("view", [SimCLRView(flip=False), FeatureCorruption(0.6)])
def test_view_is_a_value(view):
    for twin in (copy.deepcopy(view), pickle.loads(pickle.dumps(view))):
        assert twin == view
        assert hash(twin) == hash(view)
    assert eval(repr(view)) == view


@pytest.mark.parametrize(
    ("params", "error", "name"),
    [
        ({"scale": 0.5}, TypeError, "scale"),
        ({"scale": (0.5, 0.2)}, ValueError, "scale"),
        ({"scale": (0, 1)}, ValueError, "scale"),
        ({"scale": (0.5, 1.5)}, ValueError, "scale"),
        ({"scale": [0.5, 1]}, TypeError, "scale"),
        ({"ratio": (0.0, 1.0)}, ValueError, "ratio"),
        ({"ratio": (1.0, float("inf"))}, ValueError, "ratio"),
        ({"ratio": (2, 1)}, ValueError, "ratio"),
        ({"jitter": (0.4, 0.4, 0.4)}, TypeError, "jitter"),
        ({"jitter": (0.4, 0.4, -0.4, 0.1)}, ValueError, "jitter"),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, ValueError, "jitter"),
        ({"jitter": (0.4, "0.4", 0.4, 0.1)}, TypeError, "jitter"),
        ({"jitter_probability": 1.1}, ValueError, "jitter_probability"),
        ({"grey_probability": -0.1}, ValueError, "grey_probability"),
        ({"flip": 1}, TypeError, "flip"),
    ],
)
def test_simclr_view_with_a_bad_parameter_raises(params, error, name):
    with pytest.raises(error, match=name):
        SimCLRView(**params)


def test_simclr_view_of_a_table_raises():
    with pytest.raises(ValueError, match="Expected images"):
        SimCLRView()(torch.zeros(3, 4), seeded())


# --- FeatureCorruption ---


def test_corrupted_entries_come_from_other_rows_of_the_same_column():
    n, d = 40, 7
    x = torch.arange(n * d).view(n, d).double()  # every entry is another
    out = FeatureCorruption(1.0)(x, seeded())
    assert out.dtype == torch.float64
    row, column = (out / d).floor(), out % d
    assert torch.equal(column, torch.arange(d).expand(n, d).double())
    assert (row != torch.arange(n)[:, None]).all()
    # each entry has a row of its own
    assert (row[:, 0] != row[:, 1]).any()


def test_every_other_row_is_drawn_equally_often():
    x = torch.arange(6.0)[:, None].repeat(1, 20_000)
    out = FeatureCorruption(1.0)(x, seeded()).long()
    counts = torch.stack([torch.bincount(row, minlength=6) for row in out])
    expected = 20_000 / 5 * (1 - torch.eye(6))
    assert_allclose(counts, expected, atol=4 * math.sqrt(20_000 * 0.2 * 0.8))
    assert (counts.diagonal() == 0).all()


def test_share_of_the_entries_is_replaced_independently():
    n, d = 200, 100
    x = torch.arange(n * d).view(n, d)
    replaced = (FeatureCorruption(0.3)(x, seeded()) != x).double()
    spread = math.sqrt(0.21 / n)
    assert abs(replaced.mean() - 0.3) < 4 * spread / math.sqrt(d)
    assert replaced.mean(0).std() == pytest.approx(spread, rel=0.35)
    assert replaced.mean(1).std() == pytest.approx(math.sqrt(0.21 / d), rel=0.35)


@pytest.mark.parametrize(("n", "share"), [(1, 1.0), (0, 1.0), (9, 0.0)])
def test_nothing_to_corrupt_returns_the_table(n, share):
    x = torch.rand(n, 4, generator=seeded())
    assert torch.equal(FeatureCorruption(share)(x, seeded()), x)


def test_corruption_keeps_its_input_and_reads_no_value_back():
    x = torch.rand(5, 4, generator=seeded())
    before = x.clone()
    FeatureCorruption(1.0)(x, seeded())
    assert torch.equal(x, before)
    assert FeatureCorruption()(x.to("meta"), seeded()).shape == x.shape


@pytest.mark.parametrize(
    ("share", "error"), [(1.1, ValueError), (-1, ValueError), ("a", TypeError)]
)
def test_corruption_with_a_bad_share_raises(share, error):
    with pytest.raises(error, match="share"):
        FeatureCorruption(share)


def test_corruption_of_images_raises():
    with pytest.raises(ValueError, match="Expected a table"):
        FeatureCorruption()(torch.zeros(2, 1, 4, 4), seeded())


# --- nt_xent ---


def nt_xent_loop(first, second, temperature):
    """Equation 1 of the paper, pair by pair; (n,)."""
    z = [row / np.linalg.norm(row) for row in np.concatenate([first, second]).astype(float)]
    n, loss = len(first), []
    for i in range(2 * n):
        similar = [z[i] @ z[j] / temperature for j in range(2 * n)]
        others = sum(math.exp(similar[j]) for j in range(2 * n) if j != i)
        loss.append(math.log(others) - similar[(i + n) % (2 * n)])
    return [(loss[i] + loss[i + n]) / 2 for i in range(n)]


def projections(n, d, dtype=torch.float32, seed=0):
    return torch.randn(2, n, d, generator=seeded(seed), dtype=dtype)


@pytest.mark.parametrize(("n", "d", "temperature"), [(1, 3, 0.5), (2, 1, 0.1), (7, 5, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_nt_xent_equals_a_plain_loop(n, d, temperature, dtype):
    first, second = projections(n, d).to(dtype)
    out = nt_xent(first, second, temperature)
    assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = nt_xent_loop(first.double().numpy(), second.double().numpy(), temperature)
    assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_nt_xent_has_its_published_values(temperature):
    same = nt_xent(torch.ones(8, 4), torch.ones(8, 4), temperature)
    assert_allclose(same, math.log(15), rtol=1e-6)
    t = temperature
    apart = nt_xent(3 * torch.eye(8), torch.eye(8), temperature)
    assert_allclose(apart, -1 / t + math.log(math.exp(1 / t) + 14), atol=2e-6)
    if t == 0.5:
        assert apart[0].item() == pytest.approx(1.06288, abs=1e-5)


def test_nt_xent_does_not_depend_on_the_order_or_the_length_of_projections():
    first, second = projections(9, 4)
    loss, order = nt_xent(first, second), torch.randperm(9, generator=seeded())
    assert_allclose(nt_xent(first[order], second[order]), loss[order], rtol=1e-5)
    assert_allclose(nt_xent(second, first), loss, rtol=1e-5)
    length = torch.logspace(-9, 9, 9)[:, None]
    assert_allclose(nt_xent(first * length, second), loss, rtol=1e-5)


def test_nt_xent_base_temperature_is_a_factor():
    first, second = projections(4, 3)
    expected = 0.5 / 0.07 * nt_xent(first, second)
    assert_allclose(nt_xent(first, second, base_temperature=0.07), expected, rtol=1e-6)


def test_nt_xent_is_differentiable():
    first, second = projections(4, 3, torch.float64).requires_grad_().unbind()
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3), (first, second))


@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_nt_xent_of_zeros_is_finite_and_teaches_them_nothing(temperature):
    first, second = projections(5, 3)
    first[2], second[2], first[4] = 0, 0, 0
    first.requires_grad_()
    loss = nt_xent(first, second, temperature)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(first.grad).all()
    assert (first.grad[[2, 4]] == 0).all()
    assert (first.grad[0] != 0).all()
    assert loss[2].item() == pytest.approx(math.log(9))  # all nine others are equally similar


def test_nt_xent_is_computed_in_full_precision_under_autocast():
    first, second = projections(16, 8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(first, second, 0.05)
    assert torch.equal(inside, nt_xent(first, second, 0.05))


def test_nt_xent_falls_under_gradient_steps():
    x, weight = projections(32, 6), torch.eye(6).requires_grad_()
    x[1] = x[0] + 0.3 * x[1]
    losses = []
    for _ in range(20):
        loss = nt_xent(*(x @ weight), 0.2).mean()
        loss.backward()
        weight.data -= 0.3 * weight.grad
        weight.grad = None
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize("shapes", [((3, 4), (2, 4)), ((3, 4), (3, 5)), ((3,), (3,))])
def test_nt_xent_of_views_that_do_not_fit_raises(shapes):
    with pytest.raises(ValueError, match="two tables of the same shape"):
        nt_xent(*(torch.zeros(shape) for shape in shapes))
