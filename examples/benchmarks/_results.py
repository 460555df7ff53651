"""Fits as lines of JSON in a file that is only added to: a benchmark can be stopped and resumed."""

import functools
import json
import warnings

import joblib
import numpy as np
from _timing import machine


def record(task, fit):
    """One line of the file: ``fit(task)`` is a dict; a fit that fails leaves its error there."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            figures = fit(task)
        except Exception as error:  # the other fits go on
            figures = {"error": f"{type(error).__name__}: {error}"}
    said = sorted({str(warning.message) for warning in caught})
    return task._asdict() | figures | {"warnings": said, "machine": machine()}


def read(path, kind):
    """{task: figures} of the fits that went well; a later line replaces an earlier one.

    `kind` is the named tuple of a task.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    results = {}
    for line in lines:
        try:
            figures = json.loads(line)
            task = kind(*(figures.pop(name) for name in kind._fields))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise SystemExit(
                f"{path} is of another version, or holds no results: {error!r}."
            ) from error
        if "error" not in figures:
            results[task] = figures
    return results


def work(tasks, fit, path, workers):
    """Run the fits in processes of one thread, and write each down when it ends.

    Returns how many failed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    jobs = (joblib.delayed(record)(task, fit) for task in tasks)
    parallel = joblib.Parallel(workers, batch_size=1, return_as="generator_unordered")
    failed = 0
    with path.open("a") as file:
        for i, line in enumerate(parallel(jobs), start=1):
            file.write(json.dumps(line) + "\n")
            file.flush()
            what = " ".join(str(line[name]) for name in tasks[0]._fields)
            failed += "error" in line
            end = line.get("error") or f"{line['last']:.1f} %, {line['seconds']:.0f} s"
            print(f"{i}/{len(tasks)}  {what}: {end}", flush=True)
    return failed


@functools.cache
def loaded(load, folder):
    """A data set, read once by each process. (Here, as a script's own cache cannot be sent.)"""
    return load(folder)


def percent(share):
    return round(100 * float(share), 3)


def cell(values, digits):
    """Mean and sample standard deviation; a dash where nothing was measured."""
    if not values:
        return "–"
    text = f"{np.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {np.std(values, ddof=1):.{digits}f}"


def markdown(header, lines):
    """A table of strings."""
    body = [f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines]]
    return "\n".join(body)


def machines(results):
    """A list in Markdown of the machines that the fits ran on."""
    known = {json.dumps(figures["machine"]): figures["machine"] for figures in results.values()}
    return "\n".join("- " + ", ".join(f"{k} {v}" for k, v in m.items()) for m in known.values())
