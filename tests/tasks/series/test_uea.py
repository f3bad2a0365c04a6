"""Sets that are unlike the packaged one: constant channels, series of one step, other padded lengths."""

import pytest
import torch

from blockzoo.__main__ import main
from blockzoo.tasks.series.augment import time_warp
from blockzoo.tasks.series.ts_files import read_ts
from blockzoo.tasks.series.uea import JapaneseVowels, UEASeries

CONSTANT = "@classLabel true a b\n@data\n1,2,3:5,5,5:a\n4,5:5,5:b\n"


def test_a_constant_channel_is_centred_and_stays_finite(tmp_path):
    (tmp_path / "x.ts").write_text(CONSTANT)
    data = UEASeries(str(tmp_path / "x.ts"), str(tmp_path / "x.ts"), val_fraction=0.0)
    data.setup("fit")
    x = data.datasets["train"].x
    assert torch.isfinite(x).all() and x[..., 1].abs().max() == 0
    assert data.preprocessing["std"] == pytest.approx([2**0.5, 1.0])


def test_recorded_mean_and_std_prepare_a_series_as_the_data_module_does():
    data = JapaneseVowels()
    data.setup("predict")
    mean, std = (torch.tensor(data.preprocessing[key]) for key in ("mean", "std"))
    raw, mask = data.read()[1].padded(29)
    torch.testing.assert_close((raw - mean) / std * mask[..., None], data.datasets["test"].x, rtol=0, atol=0)


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_every_stage_prepares_the_same_values(stage):
    data, again = JapaneseVowels(), JapaneseVowels(batch_size=3)
    data.setup("fit")
    again.setup(stage)
    assert set(again.datasets) == {"train", "val", "test"}
    assert all(torch.equal(data.datasets[name].x, again.datasets[name].x) for name in data.datasets)


def test_a_longer_padding_adds_zeros_only():
    short, long = JapaneseVowels(), JapaneseVowels(seq_len=40)
    short.setup("fit")
    long.setup("fit")
    x = long.datasets["test"].x
    assert torch.equal(x[:, :29], short.datasets["test"].x) and x[:, 29:].abs().max() == 0
    with pytest.raises(ValueError, match=r"seq_len=20 is shorter than the longest series"):
        JapaneseVowels(seq_len=20).setup("fit")


def test_evaluation_sees_every_series_once_in_order_and_training_in_another_order():
    data = JapaneseVowels(batch_size=50)
    data.setup("fit")
    seen = [torch.cat([batch["index"] for batch in loader()]) for loader in (data.val_dataloader, data.test_dataloader)]
    assert [index.tolist() for index in seen] == [list(range(27)), list(range(370))]
    first, second = (torch.cat([batch["index"] for batch in data.train_dataloader()]) for _ in range(2))
    assert sorted(first.tolist()) == list(range(243)) and not torch.equal(first, second)


def test_a_series_of_one_step_is_warped_to_a_constant():
    x = torch.zeros(1, 6, 1)
    x[0, 0] = 3.0
    warped, mask = time_warp(x, torch.tensor([[1.0, 0, 0, 0, 0, 0]]), torch.tensor([4.0]))
    assert warped.flatten().tolist() == [3.0] * 4 + [0.0] * 2 and mask.sum() == 4


def test_ts_files_as_others_write_them(tmp_path, capsys):
    path = tmp_path / "x.ts"
    head = "% a comment\n@timeStamps false\n@classLabel true walking fast sitting\n@data\n"
    path.write_text(head + "1,?,3:4,5,NaN:walking fast\n7,8,9:1,1,1:sitting\n")
    found = read_ts(path)
    assert found.class_names == ("walking fast", "sitting") and found.labels.tolist() == [0, 1]
    assert found.values[:3].tolist() == [[1, 4], [2, 5], [3, 5]]
    path.write_text("@classLabel true a b\n@data\n(2004-01-01 00:00:00,1.5),(2004-01-01 01:00:00,2):b\n")
    found = read_ts(path)
    assert found.values[:, 0].tolist() == [1.5, 2] and found.labels.tolist() == [1]
    path.write_text("@classLabel true a b\n@data\n?,?:b\n")
    with pytest.raises(ValueError, match="line 3: a channel without a value"):
        read_ts(path)
    path.write_text("@classLabel true a b\n@data\n1,2:a\n")
    assert main(["package", "uea", str(path), str(path), "--out", str(path)]) == 2
    assert path.read_text().startswith("@classLabel") and "is an input too" in capsys.readouterr().err
    path.write_text("@classLabel true a b\n@data\n1,2:c\n")
    with pytest.raises(ValueError, match="line 3: label 'c' is not among 'a', 'b'"):
        read_ts(path)
