"""What the training loop costs over a bare torch loop with the same network and data.

All methods share one loop that also records the history of every sample, and whoever gives up a
loop of their own for it wants to know the price. It is compared with the shortest loop on tensors
in memory and with skorch as it comes: same network, batch size, optimiser and loss.
"""

import copy
from functools import partial

import numpy as np
import torch
from _timing import compare, cpu_seconds, parser, report
from skorch import NeuralNetClassifier
from torch.nn import functional

from noisyfit import CrossEntropyClassifier, Network
from noisyfit.modules import MLP, PreActResNet18

BATCH = 64
CLASSES = 10
SGD = {"lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4}


class Timed(CrossEntropyClassifier):
    """Times all epochs with their records, without building the network and final evidence."""

    def _train(self, *args):
        self.seconds_ = cpu_seconds(lambda: super(Timed, self)._train(*args))


def ours(module, X, y, epochs, fused):
    options = {f"optimizer__{key}": value for key, value in SGD.items()}
    net = Network(
        module,
        max_epochs=epochs,
        batch_size=BATCH,
        normalize=None,
        device="cpu",
        optimizer__fused=fused,
        **options,
    )
    return Timed(net, augment=None, random_state=0).fit(X, y).seconds_


def bare(module, X, y, epochs, fused):
    module = copy.deepcopy(module).train()
    optimizer = torch.optim.SGD(module.parameters(), fused=fused, **SGD)
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    generator = torch.Generator().manual_seed(0)

    def train():
        for _ in range(epochs):
            order = torch.randperm(len(X), generator=generator)
            for start in range(0, len(X), BATCH):
                index = order[start : start + BATCH]
                logits = module(X.index_select(0, index))
                loss = functional.cross_entropy(logits, y.index_select(0, index))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    return cpu_seconds(train)


def with_skorch(module, X, y, epochs, fused):
    net = NeuralNetClassifier(
        copy.deepcopy(module),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        batch_size=BATCH,
        train_split=None,
        verbose=0,
        optimizer__fused=fused,
        **{f"optimizer__{key}": value for key, value in SGD.items()},
    ).initialize()
    return cpu_seconds(lambda: net.partial_fit(X, y, epochs=epochs))


def problems():
    """(name, module, X, epochs) of every case."""
    rng = np.random.default_rng(0)

    def table(n_columns):
        return rng.normal(size=(100 * BATCH, n_columns)).astype(np.float32)

    resnet = PreActResNet18(n_classes=CLASSES, width=16).to(memory_format=torch.channels_last)
    images = rng.normal(size=(4 * BATCH, 3, 32, 32)).astype(np.float32)
    return [
        ("MLP 4-16-10", MLP(4, CLASSES, hidden=(16,)), table(4), 2),
        ("MLP 32-128-128-10", MLP(32, CLASSES), table(32), 2),
        ("PreActResNet18, width 16, 32x32", resnet, images, 1),
    ]


LOOPS = {"bare torch loop": bare, "noisyfit": ours, "skorch, default": with_skorch}


def per_batch(loop, module, X, epochs, fused):
    """CPU seconds per batch of one training."""
    y = np.arange(len(X)) % CLASSES
    return loop(module, X, y, epochs, fused) / (epochs * len(X) / BATCH)


def main():
    options = parser(__doc__, rounds=21)
    options.add_argument("--fused", action="store_true", help="SGD in one kernel, on every side")
    options = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name, *problem in problems():
        sides = {
            side: partial(per_batch, loop, *problem, options.fused or None)
            for side, loop in LOOPS.items()
        }
        rows += compare(name, sides, options.rounds, over="bare torch loop")
    report(rows, options, f"ms per batch of {BATCH}", lambda seconds: f"{seconds * 1e3:.3f}")


if __name__ == "__main__":
    main()
