"""The command that runs published settings by name, its results and their page."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from noisyfit import _resume, _run, noise
from noisyfit.datasets import load_cifar10, load_cifar10n

SCRIPTS = Path(__file__).parents[1] / "examples" / "benchmarks"
sys.path.insert(0, str(SCRIPTS))
reproduce, runs, files, published = (
    __import__(name) for name in ("reproduce", "_runs", "_reproduced", "published")
)
sys.path.remove(str(SCRIPTS))
SMALL = ("--images", "120", "--network", "small", "--epochs", "4")
CE = ("cross_entropy", "cifar10", "sym-50", *SMALL)
NAME = "cross_entropy-cifar10-sym-50-120-small-4-seed0.json"


def coloured_digits():
    """Images (n, 3, 8, 8) uint8 and labels, 200 to train on and 60 to test."""
    X, y = load_digits(return_X_y=True)
    X = np.repeat((15 * X).astype(np.uint8).reshape(-1, 1, 8, 8), 3, axis=1)
    y = y.astype(np.int64)
    return Bunch(X_train=X[:200], y_train=y[:200], X_test=X[200:260], y_test=y[200:260])


def people(y):
    """Labels of people who are wrong on every second row."""
    return (y + np.arange(len(y)) % 2) % 10


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a command writes; CIFAR-10 is digits."""
    data = coloured_digits()
    monkeypatch.setitem(published.LOADERS, "cifar10", lambda root: data)
    human = {"worst": people(data.y_train)}
    monkeypatch.setattr(reproduce.datasets, "load_cifar10n", lambda root: human)
    return tmp_path


def command(folder, *words):
    """Give the command and return its results by name."""
    where = ["--folder", folder / "json", "--work", folder / "work", "--doc", folder / "page.md"]
    reproduce.main([*map(str, (*words, "--device", "cpu", *where))])
    return {path.name: json.loads(path.read_text()) for path in folder.glob("json/*")}


# ---- a run -----------------------------------------------------------------------------------


def test_result_is_that_of_the_setting(folder):
    (result,) = command(folder, *CE).values()
    data, rng = coloured_digits(), np.random.default_rng(0)
    train, test = rng.permutation(200)[:120], rng.permutation(60)
    y = noise.sym_incl(data.y_train[train], 0.5, random_state=0).y
    clf = published.SETTINGS["cross_entropy/cifar10"].build()
    clf = published.shortened(clf.set_params(random_state=0, net=reproduce.small(clf.net)), 4, 0.6)
    clf.set_params(net__lr=0.02)
    clf.set_params(net__device="cpu")
    scores = published.EpochScores(data.X_test[test], data.y_test[test])
    clf.set_callbacks(scores).fit(data.X_train[train], y)
    assert result["accuracy"] == pytest.approx(scores.accuracy, abs=1e-3)
    assert result["last"] == pytest.approx(scores.accuracy[-1], abs=1e-3)
    assert result["last_ten"] == pytest.approx(np.mean(scores.accuracy), abs=1e-3)
    assert result["best"] == result["accuracy"][result["best_epoch"] - 1] == max(result["accuracy"])
    right = y == data.y_train[train]
    assert result["wrong"] == pytest.approx(100 * np.mean(~right), abs=1e-3)
    assert result["refined"] == pytest.approx(
        100 * np.mean(clf.refined_labels_ == data.y_train[train]), abs=1e-3
    )
    assert result["auroc"] == pytest.approx(
        reproduce.roc_auc_score(right, clf.clean_proba_), abs=1e-5
    )
    sizes = {"images": 120, "test_images": 60, "network": "SmallCNN", "epochs": 4}
    sizes |= {"batch_size": 128, "precision": "float32", "device": "cpu"}
    sizes |= {"setting": "cross_entropy/cifar10", "format": 1, "peak_memory_mib": None}
    assert {name: result[name] for name in sizes} == sizes
    assert result["seconds"] > 0
    assert "torch" in result["machine"]
    assert not [*folder.glob("work/*")]


def interrupt(monkeypatch, folder, words, after, before_writing):
    """Give the command, and stop it as Ctrl-C does at the write of progress after some epochs."""
    write = _resume.Checkpoint.save

    def save(self, estimator, run, valid):
        if len(run.history) == after and before_writing:
            raise KeyboardInterrupt
        write(self, estimator, run, valid)
        if len(run.history) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_resume.Checkpoint, "save", save)
        with pytest.raises(KeyboardInterrupt):
            command(folder, *words)


@pytest.mark.parametrize(("after", "before_writing", "left"), [(2, False, 2), (3, True, 2)])
def test_interrupted_run_ends_as_if_nothing_had_happened(
    folder, monkeypatch, after, before_writing, left
):
    """An epoch that was scored but not kept is run and scored again; a made clock counts epochs."""
    close = _run.Run.close_epoch

    def close_epoch(self, row):
        stop = close(self, row)
        row["seconds"] = 1.0
        return stop

    monkeypatch.setattr(_run.Run, "close_epoch", close_epoch)
    words = ("dividemix", "cifar10", "sym-50", *SMALL)
    (straight,) = command(folder, *words).values()
    next(folder.glob("json/*")).unlink()
    interrupt(monkeypatch, folder, words, after, before_writing)
    assert not [*folder.glob("json/*")]
    assert len(json.loads(next(folder.glob("work/*.scores")).read_text())) == after
    epochs, score = [], published.EpochScores.on_fit_task_end

    def counted(self, estimator, context, **kwargs):
        epochs.append(context.task_name)
        score(self, estimator, context, **kwargs)

    monkeypatch.setattr(published.EpochScores, "on_fit_task_end", counted)
    (resumed,) = command(folder, *words).values()
    assert epochs == ["epoch"] * left
    assert resumed == straight
    assert resumed["seconds"] == 4
    assert not [*folder.glob("work/*")]


def test_scores_that_are_lost_end_the_run(folder, monkeypatch):
    interrupt(monkeypatch, folder, CE, 2, False)
    next(folder.glob("work/*.scores")).unlink()
    with pytest.raises(SystemExit, match="lacks epochs that were run"):
        command(folder, *CE)
    assert not [*folder.glob("json/*")]


def test_progress_of_another_fit_is_left_alone(folder, monkeypatch):
    interrupt(monkeypatch, folder, CE, 2, False)
    before = {path: path.read_bytes() for path in folder.glob("work/*")}
    with pytest.raises(SystemExit, match="another set of parameters"):
        command(folder, *CE, "--precision", "bfloat16")
    assert {path: path.read_bytes() for path in folder.glob("work/*")} == before


def test_labels_of_people_are_those_of_the_images(folder):
    task = runs.Task("dividemix", "cifar10", "worst", 1, 150)
    X, y, given, X_test, y_test, share = reproduce.problem(task, None)
    data = coloured_digits()
    rows = {image.tobytes(): i for i, image in enumerate(data.X_train)}
    index = [rows[image.tobytes()] for image in X]
    np.testing.assert_array_equal(y, data.y_train[index])
    np.testing.assert_array_equal(given, people(data.y_train)[index])
    assert (len(X), len(X_test), len(y_test), share) == (150, 60, 60, 0.75)


@pytest.mark.parametrize(("name", "rate"), [("excl-50", 0.5), ("sym-80", 0.7)])
def test_method_that_is_told_the_noise_rate_is_told_that_of_the_labels(name, rate):
    options = reproduce.arguments(["--device", "cpu"])
    task = runs.Task("co_teaching", "cifar10", name, 0, 100, "small", 4)
    clf, changes = reproduce.estimator(task, 0.1, 0.7, options)
    assert clf.noise_rate == rate
    assert changes == ({} if rate == 0.5 else {"noise_rate": 0.7})


@pytest.mark.parametrize(
    ("method", "network", "rate"),
    [("mixup", "small", 0.02), ("mixup", "published", 0.1), ("co_teaching", "small", 0.001)],
)
def test_small_network_gets_a_rate_that_it_bears(method, network, rate):
    options = reproduce.arguments(["--device", "cpu"])
    task = runs.Task(method, "cifar10", "sym-50", 0, 100, network, 4)
    clf, changes = reproduce.estimator(task, 0.1, 0.5, options)
    assert clf.net.lr == rate
    assert changes.get("net__lr") == (0.02 if rate == 0.02 else None)


# ---- what can be run -------------------------------------------------------------------------


def test_settings_of_the_tables():
    settings = {
        (method, name): runs.setting_of(runs.Task(method, "cifar10", name, 0)).split("/")[1]
        for table in runs.TABLES.values()
        for method, names in table.items()
        for name in names
    }
    levels = ("sym-20", "sym-50", "sym-80", "sym-90", "asym-40")
    expected = {("dividemix", name): f"cifar10-{name.replace('-', '')}" for name in levels}
    for name in ("worst", "aggre"):
        expected |= {("dividemix", name): "cifar10-sym20", ("elr_plus", name): "cifar10-sym"}
    for level in ("50", "80"):
        name = f"sym-{level}"
        expected |= {("mixup", name): f"cifar10-sym{level}", ("elr", name): "cifar10-sym"}
        expected |= {("cross_entropy", name): "cifar10", ("m_correction", name): "cifar10-m-dyr-h"}
        expected["co_teaching", name] = "cifar10-sym50"
    assert settings == expected | {("co_teaching", "excl-50"): "cifar10-sym50"}


@pytest.mark.parametrize(
    ("method", "name", "setting"),
    [
        ("elr", "asym-40", "elr/cifar10-asym"),
        ("co_teaching", "pair-45", "co_teaching/cifar10-pair45"),
        ("co_teaching", "sym-20", "co_teaching/cifar10-sym20"),
        ("elr", "worst", "elr/cifar10-sym"),
        ("mentormix", "excl-50", "mentormix/cifar10-sym40"),
        ("pencil", "asym-40", "pencil/cifar10-asym50"),
    ],
)
def test_nearest_setting(method, name, setting):
    assert runs.setting_of(runs.Task(method, "cifar10", name, 0)) == setting


def test_numbers_of_papers_belong_to_runs_and_name_their_source():
    for key, numbers in files.PAPERS.items():
        runs.setting_of(runs.Task(*key, 0))
        assert {source for *_, source in numbers} <= set(files.SOURCES)
    full = {(m, "cifar10", n) for m, names in runs.TABLES["full"].items() for n in names}
    assert full - set(files.PAPERS) == {
        ("elr", "cifar10", "sym-50"),
        ("co_teaching", "cifar10", "sym-50"),
        ("co_teaching", "cifar10", "sym-80"),
    }


def test_reduced_table_is_small_and_on_the_processor():
    options = reproduce.arguments(["--table", "reduced"])
    tasks = reproduce.tasks_of(options)
    assert len(tasks) == len(set(tasks)) == 3 * 19
    assert {task[4:] for task in tasks} == {(5000, "small", 45)}
    assert [task.seed for task in tasks] == sorted(task.seed for task in tasks)
    assert options.device == "cpu"
    full = reproduce.tasks_of(reproduce.arguments(["--table", "full", "--seeds", "0"]))
    assert {task.size for task in full} == {"full"}


def test_list_names_every_run_of_the_tables(capsys):
    reproduce.main(["--list"])
    text = capsys.readouterr().out
    assert "co_teaching cifar10 excl-50       co_teaching/cifar10-sym50" in text
    assert "rand1" in text


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("divide", "cifar10", "sym-50"), "No setting of 'divide' was published for cifar10"),
        (("dividemix", "clothing1m", "sym-50"), "No data set 'clothing1m' here"),
        (("dividemix", "cifar10", "sym-51"), "No noise 'sym-51' for cifar10, only sym-20"),
        (("dividemix", "cifar100", "worst"), "No noise 'worst' for cifar100, only sym-20"),
        (("dividemix", "cifar10"), "Give METHOD DATA NOISE"),
        ((), "Give METHOD DATA NOISE"),
        ((*CE[:3], "--table", "full"), "not both"),
        ((*CE[:3], "--device", "abacus"), "device='abacus' cannot be used on this machine"),
    ],
)
def test_bad_input_is_told_before_any_work(folder, monkeypatch, words, message):
    monkeypatch.setitem(published.LOADERS, "cifar100", None)
    monkeypatch.setitem(published.LOADERS, "cifar10", None)
    where = ["--folder", str(folder / "json"), "--work", str(folder / "work")]
    with pytest.raises(SystemExit, match=message) as end:
        reproduce.main([*words, *where])
    assert "\n" not in str(end.value)
    assert not [*folder.iterdir()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--epochs", "0"), "an integer from 1 on is needed, got '0'"),
        (("--images", "few"), "an integer from 1 on is needed, got 'few'"),
        (("--doc", "no/such/page.md"), "no/such is no folder that can be written to."),
        (("--doc", "notes.md"), "notes.md is no page of this script; move it elsewhere."),
    ],
)
def test_bad_option_is_one_sentence(folder, monkeypatch, capsys, words, message):
    monkeypatch.chdir(folder)
    (folder / "notes.md").write_text("# Results of a catch\n")
    with pytest.raises(SystemExit):
        reproduce.main([*CE[:3], *words])
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert [path.read_text() for path in folder.iterdir()] == ["# Results of a catch\n"]


def test_missing_data_and_too_many_images(folder, monkeypatch):
    with pytest.raises(SystemExit, match="has 200 training images, fewer than 201"):
        command(folder, *CE[:3], "--images", "201")
    monkeypatch.setattr(reproduce.datasets, "load_cifar10n", load_cifar10n)
    with pytest.raises(SystemExit, match=r"No CIFAR-10N in .*missing"):
        command(folder, "elr_plus", "cifar10", "worst", "--data", folder)
    monkeypatch.setitem(published.LOADERS, "cifar10", load_cifar10)
    with pytest.raises(SystemExit, match=r"No CIFAR-10 in .*missing"):
        command(folder, "--table", "reduced", "--data", folder)
    assert not [*folder.iterdir()]


# ---- results ---------------------------------------------------------------------------------


def test_result_that_is_there_is_kept_unless_asked(folder):
    command(folder, *CE)
    path = folder / "json" / NAME
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="--again makes the run anew"):
        command(folder, *CE)
    assert path.read_bytes() == before
    first = json.loads(before)
    path.write_text(json.dumps(first | {"last": -1, "seconds": -1}))
    again = command(folder, *CE, "--again")[NAME]
    assert again.pop("seconds") > 0
    del first["seconds"]
    assert again == first


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 0}', "is a result of format 0, and this command knows 1 alone"),
        ('{"format": 1, "parts": {}}', "holds no result of this command"),
        ('{"last": 1}', "holds no result of this command"),
        ("[1]", "holds no result of this command"),
        ("{", "holds no result of this command"),
    ],
)
def test_file_of_another_version_stays_as_it_is(folder, content, message):
    path = folder / "json" / NAME
    path.parent.mkdir()
    path.write_text(content)
    (folder / "page.md").write_text("# Results\nbefore")
    for words in (CE, (*CE, "--again"), ("--page",)):
        with pytest.raises(SystemExit, match=message):
            command(folder, *words)
        assert path.read_text() == content
    assert (folder / "page.md").read_text() == "# Results\nbefore"


def test_table_runs_what_is_missing_and_goes_on_behind_a_failure(folder, monkeypatch, capsys):
    monkeypatch.setitem(runs.TABLES, "reduced", {"cross_entropy": ("sym-50", "sym-80")})
    table = ("--table", "reduced", *SMALL, "--epochs", "1", "--workers", "1", "--seeds", "0")
    run = reproduce.run

    def broken(task, options):
        if task.noise == "sym-50":
            raise OSError("disk full")
        return run(task, options)

    with monkeypatch.context() as patch:
        patch.setattr(reproduce, "run", broken)
        with pytest.raises(SystemExit, match="1 of 2 runs failed"):
            command(folder, *table)
    assert "OSError: disk full" in capsys.readouterr().out
    results = command(folder, *table, "--page")
    assert "1 runs to do, 1 done before" in capsys.readouterr().out
    assert {result["noise"] for result in results.values()} == {"sym-50", "sym-80"}
    assert {result["precision"] for result in results.values()} == {"bfloat16"}
    assert (folder / "page.md").read_text() == files.page([*results.values()])


def test_a_signal_ends_a_table_of_one_worker(folder, monkeypatch):
    begun = []

    def ended(task, options):
        begun.append(task)
        sys.exit(143)

    monkeypatch.setattr(reproduce, "run", ended)
    monkeypatch.setitem(runs.TABLES, "reduced", {"cross_entropy": ("sym-50", "sym-80")})
    with pytest.raises(SystemExit) as end:
        command(folder, "--table", "reduced", *SMALL, "--workers", "1", "--seeds", "0")
    assert end.value.code == 143
    assert len(begun) == 1


# ---- the page --------------------------------------------------------------------------------


def made(folder, **changes):
    """Write a result with these figures."""
    figures = {
        "format": 1,
        **{"method": "dividemix", "data": "cifar10", "noise": "worst", "size": "full", "seed": 0},
        **{"setting": "dividemix/cifar10-sym20", "images": 50000, "test_images": 10000},
        **{"network": "PreActResNet18", "epochs": 300, "batch_size": 128, "wrong": 40.208},
        **{"last": 91.0, "last_ten": 92.0, "best": 93.0, "auroc": 0.9876, "refined": 90.6},
        **{"seconds": 7200.0, "peak_memory_mib": 2048.0, "device": "Accelerator X"},
        **{"precision": "bfloat16", "machine": {"torch": "2.11"}, "changes": {}},
    } | changes
    path = folder / "json" / f"{len([*folder.glob('json/*')])}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(figures))


def test_page_says_that_no_run_was_made(folder):
    command(folder, "--page")
    assert (folder / "page.md").read_text().count("No run of this kind has been made yet.") == 2


def test_page_shows_the_figures_of_the_results_beside_those_of_the_papers(folder):
    for seed, shift in enumerate((-1, 0, 1)):
        made(folder, seed=seed, last=91.0 + shift, seconds=7200.0 + 3600 * shift)
    made(folder, method="mixup", noise="sym-50", setting="mixup/cifar10-sym50", epochs=200)
    small = {"size": "5000-small-50", "images": 5000, "test_images": 2000, "network": "SmallCNN"}
    small |= {"device": "cpu", "peak_memory_mib": None, "epochs": 50}
    made(folder, **small, last=41.25, auroc=None)
    changes = {"net__lr": 0.02, "noise_rate": 0.4}
    for seed in (0, 1):
        made(folder, **small, seed=seed, last=45.0 + seed, changes=changes | {"noise_rate": seed})
    command(folder, "--page")
    full, reduced = (folder / "page.md").read_text().split("## Reduced")
    row = (
        '| DivideMix | `dividemix/cifar10-sym20` | human labels ("worst") | 40.2 ± 0.0 '
        "| PreActResNet18 | 300 | Accelerator X, bfloat16 | 92.56 / – [f]; 93.1 / 92.47 [g] "
        "| 93.00 ± 0.00 | 92.00 ± 0.00 "
        "| 91.00 ± 1.00 | 0.988 ± 0.000 | 90.6 ± 0.0 | 2.0 ± 1.0 | 3 | 2.0 ± 0.0 |"
    )
    assert row in full
    assert "| 200 | Accelerator X, bfloat16 | 88.7 / 87.3 [b] | 93.00 | 92.00 | 91.00 |" in full
    assert [f"[{key}]" in full.split("chosen:")[1] for key in "abfg"] == [False, True, True, True]
    assert "device Accelerator X, precision bfloat16, torch 2.11" in full
    size = "### 5 000 images of CIFAR-10, `SmallCNN`, bfloat16 on cpu, 2 000 test images"
    assert size in reduced
    assert "| 50 | 93.00 | 92.00 | 41.25 | – | 90.6 | 7200.0 | 1 |" in reduced
    assert "| `dividemix/cifar10-sym20`, `net__lr=0.02` | human" in reduced
    assert "| 50 | 93.00 ± 0.00 | 92.00 ± 0.00 | 45.50 ± 0.71 |" in reduced
    assert "[f]" not in reduced
    assert "92.56" not in reduced


def test_page_mixes_no_runs_of_different_kinds(folder):
    for precision in ("bfloat16", "float32"):
        for device in ("Accelerator X", "Accelerator Y"):
            made(folder, precision=precision, device=device)
    command(folder, "--page")
    assert (folder / "page.md").read_text().count("| 91.00 | 0.988 |") == 4
