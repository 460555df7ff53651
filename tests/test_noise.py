"""Generators that look at the labels alone, and what all generators have in common."""

import inspect

import numpy as np
import pytest
import torch
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import LogisticRegression

from noisyfit import noise
from noisyfit.noise import CIFAR100_COARSE, corrupt

N = 50_000
Y10, Y100 = np.arange(N) % 10, np.arange(N) % 100
ASYM10 = ["asym_cifar10", "asym_mnist"]
ASYM100 = ["asym_cifar100_superclass", "asym_cifar100_next", "asym_cifar100_block5"]
ARROWS = {
    "asym_cifar10": {9: 1, 2: 0, 4: 7, 3: 5, 5: 3},
    "asym_mnist": {7: 1, 2: 7, 5: 6, 6: 5, 3: 8},
    "pair": {c: (c + 1) % 10 for c in range(10)},
}
FINE_TO_COARSE = """4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15
    0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13 14 17 18 10 16 4 17 4 2 0 17 4 18 17
    10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13 15 13 16 19 2 4 6 19 5 5 8 19
    18 1 2 15 6 0 17 8 14 13"""


def matrix_of(name, r):
    """P(given | true) as the definition says, entry by entry."""
    T = np.zeros((10, 10))
    for i in range(10):
        for j in range(10):
            if name.startswith("sym_incl"):
                T[i, j] = (1 - r) * (i == j) + r / 10
            elif name == "sym_excl":
                T[i, j] = 1 - r if i == j else r / 9
            else:
                target = ARROWS[name].get(i, i)
                T[i, j] = (1 - r) * (i == j) + r * (j == target)
    return T


def assert_transition_near(realised, T, rows_per_class):
    sd = np.sqrt(T * (1 - T) / rows_per_class)
    assert np.all(np.abs(realised - T) <= 4 * sd + 1e-12)


def toy(kind):
    """Small arguments with which every generator runs."""
    rng = np.random.RandomState(0)
    X, y = rng.rand(200, 3), np.arange(200) % 10
    extra = {
        "transition": {"matrix": np.full((10, 10), 0.1)},
        "open_set": {"open_share": 0.5, "X_open": np.ones((200, 3))},
        "boundary": {"estimator": LogisticRegression()},
    }
    return {"y": y, "kind": kind, "X": X} | extra.get(kind, {})


GENERATORS = [
    name
    for name, f in inspect.getmembers(noise, inspect.isfunction)
    if name in noise.__all__ and name != "corrupt"
]


@pytest.mark.parametrize(("y", "K"), [(Y10, 10), (Y100, 100)])
@pytest.mark.parametrize("r", [0.2, 0.5, 0.8, 0.9])
def test_symmetric_noise_wrong_fraction_within_four_deviations(y, K, r):
    w = r * (K - 1) / K
    exact_sd, bernoulli_sd = np.sqrt(r / K * (1 - 1 / K) / N), np.sqrt(w * (1 - w) / N)
    names = ["sym_incl", "sym_incl_bernoulli", "sym_excl"]
    wrong = {name: corrupt(y, name, r, random_state=0).info["wrong_fraction"] for name in names}
    assert abs(wrong["sym_incl"] - w) <= 4 * exact_sd
    assert abs(wrong["sym_incl_bernoulli"] - w) <= 4 * bernoulli_sd
    assert abs(wrong["sym_excl"] - r) <= 4 * np.sqrt(r * (1 - r) / N)


@pytest.mark.parametrize("name", ["sym_incl", "sym_incl_bernoulli", "sym_excl", "pair", *ASYM10])
@pytest.mark.parametrize("r", [0.2, 0.4, 0.8])
def test_transition_of_each_rule_within_four_deviations_of_its_definition(name, r):
    counted = [{"exact": e} for e in (False, "global", "class")]
    for mode in [{}] if name.startswith("sym_incl") else counted:
        noisy = corrupt(Y10, name, r, random_state=1, **mode)
        assert_transition_near(noisy.info["transition"], matrix_of(name, r), N / 10)
        if name in ASYM10:
            assert not noisy.changed[~np.isin(Y10, list(ARROWS[name]))].any()


@pytest.mark.parametrize("name", ASYM100)
def test_cifar100_noise_within_four_deviations_of_its_definition(name):
    noisy = corrupt(Y100, name, 0.4, exact=False, random_state=0)
    T = np.eye(100) * 0.6
    for i in range(100):
        siblings = np.flatnonzero(CIFAR100_COARSE[i] == CIFAR100_COARSE)
        if name.endswith("superclass"):
            T[i, siblings[siblings != i]] = 0.1
        elif name.endswith("next"):
            T[i, siblings[(list(siblings).index(i) + 1) % 5]] = 0.4
        else:
            T[i, i - 4 if i % 5 == 4 else i + 1] = 0.4
    assert_transition_near(noisy.info["transition"], T, N / 100)


def test_exact_counting_over_seeds_never_varies():
    y = np.repeat(np.arange(10), np.arange(7, 17))  # 115 rows, uneven classes
    sizes = np.arange(7, 17)
    sources = np.isin(np.arange(10), [2, 3, 4, 5, 9])
    for seed in range(5):
        overall = noise.sym_excl(y, 0.29, exact="global", random_state=seed).changed
        assert overall.sum() == 33
        by_class = noise.sym_excl(y, 0.29, exact="class", random_state=seed).changed
        np.testing.assert_array_equal(np.bincount(y[by_class]), 0.29 * sizes // 1)
        asym = noise.asym_cifar10(y, 0.29, random_state=seed).changed
        expected = np.ceil(0.29 * sizes) * sources
        np.testing.assert_array_equal(np.bincount(y[asym], minlength=10), expected)
        fine = noise.asym_cifar100_next(y, 0.29, exact="global", random_state=seed).changed
        assert fine.sum() == 33


def test_exact_count_when_the_product_is_a_rounding_error_away_from_a_whole_number():
    y = np.arange(200) % 2
    assert 0.29 * 100 < 29
    assert 0.07 * 100 > 7
    assert noise.sym_excl(y, 0.29, exact="class", random_state=0).changed.sum() == 58
    assert noise.asym_mnist(y + 2, 0.07, random_state=0).changed.sum() == 14


@pytest.mark.parametrize("kind", GENERATORS)
def test_every_generator_same_seed_gives_same_labels_and_leaves_numpy_alone(kind):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (corrupt(level=0.5, random_state=3, **toy(kind)).y for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    if kind != "boundary":
        assert (first != corrupt(level=0.5, random_state=4, **toy(kind)).y).any()


@pytest.mark.parametrize("kind", GENERATORS)
def test_every_generator_level_zero_changes_nothing_and_the_record_counts(kind):
    clean = corrupt(level=0, random_state=0, **toy(kind))
    np.testing.assert_array_equal(clean.y, toy(kind)["y"])
    noisy = corrupt(level=0.5, random_state=0, **toy(kind))
    assert noisy.changed.sum() > 30
    np.testing.assert_array_equal(noisy.changed, noisy.y != toy(kind)["y"])
    assert noisy.info["wrong_fraction"] == noisy.changed.mean()
    assert (noisy.info["name"], noisy.info["level"], noisy.info["seed"]) == (kind, 0.5, 0)
    np.testing.assert_allclose(noisy.info["transition"].sum(axis=1), 1)


def test_realised_transition_counts_pairs_and_keeps_identity_for_absent_classes():
    y = np.array([2, 2, 2, 2, 0, 3])
    noisy = noise.asym_cifar10(y, 0.5, random_state=0)
    expected = np.eye(10)
    expected[[0, 2, 3]] = 0
    for true, given in zip(y, noisy.y, strict=True):
        expected[true, given] += 1 / {2: 4, 0: 1, 3: 1}[true]
    np.testing.assert_array_equal(noisy.info["transition"], expected)
    np.testing.assert_array_equal(noisy.info["classes"], np.arange(10))


@pytest.mark.parametrize(
    "y",
    [
        np.array(["cat", "dog", "elk"] * 9),
        np.array(["cat", "dog", "elk"] * 9, dtype=object),
        np.array([-7, 3, 40] * 9, dtype=np.int16),
        np.array([False, True, True] * 9),
        np.array([0.0, 2.0, 5.0] * 9, dtype=np.float32),
    ],
)
def test_labels_of_any_kind_come_back_in_their_own_dtype(y):
    noisy = noise.sym_excl(y, 1.0, random_state=0)
    assert noisy.y.dtype == y.dtype
    assert set(noisy.y) == set(y)
    assert noisy.changed.all()


def test_labels_as_lists_tensors_and_columns_are_read_like_arrays():
    expected = [5, 9, 3]
    for y in ([3, 5, 9], torch.tensor([3, 5, 9])):
        np.testing.assert_array_equal(noise.pair(y, 1).y, expected)
    with pytest.warns(DataConversionWarning, match="column-vector"):
        np.testing.assert_array_equal(noise.pair([[3], [5], [9]], 1).y, expected)


@pytest.mark.parametrize(
    ("y", "level", "error", "match"),
    [
        ([0, 1], 1.5, ValueError, r"level must be in \[0, 1\]"),
        ([0, 1], float("nan"), ValueError, r"level must be in \[0, 1\]"),
        ([0, 1], "much", TypeError, "level must be a number"),
        ([], 0.1, ValueError, "0 sample"),
        ([1, 1], 0.1, ValueError, "number of classes has to be greater than one"),
        ([0, np.nan], 0.1, ValueError, "NaN"),
        ([0.1, 0.7], 0.1, ValueError, "continuous"),
        ([[0, 1], [1, 0]], 0.1, ValueError, "1d array"),
    ],
)
def test_bad_labels_or_levels_are_refused_in_words(y, level, error, match):
    with pytest.raises(error, match=match):
        noise.sym_incl(y, level)


@pytest.mark.parametrize("y", [["cat", "dog"], [0, 10], [-1, 3], [0.0, 1.0], [True, False]])
def test_data_set_maps_other_labels_than_its_codes_are_refused(y):
    with pytest.raises(ValueError, match=r"integer codes 0\.\.9"):
        noise.asym_cifar10(y, 0.4)


def test_counting_mode_when_unknown_is_refused():
    with pytest.raises(ValueError, match="exact must be False, 'global' or 'class'"):
        noise.pair([0, 1], 0.4, exact=True)


def test_transition_identity_keeps_and_permutation_moves_every_label():
    y = np.array(list("abc") * 5)
    assert not noise.transition(y, np.eye(3), random_state=0).changed.any()
    moved = noise.transition(y, np.eye(3)[[1, 2, 0]], random_state=0)
    np.testing.assert_array_equal(moved.y, np.array(list("bca") * 5))


def test_transition_any_matrix_is_realised_within_four_deviations():
    T = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]])
    noisy = noise.transition(np.arange(30_000) % 3, T, random_state=0)
    assert_transition_near(noisy.info["transition"], T, 10_000)
    assert noisy.info["level"] == pytest.approx((0.3 + 0 + 0.5) / 3)


def test_transition_with_level_rescales_each_row_that_has_mistakes():
    T = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]])
    scaled = np.array([[0.4, 0.4, 0.2], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]])
    noisy = noise.transition(np.arange(30_000) % 3, T, level=0.6, random_state=0)
    assert_transition_near(noisy.info["transition"], scaled, 10_000)


@pytest.mark.parametrize(
    ("matrix", "match"),
    [
        ([[0.9, 0.1], [0.5, 0.50001]], "sum to 1 within 1e-6"),
        ([[1.1, -0.1], [0, 1]], "negative"),
        (np.eye(3), r"shape \(2, 2\)"),
    ],
)
def test_transition_improper_matrix_is_refused(matrix, match):
    with pytest.raises(ValueError, match=match):
        noise.transition([0, 1], matrix)


def test_cifar100_superclasses_have_five_members_each_as_in_the_data_set():
    np.testing.assert_array_equal(CIFAR100_COARSE, np.array(FINE_TO_COARSE.split(), dtype=int))
    np.testing.assert_array_equal(np.bincount(CIFAR100_COARSE), np.full(20, 5))


def test_cifar100_next_is_a_bijection_inside_superclasses_and_blocks_are_not():
    fine = np.arange(100)
    target = noise.asym_cifar100_next(fine, 1.0).y
    np.testing.assert_array_equal(np.sort(target), fine)
    assert (target != fine).all()
    np.testing.assert_array_equal(CIFAR100_COARSE[target], CIFAR100_COARSE)
    block = noise.asym_cifar100_block5(fine, 1.0).y
    inside = np.flatnonzero(CIFAR100_COARSE[block] == CIFAR100_COARSE)
    np.testing.assert_array_equal(inside, [6, 19, 42, 63, 86, 89])


def test_corrupt_unknown_kind_lists_the_known_and_missing_features_are_named():
    with pytest.raises(ValueError, match=r"'white'; the known ones are: sym_incl, .*open_set"):
        corrupt([0, 1], "white", 0.1)
    with pytest.raises(ValueError, match="'idn' depends on the features; give X"):
        corrupt([0, 1], "idn", 0.1)
