"""Class-conditional noise is two choices: which rows lose their label, and what replaces it."""

import numpy as np
from sklearn.utils import check_random_state

from noisyfit.noise._labels import check_share, floor_share, read_labels, record

# CIFAR-100: fine classes (alphabetical codes) of the super-classes 0..19, in ascending order.
CIFAR100_CIRCLES = np.array(
    [
        [4, 30, 55, 72, 95],  # aquatic mammals
        [1, 32, 67, 73, 91],  # fish
        [54, 62, 70, 82, 92],  # flowers
        [9, 10, 16, 28, 61],  # food containers
        [0, 51, 53, 57, 83],  # fruit and vegetables
        [22, 39, 40, 86, 87],  # household electrical devices
        [5, 20, 25, 84, 94],  # household furniture
        [6, 7, 14, 18, 24],  # insects
        [3, 42, 43, 88, 97],  # large carnivores
        [12, 17, 37, 68, 76],  # large man-made outdoor things
        [23, 33, 49, 60, 71],  # large natural outdoor scenes
        [15, 19, 21, 31, 38],  # large omnivores and herbivores
        [34, 63, 64, 66, 75],  # medium-sized mammals
        [26, 45, 77, 79, 99],  # non-insect invertebrates
        [2, 11, 35, 46, 98],  # people
        [27, 29, 44, 78, 93],  # reptiles
        [36, 50, 65, 74, 80],  # small mammals
        [47, 52, 56, 59, 96],  # trees
        [8, 13, 48, 58, 90],  # vehicles 1
        [41, 69, 81, 85, 89],  # vehicles 2
    ]
)
CIFAR100_COARSE = np.argsort(CIFAR100_CIRCLES.ravel()) // 5  # (100,) super-class of a fine class
CIFAR100_COARSE.flags.writeable = False

# Arrows true class -> given class; classes without an arrow keep their label.
CIFAR10_ARROWS = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}  # truck, bird, deer, cat, dog
MNIST_ARROWS = {7: 1, 2: 7, 5: 6, 6: 5, 3: 8}


def along_circle(codes, circles, steps):
    """Move every code ``steps`` places on in its own row of ``circles``, shape (m, size)."""
    size = circles.shape[1]
    place = np.argsort(circles.ravel())  # (m * size,) where each code stands
    row, column = place[codes] // size, place[codes] % size
    return circles[row, (column + steps) % size]


def any_class(codes, n_classes, rng):
    """Uniform over all classes, the true one included."""
    return rng.randint(n_classes, size=len(codes))


def other_class(codes, n_classes, rng):
    """Uniform over the classes that are not the true one."""
    return (codes + rng.randint(1, n_classes, size=len(codes))) % n_classes


def next_class(codes, n_classes, rng):
    return (codes + 1) % n_classes


def cifar10_lookalike(codes, n_classes, rng):
    return _follow(CIFAR10_ARROWS, codes, n_classes)


def mnist_lookalike(codes, n_classes, rng):
    return _follow(MNIST_ARROWS, codes, n_classes)


def _follow(arrows, codes, n_classes):
    target = np.arange(n_classes)
    target[list(arrows)] = list(arrows.values())
    return target[codes]


def other_in_superclass(codes, n_classes, rng):
    return along_circle(codes, CIFAR100_CIRCLES, rng.randint(1, 5, size=len(codes)))


def next_in_superclass(codes, n_classes, rng):
    return along_circle(codes, CIFAR100_CIRCLES, 1)


def next_in_block(codes, n_classes, rng):
    return along_circle(codes, np.arange(n_classes).reshape(-1, 5), 1)


# name of the generator -> new codes of the chosen rows, as f(codes, n_classes, rng)
RULES = {
    "sym_incl": any_class,
    "sym_incl_bernoulli": any_class,
    "sym_excl": other_class,
    "pair": next_class,
    "asym_cifar10": cifar10_lookalike,
    "asym_mnist": mnist_lookalike,
    "asym_cifar100_superclass": other_in_superclass,
    "asym_cifar100_next": next_in_superclass,
    "asym_cifar100_block5": next_in_block,
}
# Rules whose arrows name the classes of one data set need that data set's integer codes.
CODED_CLASSES = {
    "asym_cifar10": 10,
    "asym_mnist": 10,
    "asym_cifar100_superclass": 100,
    "asym_cifar100_next": 100,
    "asym_cifar100_block5": 100,
}


def choose_rows(codes, level, exact, rng, count=floor_share):
    """Indices of the rows that lose their label, counted as ``exact`` says."""
    if exact is False:
        return np.flatnonzero(rng.random_sample(len(codes)) < level)
    if exact == "global":
        return rng.permutation(len(codes))[: floor_share(level, len(codes))]
    if exact == "class":
        members = [np.flatnonzero(codes == c) for c in np.unique(codes)]
        return np.concatenate([rng.permutation(m)[: count(level, len(m))] for m in members])
    raise ValueError(f"exact must be False, 'global' or 'class'; got {exact!r}.")


def corrupt_by_rule(name, y, level, exact, random_state, count=floor_share):
    """Choose rows and redraw them by the rule called ``name``."""
    labels = read_labels(y, CODED_CLASSES.get(name))
    level = check_share(level)
    rng = check_random_state(random_state)
    rows = choose_rows(labels.codes, level, exact, rng, count)
    noisy_codes = labels.codes.copy()
    noisy_codes[rows] = RULES[name](labels.codes[rows], len(labels.classes), rng)
    return record(name, level, labels, noisy_codes, random_state)
