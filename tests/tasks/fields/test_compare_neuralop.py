"""The comparison with neuraloperator, for which it need not be installed, and where it is."""

import json
import sys

import pytest

from blockzoo.__main__ import main
from blockzoo.tasks.fields.compare_neuralop import train_reference


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "neuralop", None)
    with pytest.raises(ImportError, match="needs neuraloperator, 'pip install neuraloperator==2.0.0'"):
        train_reference(0)


@pytest.mark.filterwarnings("default")
def test_the_reference_trains_at_the_same_size(tmp_path):
    pytest.importorskip("neuralop", reason="the comparison needs neuraloperator")
    out = tmp_path / "theirs.json"
    main(["science", "compare-neuralop", "--seeds", "0", "--epochs", "1", "--val-size", "960", "--out", str(out)])
    report = json.loads(out.read_text())
    (row,) = report["runs"]
    assert row["parameters"] == 520_761
    assert 0.2 < row["l2"] < 1.2 and 0.2 < row["val"] < 1.2
    assert report["last"]["median"] == row["l2"]
