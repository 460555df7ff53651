"""What the library's training loop costs over a bare torch loop.

Methods rest on one shared loop that records the history of every sample; whoever gives up a loop
of their own for it wants to know its price. The same network, data, batch size, optimiser and loss
run in this loop, in the shortest torch loop on tensors in memory, and in skorch as it comes.
"""

import copy

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
    """Knows how long the training took: all epochs, without building and final evidence."""

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
    images = rng.normal(size=(6 * BATCH, 3, 32, 32)).astype(np.float32)
    return [
        ("MLP 4-16-10", MLP(4, CLASSES, hidden=(16,)), table(4), 4),
        ("MLP 32-128-128-10", MLP(32, CLASSES), table(32), 4),
        ("PreActResNet18, width 16, 32x32", resnet, images, 1),
    ]


def main():
    options = parser(__doc__, rounds=15)
    options.add_argument("--fused", action="store_true", help="SGD in one kernel, on every side")
    options = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name, module, X, epochs in problems():
        y = np.arange(len(X)) % CLASSES
        n_batches = epochs * len(X) // BATCH
        fused = options.fused or None

        def per_batch(loop, setting=(module, X, y, epochs, fused), n=n_batches):
            return lambda: loop(*setting) / n

        sides = {
            "bare torch loop": per_batch(bare),
            "noisyfit": per_batch(ours),
            "skorch, default": per_batch(with_skorch),
        }
        rows += compare(name, sides, options.rounds, over="bare torch loop")
    report(rows, options, "ms per batch of 64", lambda seconds: f"{seconds * 1e3:.3f}")


if __name__ == "__main__":
    main()
