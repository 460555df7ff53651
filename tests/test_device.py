"""No batch makes the host wait for the device: every method, on tables and on images."""

from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from noisyfit import INCVCleaner, Mentor, Network, methods
from noisyfit._run import Run
from noisyfit.noise import sym_excl

X, Y = make_blobs(96, n_features=4, centers=4, random_state=0)
NOISY = sym_excl(Y, 0.3, random_state=0).y
IMAGES = np.random.default_rng(0).integers(0, 100, (96, 3, 8, 8), dtype=np.uint8)
IMAGES += (30 * Y)[:, None, None, None].astype(np.uint8)

# what would wait for more epochs than these is told
AT_ONCE = {
    "CoTeachingClassifier": {"noise_rate": 0.3, "n_gradual": 1},
    "CoTeachingPlusClassifier": {"noise_rate": 0.3, "n_gradual": 1, "init_epoch": 1},
    "SelfPacedClassifier": {"percentile": 0.7, "burn_in": 1},
    "MentorNetClassifier": {"percentile": 0.7, "burn_in": 1, "mentor": Mentor(n_steps=10)},
    "MentorMixClassifier": {"noise_rate": 0.3, "burn_in": 0.25},
    "MLNTClassifier": {
        "n_sets": 2,
        "n_iterations": 2,
        "warmup": 0,
        "filter_threshold": 0.0,
    },
    "INCVClassifier": {"cleaner": INCVCleaner(n_iter=1), "cleaning_epochs": 2, "warmup": 1},
    "DivideMixClassifier": {"warmup": 1},
    "BayesianDivideMixPP": {"warmup": 1, "pretrain": None},
    "ManifoldDivideMixClassifier": {"warmup": 1, "pretrain": None},
}
MENTORED = "MentorNetClassifier"
MENTORS = {f"{MENTORED}, {m}": m for m in ("self_paced", "predefined")}
NAMES = [name for name in methods.__all__ if name.endswith(("Classifier", "PP"))]
NAMES += MENTORS
FIRST_ASKS = {"SelfPacedClassifier", MENTORED, *MENTORS}  # whether to skip their first step
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "_unique2"}
WAITS |= {"unique_dim", "unique_consecutive"}


class Questions(TorchDispatchMode):
    """Notes what would make the host wait for values of an accelerator."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        kwargs = kwargs or {}
        of_unknown_size = name == "repeat_interleave" and kwargs.get("output_size") is None
        if by_mask or of_unknown_size or name in WAITS:
            self.asked.append(name)
        return function(*args, **kwargs)


class OneHot(TorchFunctionMode):
    """Makes indicators as on CUDA; on a CPU torch looks at the values first."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is functional.one_hot:
            y, n_classes = args
            return torch.eye(n_classes, dtype=torch.int64)[y]
        return function(*args, **(kwargs or {}))


@contextmanager
def no_synchronisation():
    """Inside, CUDA raises where the host would wait."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def fit(name, form, monkeypatch, inside, device, inside_first=nullcontext):
    """Fit with ``inside()`` around the work on every batch; return how many there were.

    The first batch of a method that may skip its first step is inside another context.
    """
    batches_of, n_batches = Run.train_batches, 0

    def watched(run, *args, **params):
        nonlocal n_batches
        for batch in batches_of(run, *args, **params):
            for learner in run.learners:
                learner._asks = False  # as on an accelerator
            n_batches += 1
            may_ask = n_batches == 1 and name in FIRST_ASKS
            with inside_first() if may_ask else inside():
                yield batch

    monkeypatch.setattr(Run, "train_batches", watched)
    net = Network(max_epochs=4, batch_size=16, device=device)
    method, rows = name.split(",")[0], {}
    params = AT_ONCE.get(method, {})
    if name in MENTORS:
        params = params | {"mentor": MENTORS[name]}
    clf = getattr(methods, method)(net, random_state=0, **params)
    if name == MENTORED:
        rows = {"trusted": np.arange(len(Y)) % 3 == 0, "clean_labels": Y}
    clf.fit(X if form == "table" else IMAGES, NOISY, **rows)
    return n_batches


@pytest.mark.parametrize("form", ["table", "images"])
@pytest.mark.parametrize("name", NAMES)
def test_batches_do_not_ask_the_device(name, form, monkeypatch):
    questions, first = Questions(), Questions()

    @contextmanager
    def watched(by=questions):
        with OneHot(), by:
            yield

    assert fit(name, form, monkeypatch, watched, "cpu", partial(watched, first)) >= 12
    assert not questions.asked
    assert first.asked in ([], ["_local_scalar_dense"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("form", ["table", "images"])
@pytest.mark.parametrize("name", NAMES)
def test_batches_on_cuda_do_not_wait(name, form, monkeypatch):
    assert fit(name, form, monkeypatch, no_synchronisation, "cuda") >= 12
