"""The file of results of `scale.py`, and the page that is written from it alone."""

import json
import math
import os

from _results import markdown

FORMAT = 1
TITLE = "# Scale\n"
PARTS = ("samples", "splitters", "memory", "classes", "streaming")
FLAT = 1.25  # ratio up to which a cost counts as flat
ALLOWED = 3  # buffers of the size of all logits
EXAMPLES = ((50_000, 100), (1_000_000, 14), (1_000_000, 1_000))
ITEMS = {
    "epoch": "an epoch",
    "counted": "counted as one of plain training",
    "begin": "before the first epoch",
    "evidence": "evidence after the last epoch",
}


# ---- the file ----------------------------------------------------------------------------------


def read(path):
    """The results in a file; SystemExit with one sentence if it holds others, or none."""
    try:
        results = json.loads(path.read_text())
        version, parts = results["format"], results["parts"]
        unknown = sorted(set(parts) - set(PARTS))
    except (OSError, ValueError, TypeError, KeyError):
        raise SystemExit(f"{path} holds no results of this script; move it elsewhere.") from None
    if version == FORMAT and unknown:
        raise SystemExit(f"{path} holds parts that are unknown here: {', '.join(unknown)}.")
    if version != FORMAT:
        raise SystemExit(
            f"{path} holds results of format {version}, and this script knows {FORMAT} alone; move "
            "it elsewhere."
        )
    return results


def write(path, text):
    """Replace a file at once."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    os.replace(beside, path)


# ---- numbers -----------------------------------------------------------------------------------


def thousands(number):
    """50000 as 50 000."""
    return f"{number:,}".replace(",", " ")


def short(value):
    """Three digits, or the whole number."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return thousands(round(value))
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def ratio(values):
    """Median and range, marked where it is not flat."""
    mark = " !" if values["median"] > FLAT else ""
    return f"{values['median']:.2f} ({values['min']:.2f} to {values['max']:.2f}){mark}"


def law(coefficients):
    """Bytes per sample as text: 16 + 4 C."""
    a, b = (round(c, 1) for c in coefficients)
    terms = [f"{a:g}"] if a or not b else []
    if b:
        terms.append("C" if b == 1 else f"{b:g} C")
    return " + ".join(terms)


def size(n_bytes):
    """12.3 MB."""
    for unit in ("bytes", "kB", "MB"):
        if abs(n_bytes) < 999.5:
            return f"{short(n_bytes)} {unit}"
        n_bytes /= 1000
    return f"{short(n_bytes)} GB"


def plain(name):
    return name.removesuffix("Classifier")


def by_rows(rows, *keys):
    """{values of the `keys`: {number of rows: row}}."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), {})[row["rows"]] = row
    return groups


# ---- sections ----------------------------------------------------------------------------------


def growing(groups, titles, unit):
    """A table with a column for each number of rows and the ratio of the last to the first."""
    sizes = sorted(next(iter(groups.values())))
    lines = []
    for names, group in groups.items():
        medians = [short(group[n]["value"]["median"]) for n in sizes]
        lines.append([*names, *medians, ratio(group[sizes[-1]]["ratio"])])
    heads = [f"{thousands(n)} rows, {unit}" for n in sizes]
    return markdown([*titles, *heads, "last to first (min to max)"], lines)


def flat_or_not(groups, what):
    """A sentence on the ratios of the largest to the smallest number of rows."""
    last = {names: group[max(group)]["ratio"]["median"] for names, group in groups.items()}
    steep = [" ".join(names) for names, value in last.items() if value > FLAT]
    text = f"The largest ratio of {what} is {max(last.values()):.2f}"
    if not steep:
        return f"{text}: all are flat (up to {FLAT})."
    return f"{text}; not flat (above {FLAT}): {', '.join(steep)}."


def samples_section(settings, rows):
    groups = by_rows(rows, "method", "item")
    named = {(f"`{plain(name)}`", ITEMS[item]): group for (name, item), group in groups.items()}
    judged = {names: g for names, g in named.items() if names[1] != ITEMS["epoch"]}
    return [
        "## Samples",
        f"Microseconds per sample, CPU time of one thread: made tables of 16 columns and 10 "
        f"classes, the default network, batches of {settings['batch_size']}, each method in its "
        f"last stage; medians of {settings['rounds']} rounds in which the numbers of rows take "
        "turns. An epoch of DivideMix costs what its division makes of it, so the line *counted "
        "as one of plain training* divides by the passes that its rows counted.",
        growing(named, ["method", "item"], "µs"),
        flat_or_not(judged, "the cost per sample (epochs by what they count)"),
    ]


def splitters_section(settings, rows):
    groups = by_rows(rows["splitters"], "splitter")
    near = by_rows(rows["neighbours"])[()]
    head = ["rows", "ns per pair", "to the first (min to max)", "grown by", "block and rows"]
    lines = []
    for n, row in sorted(near.items()):
        times = [short(row["value"]["median"]), ratio(row["ratio"])]
        lines.append([thousands(n), *times, size(row["grown"]), size(row["bound"])])
    block = size(settings["block_bytes"])
    return [
        "## Splitters and neighbours",
        "Nanoseconds per sample of a fit with its probabilities, on made losses.",
        growing(groups, ["splitter"], "ns"),
        flat_or_not(groups, "the splitters"),
        f"`KNNOutlierFilter` is exact and compares all pairs, in blocks of {block}: nanoseconds "
        f"per pair of rows of {settings['features']} columns, and the growth of a process beside "
        "a block and the scaled rows, which it stores; products of matrices may take some 40 MB "
        "more for a while.",
        markdown(head, lines),
    ]


def memory_section(settings, rows):
    shapes = [f"{thousands(n)} x {thousands(c)}" for n, c in EXAMPLES]
    lines = []
    for row in rows:
        (a, b), (c, d) = row["training"], row["fitted"]
        lines.append(
            [f"`{plain(row['method'])}`", law((a, b)), law((c, d))]
            + [f"{size(n * (a + b * k))}, {size(n * (c + d * k))}" for n, k in EXAMPLES]
        )
    few, many = settings["table_classes"]
    return [
        "## Memory per sample",
        "Bytes per sample that a method keeps beyond data and network at the end of an epoch (the "
        "most of its epochs), and that stay on the fitted estimator; C is the number of classes. "
        "Measured from all tensors and arrays that are reached from them, in fits of "
        f"{thousands(settings['table_rows'])} and twice as many rows with {few} and {many} "
        "classes. What a batch or the evidence needs for a while is not in it. The last columns "
        "are computed for some numbers of rows x classes: in training, fitted.",
        markdown(["method", "in training", "fitted", *shapes], lines),
        "`JointOptimization` remembers the predictions of three epochs in so short a fit and of up "
        "to ten in a long one, 4 C bytes each.",
    ]


def classes_section(settings, rows):
    n, c = settings["rows"], settings["classes"]
    lines, texts = [], []
    for row in rows:
        process = row["reason"] or f"{row['process']:.2f}"
        most = max(row["tensors"], row["process"] or 0)
        over = " !" if most > ALLOWED + 0.005 else ""
        lines.append([f"`{plain(row['method'])}`", f"{row['tensors']:.2f}", f"{process}{over}"])
        if over:
            arrays = sorted(row["arrays"].items(), key=lambda item: -item[1])
            some = ", ".join(f"{count:.2f} `{where}`" for where, count in arrays)
            texts.append(f"- `{plain(row['method'])}`, {row['tensors']:.2f} at the peak: {some}")
    head = ["method", "large tensors alive at once", "growth of the process"]
    end = f"All stay within {ALLOWED}."
    if texts:
        end = (
            f"Above {ALLOWED} (what is beyond the tensors is work on batches and blocks, and "
            "memory that the allocator keeps), by the tensors alive at the peak and the functions "
            "that made them:"
        )
    return [
        "## Many classes",
        f"Two epochs on {thousands(n)} rows of {thousands(c)} classes, in buffers of the size of "
        f"all logits, {thousands(n)} x {thousands(c)} x 4 bytes = {size(4 * n * c)}. The tensors "
        f"are counted in the same fit with {thousands(rows[0]['probe_rows'])} rows.",
        markdown(head, lines),
        "\n\n".join([end, "\n".join(texts)]).strip(),
    ]


def streaming_section(settings, rows):
    lines, texts = [], []
    for side in dict.fromkeys(row["side"] for row in rows):
        of_side = {row["source"]: row for row in rows if row["side"] == side}
        for source, row in of_side.items():
            lines.append(
                [f"{side} x {side}", _named(source)]
                + [short(row[kind]["median"]) for kind in ("training", "loading")]
                + [f"{100 * row['of_resident']['median']:.0f} %"]
            )
        texts.append(_choice(side, of_side))
    head = ["images", "source", "training, images/s", "loading alone, images/s", "of resident"]
    return [
        "## Streaming",
        "Images per second by the clock: an epoch of plain training of `SmallCNN` on one thread, "
        f"batches of {settings['batch_size']}, and fetching the same batches alone. *Resident* are "
        "the same pixels as a `uint8` array; the others read JPEG files by `ImageFiles`, with the "
        "loader workers beside the training (0: within it). The files were in the cache of the "
        f"system, so this is decoding, not a disk.",
        markdown(head, lines),
        *texts,
    ]


def _named(source):
    return "1 worker" if source == "1 workers" else source


def _choice(side, of_side):
    """What the figures of one size of image advise."""
    speed = {source: row["training"]["median"] for source, row in of_side.items()}
    streamed = {source: v for source, v in speed.items() if source != "resident"}
    best = max(streamed, key=streamed.get)
    of_loader = of_side.get("1 workers", of_side[best])["loading"]["median"]
    needed = math.ceil(speed["resident"] / of_loader)
    share = 100 * of_side[best]["of_resident"]["median"]
    return (
        f"At {side} x {side} an image takes {size(3 * side**2)} resident and "
        f"{size(of_side[best]['file_bytes'])} as a file. The network trains on "
        f"{short(speed['resident'])} resident images a second; one worker decodes "
        f"{short(of_loader)}, so that {needed} would keep it busy. With {_named(best)} streaming "
        f"reached {share:.0f} % of the resident speed here. An epoch with k passes over the rows, "
        "such as the evaluations of DivideMix, decodes k times."
    )


SECTIONS = {
    "samples": samples_section,
    "splitters": splitters_section,
    "memory": memory_section,
    "classes": classes_section,
    "streaming": streaming_section,
}


def section(name, part):
    """The paragraphs of one part."""
    return "\n\n".join(SECTIONS[name](part["settings"], part["rows"]))


def page(results):
    """The page in Markdown, of the parts that have results."""
    parts = {name: results["parts"][name] for name in PARTS if name in results["parts"]}
    machines = {json.dumps(part["machine"]): part["machine"] for part in parts.values()}
    lines = ["- " + ", ".join(f"{k} {v}" for k, v in m.items()) for m in machines.values()]
    top = [
        f"{TITLE}\nHow time and memory grow with samples, classes and files. Written by\n\n"
        "```bash\npython examples/benchmarks/scale.py\n```",
        "\n".join(lines),
        f"A ratio marked with ! is above {FLAT}; a count of buffers, above {ALLOWED}.",
    ]
    return "\n\n".join([*top, *(section(name, part) for name, part in parts.items())]) + "\n"
