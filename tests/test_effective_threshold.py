"""The rule that leaves members on both sides of a threshold."""

import numpy as np
import pytest
import torch

from noisyfit.mixtures import effective_threshold


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("low", [0.0, 0.15, 0.5, 1 - 2e-5])
@pytest.mark.parametrize("spread", [2e-5, 1e-3, 0.3, 1.0])
def test_threshold_of_spread_probabilities_leaves_two_parts(threshold, low, spread):
    for w in (np.array([low, min(low + spread, 1.0)]), np.linspace(low, min(low + spread, 1.0), 9)):
        clean = w > effective_threshold(w, threshold)
        assert 0 < clean.sum() < len(w)


def test_threshold_inside_the_range_or_of_constant_probabilities_is_left_alone():
    assert effective_threshold([0.1, 0.9], 0.3) == 0.3
    assert effective_threshold([0.7, 0.7], 0.5) == 0.5
    assert effective_threshold([0.4, 0.4 + 1e-5], 0.5) == 0.5


def test_threshold_of_a_tensor_is_a_tensor_with_the_same_value():
    w = torch.tensor([0.7, 0.9], dtype=torch.float64)
    of_tensor = effective_threshold(w, 0.5)
    assert of_tensor.shape == ()
    assert of_tensor.dtype == torch.float64
    assert of_tensor.item() == effective_threshold(w.numpy(), 0.5) == pytest.approx(0.70001)
    assert effective_threshold(torch.empty(5, device="meta"), 0.5).device.type == "meta"
