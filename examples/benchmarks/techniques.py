"""What each technique of the fast path is worth: an epoch of DivideMix with and without it.

The library as it is takes turns with itself where one thing is different: a technique that is in
use taken away, or one that is not added. Every side believes the same half of the labels, so that
all do the same work. Ratios are seconds of the changed epoch over those of the usual one: above 1
the usual way is faster. Seconds are those of one CPU thread, on an accelerator those of the clock.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from unittest import mock

import torch
from _passes import seconds
from _timing import at_least, compare, parser, report
from speed import NETS, ROWS, Paused, Problem, parsed
from torch.backends import cudnn
from torchvision.transforms import v2

from noisyfit import _run, methods
from noisyfit._data import TensorData
from noisyfit.mixtures import GaussianMixtureSplitter

SIZES = (64, 512, 2048)  # of batches in evaluation
ONE_BY_ONE = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])
USUAL = "as it is"
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}


class EveryOther(GaussianMixtureSplitter):
    """Fits the mixture and then believes every other label."""

    def fit_tensor(self, x):
        clean = super().fit_tensor(x)
        return torch.where(torch.arange(len(x), device=x.device) % 2 == 0, 0.9, 0.1).to(clean)


class Waiting(Paused, methods.DivideMixClassifier):
    """DivideMix in its semi-supervised stage."""


def image_by_image(x, generator):
    """The weak view as a data set with torchvision's transforms draws it."""
    return torch.stack([ONE_BY_ONE(image) for image in x])


@contextmanager
def any_kernel():
    """cuDNN takes kernels that need not repeat."""
    cudnn.deterministic = False
    try:
        yield
    finally:
        cudnn.deterministic = True


@contextmanager
def flushed():
    """Numbers too small for the normal form count as zero."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def evaluated_in(dtype):
    """Evaluations in `dtype`, or None for float32, whatever the precision of training."""
    usual = _run.forward_all

    def changed(module, data, constants, n_classes, of_training=None, out=None):
        return usual(module, data, constants, n_classes, dtype, out)

    return mock.patch.object(_run, "forward_all", changed)


def evaluated_in_batches(size):
    return mock.patch.object(TensorData, "evaluation_size", size)


def without_channels_last(method):
    for learner in method.run.learners:
        learner._channels_last = False
        learner.module.to(memory_format=torch.contiguous_format)


class Case:
    """The method started on `problem`, and its epochs inside the contexts."""

    def __init__(self, problem, epochs, *contexts, net=None, change=None, **params):
        network = problem.network(epochs).set_params(**(net or {}))
        given = {"warmup": 1, "guards": False, "splitter": EveryOther(normalize=None)} | params
        method = Waiting(network, random_state=0, **given)
        method.fit(*problem.images())
        if change is not None:
            change(method)
        self.method, self.contexts = method, contexts

    def __call__(self):
        with ExitStack() as stack:
            for context in self.contexts:
                stack.enter_context(context())
            return seconds(self.method.one_epoch, self.method.run.device)


def cases(problem, epochs, with_compile):
    """Name and `Case` of each side."""
    other = "float32" if problem.precision == "bfloat16" else "bfloat16"

    def case(*contexts, given=problem, **options):
        return Case(given, epochs, *contexts, **options)

    sides = {
        USUAL: case(),
        f"training in {other}": case(given=replace(problem, precision=other)),
        "without channels_last": case(change=without_channels_last),
        "SGD not in one kernel": case(net={"optimizer__fused": False}),
        "views image by image": case(augment=image_by_image),
        "guesses in evaluation mode": case(guess_mode="eval"),
        f"evaluation in {other}": case(partial(evaluated_in, DTYPES[other])),
    }
    if torch.device(problem.device).type == "cpu":
        sides["denormal numbers flushed"] = case(flushed)
    else:
        sides["kernels that need not repeat"] = case(any_kernel)
    for size in SIZES:
        context = partial(evaluated_in_batches, size)
        sides[f"evaluation in batches of {size}"] = case(context)
    if with_compile:
        sides["torch.compile"] = case(net={"compile": True})
    return sides


def arguments(argv=None):
    """Options, and the problem that they describe."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--net", choices=NETS, default="PreActResNet18")
    options.add_argument("--width", type=at_least(1), help="of PreActResNet18; on a CPU 16")
    options.add_argument("--rows", type=at_least(100), help="images; on a CPU 512")
    options.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    options.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    options.add_argument("--compile", action="store_true", help="torch.compile as well")
    given, device = parsed(options, argv)
    return given, problem_of(given, device)


def problem_of(given, device):
    """Network, data and device; the small ones on a CPU."""
    on_cpu = device.type == "cpu"
    width = (given.width or (16 if on_cpu else None)) if given.net == "PreActResNet18" else None
    rows = given.rows or (512 if on_cpu else ROWS["cuda"])
    return Problem(given.net, width, rows, precision=given.precision, device=str(device))


def main(argv=None):
    options, problem = arguments(argv)
    torch.set_num_threads(1)
    cudnn.deterministic = True  # as in a fit
    sides = cases(problem, options.rounds + 8, options.compile)
    name = f"{options.net}, {options.precision}"
    rows = compare(name, sides, options.rounds, over=USUAL)
    report(rows, options, "seconds per epoch", lambda seconds: f"{seconds:.3f}")


if __name__ == "__main__":
    main()
