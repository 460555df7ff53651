"""Schedules at the epochs that the papers name."""

from itertools import pairwise

import pytest

from noisyfit.schedules import (
    Cosine,
    CosineRestarts,
    LinearDecay,
    Step,
    exponential_ramp,
    ramp,
)


def test_ramp_of_dividemix_rises_over_sixteen_epochs():
    assert ramp(10, 10, 16) == 0
    assert ramp(18, 10, 16) == 0.5
    assert [ramp(t, 10, 16) for t in (0, 9.9, 26, 300)] == [0, 0, 1, 1]
    assert [ramp(t, 10, 0) for t in (9.9, 10)] == [0, 1]


def test_linear_decay_of_co_teaching_falls_from_epoch_80():
    decay = LinearDecay(80)
    rates = [1e-3 * decay(e, 200) for e in (0, 80, 81, 140, 199)]
    assert rates == pytest.approx([1e-3, 1e-3, 9.92e-4, 5e-4, 8.3e-6], rel=5e-3)


def test_step_multiplies_from_each_milestone_on():
    step = Step([250, 100], gamma=0.1)
    assert [step(e, 300) for e in (0, 99, 100, 249, 250)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_cosine_falls_along_half_a_wave():
    assert [Cosine()(e, 100) for e in (0, 50)] == pytest.approx([1, 0.5])
    assert Cosine(final=0.1)(100, 100) == pytest.approx(0.1)


def test_cosine_first_rises_to_its_curve_in_equal_steps():
    plain, warm = Cosine(1e-3), Cosine(1e-3, warmup=10)
    rates = [warm(e, 1000) for e in range(1000)]
    steps = [b - a for a, b in pairwise([0, *rates[:11]])]
    assert steps == pytest.approx([plain(10, 1000) / 11] * 11)
    assert rates[10:] == [plain(e, 1000) for e in range(10, 1000)]
    assert max(rates) == rates[10]


@pytest.mark.parametrize(("max_epochs", "warmup"), [(1, 0), (2, 1), (3, 1), (12, 6), (40, 10)])
def test_cosine_rises_in_half_of_the_epochs_at_most(max_epochs, warmup):
    rates = [Cosine(warmup=10)(e, max_epochs) for e in range(max_epochs)]
    assert rates[warmup:] == [Cosine()(e, max_epochs) for e in range(warmup, max_epochs)]
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[0] == pytest.approx(rates[warmup] / (warmup + 1))
    assert max(rates) == rates[warmup] > 0


@pytest.mark.parametrize("params", [{"warmup": -1}, {"warmup": 2.5}, {"final": -0.1}])
def test_cosines_that_cannot_be_are_refused(params):
    (name,) = params
    with pytest.raises((ValueError, TypeError), match=name):
        Cosine(**params)


def test_restarts_of_elr_repeat_half_a_wave_every_ten_epochs():
    restarts = CosineRestarts(period=10, final=0.05)
    published = [0.02, 0.019535, 0.018186, 0.016084, 0.013436]
    published += [0.0105, 0.007564, 0.004916, 0.002814, 0.001465]
    for cycle in (0, 1, 14):
        rates = [0.02 * restarts(10 * cycle + e, 150) for e in range(10)]
        assert rates == pytest.approx(published, abs=5e-7)
    assert CosineRestarts(period=150, final=0.1)(70, 150) == Cosine(final=0.1)(70, 150)


@pytest.mark.parametrize("params", [{"period": 0}, {"period": 2.5}, {"final": -0.1}])
def test_restarts_that_cannot_be_are_refused(params):
    (name,) = params
    with pytest.raises((ValueError, TypeError), match=name):
        CosineRestarts(**params)


def test_exponential_ramp_of_elr_plus_rises_slowly_at_first():
    heights = [exponential_ramp(t, 40000) for t in (0, 10000, 20000, 30000, 40000, 50000)]
    expected = [0.006738, 0.060055, 0.286505, 0.731616, 1, 1]
    assert heights == pytest.approx(expected, abs=1e-6)
    assert exponential_ramp(0, 0) == exponential_ramp(3, 0) == 1
