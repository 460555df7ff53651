"""CPU seconds of one thread, taken in turns: what the speed scripts of this folder share."""

import argparse
import gc
import json
import os
import platform
import time
from pathlib import Path
from statistics import median

import numpy as np
import sklearn
import skorch
import torch
import torchvision

STATUS = Path("/proc/self/status")  # of this process, on Linux


def number_of(path, name):
    """Bytes that a line `name` of a file of the system states.

    ``VmHWM`` of `STATUS` is the most memory that this process has held. (What `getrusage` says of
    it begins with the memory of the process that started it.)
    """
    lines = path.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 2**10


def at_least(least):
    """Type of an option that is an integer from `least` on."""

    def number(text):
        if not text.isdecimal() or int(text) < least:
            message = f"an integer from {least} on is needed, got {text!r}"
            raise argparse.ArgumentTypeError(message)
        return int(text)

    return number


def output(text):
    """Type of an option that is a file to write, whose folder is there.

    A default must be a string, for argparse to look at it.
    """
    path = Path(text)
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path.parent} is no folder that can be written to.")
    if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
        raise argparse.ArgumentTypeError(f"{path} is no file that can be written to.")
    return path


def page_file(title):
    """Type of an option that is a page to write; nothing but one with `title` is written over."""

    def path(text):
        page = output(text)
        if page.exists() and _first_line(page) != title.strip():
            message = f"{page} is no page of this script; move it elsewhere."
            raise argparse.ArgumentTypeError(message)
        return page

    return path


def _first_line(path):
    try:
        return path.read_text().partition("\n")[0]
    except (OSError, ValueError):
        return None


def parser(description, rounds):
    """Options that every script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=at_least(1), default=rounds, help="turns of every side")
    parser.add_argument("--json", type=output, help="also write the figures to this file")
    return parser


def cpu_seconds(work):
    """CPU seconds that ``work()`` takes, without collecting the garbage of others."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turns(sides, rounds):
    """Seconds of every side in every round, after one round that warms up and is not counted.

    `sides` maps names to functions that return seconds. The order is reversed in every second
    round, so that no side always runs behind the same one.
    """
    gc.freeze()  # what was imported need not be searched every time
    seconds = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name in list(sides)[:: 1 if i % 2 else -1]:
            value = sides[name]()
            if i > 0:
                seconds[name].append(value)
    gc.unfreeze()
    return seconds


def spread(values):
    """Smallest, median and largest of the rounds."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def compare(case, sides, rounds, over):
    """One row of figures per side: seconds, and their ratio to the side `over` round by round."""
    seconds = in_turns(sides, rounds)
    return [
        {
            "case": case,
            "side": name,
            "seconds": spread(values),
            "ratio": spread([a / b for a, b in zip(values, seconds[over], strict=True)]),
        }
        for name, values in seconds.items()
    ]


def report(rows, options, unit, show):
    """Print machine and table, and write them as JSON where the caller asked for a file.

    ``show(seconds)`` is the text of a median under the heading `unit`.
    """
    head = machine() | {"rounds": options.rounds}
    print("\n".join(f"{key}: {value}" for key, value in head.items()), end="\n\n")
    print(f"{'case':34}{'side':28}{unit:>18}   ratio, median (min to max)")
    for row in rows:
        ratio = "{median:8.2f} ({min:.2f} to {max:.2f})".format_map(row["ratio"])
        print(f"{row['case']:34}{row['side']:28}{show(row['seconds']['median']):>18}   {ratio}")
    if options.json:
        options.json.write_text(json.dumps({"machine": head, "rows": rows}, indent=1) + "\n")


def machine():
    """Processor and versions; everything is measured with the threads stated here."""
    return {
        "processor": _processor(),
        "torch threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": torchvision.__version__,
        "skorch": skorch.__version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
    }


def _processor():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
