"""The scripts on published settings, the comparison of all methods and the cost of their epochs."""

import inspect
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.utils import Bunch

from noisyfit import methods
from noisyfit._network import check_net
from noisyfit.modules import CNN9, SmallCNN

SCRIPTS = Path(__file__).parents[1] / "examples" / "benchmarks"
sys.path.insert(0, str(SCRIPTS))
all_methods, epoch_cost, published = (
    __import__(name) for name in ("all_methods", "epoch_cost", "published")
)
sys.path.remove(str(SCRIPTS))
SETTINGS = published.SETTINGS

SHAPES = {
    "mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
    "clothing1m": ((3, 224, 224), 14),
}
ONE_OF_EACH = {s.method: n for n, s in SETTINGS.items() if s.data == "cifar10"}
ONE_OF_EACH |= {s.method: n for n, s in SETTINGS.items() if s.method not in ONE_OF_EACH}
NARROW = {
    "PreActResNet18": {"width": 4},
    "PreActResNet32": {"width": 4},
    "PreActResNetThin": {"width": 4, "depth": 14},
    "ResNet34": {"width": 4},
}


def made_images(data, n=64):
    """(X uint8, y) of the shape of a data set."""
    shape, n_classes = SHAPES[data]
    rng = np.random.default_rng(0)
    return rng.integers(256, size=(n, *shape), dtype=np.uint8), np.arange(n) % min(n_classes, 20)


def narrow(setting):
    """The setting with a network that is quick on a CPU."""
    net = clone(setting.net)
    params = {f"module__{k}": v for k, v in NARROW.get(net.module.__name__, {}).items()}
    params |= {"module": SmallCNN} if net.module is CNN9 else {}
    return replace(setting, net=net.set_params(**params))


# ---- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_setting_builds_an_estimator_with_sound_parameters(name):
    setting = SETTINGS[name]
    clf = setting.build()
    assert type(clf).__name__ in methods.__all__
    clf._check_parameters()
    check_net(clf.net)
    stages = [v for k, v in setting.params.items() if k in published.EPOCHS_IN]
    assert all(isinstance(v, int) and 0 <= v <= clf.net.max_epochs for v in stages)
    assert clf.net is not setting.net
    assert setting.data in SHAPES
    assert published.noise.__all__.count(setting.noise[0]) if setting.noise else True


@pytest.mark.parametrize("name", SETTINGS)
def test_module_of_a_setting_fits_the_images_of_its_data_set(name):
    setting = SETTINGS[name]
    (channels, height, width), n_classes = SHAPES[setting.data]
    given = {k: v for k, v in setting.net.get_params_for("module").items() if k != "weights"}
    known = {"input_shape": (channels, height, width), "in_channels": channels}
    known["n_classes"] = n_classes
    accepted = inspect.signature(setting.net.module).parameters
    with torch.device("meta"):
        module = setting.net.module(**{k: v for k, v in known.items() if k in accepted} | given)
        out = module.eval()(torch.empty(2, channels, height, width))
    assert out.shape == (2, n_classes)


@pytest.mark.parametrize("name", sorted(ONE_OF_EACH.values()))
def test_setting_of_every_method_trains_on_a_few_images(name):
    setting = narrow(SETTINGS[name])
    X, y = made_images(setting.data)
    clf = setting.build().set_params(random_state=0, net__device="cpu")
    clf = published.shortened(clf, 1).fit(X, y)
    assert len(clf.history_) == 1
    assert np.isfinite(clf.clean_proba_).all()
    assert clf.clean_proba_.shape == (64,)


def rates(name, epochs):
    """Learning rates of the epochs of a setting that was shortened."""
    setting = narrow(SETTINGS[name])
    X, y = made_images(setting.data, 32)
    clf = setting.build().set_params(random_state=0, net__device="cpu")
    history = published.shortened(clf, epochs).fit(X, y).history_
    return [row["lr"] for row in history]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # stages of 70, 130 and 120 of 320 epochs; the last one drops its rate twice
        ("pencil/cifar10-sym", [0.06] * 5 + [0.2, 0.02, 0.002]),
        ("joint_optimization/cifar10-sym70", [0.08] * 5 + [0.2, 0.02, 0.002]),
        # half of 240 epochs estimate the matrix, drops after 40 and 80 of both halves
        ("forward/cifar10", [0.1, 0.1, 0.01, 0.01, 0.001, 0.001] * 2),
        ("dividemix/cifar10-sym50", [0.02, 0.02, 0.002, 0.002]),
        ("mixup/cifar10-sym20", [0.1, 0.1, 0.01, 0.001]),
    ],
)
def test_learning_rate_follows_the_published_schedule(name, expected):
    np.testing.assert_allclose(rates(name, len(expected)), expected, rtol=1e-6)


def test_symmetric_cross_entropy_decays_the_hidden_layer_alone_by_keras_rule():
    net = SETTINGS["sce/cifar10"].build().net
    net = clone(net).set_params(device="cpu", module__input_shape=(3, 32, 32), module__n_classes=10)
    hidden, others = net.initialize().optimizer_.param_groups
    assert sorted(p.numel() for p in hidden["params"]) == [256, 3136 * 256]
    assert (hidden["weight_decay"], others["weight_decay"]) == (2e-2, 1e-4)


def test_momentum_of_co_teaching_falls_with_the_rate():
    """Zero-based epoch 80 is the first with a beta_1 of 0.1, as the rate begins to fall."""
    callback = SETTINGS["co_teaching/cifar10-sym50"].net.callbacks[0]
    betas = []
    for epoch in (80, 81):  # counted from 1, as skorch does
        group = {"betas": (0.5, 0.5)}
        net = Bunch(history=Bunch(), optimizer_=Bunch(param_groups=[group]))
        net.history = {(-1, "epoch"): epoch}
        callback.on_epoch_begin(net)
        betas.append(group["betas"][0])
    assert betas == [0.9, 0.1]


def test_shortened_keeps_stages_in_proportion_and_leaves_the_setting_alone():
    clf = SETTINGS["m_correction/cifar10-md-dyr-sh"].build()
    short = published.shortened(clf, 30)
    assert (short.guided_start, short.bootstrap_start, short.temperature_epochs) == (11, 11, 9)
    assert list(short.net.lr_schedule.milestones) == [10, 25]
    assert (clf.guided_start, clf.net.max_epochs) == (106, 300)


def test_command_trains_on_a_part_of_the_data_and_prints_what_papers_print(monkeypatch, capsys):
    X, y = made_images("cifar10", 90)
    data = Bunch(X_train=X, y_train=y, X_test=X[:40], y_test=y[:40])
    monkeypatch.setitem(published.LOADERS, "cifar10", lambda root: data)
    name = "dividemix/cifar10-sym50"
    monkeypatch.setitem(SETTINGS, name, narrow(SETTINGS[name]))
    size, labels = ["--epochs", "1", "--rows", "64"], ["--noise", "pair", "--level", "0.25"]
    published.main([name, *size, *labels, "--device", "cpu"])
    text = capsys.readouterr().out
    assert "pair 0.25:" in text
    assert "of 64 labels are wrong; 40 test rows" in text
    for word in ("last epoch", "best epoch", "AUROC", "refined labels"):
        assert word in text


def test_command_without_a_loader_for_the_data_says_so():
    with pytest.raises(SystemExit, match="build it and fit it yourself"):
        published.main(["pencil/clothing1m", "--epochs", "1"])


# ---- all methods -----------------------------------------------------------------------------


def test_every_method_has_a_row_in_the_comparison_and_a_counted_cost():
    classes = {cls.__name__ for cls, _ in all_methods.rows().values()}
    assert classes == set(methods.__all__)
    assert set(epoch_cost.COUNTED) >= set(methods.__all__)
    for cls, params in all_methods.rows().values():
        cls(**params)._check_parameters()


def test_only_rows_that_say_so_are_augmented():
    augmented = {row for row, (_, params) in all_methods.rows().items() if "augment" not in params}
    assert augmented == {"DivideMix"}
    assert all_methods.rows()["CrossEntropy + views"][1] == {"augment": "auto"}


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """Run the command on digits with options, as one would; returns its lines and its page."""
    results, page = tmp_path / "results.jsonl", tmp_path / "page.md"

    def run(*options):
        fixed = ["--workers", "1", "--epochs", "1", "--problem", "fast", "--noises", "sym-0.5"]
        files = ["--results", str(results), "--doc", str(page)]
        monkeypatch.setattr(sys, "argv", ["all_methods.py", *files, *fixed, *options])
        all_methods.main()
        return [json.loads(line) for line in results.read_text().splitlines()], page.read_text()

    return run


def test_comparison_goes_on_where_it_was_stopped(compare):
    first, _ = compare("--seeds", "0", "--methods", "CrossEntropy")
    both, page = compare("--seeds", "0", "1", "--methods", "CrossEntropy")
    assert [line["seed"] for line in both] == [0, 1]
    assert both[0] == first[0]
    last = [line["last"] for line in both]
    cell = f"{np.mean(last):.1f} ± {np.std(last, ddof=1):.1f}"
    assert page.count(f"| CrossEntropy | {cell} |") == 2  # side by side, and by noise
    assert "| Mixup | – | – | – | – | – | 0 |" in page


def test_comparison_starts_with_the_first_seed_and_the_cheap_methods(monkeypatch):
    options = ["--methods", "DivideMix", "CrossEntropy", "CoTeaching", "--noises", "sym-0.2"]
    tasks = all_methods.wanted(all_methods.arguments([*options, "--problem", "fast"]))
    three = ["CrossEntropy", "CoTeaching", "DivideMix"]
    assert [(t.seed, t.method) for t in tasks] == [(s, m) for s in range(3) for m in three]


def test_failed_fit_leaves_its_error_and_is_done_again(compare, monkeypatch):
    def broken(seed):
        raise OSError("no such file")

    fast = all_methods.PROBLEMS["fast"]
    with monkeypatch.context() as patch:
        patch.setitem(all_methods.PROBLEMS, "fast", fast._replace(load=broken))
        failed, _ = compare("--seeds", "0", "--methods", "CrossEntropy")
    assert failed[0]["error"] == "OSError: no such file"
    done, page = compare("--seeds", "0", "--methods", "CrossEntropy")
    assert "last" in done[1]
    assert f"| CrossEntropy | {done[1]['last']:.1f} |" in page


# ---- cost of an epoch ------------------------------------------------------------------------


def test_counted_cost_of_dividemix_is_that_of_the_example_in_its_paper_setting():
    """Half of 50 000 rows labelled: 36 x 25 000 + 2 x 50 000 = 1.0 M forwards against 150 000."""
    row = {"n_labelled_1": 25_000, "n_labelled_2": 25_000}
    assert epoch_cost.division(row, 50_000) == pytest.approx(1_000_000 / 150_000)


def test_counted_cost_of_dividemix_without_a_doubted_label_has_no_unlabelled_rows():
    """Two guesses, two mixed rows in a step and an evaluation for each of two networks."""
    row = {"n_labelled_1": 100, "n_labelled_2": 100}
    assert epoch_cost.division(row, 100) == pytest.approx(2 * (2 + 2 * 3 + 1) / 3)


def test_epoch_cost_times_every_stage(monkeypatch):
    net = epoch_cost.Network(
        epoch_cost.SmallCNN,
        max_epochs=epoch_cost.EPOCHS,
        device="cpu",
        callbacks=[epoch_cost.EpochTimer()],
    )
    X, y = epoch_cost.made_images(130)
    stages = epoch_cost.one_fit("DivideMixClassifier", net, X, y)
    assert list(stages) == ["warm-up", "divided"]
    assert all(seconds > 0 for seconds, _ in stages.values())
    assert stages["warm-up"][1] == 2
    assert 2 / 3 < stages["divided"][1] <= 12 + 2 / 3
