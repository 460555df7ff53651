"""What `predict_proba` costs on many rows, beside skorch with the same weights.

A small network answers faster than rows can be handed to it one by one. Our side includes the
validation and scaling of the caller's array, while skorch gets its input scaled and in float32.
"""

import numpy as np
import torch
from _timing import compare, cpu_seconds, parser, report
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier

from noisyfit import CrossEntropyClassifier, Network
from noisyfit.modules import MLP, SmallCNN

N_TRAIN = 1000


def main():
    options = parser(__doc__, rounds=11).parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, net, X, prepared in problems():
        y = np.arange(N_TRAIN) % 10
        ours = CrossEntropyClassifier(net, random_state=0).fit(X[:N_TRAIN], y)
        theirs = same_weights(ours)
        difference = np.abs(ours.predict_proba(X) - theirs.predict_proba(prepared)).max()
        if difference > 1e-5:
            raise RuntimeError(f"{name}: the two sides differ by {difference}.")
        sides = {
            "noisyfit": predicting(ours, X),
            "skorch, default": predicting(theirs, prepared),
        }
        rows += compare(name, sides, options.rounds, over="noisyfit")
    report(rows, options, "ms per call", lambda seconds: f"{seconds * 1e3:.1f}")


def problems():
    """(name, net, rows as the caller has them, the same as the network takes them)."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50_000, 32))
    scaled = StandardScaler().fit(X[:N_TRAIN]).transform(X).astype(np.float32)
    images = rng.integers(256, size=(10_000, 1, 28, 28), dtype=np.uint8)
    shared = {"max_epochs": 1, "device": "cpu"}
    narrow = Network(MLP, module__hidden=(16,), **shared)
    cnn = Network(SmallCNN, normalize=None, **shared)
    return [
        ("50,000x32, MLP 32-128-128-10", Network(**shared), X, scaled),
        ("50,000x32, MLP 32-16-10", narrow, X, scaled),
        ("10,000x1x28x28, SmallCNN", cnn, images, np.float32(images / 255)),
    ]


def same_weights(fitted):
    """skorch's classifier around the fitted module."""
    module = fitted.nets_[0].module_
    return NeuralNetClassifier(module, criterion=torch.nn.CrossEntropyLoss).initialize()


def predicting(classifier, X):
    return lambda: cpu_seconds(lambda: classifier.predict_proba(X))


if __name__ == "__main__":
    main()
