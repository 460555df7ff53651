"""Does the library scale? Time per sample, memory per sample and per class, files beside arrays.

Five parts, each written to the file of results when it ends, so that the script can be stopped and
called again; a part with results is not measured again unless --again asks for it:

- `samples`: an epoch, the begin and the evidence of a fit, per sample, from 10 000 to 1 000 000
  rows of a made table;
- `splitters`: the mixtures per sample, and the exact neighbours of the outlier filter per pair of
  rows, with the growth of the process beside the bound that its documentation states;
- `memory`: bytes that every method keeps for a sample, as a law in the number of classes;
- `classes`: the peak of a fit with 50 000 rows of 10 000 classes, in logit-sized buffers;
- `streaming`: images per second from JPEG files with loader workers beside resident pixels.

Times are CPU seconds of one thread, those of streaming by the clock. The page is written from the
file of results alone.
"""

import json
import os
import warnings
from pathlib import Path

import torch
from _scale_memory import (
    MANY_CLASSES,
    class_rows,
    growth,
    in_own_process,
    memory_rows,
    neighbour_bound,
    with_neighbours,
)
from _scale_page import FORMAT, PARTS, TITLE, page, read, section, write
from _scale_time import STAGE, neighbour_rows, sample_rows, splitter_rows, streaming_rows
from _timing import STATUS, at_least, machine, page_file, parser

from noisyfit import __version__, methods

ROOT = Path(__file__).resolve().parents[2]
PROBED = 0.1  # share of the rows in which tensors are counted


# ---- parts -------------------------------------------------------------------------------------


def settings_of(options):
    """{part: what it is measured with}, as the file of results keeps it."""
    return {
        "samples": {
            "methods": options.methods,
            "rows": options.rows,
            "batch_size": options.batch_size,
            "rounds": options.rounds,
        },
        "splitters": {
            "rows": options.rows,
            "pairs": options.pairs,
            "features": 128,
            "block_bytes": options.block_bytes,
            "rounds": options.rounds,
        },
        "memory": {"table_rows": options.table_rows, "table_classes": [7, 13]},
        "classes": {
            "rows": options.many[0],
            "classes": options.many[1],
            "batch_size": 256,
            "share": PROBED,
        },
        "streaming": {
            "sides": options.sides,
            "images": options.images,
            "workers": options.workers,
            "batch_size": 64,
            "rounds": options.rounds,
        },
    }


def samples(rows, **settings):
    return sample_rows(settings["methods"], rows, settings["rounds"], settings["batch_size"])


def splitters(rows, pairs, features, block_bytes, rounds):
    """Figures of the mixtures and of the outlier filter."""
    neighbours = neighbour_rows(pairs, rounds, features, block_bytes)
    for row in neighbours:
        work = with_neighbours, row["rows"], features, block_bytes
        row["grown"] = in_own_process(growth, *work)
        row["bound"] = neighbour_bound(row["rows"], features, block_bytes)
    return {"splitters": splitter_rows(rows, rounds), "neighbours": neighbours}


def memory(table_rows, table_classes):
    return memory_rows(methods.__all__, table_rows, table_classes)


def classes(rows, classes, batch_size, share):
    return class_rows([*MANY_CLASSES], rows, classes, batch_size, share)


def streaming(sides, images, workers, batch_size, rounds):
    return streaming_rows(sides, images, workers, rounds, batch_size)


MEASURES = {f.__name__: f for f in (samples, splitters, memory, classes, streaming)}


# ---- options -----------------------------------------------------------------------------------


def arguments(argv=None):
    """Options, with the settings of every part and the results that there are."""
    options = parser(__doc__.split("\n\n")[0], rounds=3)
    docs = ROOT / "docs"
    options.set_defaults(json=str(docs / "scale.json"))
    options.add_argument(
        "--page", type=page_file(TITLE), default=str(docs / "scale.md"), help="page to write"
    )
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--again", action="store_true", help="measure parts with results anew")
    many = {"nargs": "+", "type": at_least(100), "metavar": "N"}
    options.add_argument("--rows", **many, default=[10_000, 100_000, 1_000_000])
    options.add_argument("--pairs", **many, default=[2_000, 8_000, 32_000], help="of the filter")
    options.add_argument("--methods", nargs="+", choices=STAGE, default=[*STAGE], metavar="NAME")
    options.add_argument("--batch-size", type=at_least(2), default=1024, help="of `samples`")
    options.add_argument("--block-bytes", type=at_least(1), default=2**27, help="of the filter")
    options.add_argument("--table-rows", type=at_least(100), default=2_000, help="of `memory`")
    options.add_argument(
        "--many", nargs=2, type=at_least(2), default=[50_000, 10_000], metavar=("ROWS", "CLASSES")
    )
    options.add_argument("--sides", nargs="+", type=at_least(8), default=[64, 224])
    options.add_argument("--images", nargs="+", type=at_least(10), default=[2_000, 1_000])
    options.add_argument("--workers", nargs="+", type=at_least(0), default=[0, 1, 2])
    given = options.parse_args(argv)
    for name in ("rows", "pairs"):
        if len(set(getattr(given, name))) < 2:
            options.error(f"--{name} needs at least two numbers, to compare them.")
        setattr(given, name, sorted(set(getattr(given, name))))
    if len(given.images) != len(given.sides):
        options.error("--images needs one number for each of --sides.")
    if given.many[0] < 2 * given.many[1]:
        options.error(f"--many needs two rows a class, got {given.many[0]} and {given.many[1]}.")
    if not STATUS.exists() and {"splitters", "classes"} & {*given.parts}:
        options.error("the parts splitters and classes need Linux.")
    given.settings = settings_of(given)
    given.results = checked(given)
    return given


def checked(options):
    """The results that there are; SystemExit before anything would be written over."""
    if not options.json.exists():
        return {"format": FORMAT, "parts": {}}
    results = read(options.json)
    for name in () if options.again else options.parts:
        known = results["parts"].get(name, {}).get("settings", options.settings[name])
        changed = [key for key, value in options.settings[name].items() if known.get(key) != value]
        if changed:
            raise SystemExit(
                f"{options.json} holds the part {name} with another setting of "
                f"{', '.join(changed)}; --again measures it anew, --json takes another file."
            )
    return results


def main(argv=None):
    options = arguments(argv)
    torch.set_num_threads(1)
    results = options.results
    for name in options.parts:
        if name in results["parts"] and not options.again:
            print(f"{name}: measured before", flush=True)
            continue
        print(f"{name}:", flush=True)
        part = {"settings": options.settings[name], "load": os.getloadavg()[0]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a few epochs make degenerate divisions
            part["rows"] = MEASURES[name](**options.settings[name])
        part["machine"] = machine() | {"cores": os.cpu_count(), "noisyfit": __version__}
        results["parts"][name] = part
        text = json.dumps(results, indent=1)
        write(options.json, text + "\n")
        results = json.loads(text)  # the page knows nothing else
        print(section(name, results["parts"][name]), end="\n\n", flush=True)
    write(options.page, page(results))
    print(f"{len(results['parts'])} of {len(PARTS)} parts in {options.page}")


if __name__ == "__main__":
    main()
