"""Defaults of small tables: how long a network trains plainly, how much rows are mixed."""

import pytest

from noisyfit._small_tables import (
    epochs_before_doubt,
    mixing_alpha,
    steps_to_bend,
    steps_to_learn,
    steps_to_start,
)

IMAGES = (1, 8, 8)


@pytest.mark.parametrize(("shape", "steps"), [((2,), 150), ((4,), 100), ((8,), 0), (IMAGES, 0)])
def test_few_columns_need_steps_to_bend_the_border(shape, steps):
    assert steps_to_bend(shape) == steps
    assert epochs_before_doubt(7, shape, 5) == max(7, steps // 5)


@pytest.mark.parametrize(
    ("n_classes", "shape", "rareness", "steps"),
    [
        (2, (30,), 1, 20),
        (5, (30,), 1, 30),
        (8, (30,), 1, 48),
        (10, (30,), 1, 56),
        (100, (30,), 1, 200),
        (2, (30,), 0.5, 40),
        (10, (4,), 1, 100),
        (10, (4,), 0.1, 560),
        (10, IMAGES, 0.1, 20),
    ],
)
def test_a_table_needs_steps_for_its_classes_its_columns_and_a_rare_class(
    n_classes, shape, rareness, steps
):
    assert steps_to_learn(n_classes, shape, rareness) == pytest.approx(steps)


def test_bounded_losses_start_later_on_images_and_many_classes():
    assert steps_to_start(10, (30,)) == 56
    assert steps_to_start(100, (30,)) == 200
    assert steps_to_start(10, IMAGES) == 168


def test_few_columns_are_mixed_less():
    assert [mixing_alpha(8, shape) for shape in ((4,), (32,), (64,), IMAGES)] == [1, 8, 8, 8]
