"""The script that measures how time and memory grow, and the bounds that the library keeps."""

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from noisyfit import Network, _data, _dynamics, methods
from noisyfit.outliers import KNNOutlierFilter, knn_distances

SCRIPTS = Path(__file__).parents[1] / "examples" / "benchmarks"
sys.path.insert(0, str(SCRIPTS))
scale, times, memories, pages = (
    __import__(name) for name in ("scale", "_scale_time", "_scale_memory", "_scale_page")
)
sys.path.remove(str(SCRIPTS))

TINY = [
    *("--rounds", "1", "--rows", "200", "400", "--batch-size", "50", "--pairs", "100", "300"),
    *("--block-bytes", "100000", "--table-rows", "120", "--many", "400", "40"),
    *("--sides", "16", "--images", "20", "--workers", "0", "1"),
    *("--methods", "ELRClassifier", "DivideMixClassifier"),
]
SOME_METHODS = ["CrossEntropyClassifier", "ELRClassifier", "MCorrectionClassifier"]


def called(function, *args):
    """In place of a process of its own."""
    return function(*args)


def files_in(folder):
    return ["--json", str(folder / "scale.json"), "--page", str(folder / "scale.md")]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Folder, results and page of a tiny run of all parts."""
    folder = tmp_path_factory.mktemp("scale")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "in_own_process", called)
        patch.setattr(memories.class_rows, "__defaults__", (called,))
        patch.setattr(scale, "MANY_CLASSES", ["CrossEntropyClassifier"])
        patch.setattr(methods, "__all__", SOME_METHODS)
        scale.main([*TINY, *files_in(folder)])
    torch.set_num_threads(threads)
    results = json.loads((folder / "scale.json").read_text())
    return SimpleNamespace(folder=folder, results=results, page=(folder / "scale.md").read_text())


def rows_of(done, part):
    return done.results["parts"][part]["rows"]


# ---- a run -------------------------------------------------------------------------------------


def test_run_writes_every_part_and_a_page_of_them(done):
    assert set(done.results["parts"]) == set(pages.PARTS)
    assert done.results["format"] == pages.FORMAT
    assert done.page == pages.page(done.results)
    for title in ("Samples", "Splitters", "Memory per sample", "Many classes", "Streaming"):
        assert f"\n## {title}" in done.page


def test_samples_have_every_item_for_every_number_of_rows(done):
    rows = rows_of(done, "samples")
    found = [(row["method"], row["item"], row["rows"]) for row in rows]
    items = ("epoch", "counted", "begin", "evidence")
    names = ("ELRClassifier", "DivideMixClassifier")
    assert sorted(found) == sorted((m, i, n) for m in names for i in items for n in (200, 400))
    for row in rows:
        assert 0 < row["value"]["min"] <= row["value"]["median"] <= row["value"]["max"]
        assert row["rows"] != 200 or row["ratio"]["min"] == row["ratio"]["max"] == 1


def test_an_epoch_of_divided_rows_counts_more_than_one_of_plain_training(done):
    value = {(r["method"], r["item"]): r["value"]["median"] for r in rows_of(done, "samples")}
    elr = value["ELRClassifier", "epoch"] / value["ELRClassifier", "counted"]
    divided = value["DivideMixClassifier", "epoch"] / value["DivideMixClassifier", "counted"]
    assert elr == pytest.approx(1)
    assert divided > 2


def test_ratio_is_that_of_the_cost_of_a_unit_round_by_round():
    small, large = times.compared({10: [1.0, 2.0], 40: [6.0, 8.0]}, [10, 40], {10: 1, 40: 2}, 5)
    assert small["value"] == {"min": 5, "median": 7.5, "max": 10}
    assert large["value"] == {"min": 15, "median": 17.5, "max": 20}
    assert large["ratio"] == {"min": 2, "median": 2.5, "max": 3}


def test_memory_follows_the_tables_of_the_methods(done):
    law = {row["method"]: row for row in rows_of(done, "memory")}
    counters, evidence = 16, [32, 4]  # four sums; two float64, four float32, labels, proba
    assert law["CrossEntropyClassifier"]["training"] == [counters, 0]
    assert law["ELRClassifier"]["training"] == [counters, 4]
    assert law["CrossEntropyClassifier"]["fitted"] == evidence
    assert law["ELRClassifier"]["fitted"] == [32, 8]
    losses, drawn = 4, 0.5  # at most: mixing weights of the batches
    a, b = law["MCorrectionClassifier"]["training"]
    assert counters + losses <= a <= counters + losses + drawn
    assert b == 0


def test_what_is_held_is_counted_once_and_networks_never():
    table = torch.zeros(10, 3)
    own = SimpleNamespace(a=table, b=table[2:], c=[table.numpy(), {"d": np.zeros(5)[::2]}])
    assert memories.held(own, set()) == 120 + 40
    assert memories.held(own, {table.untyped_storage().data_ptr()}) == 40
    assert memories.held([iter([0.5] * 7), torch.nn.Linear(3, 3), Network()], set()) == 7 * 32


def test_what_is_reached_through_a_fresh_container_is_not_lost():
    """A dict that is gone must not lend its address to one that is still to be counted."""
    for _ in range(50):
        filters = [KNNOutlierFilter() for _ in range(20)]
        for i, knn in enumerate(filters):
            knn.score_ = np.full(3, i, dtype=np.float64)
        assert memories.held({"a": 1, "filters": filters}, set()) >= 20 * 24


def test_many_classes_are_counted_in_tensors_and_in_a_process(done):
    (row,) = rows_of(done, "classes")
    assert row["probe_rows"] == 40
    assert sum(row["arrays"].values()) == pytest.approx(row["tensors"], abs=0.01)
    assert row["tensors"] >= 1
    assert row["reason"] is None


def test_too_many_classes_for_the_machine_are_not_tried(monkeypatch, capsys):
    monkeypatch.setattr(memories, "available_bytes", lambda: 1e9)
    found = {"tensors": 7.0, "arrays": {}}
    asked = []

    def own(function, *args):
        asked.append(function)
        return found

    (row,) = memories.class_rows(["A"], 50_000, 10_000, 256, 0.1, own)
    assert asked == [memories.probe]
    assert (row["process"], row["reason"]) == (None, "needs about 14 GB")


def test_streaming_has_every_source(done):
    rows = rows_of(done, "streaming")
    assert [row["source"] for row in rows] == ["resident", "0 workers", "1 workers"]
    assert rows[0]["of_resident"] == {"min": 1, "median": 1, "max": 1}
    assert rows[0]["loading"]["median"] > rows[1]["loading"]["median"]
    assert 0 < rows[0]["file_bytes"] < 5000


def test_growth_is_that_of_a_process_of_its_own(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    prepare = partial(partial, np.ones, 2**24)
    ours = np.ones(2**26)  # 512 MB, which the other process must not inherit
    grown = memories.in_own_process(memories.growth, prepare)
    assert ours.all()
    assert 0.95 * 2**27 < grown < 1.3 * 2**27


# ---- the file and the page ---------------------------------------------------------------------


def test_finished_parts_are_not_measured_again(done, monkeypatch, capsys):
    measured = []
    for name in pages.PARTS:
        monkeypatch.setitem(scale.MEASURES, name, lambda name=name, **_: measured.append(name))
    before = (done.folder / "scale.json").read_bytes()
    scale.main([*TINY, *files_in(done.folder)])
    assert measured == []
    assert (done.folder / "scale.json").read_bytes() == before
    assert (done.folder / "scale.md").read_text() == done.page
    assert "samples: measured before" in capsys.readouterr().out


def test_a_run_that_stops_keeps_what_was_finished(done, tmp_path, monkeypatch):
    figures = rows_of(done, "memory")
    monkeypatch.setitem(scale.MEASURES, "memory", lambda **_: figures)

    def stop(**_):
        raise KeyboardInterrupt

    monkeypatch.setitem(scale.MEASURES, "classes", stop)
    with pytest.raises(KeyboardInterrupt):
        scale.main([*TINY, *files_in(tmp_path), "--parts", "memory", "classes"])
    results = json.loads((tmp_path / "scale.json").read_text())
    assert {name: part["rows"] for name, part in results["parts"].items()} == {"memory": figures}


def test_again_replaces_one_part_and_leaves_the_others(done, tmp_path, monkeypatch):
    (tmp_path / "scale.json").write_text(json.dumps(done.results))
    figures = rows_of(done, "memory")[:1]
    monkeypatch.setitem(scale.MEASURES, "memory", lambda **_: figures)
    options = ["--parts", "memory", "--again", "--table-rows", "500"]
    scale.main([*TINY, *files_in(tmp_path), *options])
    parts = json.loads((tmp_path / "scale.json").read_text())["parts"]
    assert parts["memory"]["rows"] == figures
    assert parts["memory"]["settings"]["table_rows"] == 500
    rest = [name for name in pages.PARTS if name != "memory"]
    assert [parts[name] for name in rest] == [done.results["parts"][name] for name in rest]


def made_results():
    """One part whose every figure is known."""
    machine = {"processor": "abacus", "cores": 2}

    def row(n, median, ratio):
        value, of_first = (dict.fromkeys(("min", "median", "max"), x) for x in (median, ratio))
        return {"rows": n, "value": value, "ratio": of_first}

    samples = [
        {"method": "ELRClassifier", "item": "counted"} | row(100, 7, 1),
        {"method": "ELRClassifier", "item": "counted"} | row(1000, 8.05, 1.15),
        {"method": "ELRClassifier", "item": "evidence"} | row(100, 0.5, 1),
        {"method": "ELRClassifier", "item": "evidence"} | row(1000, 0.7, 1.4),
    ]
    held = [{"method": "ELRClassifier", "training": [16.0, 4.0], "fitted": [32.0, 0.0]}]
    many = {"method": "ELRClassifier", "probe_rows": 50, "reason": None, "arrays": {"f in g.py": 4}}
    close = many | {"method": "Close", "tensors": 3.0, "process": 3.01}
    within = many | {"method": "Within", "tensors": 3.0, "process": 3.0}
    part = {"machine": machine, "load": 0.1}
    return {
        "format": 1,
        "parts": {
            "classes": part
            | {"settings": {"rows": 500, "classes": 100}}
            | {"rows": [many | {"tensors": 4.0, "process": 4.5}, close, within]},
            "samples": part | {"settings": {"batch_size": 10, "rounds": 3}, "rows": samples},
            "memory": part | {"settings": {"table_rows": 9, "table_classes": [2, 3]}, "rows": held},
        },
    }


def test_page_says_what_the_file_holds():
    page = pages.page(made_results())
    assert page.startswith("# Scale\n")
    assert "- processor abacus, cores 2" in page
    evidence = "evidence after the last epoch"
    assert f"| `ELR` | {evidence} | 0.500 | 0.700 | 1.40 (1.40 to 1.40) ! |" in page
    assert "| 7.00 | 8.05 | 1.15 (1.15 to 1.15) |" in page
    assert f"is 1.40; not flat (above 1.25): `ELR` {evidence}." in page
    # 1 000 000 x (16 + 4 x 14) and x 32 bytes
    assert "| `ELR` | 16 + 4 C | 32 | 20.8 MB, 1.60 MB | 72.0 MB, 32.0 MB | 4.02 GB" in page
    assert "| `ELR` | 4.00 | 4.50 ! |" in page
    assert "- `ELR`, 4.00 at the peak: 4.00 `f in g.py`" in page
    assert "| `Close` | 3.00 | 3.01 ! |" in page
    assert "| `Within` | 3.00 | 3.00 |" in page
    assert page.index("## Samples") < page.index("## Memory") < page.index("## Many")
    assert "## Streaming" not in page


def test_page_calls_flat_what_is_flat():
    results = made_results()
    rows = results["parts"]["samples"]["rows"]
    results["parts"]["samples"]["rows"] = [row for row in rows if row["item"] == "counted"]
    assert "is 1.15: all are flat (up to 1.25)." in pages.page(results)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"format": 0, "parts": {}}', "holds results of format 0, and this script knows 1 alone"),
        ('{"format": 1, "parts": {"speed": {}}}', "holds parts that are unknown here: speed"),
        ("[1, 2]", "holds no results of this script"),
        ('{"machine": {}}', "holds no results of this script"),
        ("not json", "holds no results of this script"),
    ],
)
def test_results_of_another_version_are_refused_and_kept(content, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "MEASURES", {})  # nothing may run
    path = tmp_path / "scale.json"
    path.write_text(content)
    with pytest.raises(SystemExit, match=sentence) as refusal:
        scale.main([*files_in(tmp_path), "--again"])
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)
    assert [file.name for file in tmp_path.iterdir()] == ["scale.json"]
    assert path.read_text() == content


def test_results_with_other_settings_are_refused_and_kept(done, monkeypatch):
    monkeypatch.setattr(scale, "MEASURES", {})
    before = (done.folder / "scale.json").read_bytes()
    sentence = "the part samples with another setting of batch_size; --again measures it anew"
    with pytest.raises(SystemExit, match=sentence):
        scale.main([*TINY, *files_in(done.folder), "--batch-size", "20"])
    assert (done.folder / "scale.json").read_bytes() == before


def test_a_page_of_somebody_else_is_not_written_over(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scale, "MEASURES", {})
    page = tmp_path / "scale.md"
    page.write_text("# Fish\n")
    with pytest.raises(SystemExit):
        scale.main(files_in(tmp_path))
    assert "is no page of this script; move it elsewhere" in capsys.readouterr().err
    assert page.read_text() == "# Fish\n"


def test_the_usual_page_is_looked_at_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scale, "ROOT", tmp_path)
    with pytest.raises(SystemExit):
        scale.arguments([])
    assert f"{tmp_path / 'docs'} is no folder" in capsys.readouterr().err
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "scale.md").write_text("# Scale of fish\n")
    with pytest.raises(SystemExit):
        scale.arguments([])
    assert "scale.md is no page of this script" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--json", "."], "--json: . is no file that can be written to."),
        (["--parts", "speed"], "invalid choice: 'speed'"),
        (["--methods", "ELR"], "invalid choice: 'ELR'"),
        (["--rows", "few", "1000"], "an integer from 100 on is needed, got 'few'"),
        (["--rows", "1000", "1000"], "--rows needs at least two numbers, to compare them."),
        (["--pairs", "1000"], "--pairs needs at least two numbers, to compare them."),
        (["--rounds", "0"], "an integer from 1 on is needed, got '0'"),
        (["--sides", "32"], "--images needs one number for each of --sides."),
        (["--many", "100", "80"], "--many needs two rows a class, got 100 and 80."),
        (["--json", "no/such/scale.json"], "--json: no/such is no folder that can be written to."),
        (["--page", "no/such/scale.md"], "--page: no/such is no folder that can be written to."),
    ],
)
def test_bad_option_is_one_sentence(options, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit):
        scale.arguments([*files_in(tmp_path), *options])
    assert sentence in capsys.readouterr().err.strip().splitlines()[-1]


# ---- what the library promises -----------------------------------------------------------------


def test_large_tensors_are_counted_while_they_are_alive():
    with memories.LargeTensors(4000) as large:
        a = torch.zeros(1000)
        b = a + 1  # 8000 bytes
        c = b.view(10, 100).numpy()  # the same storage
        del a
        small = torch.zeros(999)
        del b
        d = torch.ones(1000).add_(1)  # 8000 bytes once more
        del c
        e = torch.zeros(1500)  # 10 000 bytes
    assert large.peak == d.nbytes + e.nbytes
    assert [n_bytes for _, n_bytes in large.at_peak] == [4000, 6000]
    assert small.nbytes < 4000


@pytest.mark.parametrize("name", ["ELRClassifier", "DivideMixClassifier"])
def test_a_fit_with_many_classes_holds_three_buffers_of_all_logits(name):
    """Counted tensors, not a process: the same in every run; the division is among them."""
    found = memories.probe(name, 2000, 400, 1000, meant=(50_000, 10_000))
    assert found["tensors"] <= 3.05, found["arrays"]


def test_the_waiting_logits_of_a_large_epoch_do_not_pile_up(monkeypatch):
    n, n_classes = 4000, 50
    monkeypatch.setattr(_dynamics, "_BUFFER", 10_000)
    y = torch.zeros(n, dtype=torch.int64)
    dynamics, index, logits = _dynamics.Dynamics(y), torch.arange(n), torch.rand(n, n_classes)
    with memories.LargeTensors(1) as large:
        for rows in index.split(100):
            dynamics.observe(rows, logits[rows])
    assert large.peak < 40 * n + 6 * 4 * 10_000  # of 4 * 50 * n for all logits


def test_evaluation_holds_its_logits_and_one_batch(monkeypatch):
    monkeypatch.setattr(_data, "_EVALUATION_ROWS", 50)
    X, y = times.made_table(2000, 40)
    net = Network(module__hidden=(8,), max_epochs=10, device="cpu")
    clf = times.paused("CrossEntropyClassifier", net, X, y, 0)
    with memories.LargeTensors(1) as large:
        clf.run.evaluate(clf.run.learners[0])
    table_and_labels = 4 * 16 * 2000 + 2 * 8 * 2000  # which were there before
    assert large.peak < 4 * 40 * 2000 + table_and_labels + 8 * 4 * 40 * 50


@pytest.mark.parametrize("block_bytes", [2**16, 2**19])
@pytest.mark.parametrize("themselves", [True, False])
def test_neighbours_keep_to_their_block(block_bytes, themselves):
    n, d, k = 2000, 24, 10  # all pairs would take 16 MB
    X = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
    knn = KNNOutlierFilter(k, block_bytes=block_bytes, device="cpu")
    if not themselves:
        knn.fit(X)
    with memories.LargeTensors(1) as large:
        knn.fit(X) if themselves else knn.score_samples(X[:1500])
    copies = 3 * 4 * n * (d + 1)  # of the rows: as given, scaled, and on the way
    results = 4 * n * (k + 1) * 3
    assert large.peak < block_bytes + copies + results


def test_a_smaller_block_needs_less():
    X = torch.from_numpy(np.random.default_rng(0).standard_normal((3000, 8), dtype=np.float32))
    peaks = []
    for block_bytes in (2**22, 2**18):
        with memories.LargeTensors(1) as large:
            knn_distances(X, block_bytes=block_bytes)
        peaks.append(large.peak)
    assert peaks[0] - peaks[1] > (2**22 - 2**18) / 2
