"""Evidence in blocks of rows: the same numbers, and no more memory than the logits ask for."""

import gc
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from skorch.dataset import ValidSplit

from noisyfit import Network, _data, _dynamics, _evidence, methods
from noisyfit._dynamics import Dynamics
from noisyfit.noise import sym_excl

SCRIPTS = Path(__file__).parents[1] / "examples" / "benchmarks"
sys.path.insert(0, str(SCRIPTS))
LargeTensors = __import__("_scale_memory").LargeTensors
sys.path.remove(str(SCRIPTS))

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)
NOISY = sym_excl(Y, 0.3, random_state=0).y
NAMES = [name for name in methods.__all__ if name.endswith(("Classifier", "PP"))]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("train_split", [None, ValidSplit(3, stratified=True)])
@pytest.mark.parametrize("name", NAMES)
def test_blocks_of_rows_leave_the_evidence_as_it_is(name, train_split, monkeypatch):
    def fit():  # a sum over all rows differs in its rounding; it is made after a warm-up
        net = Network(max_epochs=6, batch_size=32, train_split=train_split)
        params = {"warmup": 0} if name == "NoiseAdaptationClassifier" else {}
        return getattr(methods, name)(net, random_state=0, **params).fit(X, NOISY)

    whole = fit()
    proba = whole.predict_proba(X)
    monkeypatch.setattr(_evidence, "_BLOCK", 21)  # seven rows
    in_blocks = fit()
    for key in ("clean_proba_", "refined_proba_", "refined_labels_"):
        np.testing.assert_array_equal(getattr(whole, key), getattr(in_blocks, key), err_msg=key)
    np.testing.assert_array_equal(proba, in_blocks.predict_proba(X))


def test_blocks_cover_all_rows_once():
    blocks = _evidence.row_blocks(10, 2**23)
    assert [(b.start, b.stop) for b in blocks] == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]
    assert len(_evidence.row_blocks(3, 2**30)) == 3
    assert _evidence.row_blocks(5, 1) == [slice(0, 5)]


# ELR+ remembers targets of two networks, and each matrix of the channel that noise adaptation
# learns is a third of the logits here; not here at all: the ring of past predictions of joint
# optimisation, and passes whose batches are large beside so small a problem
LARGER = {"ELRPlusClassifier": 5, "NoiseAdaptationClassifier": 4}
ELSEWHERE = {"JointOptimizationClassifier", "BayesianDivideMixPP", "ManifoldDivideMixClassifier"}


@pytest.mark.filterwarnings("ignore:The number of unique classes")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ELSEWHERE])
def test_many_classes_need_three_buffers_of_the_size_of_the_logits(name, monkeypatch):
    n, n_classes = 1200, 400
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(n, 8)).astype(np.float32), np.arange(n) % n_classes
    one = n * n_classes * 4
    monkeypatch.setattr(_evidence, "_BLOCK", n_classes * 20)
    monkeypatch.setattr(_dynamics, "_BUFFER", n_classes * 100)
    monkeypatch.setattr(_data, "_EVALUATION_ROWS", 64)
    net = Network(max_epochs=2, batch_size=32, module__hidden=(8,))
    clf = getattr(methods, name)(net, random_state=0)
    gc.collect()
    alive = LargeTensors(one // 8)
    with alive:
        clf.fit(X, y)
    assert one < alive.peak <= LARGER.get(name, 3) * one
    alive = LargeTensors(one // 8)
    with alive:
        clf.predict_proba(X)
    assert one <= alive.peak <= (1 if len(clf.nets_) == 1 else 3) * one


def test_many_logits_at_once_are_observed_in_parts(monkeypatch):
    y = torch.arange(50) % 7
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    counts = torch.arange(50) % 3 > 0
    whole, parts = Dynamics(y), Dynamics(y)
    whole.observe(torch.arange(50), logits, counts)
    whole.end_epoch()
    monkeypatch.setattr(_dynamics, "_BUFFER", 30)
    parts.observe(torch.arange(50), logits, counts)
    assert not parts._held  # a part that is held would keep the whole alive
    parts.end_epoch()
    for key, value in whole.means().items():
        torch.testing.assert_close(parts.means()[key], value, rtol=0, atol=0)
