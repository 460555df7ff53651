"""Where the time of an epoch goes: seconds, their parts, bare torch, the hardware's matrix peak.

Each method trains on made images until its last stage and then waits; its further epochs take turns
with those of the others. Three things are measured in every turn:

- an epoch as it is (on a CPU in seconds of one thread; on an accelerator by the wall clock);
- the same passes on bare torch modules: what the epoch did is written down while it runs (rows
  fetched, views, passes with and without gradient, steps, evaluations) and done again with the same
  network, sizes, precision and optimiser on random tensors, without losses, targets or records.
  The ratio of the two is the price of everything that is no pass;
- another epoch with a clock at the seams of the library, waiting for an accelerator at each. `data`
  is fetching, shuffling, views and mixing; `passes` forward, backward and steps; `evaluation` all
  rows before a division; `mixture` its fit and posteriors, the neighbours that Manifold DivideMix
  looks for and the posteriors of each batch of M-correction. `other` is the rest: losses, targets,
  records.

The share of the peak is the arithmetic of the passes per second over that of a large product of
matrices in the precision of training. On CUDA float32 convolutions may use TF32, and so exceed the
peak of the product.
"""

import functools
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from statistics import median

import numpy as np
import torch
from _passes import PARTS, Bare, Clock, Seams, counted, seconds
from _timing import STATUS, at_least, in_turns, machine, number_of, parser, spread
from epoch_cost import SECOND, STAGES

from noisyfit import Network, methods
from noisyfit._network import resolve_device, training_dtype
from noisyfit.mixtures import BetaMixtureSplitter, GaussianMixtureSplitter
from noisyfit.modules import PreActResNet18, SmallCNN
from noisyfit.noise import sym_incl

METHODS = (
    "CrossEntropyClassifier",
    "CoTeachingClassifier",
    "ELRClassifier",
    "MCorrectionClassifier",
    "DivideMixClassifier",
    "BayesianDivideMixPP",
    "ManifoldDivideMixClassifier",
)
OWN = {"CoTeachingClassifier": {"noise_rate": 0.4}}  # beside those of epoch_cost
NETS = {"SmallCNN": SmallCNN, "PreActResNet18": PreActResNet18}
STEP = ("data", "passes", "other")  # the parts of an epoch that belong to its steps
CLASSES = 10
ROWS = {"cpu": 1024, "cuda": 50_000}
LR = 0.02
N_LOSSES = 50_000
SPLITTERS = {  # as the methods fit them
    "DivideMix": GaussianMixtureSplitter(normalize=None, bins=2048),
    "Manifold DivideMix": GaussianMixtureSplitter(normalize=None, max_iter=20, bins=2048),
    "M-correction": BetaMixtureSplitter(preset="official"),
}


@dataclass(frozen=True)
class Problem:
    """Network, data and device of all methods."""

    net: str = "SmallCNN"
    width: int | None = None
    rows: int = 1024
    batch_size: int = 128
    precision: str = "auto"
    device: str = "cpu"

    def network(self, max_epochs):
        params = {} if self.width is None else {"module__width": self.width}
        return Network(
            NETS[self.net],
            lr=LR,
            lr_schedule="constant",
            max_epochs=max_epochs,
            batch_size=self.batch_size,
            precision=self.precision,
            device=self.device,
            **params,
        )

    def images(self):
        """Colour images of ten blurred patterns under noise; 40 % of the labels are redrawn."""
        rng = np.random.default_rng(0)
        y = np.arange(self.rows) % CLASSES
        patterns = rng.integers(160, size=(CLASSES, 3, 8, 8), dtype=np.uint8)
        images = np.kron(patterns, np.ones((4, 4), np.uint8))[y]
        images += rng.integers(96, size=images.shape, dtype=np.uint8)
        return images, sym_incl(y, 0.4, random_state=0).y


# ---- a method in its last stage ----------------------------------------------------------------


class Paused:
    """Mixed into a method: `fit` trains to the last stage, `one_epoch` goes on from there."""

    def _train(self, run, valid, X, y):
        run.begin(valid)
        self.run = run
        for _ in range(SECOND):
            self.one_epoch()

    def _gather_evidence(self, *args):
        pass

    def one_epoch(self):
        """Train for one epoch."""
        run = self.run
        run.close_epoch(self._run_epoch(run, len(run.history), None))

    def turn(self):
        """What one round measures."""
        run, device = self.run, self.run.device
        with Seams(run) as seams:
            ours = seconds(self.one_epoch, device)
        if not hasattr(self, "bare"):
            self.bare = Bare(run, seams)
        self.bare.prepare(seams)
        bare = seconds(lambda: self.bare.replay(seams.events), device)
        clock = Clock(device)
        with Seams(run, clock) as timed:
            whole = seconds(self.one_epoch, device)
        return {
            "seconds": ours,
            "bare": bare,
            "ratio": ours / bare,
            "parts": clock.seconds | {"other": whole - sum(clock.seconds.values())},
            "rows": counted(seams.events),
            "steps": sum(kind == "step" for kind, *_ in timed.events),
            "flop": self.bare.flops(seams.events),
        }


def start(name, problem, max_epochs):
    """The method `name` at the beginning of its last stage."""
    method = getattr(methods, name)
    params = STAGES.get(name, {}) | OWN.get(name, {})
    net = problem.network(max_epochs)
    paused = type(method.__name__, (Paused, method), {})(net, random_state=0, **params)
    return paused.fit(*problem.images())


# ---- memory, peak, mixture ---------------------------------------------------------------------


def cuda_memory(name, problem, max_epochs):
    """The started method, and MB by which it and its first epoch exceed what was there before."""
    device = torch.device(problem.device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    paused = start(name, problem, max_epochs)
    paused.one_epoch()
    return paused, (torch.cuda.max_memory_allocated(device) - before) / 2**20


def process_memory(name, problem):
    """MB by which this process grows up to the end of the first epoch of the last stage."""
    torch.set_num_threads(1)
    before = number_of(STATUS, "VmRSS")
    start(name, problem, SECOND + 1).one_epoch()
    return (number_of(STATUS, "VmHWM") - before) / 2**20


def in_own_process(name, problem):
    """`process_memory` where nothing else has grown before."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(process_memory, name, problem).result()


def matrix_peak(device, dtype, size=None, repeats=5):
    """FLOP/s of a large product of matrices, the best of some."""
    size = size or (1536 if device.type == "cpu" else 8192)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = functools.partial(torch.mm, a, b)
    product()
    return 2 * size**3 / min(seconds(product, device) for _ in range(repeats))


def mixture_seconds(device, rounds, n=N_LOSSES):
    """Seconds of a fit to `n` losses, by splitter."""
    rng = np.random.default_rng(0)
    right = rng.random(n) < 0.6
    losses = np.where(right, rng.beta(1.2, 12, n), rng.beta(6, 4, n)).astype(np.float32)
    losses = torch.from_numpy(losses).to(device)
    sides = {
        name: functools.partial(seconds, functools.partial(splitter.fit_tensor, losses), device)
        for name, splitter in SPLITTERS.items()
    }
    return {name: spread(values) for name, values in in_turns(sides, rounds).items()}


# ---- table -------------------------------------------------------------------------------------


def measure(problem, names, rounds, peak, with_memory=False):
    """One row of figures per method."""
    device = torch.device(problem.device)
    max_epochs = SECOND + 1 + 2 * (rounds + 1)
    memory, started = dict.fromkeys(names), {}
    for name in names:
        if device.type == "cuda":
            started[name], memory[name] = cuda_memory(name, problem, max_epochs)
        else:
            memory[name] = in_own_process(name, problem) if with_memory else None
            started[name] = start(name, problem, max_epochs)
    turns = in_turns({name: paused.turn for name, paused in started.items()}, rounds)
    return [row(name, turns[name], problem.rows, peak, memory[name]) for name in names]


def row(name, turns, n, peak, memory):
    """The figures of one method from those of its rounds."""
    ours = spread([turn["seconds"] for turn in turns])
    rows = {kind: median(turn["rows"][kind] for turn in turns) for kind in turns[0]["rows"]}
    flop = [turn["flop"] / turn["seconds"] for turn in turns]
    of_steps = [sum(turn["parts"][part] for part in STEP) / turn["steps"] for turn in turns]
    return {
        "method": name.removesuffix("Classifier"),
        "seconds": ours,
        "images_per_second": n / ours["median"],
        "parts": {
            part: spread([turn["parts"][part] for turn in turns]) for part in (*PARTS, "other")
        },
        "step_seconds": spread(of_steps),
        "rows": rows,
        "cost": (rows["forward"] + 3 * rows["gradient"]) / (3 * n),
        "bare_seconds": spread([turn["bare"] for turn in turns]),
        "ratio": spread([turn["ratio"] for turn in turns]),
        "gflop": median(turn["flop"] for turn in turns) / 1e9,
        "share_of_peak": median(flop) / peak,
        "memory_mb": memory,
    }


def show(rows, mixtures):
    titles = ["method", "s/epoch", "images/s", "ms/step", *PARTS, "other"]
    titles += ["cost", "to bare torch (min to max)", "of peak", "MB"]
    widths = (20, 10, 10, 10, 8, 8, 11, 9, 7, 7, 28, 9, 8)
    form = "".join(f"{{:{'<' if i == 0 else '>'}{w}}}" for i, w in enumerate(widths))
    print(form.format(*titles))
    for row in rows:
        parts = {part: seconds["median"] for part, seconds in row["parts"].items()}
        whole = sum(parts.values())
        print(
            form.format(
                row["method"],
                f"{row['seconds']['median']:.3f}",
                f"{row['images_per_second']:.0f}",
                f"{1e3 * row['step_seconds']['median']:.2f}",
                *(f"{part / whole:.1%}" for part in parts.values()),
                f"{row['cost']:.2f}",
                "{median:.3f} ({min:.3f} to {max:.3f})".format_map(row["ratio"]),
                f"{row['share_of_peak']:.1%}",
                "–" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}",
            )
        )
    print("\ncost: passes of the epoch in epochs of plain training, a step being three passes")
    print(
        "ms/step: an epoch without evaluation and mixture, with a clock at the seams, by its steps"
    )
    print(f"\nmixture fitted to {N_LOSSES} losses, ms (min to max)")
    for name, values in mixtures.items():
        ms = spread([1e3 * value for value in values.values()])
        print("{:20}{median:.2f} ({min:.2f} to {max:.2f})".format(name, **ms))


def parsed(options, argv):
    """Values of the `options`, and their device; ends with a sentence where they do not fit."""
    given = options.parse_args(argv)
    try:
        device = resolve_device(given.device)
    except ValueError as error:
        options.error(str(error))
    if device.type not in ROWS:
        options.error(f"--device must be cpu, cuda or auto, got {given.device!r}.")
    if given.width and given.net != "PreActResNet18":
        options.error(f"--width is a parameter of PreActResNet18, not of {given.net}.")
    return given, device


def arguments(argv=None):
    """Options, and the problem that they describe."""
    options = parser(__doc__.split("\n\n")[0], rounds=5)
    options.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    options.add_argument("--net", choices=NETS, default="SmallCNN")
    options.add_argument("--width", type=at_least(1), help="of PreActResNet18")
    options.add_argument("--rows", type=at_least(100), help="images; 1024, on cuda 50000")
    options.add_argument("--batch-size", type=at_least(2), default=128)
    options.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    options.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options.add_argument("--memory", action="store_true", help="also on a CPU: a process each")
    given, device = parsed(options, argv)
    if given.memory and not STATUS.exists():
        options.error("--memory needs Linux.")
    problem = Problem(
        *(given.net, given.width, given.rows or ROWS[device.type], given.batch_size),
        *(given.precision, str(device)),
    )
    return given, problem


def main(argv=None):
    options, problem = arguments(argv)
    device = torch.device(problem.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    dtype = training_dtype(problem.network(1), device) or torch.float32
    peak = matrix_peak(device, dtype)
    head = machine() | asdict(problem) | {"rounds": options.rounds}
    head |= {"precision": str(dtype).removeprefix("torch."), "peak TFLOP/s": round(peak / 1e12, 4)}
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True  # as in a fit, for both sides
        head["accelerator"] = torch.cuda.get_device_name(device)
    print("\n".join(f"{key}: {value}" for key, value in head.items()), end="\n\n", flush=True)
    rows = measure(problem, options.methods, options.rounds, peak, options.memory)
    mixtures = mixture_seconds(device, options.rounds)
    show(rows, mixtures)
    if options.json:
        figures = {"machine": head, "rows": rows, "mixture_seconds": mixtures}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
