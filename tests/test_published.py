"""The scripts on published settings, the comparison of all methods and the cost of their epochs."""

import inspect
import json
import math
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
from noisyfit.losses import get_loss
from noisyfit.modules import CNN7, CNN9, LeNet, SmallCNN
from noisyfit.schedules import Cosine, CosineRestarts, LinearDecay, Step

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
KerasDecay = published.KerasDecay
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


@pytest.mark.filterwarnings(  # few random images
    "ignore:The base estimator of INCVCleaner", "ignore:Manifold DivideMix"
)
@pytest.mark.parametrize("name", sorted(ONE_OF_EACH.values()))
def test_setting_of_every_method_trains_on_a_few_images(name):
    setting = narrow(SETTINGS[name])
    X, y = made_images(setting.data)
    clf = setting.build().set_params(random_state=0, net__device="cpu")
    if setting.method == "BackwardCorrectionClassifier":
        clf.set_params(guards=True)  # the estimate after one epoch may have no inverse
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


def groups_of(name, shape, n_classes):
    """Weight decays and the names of their parameters, as the optimiser of a setting has them."""
    net = clone(SETTINGS[name].net).set_params(device="cpu", module__n_classes=n_classes)
    if "input_shape" in inspect.signature(net.module).parameters:
        net.set_params(module__input_shape=shape)
    net.initialize()
    names = {id(p): name for name, p in net.module_.named_parameters()}
    return [
        (group["weight_decay"], sorted(names[id(p)] for p in group["params"]))
        for group in net.optimizer_.param_groups
    ]


def test_symmetric_cross_entropy_decays_the_hidden_layer_alone_by_keras_rule():
    """Twice Keras' 0.01; the decay of 1e-4 in its script is one of the learning rate."""
    hidden, others = groups_of("sce/cifar10", (3, 32, 32), 10)
    assert hidden == (2e-2, ["body.22.bias", "body.22.weight"])
    assert others[0] == 0


def test_symmetric_cross_entropy_decays_all_kernels_and_nothing_else_for_cifar100():
    decayed = [
        name
        for decay, names in groups_of("sce/cifar100", (3, 32, 32), 100)
        if decay == 2e-2
        for name in names
    ]
    net = clone(SETTINGS["sce/cifar100"].net).set_params(device="cpu", module__n_classes=100)
    kernels = [n for n, p in net.initialize().module_.named_parameters() if p.ndim > 1]
    assert sorted(decayed) == sorted(kernels)
    others = [d for d, _ in groups_of("sce/cifar100", (3, 32, 32), 100) if d != 2e-2]
    assert others == [0]


def test_keras_decay_is_the_mean_over_the_steps_of_each_epoch_times_the_drops():
    schedule = SETTINGS["sce/cifar100"].net.lr_schedule
    for epoch, drop in ((0, 1), (80, 1), (81, 0.1), (149, 0.01)):
        by_step = [1 / (1 + 5e-3 * step) for step in range(391 * epoch, 391 * (epoch + 1))]
        assert schedule(epoch, 150) == pytest.approx(drop * np.mean(by_step), rel=3e-3)


def test_mae_takes_the_steps_of_the_published_loss_which_is_half_as_large():
    """As its loss is 1 - p; after three steps with clipped gradient and decay the weights agree."""

    def weights(net, factor):
        w = torch.linspace(-1, 1, 40).reshape(10, 4).requires_grad_()
        g = torch.Generator().manual_seed(0)
        x, y = 30 * torch.randn(8, 10, generator=g), torch.arange(8) % 4
        decay, loss = net.get_params()["optimizer__weight_decay"], get_loss("mae")
        sgd = torch.optim.SGD([w], lr=net.lr, momentum=0.9, weight_decay=decay)
        norms = []
        for _ in range(3):
            sgd.zero_grad()
            (factor * loss(x @ w, y)).sum().backward()
            norms.append(torch.nn.utils.clip_grad_norm_([w], net.gradient_clip) / net.gradient_clip)
            sgd.step()
        return w.detach(), norms

    ours, norms = weights(SETTINGS["mae/cifar10"].net, 1)
    published_net = SETTINGS["focal/cifar10"].net  # of the same paper, with nothing rescaled
    theirs, _ = weights(published_net, 0.5)
    assert max(norms) > 1  # the clip acts
    torch.testing.assert_close(ours, theirs)


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


def test_shortened_to_the_whole_length_changes_nothing():
    for name, setting in SETTINGS.items():
        clf = setting.build()
        same = published.shortened(clf, clf.net.max_epochs)
        before, after = (c.get_params() for c in (clf, same))
        for key in set(published.EPOCHS_IN + published.RAMPS_IN) & set(before):
            assert after[key] == before[key], (name, key)
        for key in ("net__max_epochs", "net__lr_schedule"):
            assert after[key] == before[key], (name, key)


@pytest.mark.parametrize(
    ("name", "epochs", "expected"),
    [
        ("elr_plus/cifar100-sym", 25, {"strength_ramp": 4000, "average_ramp": 4000}),
        ("elr_plus/clothing1m", 5, {"strength_ramp": 0, "average_ramp": None}),
        (
            "joint_optimization/cifar10-sym70",
            32,
            {"window": 1, "warmup": 7, "relabel_until": 20, "net__lr_schedule": Step([4, 8])},
        ),
        ("joint_optimization/cifar10-sym70", 160, {"window": 5}),
        ("co_teaching/cifar10-sym50", 40, {"n_gradual": 2, "net__lr_schedule": LinearDecay(16)}),
        ("co_teaching_plus/cifar10-sym50", 40, {"init_epoch": 4, "plain_steps": 1000}),
        ("truncated_gce/cifar10", 40, {"prune_start": 13, "prune_interval": 3}),
        ("dividemix/cifar10-sym90", 60, {"warmup": 2, "ramp_up": 3.2, "loss_history": 1}),
        ("pencil/cifar10-sym", 32, {"warmup": 7, "correct_until": 20}),
        ("sce/cifar10", 60, {"net__lr_schedule": KerasDecay(Step([20, 40]), 2e-4 * 391)}),
        ("elr/cifar10-sym", 75, {"net__lr_schedule": CosineRestarts(5), "net__max_epochs": 75}),
        ("elr/cifar10-sym", 74, {"net__lr_schedule": CosineRestarts(5), "net__max_epochs": 75}),
        ("elr/cifar10-sym", 10, {"net__lr_schedule": CosineRestarts(2), "net__max_epochs": 10}),
        ("elr/cifar10-sym", 1, {"net__lr_schedule": CosineRestarts(1), "net__max_epochs": 1}),
    ],
)
def test_shortened_scales_all_that_is_counted_in_epochs_or_steps(name, epochs, expected):
    params = published.shortened(SETTINGS[name].build(), epochs).get_params()
    assert {key: params[key] for key in expected} == pytest.approx(expected)


def test_shortened_lowers_the_momentum_of_co_teaching_with_its_rate():
    setting = SETTINGS["co_teaching/cifar10-sym50"]
    short = published.shortened(setting.build(), 40)
    assert short.net.callbacks[0].start == short.net.lr_schedule.start == 16
    assert setting.net.callbacks[0].start == 80


def test_ramps_in_steps_fall_with_the_rows_and_those_in_epochs_do_not():
    by_step = published.shortened(SETTINGS["elr_plus/cifar10-sym"].build(), 200, rows=0.1)
    assert by_step.average_ramp == pytest.approx(4000)
    by_epoch = published.shortened(SETTINGS["dividemix/cifar10-sym50"].build(), 300, rows=0.1)
    assert by_epoch.ramp_up == 16


# ---- test labels -----------------------------------------------------------------------------


def train(monkeypatch, setting, y_test, epochs=4):
    """The estimator that the command trains on made images, with these labels of test images."""
    X, y = made_images("cifar10", 160)
    data = Bunch(X_train=X, y_train=y, X_test=X[:40], y_test=y_test)
    monkeypatch.setitem(published.LOADERS, "cifar10", lambda root: data)
    monkeypatch.setitem(SETTINGS, "made/cifar10", setting)
    return published.main(["made/cifar10", "--epochs", str(epochs), "--device", "cpu"])


@pytest.mark.parametrize("name", ["truncated_gce/cifar10", "elr/cifar10-sym"])
def test_labels_of_the_test_images_leave_the_fit_as_it_is(name, monkeypatch, capsys):
    """A network that was best on test images once chose the rows of truncated GCE."""
    setting = narrow(SETTINGS[name])
    if "prune_start" in setting.params:  # some rows have reached this probability, some have not
        setting = replace(setting, params=setting.params | {"loss_params": {"k": 0.1}})
    right = np.arange(40) % 10
    fits, scores = [], []
    for y_test in (right, np.random.default_rng(1).integers(10, size=40)):
        fits.append(train(monkeypatch, setting, y_test))
        scores.append(capsys.readouterr().out.splitlines()[1:3])
    first, second = fits
    X, _ = made_images("cifar10", 160)
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    np.testing.assert_array_equal(first.clean_proba_, second.clean_proba_)
    if hasattr(first, "selected_"):
        np.testing.assert_array_equal(first.selected_, second.selected_)
        assert 0 < first.selected_.sum() < 0.9 * len(X)
    assert scores[0] != scores[1]


def test_only_truncated_gce_holds_noisy_rows_out():
    held = {name for name, s in SETTINGS.items() if s.net.train_split is not None}
    assert held == {"truncated_gce/cifar10", "truncated_gce/cifar100"}
    for name in held:
        split = SETTINGS[name].net.train_split
        assert (split.cv, split.stratified) == (0.1, True)
        X, y = made_images("cifar10", 100)
        first, again = (split(X, y)[1].indices for _ in range(2))
        np.testing.assert_array_equal(first, again)


def test_command_scores_the_last_network_and_keeps_test_images_out_of_the_fit(monkeypatch, capsys):
    setting = narrow(SETTINGS["mixup/cifar10-sym20"])
    y_test = np.arange(40) % 10
    clf = train(monkeypatch, setting, y_test, 2)
    lines = capsys.readouterr().out.splitlines()
    assert "valid_acc" not in clf.history_[0]
    last = 100 * clf.score(made_images("cifar10", 160)[0][:40], y_test)
    assert lines[1].startswith(f"last epoch {last:.2f}, mean of the last ten ")
    assert "(epoch " in lines[2]


def test_command_without_scikit_learns_callbacks_prints_dashes(monkeypatch, capsys):
    for base in methods.MixupClassifier.__mro__:
        if "set_callbacks" in vars(base):
            monkeypatch.delattr(base, "set_callbacks")
    train(monkeypatch, narrow(SETTINGS["mixup/cifar10-sym20"]), np.arange(40) % 10, 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("mean of the last ten -")
    assert lines[2] == "best epoch -"


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


# ---- published values ------------------------------------------------------------------------

SGD_18 = {"net__lr": 0.02, "net__batch_size": 128, "net__optimizer__weight_decay": 5e-4}
SGD_M = {"net__lr": 0.1, "net__batch_size": 128, "net__optimizer__weight_decay": 1e-4}
DIVIDE = {"loss_history": 1, "guards": False, "threshold": 0.5, "temperature": 0.5, "n_views": 2}
DIVIDE |= {"ramp_up": 16, "lambda_r": 1.0, "confidence_penalty": 0.0, "guess_mode": "train"}
CLIPPED = {"net__gradient_clip": 5.0, "warmup": 0, "l1": 0.0}
JOINT = SGD_M | {"net__lr": 0.2, "net__max_epochs": 320, "net__lr_schedule": Step([40, 80])}
JOINT |= {"warmup": 70, "window": 10, "relabel_until": 200, "retrain": True, "class_prior": None}
PENCIL = {"net__batch_size": 128, "net__max_epochs": 320, "net__lr_schedule": Step([40, 80])}
PENCIL |= {"warmup": 70, "correct_until": 200, "init_scale": 10.0, "scale": "code", "net__lr": 0.2}
ADAPT = {"net__lr": 0.001, "net__batch_size": 256, "net__max_epochs": 80, "warmup": 40}
ADAPT |= {"channel_lr": 1.0, "confusion": "hard", "guards": False, "augment": None}
CO = {"net__lr": 0.001, "net__max_epochs": 200, "net__batch_size": 128, "n_gradual": 10}
CO |= {"exponent": 1.0, "augment": None, "net__normalize": None, "net__module__dropout": 0.0}
MLNT = {"n_sets": 10, "flip_share": 0.5, "n_neighbors": 10, "second_order": True}
MLNT |= {"kl_reduction": "mean", "damp": False, "teacher_decay": (0.99, 0.999)}
MLNT |= {"feature_net": "pretrain"}
INCV = {"net__lr": 0.001, "net__max_epochs": 200, "cleaning_epochs": 50, "cleaner__n_iter": 4}
INCV |= {"cleaner__keep_best": True, "cleaner__shared_init": True, "n_gradual": 10}
INCV |= {"guards": False, "net__batch_size": 128}
PLUS = {"net__lr": 0.001, "net__max_epochs": 200, "net__batch_size": 128, "n_gradual": 10}
PLUS |= {"augment": None, "net__normalize": None, "noise_rate": 0.45, "plain_steps": 5000}
PLUS |= {"guards": False, "schedule": "capped", "legacy_double_softmax": True}
PLUS |= {"net__lr_schedule": LinearDecay(80)}
ELR = {"net__lr": 0.02, "net__optimizer__weight_decay": 1e-3, "net__batch_size": 128, "warmup": 0}
ANCHOR = {"guards": False, "transition": "anchor", "net__batch_size": 128}
AVERAGE = {"average_decay": 0.997, "average_ramp": 40000, "ramp_unit": "steps", "alpha": 1}
MIXTURE = {"alpha": 32, "lambda_r": 1.0, "lookup": 100, "track_augment": True, "guards": False}
LONG = {"net__max_epochs": 300, "net__lr_schedule": Step([100, 250])}

PUBLISHED = {
    "bayesian/cifar10-sym90": SGD_18
    | {"warmup": 5, "lambda_u": 50, "alpha": 4, "threshold": 0.6, "loss_history": 5}
    | {"dropout": 0.2, "mc_samples": 10, "pretrain__net__max_epochs": 1000},
    "bayesian/cifar100-sym50": SGD_18
    | {"warmup": 5, "lambda_u": 150, "pretrain__base_temperature": 0.07, "pretrain__net__lr": 0.5},
    "manifold/cifar100": {"warmup": 20, "redivide_every": 10, "ood_initial": 0.1, "ood_step": 0.01}
    | {"ood_share": None, "threshold": 0.3, "confidence": 0.9, "temperature": 0.5, "alpha": 4}
    | {"net__lr": 0.2, "backbone_lr": 0.01, "net__lr_schedule": Cosine(), "net__max_epochs": 300},
    "manifold/cifar10": {"lambda_u": 100.0, "lambda_c": 1.0, "net__optimizer__weight_decay": 5e-4}
    | {"contrastive_temperature": 0.05, "ramp_up": 16, "pretrain__net__batch_size": 1024},
    "dividemix/cifar10-sym20": SGD_18 | DIVIDE | {"lambda_u": 0, "warmup": 10, "alpha": 4},
    "dividemix/cifar10-sym90": SGD_18
    | DIVIDE
    | {"lambda_u": 50, "warmup": 10, "alpha": 4, "threshold": 0.6, "loss_history": 5},
    "dividemix/cifar100-sym50": SGD_18
    | DIVIDE
    | {"lambda_u": 150, "warmup": 30, "net__max_epochs": 300, "net__lr_schedule": Step([150])},
    "dividemix/cifar10-asym40": SGD_18 | DIVIDE | {"lambda_u": 0, "confidence_penalty": 1.0},
    "dividemix/clothing1m": {"net__lr": 0.002, "net__max_epochs": 80, "net__batch_size": 64}
    | {"alpha": 0.5, "lambda_u": 0, "warmup": 1, "epoch_rows": 32000, "loss_history": 1}
    | {"net__optimizer__weight_decay": 1e-3, "guards": False, "confidence_penalty": 1.0},
    "co_teaching/cifar10-pair45": CO | {"noise_rate": 0.45, "net__lr_schedule": LinearDecay(80)},
    "co_teaching/cifar100-sym20": CO | {"noise_rate": 0.2, "net__lr_schedule": LinearDecay(100)},
    "self_paced/cifar10-sym40": {"percentile": 0.7, "burn_in": 0, "n_gradual": 0, "decay": 0.5}
    | {"lambda_init": 0.0, "curriculum": "hard", "scale_decay_by_weights": True, "net__lr": 0.1}
    | {"net__max_epochs": 100, "net__optimizer__weight_decay": 2e-4, "net__module__width": 160},
    "self_paced/cifar100-linear-sym80": {"percentile": 0.7, "curriculum": "linear", "width": 1.0},
    "mentormix/cifar10-sym40": {"percentile": 0.6, "alpha": 8, "second_reweight": False}
    | {"burn_in": 0.1, "decay": 0.5, "temperature": 1.0, "ema_decay": 0.9999, "noise_rate": None}
    | {"net__lr": 0.1, "net__batch_size": 128, "net__optimizer__weight_decay": 2e-4}
    | {"net__lr_schedule": Step(list(range(30, 512, 30)), 0.9), "net__max_epochs": 512},
    "mentormix/cifar100-sym60": {"percentile": 0.3, "alpha": 4, "second_reweight": True}
    | {"net__optimizer__weight_decay": 0.0, "net__module__width": 128},
    "incv/cifar10-pair40": INCV | {"cleaner__noise_type": "pair"},
    "incv/cifar10-sym50": INCV | {"cleaner__noise_type": "symmetric"},
    "mlnt/cifar10-iterated": MLNT
    | {"meta_rate": 0.4, "inner_lr": 0.2, "net__lr": 0.2, "net__batch_size": 128, "n_iterations": 3}
    | {"net__optimizer__weight_decay": 1e-4, "warmup": 3, "ramp": 17},
    "mlnt/clothing1m": MLNT
    | {"meta_rate": 1.0, "inner_lr": 0.02, "net__lr": 8e-4, "net__batch_size": 32, "augment": None}
    | {"net__optimizer__weight_decay": 1e-3, "n_iterations": 3},
    "mentornet/cifar10-pd-sym80": {"mentor": "predefined", "percentile": 0.5, "burn_in": 0}
    | {"decay": 0.5, "example_dropout": "predefined", "scale_decay_by_weights": True}
    | {"net__lr": 0.1, "net__max_epochs": 100, "net__module__width": 160}
    | {"net__optimizer__weight_decay": 2e-4},
    "mentornet/cifar100-dd-sym40": {"mentor": "data_driven", "percentile": 0.6, "burn_in": 0.18}
    | {"mentor_percentile": 0.9, "example_dropout": "data_driven"}
    | {"use_trusted_in_training": False},
    "co_teaching_plus/mnist-pair45": PLUS | {"init_epoch": 0, "net__module__hidden": (256,)},
    "co_teaching_plus/cifar10-pair45": PLUS | {"init_epoch": 20, "net__module": LeNet},
    "co_teaching_plus/cifar100-pair45": PLUS | {"init_epoch": 5, "net__module": CNN7},
    "cross_entropy/cifar10": SGD_M | {"net__max_epochs": 200, "net__lr_schedule": Step([100, 150])},
    "cross_entropy/cifar100-long": SGD_M | LONG,
    "mixup/cifar10-sym20": SGD_M
    | {"alpha": 8, "net__max_epochs": 200, "net__lr_schedule": Step([100, 150])},
    "mixup/cifar10-sym80": SGD_M | {"alpha": 32},
    "mixup/cifar100-long": SGD_M | LONG | {"alpha": 32},
    "m_correction/cifar10-m-dyr-h": SGD_M
    | LONG
    | MIXTURE
    | {"variant": "M-DYR-H", "bootstrap_start": 106, "class_prior": [0.1] * 10},
    "m_correction/cifar100-md-dyr-sh": SGD_M
    | LONG
    | MIXTURE
    | {"guided_start": 106, "bootstrap_start": 111, "temperature_epochs": 89},
    "elr/cifar10-sym": ELR
    | {"momentum": 0.7, "strength": 3, "net__max_epochs": 150}
    | {"net__lr_schedule": CosineRestarts(10, 0.05)},
    "elr/cifar10-asym": ELR
    | {"momentum": 0.9, "strength": 1, "net__max_epochs": 120}
    | {"net__lr_schedule": Step([40, 80], 0.01)},
    "elr/cifar100-asym": ELR
    | {"momentum": 0.9, "strength": 7, "net__max_epochs": 150}
    | {"net__lr_schedule": Step([80, 120], 0.01)},
    "moment_elr/cifar10-sym": ELR
    | {"momentum": 0.7, "strength": 3, "elr_mass": False, "combine": "snr"}
    | {"net__max_epochs": 150, "net__lr_schedule": CosineRestarts(10, 0.05)},
    "moment_elr/cifar100-sym": ELR | {"momentum": 0.9, "strength": 7, "elr_mass": False},
    "elr_plus/cifar10-asym": SGD_18
    | AVERAGE
    | {"momentum": 0.9, "strength": 1, "strength_ramp": 0, "sharpen_target": False, "warmup": 0}
    | {"net__max_epochs": 200, "net__lr_schedule": Step([150])},
    "elr_plus/cifar100-sym": SGD_18
    | AVERAGE
    | {"momentum": 0.9, "strength": 7, "strength_ramp": 40000, "sharpen_target": True, "warmup": 0}
    | {"net__max_epochs": 250, "net__lr_schedule": Step([200])},
    "elr_plus/clothing1m": {"average_decay": 0.9999, "average_ramp": None, "net__lr": 0.002}
    | {"momentum": 0.7, "strength": 3, "warmup": 0, "net__max_epochs": 15},
    "joint_optimization/cifar10-sym70": JOINT
    | {"alpha": 1.2, "beta": 0.8, "lr_factor": pytest.approx(0.4), "prior_momentum": 0.0},
    "joint_optimization/cifar10-asym40": JOINT
    | {"alpha": 0.8, "beta": 0.4, "lr_factor": pytest.approx(0.15), "prior_momentum": 0.0},
    "pencil/cifar10-sym": PENCIL
    | {"alpha": 0.4, "beta": 0.1, "label_lr": 600, "lr_factor": pytest.approx(0.3)},
    "pencil/cifar10-asym50": PENCIL
    | {"alpha": 0.0, "beta": 0.4, "label_lr": 4000, "lr_factor": pytest.approx(0.15)},
    "pencil/clothing1m": {"net__lr": 5e-4, "net__max_epochs": 25, "warmup": 5, "beta": 0.8}
    | {"alpha": 0.08, "correct_until": 15, "lr_factor": pytest.approx(3.2), "net__batch_size": 32},
    "gce/cifar10": SGD_M
    | {"net__lr": 0.01, "loss": "gce", "loss_params": {"q": 0.7}, "warmup": 0}
    | {"net__max_epochs": 120, "net__lr_schedule": Step([40, 80])},
    "truncated_gce/cifar100": SGD_M
    | {"net__lr": 0.01, "loss_params": {"q": 0.7, "k": 0.5}, "warmup": 0, "guards": False}
    | {"prune_start": 79, "prune_interval": 10, "net__lr_schedule": Step([80, 120])},
    "sce/mnist": {"net__lr": 0.1, "net__max_epochs": 50, "warmup": 0, "net__normalize": None}
    | {"loss_params": {"alpha": 0.01, "beta": 1, "log_zero": math.log(1e-4)}}
    | {
        "net__lr_schedule": KerasDecay(Step([11, 31]), 1e-4 * 469),
        "net__optimizer__weight_decay": 0,
    },
    "sce/cifar10": {"net__lr": 0.01, "net__max_epochs": 120, "warmup": 0}
    | {"loss_params": {"alpha": 0.1, "beta": 1, "log_zero": math.log(1e-4)}}
    | {"net__lr_schedule": KerasDecay(Step([41, 81]), 1e-4 * 391)},
    "sce/cifar100": {"net__lr": 0.1, "net__max_epochs": 150, "warmup": 0}
    | {"loss_params": {"alpha": 6, "beta": 0.1, "log_zero": math.log(1e-4)}}
    | {"net__lr_schedule": KerasDecay(Step([81, 121]), 5e-3 * 391), "net__module__depth": 44},
    "label_smoothing/cifar10": {"loss_params": {"smoothing": 0.1}, "warmup": 0, "net__lr": 0.01}
    | {"net__lr_schedule": KerasDecay(Step([41, 81]), 1e-4 * 391)},
    "nce+rce/mnist": CLIPPED
    | {"loss_params": {"alpha": 1, "beta": 10}, "net__lr": 0.01, "net__max_epochs": 50}
    | {"net__lr_schedule": Cosine(0.1), "net__optimizer__weight_decay": 1e-2}
    | {"net__optimizer__nesterov": True},
    "nfl+rce/cifar100": CLIPPED
    | {"loss_params": {"alpha": 10, "beta": 0.1, "gamma": 0.5, "detach_modulation": True}}
    | {"net__lr": 0.1, "net__max_epochs": 200, "net__optimizer__weight_decay": 1e-5},
    "nfl+mae/cifar10": CLIPPED
    | {"loss_params": {"alpha": 1, "beta": 0.5, "gamma": 0.5, "detach_modulation": True}},
    "nce+mae/cifar100": CLIPPED | {"loss_params": {"alpha": 10, "beta": 0.5}},
    "focal/cifar10": CLIPPED
    | {"loss_params": {"gamma": 0.5, "detach_modulation": True}, "net__lr": 0.01}
    | {"net__lr_schedule": Cosine(), "net__optimizer__weight_decay": 1e-4, "net__max_epochs": 120},
    "mae/cifar10": {"net__lr": 0.005, "net__gradient_clip": 10, "warmup": 0}
    | {"net__optimizer__weight_decay": 2e-4},
    "ngce/cifar100": CLIPPED | {"loss_params": {"q": 0.7}, "net__lr": 0.1},
    "ngce/mnist": {"net__lr": 0.1, "net__gradient_clip": 0.5, "loss_params": {"q": 0.1}}
    | {"net__optimizer__weight_decay": 1e-3},
    "agce/mnist": CLIPPED | {"loss_params": {"a": 4, "q": 0.2}},
    "nce+aul/cifar100": CLIPPED | {"loss_params": {"alpha": 10, "beta": 0.015, "a": 6, "q": 3}},
    "anl_ce/cifar10": {"loss_params": {"alpha": 5, "beta": 5, "p_min": 1e-7}, "l1": 5e-5}
    | {"net__optimizer__weight_decay": 0, "net__gradient_clip": 5.0, "warmup": 0},
    "anl_ce/cifar100": {"loss_params": {"alpha": 10, "beta": 1, "p_min": 1e-7}, "l1": 5e-7}
    | {"net__optimizer__weight_decay": 0},
    "bootstrapping/cifar10-soft": {"kind": "soft", "weight": 0.05, "detach_target": False}
    | {"warmup": 0, "net__lr_schedule": KerasDecay(Step([41, 81]), 1e-4 * 391)},
    "bootstrapping/cifar10-hard": {"kind": "hard", "weight": 0.2, "warmup": 0}
    | {"net__lr": 0.01, "net__max_epochs": 120},
    "forward/cifar10": ANCHOR
    | {"warmup": 120, "percentile": 97, "net__lr": 0.1, "net__max_epochs": 240}
    | {"net__lr_schedule": Step([41, 81]), "net__optimizer__weight_decay": 2e-4},
    "forward/cifar100": ANCHOR
    | {"warmup": 150, "percentile": None, "net__lr": 0.1, "net__max_epochs": 300}
    | {"net__lr_schedule": Step([81, 121]), "net__optimizer__weight_decay": 2e-3},
    "backward/cifar10": ANCHOR | {"warmup": 120, "percentile": 97, "net__module__depth": 32},
    "backward/mnist": ANCHOR
    | {"warmup": 40, "percentile": 97, "net__max_epochs": 80, "net__module__dropout": 0.2}
    | {"net__optimizer": torch.optim.Adagrad},
    "noise_adaptation/mnist-simple": ADAPT
    | {"channel": "simple", "top_k": None, "net__module__hidden": (500, 300)}
    | {"net__module__dropout": 0.5, "net__optimizer": torch.optim.Adam},
    "noise_adaptation/cifar100-complex": ADAPT | {"channel": "complex", "top_k": None},
    "noise_adaptation/cifar100-simple-sparse": ADAPT | {"channel": "simple", "top_k": 5},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_setting_has_the_values_of_its_paper(name):
    params, expected = SETTINGS[name].build().get_params(), PUBLISHED[name]
    assert {key: params[key] for key in expected} == expected


def test_values_of_two_settings_of_every_method_are_written_down():
    of_methods = [SETTINGS[name].method for name in PUBLISHED]
    assert {m for m in of_methods if of_methods.count(m) > 1} == set(ONE_OF_EACH)


@pytest.mark.parametrize(
    ("method", "names", "value"),
    [
        ("RobustLossClassifier", "", {"warmup": 0}),
        ("ELRClassifier", "", {"warmup": 0}),
        ("ELRPlusClassifier", "", {"warmup": 0}),
        ("MomentELRClassifier", "", {"warmup": 0, "elr_mass": False}),
        ("DivideMixClassifier", "sym90", {"guards": False, "loss_history": 5, "threshold": 0.6}),
        ("DivideMixClassifier", "-sym90", {"guards": False, "loss_history": 1, "threshold": 0.5}),
        ("NoiseAdaptationClassifier", "", {"channel_lr": 1.0, "guards": False}),
        ("ForwardCorrectionClassifier", "", {"guards": False}),
        ("BackwardCorrectionClassifier", "", {"guards": False}),
        ("MCorrectionClassifier", "", {"guards": False, "alpha": 32}),
    ],
)
def test_all_settings_of_a_method_share_what_was_published_for_all(method, names, value):
    """With a minus `names` is what a name must not end in."""
    settings = {name: s for name, s in SETTINGS.items() if s.method == method}
    if names.startswith("-"):
        settings = {n: s for n, s in settings.items() if not n.endswith(names[1:])}
    else:
        settings = {n: s for n, s in settings.items() if n.endswith(names)}
    assert settings
    for name, setting in settings.items():
        params = setting.build().get_params()
        assert {key: params[key] for key in value} == value, name


# ---- all methods -----------------------------------------------------------------------------


def test_every_method_has_a_row_in_the_comparison_and_a_counted_cost():
    classes = {cls.__name__ for cls, _ in all_methods.rows().values()}
    assert classes == set(methods.__all__)
    assert set(epoch_cost.COUNTED) >= set(methods.__all__)
    for cls, params in all_methods.rows().values():
        cls(**params)._check_parameters()


def test_only_rows_that_say_so_are_augmented():
    augmented = {row for row, (_, params) in all_methods.rows().items() if "augment" not in params}
    assert augmented == {"DivideMix", "BayesianDivideMixPP", "ManifoldDivideMix"}
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
    def broken(task, X, y):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(all_methods, "noisy_labels", broken)
        with pytest.raises(SystemExit, match="1 fits failed"):
            compare("--seeds", "0", "--methods", "CrossEntropy")
    done, page = compare("--seeds", "0", "--methods", "CrossEntropy")
    assert done[0]["error"] == "OSError: disk full"
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
