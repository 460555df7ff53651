"""The methods that select, each with rows left out: streams, precision, batches, held-out rows."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_blobs
from skorch.dataset import ValidSplit
from torch.utils.data import Dataset

from noisyfit import (
    CoTeachingClassifier,
    CoTeachingPlusClassifier,
    INCVClassifier,
    INCVCleaner,
    Mentor,
    MentorMixClassifier,
    MentorNetClassifier,
    MLNTClassifier,
    Network,
    SelfPacedClassifier,
)
from noisyfit.noise import sym_excl

X, Y = make_blobs(80, n_features=4, centers=4, random_state=0)
NOISY = sym_excl(Y, 0.3, random_state=0)

# what is estimated or waited for elsewhere is told here, so that three epochs suffice
SMALL_LOSS = {"noise_rate": 0.3, "n_gradual": 1}
PERCENTILE = {"percentile": 0.7, "burn_in": 1}
FAMILY = {
    "co-teaching": CoTeachingClassifier(**SMALL_LOSS),
    "co-teaching+": CoTeachingPlusClassifier(**SMALL_LOSS, init_epoch=1, guards=False),
    "self-paced": SelfPacedClassifier(**PERCENTILE),
    "mentor, self-paced": MentorNetClassifier(**PERCENTILE, mentor="self_paced"),
    "mentor, predefined": MentorNetClassifier(**PERCENTILE),
    "mentor, data-driven": MentorNetClassifier(**PERCENTILE, mentor=Mentor(n_steps=20)),
    "MentorMix": MentorMixClassifier(noise_rate=0.3, burn_in=0.25),
    "MLNT": MLNTClassifier(n_sets=2, n_iterations=2, warmup=0, filter_threshold=0.0),
    "INCV": INCVClassifier(cleaner=INCVCleaner(n_iter=1), cleaning_epochs=2, n_gradual=1, warmup=1),
}
every_method = pytest.mark.parametrize("name", FAMILY)


def fit(name, X=X, y=NOISY.y, true=Y, **net):
    """Fitted method of the family; a data-driven mentor learns from every third row."""
    net = Network(**{"max_epochs": 3, "batch_size": 16} | net)
    rows = {}
    if name == "mentor, data-driven":
        rows = {"trusted": np.arange(len(y)) % 3 == 0, "clean_labels": true}
    return clone(FAMILY[name]).set_params(net=net, random_state=0).fit(X, y, **rows)


class Stream(Dataset):
    """Images that are read one by one."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


@every_method
def test_streamed_images_train_like_resident_ones(name):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (80, 1, 8, 8), dtype=np.uint8)
    images += (30 * Y)[:, None, None, None].astype(np.uint8)
    resident, streamed = (fit(name, data) for data in (images, Stream(images)))
    np.testing.assert_array_equal(resident.clean_proba_, streamed.clean_proba_)
    np.testing.assert_array_equal(resident.predict_proba(images), streamed.predict_proba(images))


@every_method
def test_half_precision_gives_probabilities(name):
    clf = fit(name, precision="bfloat16")
    assert np.isfinite(clf.predict_proba(X)).all()
    assert np.isfinite(clf.clean_proba_).all()
    assert (clf.predict_proba(X) != fit(name).predict_proba(X)).any()


@every_method
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.filterwarnings("ignore:The percentile of the losses of . rows says little")
def test_batches_of_any_size_are_trained_on(name, size):
    net = {"batch_size": size, "lr": 0.02, "max_epochs": 3 if size < 4 else 15}
    clf = fit(name, X[:31], NOISY.y[:31], Y[:31], **net)
    assert np.isfinite(clf.predict_proba(X)).all()
    assert np.isfinite(clf.clean_proba_).all()
    assert clf.score(X, Y) > 0.4  # 0.25 without a step


@every_method
def test_rows_held_out_have_evidence_too(name):
    clf = fit(name, train_split=ValidSplit(4, stratified=True))
    unseen = clf.dynamics_["n_seen"] == 0  # held out, or discarded by INCV
    assert unseen.sum() >= 20
    assert ((clf.clean_proba_ >= 0) & (clf.clean_proba_ <= 1)).all()
    assert clf.clean_proba_[unseen].std() > 0
    np.testing.assert_allclose(clf.refined_proba_.sum(1), 1, atol=1e-5)
