"""Views and mixup against plain loops, with the draws they report."""

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.nn import functional as F

from noisyfit.augment import (
    CropFlip,
    FeatureNoise,
    beta,
    crop_flip,
    mix,
    mixup,
    random_permutation,
)

# α: (variance of δ ~ Beta(α, α), E max(δ, 1 - δ))
BETA_MOMENTS = {
    0.2: (0.178571, 0.8988),
    1: (0.083333, 0.7500),
    4: (0.027778, 0.6367),
    8: (0.014706, 0.5982),
    32: (0.003846, 0.5497),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(shape, dtype=torch.uint8, seed=0):
    return torch.randint(1, 256, shape, generator=seeded(seed)).to(dtype)


def crop_flip_loop(x, dy, dx, flip, padding):
    height, width = x.shape[2:]
    out = []
    for i in range(len(x)):
        padded = F.pad(x[i], [padding] * 4)
        cut = padded[:, dy[i] : dy[i] + height, dx[i] : dx[i] + width]
        out.append(cut.flip(2) if flip[i] else cut)
    return torch.stack(out)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(16, 3, 32, 32), (7, 1, 8, 8), (5, 2, 4, 9), (1, 3, 9, 4)])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crop_flip_equals_a_loop_over_images(shape, dtype, padding):
    x = images(shape, dtype)
    draws = CropFlip(padding).draw(len(x), seeded(1))

    out = crop_flip(x, *draws, padding)

    assert out.dtype == dtype
    assert torch.equal(out, crop_flip_loop(x, *draws, padding))


def test_crop_flip_at_every_offset_equals_the_loop():
    padding = 2
    dy, dx, flip = torch.cartesian_prod(torch.arange(5), torch.arange(5), torch.arange(2)).T
    x = images((50, 2, 6, 5))
    assert torch.equal(
        crop_flip(x, dy, dx, flip == 1, padding), crop_flip_loop(x, dy, dx, flip, padding)
    )


def test_crop_flip_of_channels_last_images_equals_the_loop():
    x = images((6, 3, 8, 8), torch.float32).contiguous(memory_format=torch.channels_last)
    draws = CropFlip(4).draw(6, seeded())
    assert torch.equal(crop_flip(x, *draws, 4), crop_flip_loop(x, *draws, 4))


def test_crop_flip_reads_no_value_back():
    # Tensors on the meta device have no values: a branch on one, or an item(), would raise.
    index = torch.empty(4, dtype=torch.int64, device="meta")
    x = torch.empty(4, 3, 8, 8, dtype=torch.uint8, device="meta")
    out = crop_flip(x, index, index, index.bool(), 2)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)


def test_crop_flip_sends_gradients_to_the_pixels_it_kept():
    x = images((3, 1, 4, 4), torch.float64).requires_grad_()
    draws = CropFlip(2).draw(3, seeded())
    crop_flip(x, *draws, 2).square().sum().backward()
    gradient, x.grad = x.grad, None
    crop_flip_loop(x, *draws, 2).square().sum().backward()
    assert torch.equal(gradient, x.grad)


def test_crop_flip_without_a_batch_of_images_raises():
    with pytest.raises(ValueError, match=r"Expected images \(batch, channels, height, width\)"):
        CropFlip(4)(torch.zeros(3, 8), seeded())


def test_crop_flip_view_is_crop_flip_with_its_own_draws_and_keeps_its_input():
    x = images((9, 3, 8, 8))
    before = x.clone()
    out = CropFlip(3)(x, seeded(5))
    assert torch.equal(out, crop_flip(x, *CropFlip(3).draw(9, seeded(5)), 3))
    assert torch.equal(x, before)


def test_crop_flip_draws_are_uniform_and_independent_per_image():
    n, padding = 20_000, 2
    dy, dx, flip = CropFlip(padding).draw(n, seeded())
    # 50 equally likely cells; chi-squared with 49 degrees of freedom exceeds 95 once in 10^4 seeds.
    counts = torch.bincount((dy * 5 + dx) * 2 + flip, minlength=50)
    assert len(counts) == 50
    assert ((counts - n / 50) ** 2 / (n / 50)).sum() < 95


def test_crop_flip_without_flip_mirrors_nothing():
    _, _, flip = CropFlip(4, flip=False).draw(200, seeded())
    assert flip.dtype == torch.bool
    assert not flip.any()


def test_crop_flip_with_nothing_to_do_returns_the_images():
    x = images((5, 3, 8, 8))
    assert torch.equal(CropFlip(0, flip=False)(x, seeded()), x)


@pytest.mark.parametrize("view", [CropFlip(2), FeatureNoise(0.3)])
def test_view_draws_from_its_generator_only(view):
    x = images((6, 1, 8, 8), torch.float32)
    before = torch.get_rng_state()
    first, second, other = view(x, seeded(1)), view(x, seeded(1)), view(x, seeded(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("view", [CropFlip(2), FeatureNoise(0.3)])
@pytest.mark.parametrize("generator", [None, 0, np.random.default_rng(0)])
def test_view_without_a_torch_generator_raises(view, generator):
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
        view(torch.zeros(2, 1, 4, 4), generator)


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (CropFlip(), "CropFlip(padding=4, flip=True)"),
        (CropFlip(2, flip=False), "CropFlip(padding=2, flip=False)"),
        (FeatureNoise(), "FeatureNoise(std=0.1)"),
    ],
)
def test_view_is_a_value(view, text):
    for twin in (copy.deepcopy(view), pickle.loads(pickle.dumps(view))):
        assert twin == view
        assert hash(twin) == hash(view)
    assert repr(view) == text


def test_views_with_other_parameters_differ():
    assert len({CropFlip(4), CropFlip(3), CropFlip(4, flip=False), FeatureNoise(4)}) == 4


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: CropFlip(-1), ValueError),
        (lambda: CropFlip(1.5), TypeError),
        (lambda: CropFlip(4, flip="yes"), TypeError),
        (lambda: FeatureNoise(-0.1), ValueError),
        (lambda: FeatureNoise(float("nan")), ValueError),
        (lambda: FeatureNoise(float("inf")), ValueError),
        (lambda: FeatureNoise("0.1"), TypeError),
    ],
)
def test_view_with_a_bad_parameter_raises(make, error):
    with pytest.raises(error, match=r"padding|flip|std"):
        make()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_feature_noise_adds_its_own_gaussian_draws(dtype):
    x = torch.rand(4, 3, dtype=dtype, generator=seeded(1))
    out = FeatureNoise(0.5)(x, seeded(2))
    assert out.dtype == dtype
    assert torch.equal(out, x + 0.5 * torch.randn(4, 3, dtype=dtype, generator=seeded(2)))


def test_feature_noise_has_the_given_deviation_in_every_column():
    n = 20_000
    noise = FeatureNoise(0.2)(torch.zeros(n, 5), seeded()).numpy()
    covariance = noise.T @ noise / n
    # standard errors: 0.04 / sqrt(n) off the diagonal, sqrt(2) times that on it
    assert_allclose(covariance, 0.04 * np.eye(5), atol=4 * np.sqrt(2) * 0.04 / np.sqrt(n))


def test_feature_noise_of_zero_returns_the_table():
    x = torch.rand(4, 3, generator=seeded())
    assert torch.equal(FeatureNoise(0)(x, seeded()), x)


def test_feature_noise_on_integers_raises():
    with pytest.raises(TypeError, match=r"floating table, got torch\.int64"):
        FeatureNoise()(torch.zeros(2, 3, dtype=torch.int64), seeded())


def mix_loop(a, b, lam):
    a, b = a.numpy(), b.numpy()
    lam = np.broadcast_to(lam, len(a))
    out = np.empty_like(a)
    for i in range(len(a)):
        for place in np.ndindex(a.shape[1:]):
            out[(i, *place)] = lam[i] * a[(i, *place)] + (1 - lam[i]) * b[(i, *place)]
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5,), (4, 3), (3, 2, 4, 5)])
@pytest.mark.parametrize("per_sample", [False, True])
def test_mix_equals_a_loop_over_entries(shape, dtype, per_sample):
    a, b = torch.randn(2, *shape, dtype=dtype, generator=seeded())
    lam = np.random.default_rng(0).random(len(a)) if per_sample else 0.3
    out = mix(a, b, torch.from_numpy(lam) if per_sample else lam)
    assert out.dtype == dtype
    assert_allclose(out, mix_loop(a, b, lam), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weights", [float, lambda lam: torch.full((4,), float(lam))])
def test_mix_with_weight_one_or_zero_returns_one_of_its_inputs(weights):
    a, b = torch.randn(2, 4, 3, generator=seeded()) * 1e3
    assert torch.equal(mix(a, b, weights(1)), a)
    assert torch.equal(mix(a, b, weights(0)), b)


@pytest.mark.parametrize("lam", [0.7, torch.tensor([0.1, 0.9, 0.5])])
def test_mixup_equals_mixing_with_the_permuted_rows(lam):
    x = torch.randn(3, 2, 2, generator=seeded())
    order = [2, 0, 1]
    expected = mix_loop(x, torch.stack([x[i] for i in order]), np.asarray(lam))
    assert_allclose(mixup(x, lam, torch.tensor(order)), expected, rtol=1e-5, atol=1e-6)


def test_mixup_of_a_fixed_example_gives_the_known_loss_in_both_forms():
    logits = torch.tensor([[2.0, 1.0, 0.1]])
    y, y_other = torch.tensor([0]), torch.tensor([2])
    two_terms = 0.3 * F.cross_entropy(logits, y) + 0.7 * F.cross_entropy(logits, y_other)
    target = mix(F.one_hot(y, 3).float(), F.one_hot(y_other, 3).float(), 0.3)
    assert two_terms.item() == pytest.approx(1.747030, abs=1e-6)
    assert F.cross_entropy(logits, target).item() == pytest.approx(1.747030, abs=1e-6)


def test_mixup_loss_with_mixed_targets_equals_two_weighted_losses():
    logits, y = torch.randn(64, 10, generator=seeded()), torch.arange(64) % 10
    order = random_permutation(64, seeded(1))
    lam = torch.from_numpy(beta(1, 64, np.random.default_rng(0))).float()

    mixed = F.cross_entropy(logits, mixup(F.one_hot(y).float(), lam, order), reduction="none")
    given = F.cross_entropy(logits, y, reduction="none")
    other = F.cross_entropy(logits, y[order], reduction="none")

    assert_allclose(mixed, lam * given + (1 - lam) * other, atol=1e-6, rtol=1e-6)


def test_mixup_with_half_weight_does_not_tell_the_two_labels_apart():
    q, q_other = torch.eye(4), torch.eye(4)[[2, 0, 3, 1]]
    assert torch.equal(mix(q, q_other, 0.5), mix(q_other, q, 0.5))


def test_mixup_with_alpha_zero_returns_the_inputs_to_the_bit():
    x = torch.randn(8, 3, generator=seeded())
    lam = beta(0, 8, np.random.default_rng(0))
    assert torch.equal(mixup(x, torch.from_numpy(lam), random_permutation(8, seeded())), x)


@pytest.mark.parametrize(
    ("a", "b", "lam", "error", "message"),
    [
        (torch.zeros(2, dtype=torch.uint8), torch.zeros(2), 0.5, TypeError, "floating tensors"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), 0.5, TypeError, "floating tensors"),
        (torch.zeros(2, 3), torch.zeros(2, 1), 0.5, ValueError, "different shapes"),
        (torch.zeros(2, 3), torch.zeros(2, 3), 1.1, ValueError, "lam == 1.1"),
        (torch.zeros(2, 3), torch.zeros(2, 3), -0.1, ValueError, "lam == -0.1"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(3), ValueError, "lam must have shape"),
        (torch.zeros(2, 3), torch.zeros(2, 3), "half", TypeError, "lam must be an instance"),
    ],
)
def test_mix_of_bad_input_raises(a, b, lam, error, message):
    with pytest.raises(error, match=message):
        mix(a, b, lam)


@pytest.mark.parametrize("alpha", BETA_MOMENTS)
def test_beta_has_the_mean_variance_and_larger_share_of_its_law(alpha):
    n = 200_000
    variance, larger_share = BETA_MOMENTS[alpha]
    lam = beta(alpha, n, np.random.default_rng(0))
    for draws, expected, rounding in [
        (lam, 0.5, 0),
        ((lam - 0.5) ** 2, variance, 5e-7),
        (np.maximum(lam, 1 - lam), larger_share, 5e-5),
    ]:
        assert abs(draws.mean() - expected) < 4 * draws.std() / np.sqrt(n) + rounding


def test_beta_with_alpha_zero_is_one():
    assert_allclose(beta(0, (2, 3), np.random.default_rng(0)), np.ones((2, 3)), rtol=0)
    assert beta(0, None, np.random.default_rng(0)) == 1.0


def test_beta_without_a_size_is_one_number_that_mix_takes():
    lam = beta(4, None, np.random.default_rng(0))
    assert isinstance(lam, float)
    assert mix(torch.ones(2), torch.zeros(2), lam)[0].item() == pytest.approx(lam)


def test_beta_draws_from_its_generator_only():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (beta(2, 5, np.random.default_rng(3)) for _ in range(2))
    assert_allclose(first, second, rtol=0)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize(
    ("alpha", "rng", "error", "message"),
    [
        (-1, np.random.default_rng(0), ValueError, "alpha == -1"),
        (float("inf"), np.random.default_rng(0), ValueError, "alpha must be finite"),
        (float("nan"), np.random.default_rng(0), ValueError, "alpha must be finite"),
        ("1", np.random.default_rng(0), TypeError, "alpha must be an instance"),
        (1, None, TypeError, "rng must be a numpy random generator"),
        (1, 0, TypeError, "rng must be a numpy random generator"),
    ],
)
def test_beta_of_bad_input_raises(alpha, rng, error, message):
    with pytest.raises(error, match=message):
        beta(alpha, 3, rng)


def test_random_permutation_holds_every_index_once_and_follows_its_generator():
    before = torch.get_rng_state()
    first, second, other = (random_permutation(50, seeded(seed)) for seed in (0, 0, 1))
    assert first.sort().values.tolist() == list(range(50))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_random_permutation_without_a_generator_raises():
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator"):
        random_permutation(5, None)
