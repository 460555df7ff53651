"""The record of training against the figures of its sources."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch._subclasses.fake_tensor import FakeTensorMode

from noisyfit import CrossEntropyClassifier, Network
from noisyfit._dynamics import Dynamics, label_events
from noisyfit.modules import SmallCNN
from noisyfit.noise import sym_incl


def test_wrong_events_count_predictions_that_differ():
    dynamics = Dynamics(torch.tensor([1]))
    for predicted in (0, 1, 1, 2):
        dynamics.observe(torch.tensor([0]), torch.eye(3)[[predicted]])
        dynamics.end_epoch()
    means = dynamics.means()
    assert means["n_seen"] == 4
    assert means["wrong_events"] * 4 == 2


def test_margin_is_the_labels_logit_minus_the_largest_other():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    margins = label_events(logits, torch.tensor([1, 1]))[:, 2]
    assert margins.tolist() == [-1, 2]
    dynamics = Dynamics(torch.tensor([1]))
    dynamics.observe(torch.tensor([0, 0]), logits)
    assert dynamics.end_epoch() == 0.5
    assert -dynamics.means()["margin"] == -0.5


def test_unseen_samples_have_zeros_and_a_neutral_agreement():
    dynamics = Dynamics(torch.tensor([0, 1]))
    dynamics.observe(torch.tensor([0]), torch.tensor([[9.0, 0.0]]))
    dynamics.end_epoch()
    assert dynamics.n_seen.tolist() == [1, 0]
    assert all(torch.isfinite(values).all() for values in dynamics.means().values())
    assert dynamics.agreement()[0] == pytest.approx(1, abs=1e-3)
    assert dynamics.end_epoch() is None


def test_full_buffer_is_summed_up_early(monkeypatch):
    monkeypatch.setattr("noisyfit._dynamics._BUFFER", 5)
    rng = np.random.default_rng(0)
    y = torch.tensor(rng.integers(0, 3, 8))
    batches = [torch.tensor(rng.normal(size=(8, 3))).float() for _ in range(4)]
    small = Dynamics(y)
    for logits in batches:
        small.observe(torch.arange(8), logits)
        assert not small._held
    expected = np.mean([label_events(z, y).numpy() for z in batches], axis=0)
    np.testing.assert_allclose(small.means()["margin"], expected[:, 2], atol=1e-5)


def test_rows_that_do_not_count_leave_no_trace():
    y = torch.tensor([0, 1, 0, 1])
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [torch.inf, torch.nan]])
    counts = torch.tensor([True, True, False, False])
    masked, fewer = Dynamics(y), Dynamics(y)
    masked.observe(torch.arange(4), logits, counts)
    masked.observe(torch.tensor([2]), logits[2:3])
    fewer.observe(torch.arange(2), logits[:2])
    fewer.observe(torch.tensor([2]), logits[2:3])
    assert masked.end_epoch() == fewer.end_epoch() == 1 / 3
    for name, values in masked.means().items():
        assert torch.equal(values, fewer.means()[name])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_full_buffer_does_not_ask_the_device(device, monkeypatch):
    monkeypatch.setattr("noisyfit._dynamics._BUFFER", 5)
    with FakeTensorMode(), torch.device(device):
        dynamics = Dynamics(torch.zeros(8, dtype=torch.int64))
        counts = torch.empty(8, dtype=torch.bool)
        for mask in (None, counts):
            dynamics.observe(torch.arange(8), torch.empty(8, 3), mask)
            assert not dynamics._held


def test_history_outlasts_memorisation_on_digits(digits):
    """After 60 epochs at a constant rate the loss has forgotten which labels came late."""
    images, y = digits
    noisy = sym_incl(y, 0.4, random_state=0)
    net = Network(SmallCNN, max_epochs=60, lr_schedule="constant", optimizer__weight_decay=0.0)
    clf = CrossEntropyClassifier(net, augment=None, clean_score="final", random_state=0)
    clf.fit(images, noisy.y)
    of_loss = roc_auc_score(~noisy.changed, clf.clean_proba_)
    of_events = roc_auc_score(noisy.changed, clf.dynamics_["wrong_events"])
    assert of_events >= of_loss + 0.15
