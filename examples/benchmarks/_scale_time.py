"""Time that grows with the rows: of epochs, evidence, splitters, neighbours, and of files."""

import time
from functools import partial
from math import sqrt
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from _timing import cpu_seconds, in_turns, spread
from epoch_cost import COUNTED
from PIL import Image

from noisyfit import Network, methods
from noisyfit.images import ImageFiles
from noisyfit.mixtures import BetaMixtureSplitter, GaussianMixtureSplitter
from noisyfit.modules import SmallCNN
from noisyfit.noise import sym_incl
from noisyfit.outliers import KNNOutlierFilter

COLUMNS, CLASSES = 16, 10
BEFORE = 2  # epochs before one is timed; the second is of the last stage
RECORDED = 10  # last epochs of a fit, in which selecting methods keep a record
STAGE = {  # what makes the last stage begin after one epoch
    "CrossEntropyClassifier": {},
    "ELRClassifier": {},
    "CoTeachingClassifier": {"noise_rate": 0.4, "n_gradual": 1},
    "DivideMixClassifier": {"warmup": 1},
    "MCorrectionClassifier": {"bootstrap_start": 2},
}
SPLITTERS = {
    "`GaussianMixtureSplitter()`": GaussianMixtureSplitter(),
    "`GaussianMixtureSplitter(bins=None)`": GaussianMixtureSplitter(bins=None),
    "`BetaMixtureSplitter()`": BetaMixtureSplitter(),
    "`BetaMixtureSplitter(bins=None)`": BetaMixtureSplitter(bins=None),
    '`BetaMixtureSplitter(preset="official")`': BetaMixtureSplitter(preset="official"),
}


def made_table(n, n_classes=CLASSES):
    """Rows of well separated classes, and labels of which 40 % are redrawn; each class is there."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % n_classes
    centres = 3 * rng.standard_normal((n_classes, COLUMNS), dtype=np.float32)
    X = centres[y] + rng.standard_normal((n, COLUMNS), dtype=np.float32)
    redrawn = rng.random(n) < 0.4
    redrawn[:n_classes] = False
    return X, np.where(redrawn, rng.integers(n_classes, size=n), y)


def repeats(n, sizes):
    """How often a turn does the work of `n` rows, so that short ones can be told apart."""
    return max(1, round(sqrt(max(sizes) / n)))


def compared(timed, sizes, of, factor, **names):
    """One row of figures per size: `factor` times the seconds of a unit of work, and the ratio to
    those of the smallest size, round by round.

    `timed` is {size: seconds of its turns}, `of` is {size: units in a turn}.
    """
    cost = {n: [factor * s / of[n] for s in timed[n]] for n in sizes}
    first = cost[min(sizes)]
    return [
        names
        | {"rows": n, "value": spread(cost[n])}
        | {"ratio": spread([a / b for a, b in zip(cost[n], first, strict=True)])}
        for n in sizes
    ]


# ---- epochs and evidence -----------------------------------------------------------------------


class Paused:
    """Mixed into a method: `fit` ends before the evidence; epochs and evidence follow on call."""

    n_before = BEFORE

    def _train(self, run, valid, X, y):
        run.begin(valid)
        self.run = run
        for _ in range(self.n_before):
            self.one_epoch()

    def _gather_evidence(self, *args):
        self.args = args

    def one_epoch(self):
        """Train for one epoch."""
        run = self.run
        run.close_epoch(self._run_epoch(run, len(run.history), None))

    def some_epochs(self, n_epochs, cost):
        """Seconds of an epoch, the mean of some, and of what counts as one of plain training."""
        first = len(self.run.history)
        seconds = cpu_seconds(lambda: [self.one_epoch() for _ in range(n_epochs)])
        rows, n = self.run.history[first:], len(self.run.data)
        counted = sum(cost(row, n) if callable(cost) else cost for row in rows)
        return seconds / n_epochs, seconds / counted

    def finish(self):
        """End the training."""
        self.run.end()
        self._finish(self.run)
        self.run.rest()

    def evidence(self):
        """What the end of `fit` does."""
        super()._gather_evidence(*self.args)


def paused(name, net, X, y, n_before=BEFORE):
    """The method `name`, fitted as far as its last stage."""
    method = getattr(methods, name)
    clf = type(method.__name__, (Paused, method), {})(net, random_state=0, **STAGE[name])
    clf.n_before = n_before
    return clf.fit(X, y)


def sample_rows(names, sizes, rounds, batch_size):
    """Microseconds per sample, by item.

    "epoch", "counted" (what counts as an epoch of plain training), and of a fit's begin and end
    "begin" and "evidence".
    """
    net = Network(lr_schedule="constant", max_epochs=RECORDED, batch_size=batch_size, device="cpu")
    tables, units = {n: made_table(n) for n in sizes}, {n: n for n in sizes}
    rows = []
    for name in names:
        cost = COUNTED[name][-1][1]
        started = {n: paused(name, net, *tables[n]) for n in sizes}
        epochs = in_turns(
            {n: partial(clf.some_epochs, repeats(n, sizes), cost) for n, clf in started.items()},
            rounds,
        )
        timed = {
            item: {n: [turn[i] for turn in turns] for n, turns in epochs.items()}
            for i, item in enumerate(("epoch", "counted"))
        }
        for clf in started.values():
            clf.finish()
        ends = {n: partial(cpu_seconds, clf.evidence) for n, clf in started.items()}
        begins = {n: partial(cpu_seconds, partial(paused, name, net, *tables[n], 0)) for n in sizes}
        timed |= {"begin": in_turns(begins, rounds), "evidence": in_turns(ends, rounds)}
        for item, seconds in timed.items():
            rows += compared(seconds, sizes, units, 1e6, method=name, item=item)
        print(f"  {name}", flush=True)
    return rows


# ---- splitters and neighbours ------------------------------------------------------------------


def made_losses(n):
    """Losses of right and wrong labels, float32."""
    rng = np.random.default_rng(0)
    right = rng.random(n) < 0.6
    losses = np.where(right, rng.beta(1.2, 12, n), rng.beta(6, 4, n))
    return torch.from_numpy(losses.astype(np.float32))


def splitter_rows(sizes, rounds):
    """Nanoseconds per sample of a fit with its probabilities."""
    losses, times = {n: made_losses(n) for n in sizes}, {n: repeats(n, sizes) for n in sizes}
    rows = []
    for name, splitter in SPLITTERS.items():

        def fits(n, splitter=splitter):
            return cpu_seconds(lambda: [splitter.fit_tensor(losses[n]) for _ in range(times[n])])

        timed = in_turns({n: partial(fits, n) for n in sizes}, rounds)
        units = {n: n * times[n] for n in sizes}
        rows += compared(timed, sizes, units, 1e9, splitter=name)
    return rows


def neighbour_rows(sizes, rounds, n_features, block_bytes):
    """Nanoseconds per pair of rows of `KNNOutlierFilter`."""
    rng = np.random.default_rng(0)
    knn = KNNOutlierFilter(block_bytes=block_bytes, device="cpu")
    sides = {}
    for n in sizes:
        X = rng.standard_normal((n, n_features), dtype=np.float32)
        sides[n] = partial(cpu_seconds, partial(knn.fit, X))
    return compared(in_turns(sides, rounds), sizes, {n: n * n for n in sizes}, 1e9)


# ---- files -------------------------------------------------------------------------------------


def made_files(folder, n, side):
    """Paths of JPEG files of coloured patterns under noise."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(160, size=(CLASSES, 8, 8, 3), dtype=np.uint8)
    paths = []
    for i in range(n):
        pattern = Image.fromarray(patterns[i % CLASSES]).resize((side, side))
        noise = rng.integers(96, size=(side, side, 3), dtype=np.uint8)
        paths.append(f"{folder}/{i:06}.jpg")
        Image.fromarray(np.asarray(pattern) + noise).save(paths[-1], quality=90)
    return paths


def wall_seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def loaded(data, batch_size):
    """Fetch all rows once, in a random order, as an epoch of plain training does."""
    for _ in data.batches(batch_size, torch.randperm(len(data))):
        pass


def streaming_rows(sides, counts, workers, rounds, batch_size):
    """Images per second by the clock, of an epoch of plain training and of loading alone."""
    rows = []
    for side, n in zip(sides, counts, strict=True):
        with TemporaryDirectory() as folder:
            paths = made_files(folder, n, side)
            files = ImageFiles(paths)
            y = sym_incl(np.arange(n) % CLASSES, 0.4, random_state=0).y
            n_bytes = sum(Path(path).stat().st_size for path in paths) / n
            sources = {"resident": (torch.stack([files[i] for i in range(n)]), 0)}
            sources |= {f"{w} workers": (files, w) for w in workers}
            epochs, loads = {}, {}
            for name, (X, n_workers) in sources.items():
                net = Network(
                    SmallCNN,
                    lr=0.02,
                    lr_schedule="constant",
                    max_epochs=RECORDED,
                    batch_size=batch_size,
                    device="cpu",
                    iterator_train__num_workers=n_workers,
                )
                clf = paused("CrossEntropyClassifier", net, X, y, 0)
                epochs[name] = partial(wall_seconds, clf.one_epoch)
                loads[name] = partial(wall_seconds, partial(loaded, clf.run.data, batch_size))
            epochs, loads = in_turns(epochs, rounds), in_turns(loads, rounds)
        for name, seconds in epochs.items():
            rates = [n / s for s in seconds], [n / s for s in loads[name]]
            of_resident = [a / b for a, b in zip(epochs["resident"], seconds, strict=True)]
            rows.append(
                {"side": side, "images": n, "file_bytes": n_bytes, "source": name}
                | {"training": spread(rates[0]), "loading": spread(rates[1])}
                | {"of_resident": spread(of_resident)}
            )
        print(f"  {side} x {side}", flush=True)
    return rows
