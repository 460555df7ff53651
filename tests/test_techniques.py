"""The script that takes the techniques of the fast path away one by one, and results files."""

import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from noisyfit import _run
from noisyfit._data import TensorData

SCRIPTS = Path(__file__).parents[1] / "examples" / "benchmarks"
sys.path.insert(0, str(SCRIPTS))
techniques, results = (__import__(name) for name in ("techniques", "_results"))
sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def sides():
    problem = techniques.Problem(rows=60, batch_size=32)
    return techniques.cases(problem, 12, with_compile=False)


def test_every_side_runs_an_epoch_and_leaves_the_library_as_it_was(sides):
    before = _run.forward_all, TensorData.__dict__["evaluation_size"]
    tiny = torch.tensor(1e-40)
    for name, side in sides.items():
        n_epochs = len(side.method.run.history)
        assert side() > 0, name
        assert len(side.method.run.history) == n_epochs + 1
        row = side.method.run.history[-1]
        assert row["n_labelled_1"] == row["n_labelled_2"] == 30, name
        assert (_run.forward_all, TensorData.__dict__["evaluation_size"]) == before
        assert tiny * 1 > 0, name


def test_a_side_differs_in_what_its_name_says(sides):
    def learner(name):
        return sides[name].method.run.learners[0]

    def is_channels_last(name):
        weight = next(
            p for p in learner(name).module.parameters() if p.ndim == 4 and p.shape[1] > 1
        )
        return weight.is_contiguous(memory_format=torch.channels_last)

    assert is_channels_last(techniques.USUAL)
    assert not is_channels_last("without channels_last")
    assert learner(techniques.USUAL).dtype is None
    assert learner("training in bfloat16").dtype is torch.bfloat16
    fused = [
        learner(k).optimizers[0].defaults["fused"] for k in ("as it is", "SGD not in one kernel")
    ]
    assert fused == [True, False]
    assert sides["guesses in evaluation mode"].method.run.memory.guess_in_eval
    assert not sides[techniques.USUAL].method.run.memory.guess_in_eval


def test_an_accelerator_gets_what_is_for_accelerators(monkeypatch):
    given = techniques.arguments(["--device", "cpu"])[0]
    assert techniques.problem_of(given, torch.device("cpu")).width == 16
    problem = techniques.problem_of(given, torch.device("cuda"))
    assert (problem.width, problem.rows, problem.device) == (None, 50_000, "cuda")
    monkeypatch.setattr(techniques, "Case", lambda *contexts, **options: contexts)
    sides = techniques.cases(problem, 12, with_compile=True)
    assert "denormal numbers flushed" not in sides
    assert "torch.compile" in sides
    monkeypatch.setattr(techniques.cudnn, "deterministic", True)
    (context,) = sides["kernels that need not repeat"][2:]
    with context():
        assert not techniques.cudnn.deterministic
    assert techniques.cudnn.deterministic


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--device", "gpu7"], "device='gpu7' cannot be used on this machine"),
        (["--device", "meta"], "--device must be cpu, cuda or auto, got 'meta'."),
        (["--net", "SmallCNN", "--width", "8"], "--width is a parameter of PreActResNet18"),
        (["--rows", "3"], "an integer from 100 on is needed, got '3'"),
    ],
)
def test_bad_option_is_one_sentence(options, sentence, capsys):
    with pytest.raises(SystemExit):
        techniques.arguments(options)
    assert sentence in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("size", techniques.SIZES)
def test_evaluation_takes_batches_of_the_given_size(size):
    data = TensorData(torch.zeros(5000, 1, 8, 8), None, torch.device("cpu"))
    with techniques.evaluated_in_batches(size):
        assert len(next(iter(data.batches(data.evaluation_size))).x) == size


def test_evaluation_in_bfloat16_changes_the_losses(sides):
    method = sides[techniques.USUAL].method
    exact = method.run.evaluate(method.run.learners[0])
    with techniques.evaluated_in(torch.bfloat16):
        coarse = method.run.evaluate(method.run.learners[0])
    assert 0 < (exact - coarse).abs().max() < 0.5


class Task(NamedTuple):
    noise: str
    seed: int


@pytest.mark.parametrize("line", ['{"noise": "a"}', "[1]", "no json"])
def test_a_results_file_of_another_version_is_refused_and_left_alone(tmp_path, line):
    path = tmp_path / "results.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(SystemExit, match=r"results\.jsonl is of another version"):
        results.read(path, Task)
    assert path.read_text() == line + "\n"


def test_a_later_line_of_a_results_file_replaces_an_earlier_one(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(
        '{"noise": "a", "seed": 0, "last": 1}\n{"noise": "a", "seed": 0, "last": 2}\n'
        '{"noise": "b", "seed": 0, "error": "it broke"}\n'
    )
    assert results.read(path, Task) == {Task("a", 0): {"last": 2}}
