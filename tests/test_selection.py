"""How often a sample was selected, and what breaks the ties."""

import pytest
import torch

from noisyfit._selection import SelectionRecord

CPU = torch.device("cpu")


def record():
    """Row 0 selected in two of two passes, row 1 half in both, row 2 never, row 3 not seen."""
    record = SelectionRecord(4, CPU)
    for epoch in range(20, 22):
        assert record.open_in_last_epochs(epoch, 30)
        record.add(torch.tensor([0, 1, 2]), torch.tensor([1.0, 0.5, 0.0]))
    return record


def test_only_the_last_ten_epochs_count():
    counts = SelectionRecord(1, CPU)
    for epoch in range(30):
        assert counts.open_in_last_epochs(epoch, 30) is (epoch >= 20)
        counts.add(torch.tensor([0]), torch.tensor([1.0 if epoch == 20 else 0.0]))
    assert counts.frequency(torch.zeros(1)).item() == pytest.approx(0.1)


def test_rows_that_were_not_seen_have_their_history():
    history = torch.tensor([0.2, 0.2, 0.2, 0.7])
    torch.testing.assert_close(record().frequency(history), torch.tensor([1.0, 0.5, 0.0, 0.7]))


def test_the_history_is_one_more_epoch():
    history = torch.tensor([0.2, 0.8, 1.0, 0.7])
    expected = torch.tensor([10.2, 5.8, 1.0, 7.7]) / 11
    torch.testing.assert_close(record().clean_proba(history), expected)


def test_a_record_that_is_closed_does_not_count():
    counts = record()
    counts.is_open = False
    counts.add(torch.tensor([2]), torch.tensor([1.0]))
    assert counts.frequency(torch.zeros(4))[2] == 0
