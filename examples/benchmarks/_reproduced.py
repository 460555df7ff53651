"""Result files of `reproduce.py`, the numbers of the papers, and the page that shows both."""

import json
import os
from collections import defaultdict

from _results import cell, machines, markdown
from _runs import NOISES

FORMAT = 1
TITLE = "# Results"
TITLES = {
    "cross_entropy": "cross-entropy",
    "mixup": "mixup",
    "co_teaching": "Co-teaching",
    "m_correction": "M-correction",
    "elr": "ELR",
    "elr_plus": "ELR+",
    "dividemix": "DivideMix",
}
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "mnist": "MNIST"}
SOURCES = {
    "a": "Li, Socher, Hoi, ICLR 2020; best test epoch, mean of the last ten",
    "b": "Zhang, Cissé, Dauphin, Lopez-Paz, ICLR 2018, 100 − error; best test epoch, last epoch; "
    "which noise is meant by its share is not said",
    "c": "Liu, Niles-Weed, Razavian, Fernandez-Granda, NeurIPS 2020, table of the published code "
    "(symmetric: with cosine restarts); trained on 45 000 images, epoch chosen by noisy labels",
    "d": "Han et al., NeurIPS 2018, table of the published code; mean of the last ten",
    "e": "Arazo et al., ICML 2019, M-DYR-H; best test epoch, last epoch",
    "f": "leaderboard of CIFAR-10N (Wei et al., ICLR 2022); best test epoch",
    "g": "replication of the benchmark of CIFAR-10N (ReScience C 2026), from its logs, three "
    "seeds; best test epoch, mean of the last ten; DivideMix without the unlabelled loss",
}
# (method, data, noise): (best, last or the mean of the last ten, source), None where not given
PAPERS = {
    ("dividemix", "cifar10", "sym-20"): [(96.1, 95.7, "a")],
    ("dividemix", "cifar10", "sym-50"): [(94.6, 94.4, "a")],
    ("dividemix", "cifar10", "sym-80"): [(93.2, 92.9, "a")],
    ("dividemix", "cifar10", "sym-90"): [(76.0, 75.4, "a")],
    ("dividemix", "cifar10", "asym-40"): [(93.4, 92.1, "a")],
    ("dividemix", "cifar10", "aggre"): [(95.01, None, "f"), (95.62, 95.34, "g")],
    ("dividemix", "cifar10", "worst"): [(92.56, None, "f"), (93.10, 92.47, "g")],
    ("elr_plus", "cifar10", "aggre"): [(94.83, None, "f"), (95.32, 95.08, "g")],
    ("elr_plus", "cifar10", "worst"): [(91.09, None, "f"), (91.75, 91.31, "g")],
    ("cross_entropy", "cifar10", "sym-50"): [(81.2, 55.4, "b")],
    ("cross_entropy", "cifar10", "sym-80"): [(63.5, 26.1, "b")],
    ("mixup", "cifar10", "sym-50"): [(88.7, 87.3, "b")],
    ("mixup", "cifar10", "sym-80"): [(74.7, 69.1, "b")],
    ("elr", "cifar10", "sym-80"): [(80.69, None, "c")],
    ("elr", "cifar10", "asym-40"): [(90.12, None, "c")],
    ("co_teaching", "cifar10", "excl-20"): [(None, 82.18, "d")],
    ("co_teaching", "cifar10", "excl-50"): [(None, 74.49, "d")],
    ("co_teaching", "cifar10", "pair-45"): [(None, 72.85, "d")],
    ("m_correction", "cifar10", "sym-20"): [(94.0, 93.8, "e")],
    ("m_correction", "cifar10", "sym-50"): [(92.0, 91.9, "e")],
    ("m_correction", "cifar10", "sym-80"): [(86.8, 86.6, "e")],
    ("m_correction", "cifar10", "sym-90"): [(40.8, 9.9, "e")],
}
SAME = ("setting", "network", "images", "test_images", "epochs", "batch_size", "precision")
SAME += ("device",)


def write(path, content):
    """Replace a file of JSON at once."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    os.replace(beside, path)


def read(path):
    """The figures of a run; end with a sentence where the file holds none of this format."""
    try:
        figures = json.loads(path.read_text())
        version, is_run = figures["format"], "method" in figures
    except (ValueError, TypeError, KeyError):
        is_run, version = False, FORMAT
    if version == FORMAT and not is_run:
        raise SystemExit(f"{path} holds no result of this command; move it elsewhere.")
    if version != FORMAT:
        raise SystemExit(
            f"{path} is a result of format {version}, and this command knows {FORMAT} alone; "
            "move it elsewhere."
        )
    return figures


def read_all(folder):
    """The figures of all runs, in the order of the file names."""
    return [read(path) for path in sorted(folder.glob("*.json"))]


def thousands(number):
    """50000 as 50 000."""
    return f"{number:,}".replace(",", " ")


def same_runs(runs):
    """Lists of runs that differ in nothing but the seed, in the order of methods and noises."""

    def place(run):
        noises = [*NOISES]
        method = [*TITLES].index(run["method"]) if run["method"] in TITLES else len(TITLES)
        noise = noises.index(run["noise"]) if run["noise"] in noises else len(noises)
        return run["data"], noise, method, run["method"], *alike(run)

    groups = defaultdict(list)
    for run in sorted(runs, key=place):
        groups[run["method"], run["data"], run["noise"], *alike(run)].append(run)
    return list(groups.values())


def alike(run):
    """What runs of different seeds have in common, as text."""
    return *(str(run[name]) for name in SAME), changed(run)


def changed(run):
    """What differs from the setting by intent, as text; the noise rate is of each seed."""
    changes = {name: value for name, value in run["changes"].items() if name != "noise_rate"}
    return "".join(f", `{name}={value}`" for name, value in changes.items())


def ours(group, unit):
    """Cells of what was measured; `unit` in seconds."""

    def of(name, digits, scale=1):
        return cell([run[name] / scale for run in group if run[name] is not None], digits)

    accuracy = [of(name, 2) for name in ("best", "last_ten", "last")]
    return [*accuracy, of("auroc", 3), of("refined", 1), of("seconds", 1, unit), str(len(group))]


def papers(group):
    """What was published for these runs: best, last, source."""
    run = group[0]
    return PAPERS.get((run["method"], run["data"], run["noise"]), [])


def printed(group):
    """Cell of what was published."""
    shown = [
        " / ".join("–" if x is None else f"{x:g}" for x in numbers) + f" [{source}]"
        for *numbers, source in papers(group)
    ]
    return "; ".join(shown) or "–"


def names(group):
    run = group[0]
    noise = NOISES[run["noise"]][2] if run["noise"] in NOISES else run["noise"]
    wrong = cell([run["wrong"] for run in group], 1)
    setting = f"`{run['setting']}`{changed(run)}"
    return [TITLES.get(run["method"], run["method"]), setting, noise, wrong]


HEAD = ["method", "setting", "noise", "wrong labels"]
OURS = ["best epoch", "mean of the last ten", "last epoch", "AUROC", "refined labels"]
HOW = (
    "Accuracy on the test set in percent, mean ± standard deviation over the seeds. *Best epoch* "
    "is chosen by the test labels and is here because papers print it; *last epoch* is what a user "
    "gets. With restarts of the learning rate (ELR) the mean of the last ten epochs goes over a "
    "whole cycle and is below the last epoch. *AUROC* says how well `clean_proba_` tells right "
    "from wrong labels, *refined labels* which share of the training labels is right afterwards. "
    "Times are those of the training epochs on a clock, without the start, the scores of test "
    "images, the files that progress is kept in and the evidence that is gathered at the end; "
    "other work on the machine lengthens them. The setting is the published one, see "
    "`published.py --list`; where it is of other noise, it is the nearest one, and methods that "
    "are told the noise rate are told the realised one."
)


def hardware(runs):
    """A list of the machines of these runs."""
    of = [{"device": run["device"], "precision": run["precision"]} | run["machine"] for run in runs]
    return machines({i: {"machine": machine} for i, machine in enumerate(of)})


def full_table(runs):
    """All images and the published network, beside what was published."""
    if not runs:
        return ["No run of this kind has been made yet."]
    groups = same_runs(runs)
    lines = []
    for group in groups:
        run = group[0]
        peak = [r["peak_memory_mib"] for r in group if r["peak_memory_mib"] is not None]
        size = [run["network"], str(run["epochs"]), f"{run['device']}, {run['precision']}"]
        gib = cell([mib / 1024 for mib in peak], 1)
        lines.append([*names(group), *size, printed(group), *ours(group, 3600), gib])
    head = [*HEAD, "network", "epochs", "on", "published, best / last"]
    head += [*OURS, "hours", "seeds", "GiB"]
    cited = {source for group in groups for *_, source in papers(group)}
    legend = "\n".join(f"- [{key}] {text}" for key, text in SOURCES.items() if key in cited)
    parts = [hardware(runs), markdown(head, lines)]
    return [*parts, f"What was published, and how it was chosen:\n\n{legend}"] if legend else parts


def reduced_tables(runs):
    """One section a size."""
    sizes = defaultdict(list)
    for run in runs:
        size = f"{thousands(run['images'])} images of {DATA.get(run['data'], run['data'])}"
        test = f"{thousands(run['test_images'])} test images"
        how = f"`{run['network']}`, {run['precision']} on {run['device']}"
        sizes[run["data"], run["images"], run["size"], f"{size}, {how}, {test}"].append(run)
    parts = []
    for (*_, title), some in sorted(sizes.items()):
        parts += [f"### {title}", hardware(some)]
        lines = [
            [*names(group), str(group[0]["epochs"]), *ours(group, 1)] for group in same_runs(some)
        ]
        parts.append(markdown([*HEAD, "epochs", *OURS, "seconds", "seeds"], lines))
    return parts or ["No run of this kind has been made yet."]


def page(runs):
    """The whole page in Markdown."""
    full = [run for run in runs if run["size"] == "full"]
    small = [run for run in runs if run["size"] != "full"]
    parts = [
        TITLE,
        "Runs of published settings. This page is written from the files in `docs/results`, one a "
        "run, and from nothing else, by\n\n"
        "```bash\npython examples/benchmarks/reproduce.py --page\n```",
        HOW,
        "## As published: all images, the network and the epochs of the paper",
        *full_table(full),
        "## Reduced: a part of the images, a small network, fewer epochs",
        "They compare methods with one another on less than the papers had. All stages of a "
        "setting are shortened in proportion, and nothing follows for the numbers of a paper. What "
        "else was changed stands beside the setting: the small network has a layer without batch "
        "norm, which dies of learning rates that residual networks bear.",
        *reduced_tables(small),
    ]
    return "\n\n".join(parts) + "\n"
