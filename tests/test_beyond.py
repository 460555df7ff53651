"""The benchmark of what goes beyond DivideMix, as a script with workers, on made images."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.test_datasets import N_BATCH, write_cifar10_batches

SCRIPT = Path(__file__).parents[1] / "examples" / "benchmarks" / "beyond.py"


def run(*words):
    """The ended script."""
    command = [str(word) for word in (sys.executable, SCRIPT, *words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_missing_data_are_one_sentence_and_nothing_is_written(tmp_path):
    (tmp_path / "out").mkdir()
    out = tmp_path / "out"
    ran = run("--data", tmp_path, "--results", out / "r.jsonl", "--doc", out / "p.md")
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"No CIFAR-10 in '{tmp_path}'")
    assert len(ran.stderr.splitlines()) == 1
    assert not [*out.iterdir()]


def test_two_workers_train_encoders_and_fits_and_the_page_is_written(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (6 * N_BATCH, 32, 32, 3), dtype=np.uint8)
    write_cifar10_batches(tmp_path, X, np.arange(len(X)) % 4)
    n = 5 * N_BATCH
    ran = run(
        *("--data", tmp_path, "--images", n - 4, "--unlabelled", n),
        *("--epochs", 1, "--pretraining-epochs", 1, "--seeds", 0, "--noises", "sym-0.5"),
        *("--methods", "plain training", "plain training, pre-trained"),
        *("--results", tmp_path / "r.jsonl", "--doc", tmp_path / "p.md"),
        *("--encoders", tmp_path / "encoders"),
    )
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    names = ["encoder", "plain training", "plain training, pre-trained"]
    assert sorted(line["method"] for line in lines) == names
    assert not [line["error"] for line in lines if "error" in line]
    page = (tmp_path / "p.md").read_text()
    assert "plain training, pre-trained |" in page
