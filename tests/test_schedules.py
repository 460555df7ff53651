"""Schedules at the epochs that the papers name."""

import pytest

from noisyfit.schedules import Cosine, LinearDecay, Step, ramp


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
