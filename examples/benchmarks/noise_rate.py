"""What a noise rate that is wrong, or not told at all, costs the methods that can be told one.

Digits as images, a small network, 40 epochs, no random views. Test accuracy after the last epoch,
mean and standard deviation over the seeds. Prints Markdown.
"""

import argparse
import inspect

import joblib
import numpy as np
import torch
from all_methods import PROBLEMS, digits

from noisyfit import CrossEntropyClassifier, Network, methods
from noisyfit.modules import SmallCNN
from noisyfit.noise import sym_excl

CASES = [(0.4, "auto"), (0.4, 0.2), (0.4, 0.4), (0.4, 0.6), (0.0, "auto"), (0.0, 0.2)]


WITHOUT = {"NoiseAdaptationClassifier"}  # only another start of its matrix takes a rate


def told():
    """Methods that can be told the share of wrong labels, and their default."""
    names = {"SelfPacedClassifier": "auto"}
    for name in methods.__all__:
        parameters = inspect.signature(getattr(methods, name)).parameters
        if "noise_rate" in parameters and name not in WITHOUT:
            names[name] = parameters["noise_rate"].default
    return names


def one_fit(name, true, given, seed):
    """Test accuracy in % with the true share of wrong labels and the one that is told."""
    torch.set_num_threads(1)
    X, y, X_test, y_test = digits(seed)
    y_noisy = sym_excl(y, true, exact="global", random_state=seed).y if true else y
    problem = PROBLEMS["fast"]
    net = Network(SmallCNN, lr=problem.lr, max_epochs=problem.epochs, batch_size=64, device="cpu")
    if name is None:
        clf = CrossEntropyClassifier(net, augment=None, random_state=seed)
    else:
        rate = {"noise_rate": told()[name] if given == "auto" else given}
        if name == "SelfPacedClassifier":
            rate = {"percentile": given if given == "auto" else 1 - given}
        clf = getattr(methods, name)(net, augment=None, random_state=seed, **rate)
    return 100 * clf.fit(X, y_noisy).score(X_test, y_test)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=joblib.cpu_count())
    parser.add_argument("--methods", nargs="+", choices=told(), default=[*told()], metavar="NAME")
    args = parser.parse_args()
    todo = [(name, *case, s) for name in args.methods for case in CASES for s in range(args.seeds)]
    todo += [(None, true, "auto", s) for true in (0.4, 0.0) for s in range(args.seeds)]
    done = joblib.Parallel(args.workers)(joblib.delayed(one_fit)(*fit) for fit in todo)
    scores = dict(zip(todo, done, strict=True))

    def cell(*fit):
        values = [scores[*fit, seed] for seed in range(args.seeds)]
        return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"

    titles = [f"{true:.0%} wrong, {given} told".replace("auto", "nothing") for true, given in CASES]
    print(f"| | {' | '.join(titles)} |")
    print("|---" * (1 + len(CASES)) + "|")
    plain = {true: cell(None, true, "auto") for true in (0.4, 0.0)}
    cells = [plain[true] if given == "auto" else "" for true, given in CASES]
    print(f"| `CrossEntropyClassifier` | {' | '.join(cells)} |")
    for name in args.methods:
        print(f"| `{name}` | {' | '.join(cell(name, *case) for case in CASES)} |")


if __name__ == "__main__":
    main()
