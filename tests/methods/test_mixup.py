"""mixup: its draws, its loss, and that it hardly memorises."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs

from noisyfit import CrossEntropyClassifier, MixupClassifier, Network
from noisyfit._mixing import mixed, without_partner
from noisyfit.losses import cross_entropy, soft_cross_entropy
from noisyfit.modules import SmallCNN
from noisyfit.noise import sym_incl

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)


def mixup_loss(logits, y, y_partner, lam):
    return mixed(cross_entropy(logits, y), cross_entropy(logits, y_partner), lam)


def test_both_forms_of_the_loss_have_the_published_value():
    logits = torch.tensor([[2.0, 1.0, 0.1]])
    y, partner = torch.tensor([0]), torch.tensor([2])
    two_terms = mixup_loss(logits, y, partner, 0.3)
    assert two_terms.item() == pytest.approx(1.747030, abs=1e-6)
    target = 0.3 * torch.eye(3)[y] + 0.7 * torch.eye(3)[partner]
    torch.testing.assert_close(two_terms, soft_cross_entropy(logits, target))


def test_half_and_half_is_symmetric_in_the_two_labels():
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    y, partner = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([2, 2, 1, 0, 0, 1])
    torch.testing.assert_close(
        mixup_loss(logits, y, partner, 0.5), mixup_loss(logits, partner, y, 0.5)
    )


def test_alpha_zero_is_plain_training_bit_for_bit():
    net = Network(max_epochs=5)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, Y).predict_proba(X)
    mixed = MixupClassifier(net, alpha=0, random_state=0).fit(X, Y).predict_proba(X)
    np.testing.assert_array_equal(plain, mixed)


def test_one_weight_per_batch_or_one_per_row():
    seen = []

    class Spy(MixupClassifier):
        def _loss(self, run, batch, t):
            weights = run.memory.weights
            seen.append(len(weights) if self.per_sample else None)
            return super()._loss(run, batch, t)

    Spy(Network(max_epochs=1, batch_size=45), per_sample=True, random_state=0).fit(X, Y)
    Spy(Network(max_epochs=1, batch_size=45), random_state=0).fit(X, Y)
    assert seen == [90, 90, None, None]
    per_row, per_batch = (
        MixupClassifier(Network(max_epochs=2), per_sample=flag, random_state=0).fit(X, Y)
        for flag in (True, False)
    )
    assert (per_row.predict_proba(X) != per_batch.predict_proba(X)).any()


def test_the_partners_class_is_set_aside_unless_it_is_the_rows_own():
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    masked = without_partner(logits, torch.tensor([1, 0]), torch.tensor([0, 0]))
    assert masked[0].tolist() == [-torch.inf, 2.0, 1.0]
    assert masked[1].tolist() == [3.0, 2.0, 1.0]


@pytest.mark.parametrize("alpha", [-1, "large", None])
def test_bad_alpha_is_refused(alpha):
    with pytest.raises((ValueError, TypeError), match="alpha"):
        MixupClassifier(alpha=alpha).fit(X, Y)


def test_mixup_hardly_memorises_where_plain_training_does(digits):
    images, y = digits
    images, test, y, y_test = images[:1347], images[1347:], y[:1347], y[1347:]
    noisy = sym_incl(y, 0.4, random_state=0)
    net = Network(SmallCNN, max_epochs=80, optimizer__weight_decay=0.0)
    fits = [
        cls(net, augment=None, random_state=0).fit(images, noisy.y)
        for cls in (CrossEntropyClassifier, MixupClassifier)
    ]
    plain, mixed = (clf.score(test, y_test) for clf in fits)
    assert mixed >= plain + 0.05
    assert fits[0].score(images, noisy.y) > 0.99
    assert fits[1].score(images, noisy.y) < 0.9


def test_two_classes_have_sound_evidence():
    """Without the partner's class two classes would leave nothing to choose from."""
    X, y = make_blobs(400, centers=2, n_features=5, cluster_std=2, random_state=0)
    noisy = sym_incl(y, 0.6, random_state=0)
    clf = MixupClassifier(Network(max_epochs=20), random_state=0).fit(X, noisy.y)
    assert np.isfinite(clf.dynamics_["margin"]).all()
    doubted = clf.label_issues()
    assert noisy.changed[doubted].mean() > 0.85
    assert len(doubted) > 0.7 * noisy.changed.sum()
    assert clf.noise_rate_ == pytest.approx(noisy.changed.mean(), abs=0.1)
