"""One torch thread: many small fits run several times faster than with a thread pool."""

import pytest
import torch
from sklearn.datasets import load_digits, make_blobs

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def on_the_cpu():
    """Let device="auto" be the CPU, whatever the machine has; a test of CUDA says so itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: None)
        yield


@pytest.fixture(scope="session")
def digits():
    """(images uint8-like float (1797, 8, 8) in 0..16, labels (1797,))."""
    data = load_digits()
    return data.images, data.target


@pytest.fixture(scope="session")
def blobs():
    """300 rows, 3 well separated classes, 4 columns."""
    return make_blobs(300, n_features=4, centers=3, cluster_std=1.0, random_state=0)
