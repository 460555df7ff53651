"""The script that measures where the time of an epoch goes."""

import json
import math
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from noisyfit import _base, _run
from noisyfit._learner import Learner

SCRIPTS = Path(__file__).parents[1] / "examples" / "benchmarks"
sys.path.insert(0, str(SCRIPTS))
speed, passes, epoch_cost = (__import__(name) for name in ("speed", "_passes", "epoch_cost"))
sys.path.remove(str(SCRIPTS))

SMALL = speed.Problem(rows=160, batch_size=32)
EPOCHS = speed.SECOND + 3
ONE_NETWORK, TWO_NETWORKS = "CrossEntropyClassifier", "DivideMixClassifier"
CPU = torch.device("cpu")


def watched(name, problem=SMALL, clock=None):
    """A method in its last stage, and what its next epoch did."""
    paused = speed.start(name, problem, EPOCHS)
    with passes.Seams(paused.run, clock) as seams:
        paused.one_epoch()
    return paused, seams


def replayed(paused, seams):
    """Rows that the first batch norms of the bare modules saw in a second replay.

    And whether they trained while they saw rows without gradient.
    """
    bare = passes.Bare(paused.run, seams)
    bare.prepare(seams)
    bare.replay(seams.events)
    rows, modes = dict.fromkeys(("forward", "gradient"), 0), set()

    def count(layer, inputs):
        rows["gradient" if torch.is_grad_enabled() else "forward"] += len(inputs[0])
        if not torch.is_grad_enabled():
            modes.add(layer.training)

    for learner in paused.run.learners:
        layers = bare.modules[learner.module].modules()
        next(m for m in layers if isinstance(m, nn.BatchNorm2d)).register_forward_pre_hook(count)
    bare.replay(seams.events)
    return rows, modes


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """What a tiny run writes."""
    file, threads = tmp_path_factory.mktemp("speed") / "speed.json", torch.get_num_threads()
    size = ["--rows", "160", "--batch-size", "32", "--rounds", "1"]
    speed.main([*size, "--json", str(file), "--methods", ONE_NETWORK, TWO_NETWORKS])
    torch.set_num_threads(threads)
    return json.loads(file.read_text())


def test_run_gives_every_figure_of_every_method(figures):
    assert [row["method"] for row in figures["rows"]] == ["CrossEntropy", "DivideMix"]
    for row in figures["rows"]:
        assert set(row["parts"]) == {"data", "passes", "evaluation", "mixture", "other"}
        for key in ("seconds", "bare_seconds", "ratio"):
            assert 0 < row[key]["min"] <= row[key]["median"] <= row[key]["max"]
        assert row["images_per_second"] == pytest.approx(160 / row["seconds"]["median"])
        assert row["ratio"]["median"] == pytest.approx(
            row["seconds"]["median"] / row["bare_seconds"]["median"]
        )
        assert row["gflop"] > 0
        n_steps = 5 if row["method"] == "CrossEntropy" else row["rows"]["gradient"] / 64
        of_steps = sum(row["parts"][part]["median"] for part in ("data", "passes", "other"))
        assert row["step_seconds"]["median"] == pytest.approx(of_steps / n_steps, rel=0.2)
        assert row["share_of_peak"] > 0
        assert row["memory_mb"] is None
    assert set(figures["mixture_seconds"]) == {"DivideMix", "Manifold DivideMix", "M-correction"}
    assert figures["machine"]["precision"] == "float32"
    assert figures["machine"]["rounds"] == 1


def test_parts_exclude_each_other(figures):
    plain, divided = (row["parts"] for row in figures["rows"])
    assert all(part["min"] >= 0 for parts in (plain, divided) for part in parts.values())
    assert plain["evaluation"]["max"] == plain["mixture"]["max"] == 0
    assert all(part["min"] > 0 for part in divided.values())
    assert max(divided, key=lambda part: divided[part]["median"]) == "passes"


def test_time_inside_a_part_is_counted_once():
    clock = passes.Clock(CPU)
    start = time.process_time()
    with clock("evaluation"), clock("data"):
        sum(range(100_000))
    whole = time.process_time() - start
    assert clock.seconds["data"] == 0
    assert 0 < sum(clock.seconds.values()) <= whole


def test_plain_training_passes_every_row_once():
    paused, seams = watched(ONE_NETWORK)
    assert passes.counted(seams.events) == {"forward": 0, "gradient": 160}
    assert replayed(paused, seams) == ({"forward": 0, "gradient": 160}, set())
    kinds = [kind for kind, *_ in seams.events]
    assert kinds == ["gather", "view", "forward", "step"] * 5


def test_dividemix_passes_what_is_counted():
    paused, seams = watched(TWO_NETWORKS)
    rows = passes.counted(seams.events)
    assert replayed(paused, seams) == (rows, {False, True})
    row = paused.run.history[-1]
    labelled, size = [row["n_labelled_1"], row["n_labelled_2"]], 16
    assert max(labelled) <= 160 - size  # a full batch of unlabelled rows for each of labelled ones
    n_batches = sum(math.ceil(count / size) for count in labelled)
    assert rows["gradient"] == 2 * sum(labelled) + 2 * size * n_batches
    assert rows["forward"] == 2 * sum(labelled) + 4 * size * n_batches + 2 * 160
    cost = (rows["forward"] + 3 * rows["gradient"]) / (3 * 160)
    not_full = 10 * (size * n_batches - sum(labelled)) / (3 * 160)
    assert cost - not_full == pytest.approx(epoch_cost.division(row, 160))


@pytest.mark.parametrize(
    ("name", "modes"), [("MCorrectionClassifier", {False, True}), ("BayesianDivideMixPP", {False})]
)
def test_replay_passes_the_same_rows_in_the_same_mode(name, modes):
    paused, seams = watched(name)
    assert replayed(paused, seams) == (passes.counted(seams.events), modes)


def test_replay_of_manifold_dividemix_passes_rows_through_encoder_and_layer():
    paused, seams = watched("ManifoldDivideMixClassifier")
    rows = passes.counted(seams.events)
    assert replayed(paused, seams) == (rows, {False})
    cost = (rows["forward"] + 3 * rows["gradient"]) / (3 * 160)
    counted = epoch_cost.manifold_division(paused.run.history[-1], 160)
    assert counted <= cost <= counted + 14 * 16 / (3 * 160)


def test_replay_takes_a_step_of_each_network_on_its_own_loss():
    paused, seams = watched("CoTeachingClassifier")
    bare = passes.Bare(paused.run, seams)
    bare.prepare(seams)
    before = [p.clone() for module in bare.modules.values() for p in module.parameters()]
    bare.replay(seams.events)
    after = [p for module in bare.modules.values() for p in module.parameters()]
    assert len(bare.optimizers) == 2
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    trained = {id(p) for learner in paused.run.learners for p in learner.module.parameters()}
    assert trained.isdisjoint(map(id, after))


def test_operations_of_a_network_of_known_size():
    paused, seams = watched(ONE_NETWORK, speed.Problem(rows=100, batch_size=50))
    bare = passes.Bare(paused.run, seams)
    bare.prepare(seams)
    convolutions = 16 * 16 * 16 * 27 + 16 * 16 * 32 * 144 + 8 * 8 * 64 * 288
    forward = 2 * (convolutions + 64 * 64 * 128 + 128 * 10)
    first = 2 * 16 * 16 * 16 * 27  # which needs no gradient of its input
    assert bare.flops(seams.events) == 100 * (3 * forward - first)


def test_library_is_as_before_behind_the_seams():
    paused = speed.start(ONE_NETWORK, SMALL, EPOCHS)
    before = _run.Run.view, _run.forward_all, _base.forward_all, Learner.forward
    with passes.Seams(paused.run, passes.Clock(CPU)):
        assert _run.Run.view is not before[0]
        assert _base.forward_all is not before[2]
    assert (_run.Run.view, _run.forward_all, _base.forward_all, Learner.forward) == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--device", "gpu7"], "device='gpu7' cannot be used on this machine"),
        (["--device", "meta"], "--device must be cpu, cuda or auto, got 'meta'."),
        (["--rows", "few"], "an integer from 100 on is needed, got 'few'"),
        (["--width", "8"], "--width is a parameter of PreActResNet18, not of SmallCNN."),
        (["--rounds", "0"], "an integer from 1 on is needed, got '0'"),
        (["--json", "no/such/folder.json"], "no/such is no folder that can be written to."),
    ],
)
def test_bad_option_is_one_sentence(options, sentence, capsys):
    with pytest.raises(SystemExit):
        speed.arguments(options)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f" error: {sentence}" in error or f": {sentence}" in error
