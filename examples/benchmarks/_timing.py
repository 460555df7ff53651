"""CPU seconds of one thread, taken in turns: what the speed scripts of this folder share."""

import argparse
import gc
import json
import platform
import time
from pathlib import Path
from statistics import median

import numpy as np
import skorch
import sklearn
import torch
import torchvision


def parse(description, rounds):
    """Parser with the options every script has; torch is set to one thread."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of every side")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def cpu_seconds(work):
    """CPU seconds that ``work()`` takes."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turns(sides, rounds):
    """Seconds of every side in every round; one unmeasured round comes first.

    `sides` maps names to functions that return seconds. The order turns round after every round,
    so that no side always follows the same one.
    """
    seconds = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name in list(sides)[:: 1 if i % 2 else -1]:
            value = sides[name]()
            if i > 0:
                seconds[name].append(value)
    return seconds


def spread(values):
    """Least, median and largest value, as numbers for a file."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def compare(seconds, over):
    """Spread of each side's seconds, and of its ratio to the side `over` in the same round."""
    base = seconds[over]
    return {
        name: {
            "seconds": spread(values),
            "ratio": spread([a / b for a, b in zip(values, base, strict=True)]),
        }
        for name, values in seconds.items()
    }


def machine():
    """Processor and versions, for the head of a table."""
    return {
        "processor": _processor(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "skorch": skorch.__version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
        "torch_threads": torch.get_num_threads(),
    }


def _processor():
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
