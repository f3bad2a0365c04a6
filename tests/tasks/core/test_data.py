"""Series sets, splits, standardisation, augmentation, parameter groups and schedules."""

import pytest
import torch

import blockzoo
from blockzoo.tasks.core.optim import cosine_schedule, parameter_groups
from blockzoo.tasks.core.split import stratified_split
from blockzoo.tasks.series.augment import SeriesAugment, time_warp
from blockzoo.tasks.series.ts_files import read_series_set, read_ts, write_series_set
from blockzoo.tasks.series.uea import JapaneseVowels, UEASeries

TS = """#comment
@problemName x
@classLabel true red blue
@data
1,2,3:4,5,6:red
7,8:9,10:blue
"""


@pytest.fixture
def ts(tmp_path):
    def write(text=TS, name="x.ts"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_the_text_format_is_read_and_survives_conversion(ts, tmp_path):
    series = read_ts(ts())
    assert series.lengths.tolist() == [3, 2] and series.labels.tolist() == [0, 1]
    x, mask = series.padded(4)
    assert x[1].tolist() == [[7, 9], [8, 10], [0, 0], [0, 0]] and mask[1].tolist() == [1, 1, 0, 0]
    write_series_set({"train": series, "test": series}, tmp_path / "s.safetensors")
    again = read_series_set(tmp_path / "s.safetensors", "test")
    assert again.values.equal(series.values) and again.class_names == ("red", "blue")
    with pytest.raises(ValueError, match="split='dev' is not in"):
        read_series_set(tmp_path / "s.safetensors", "dev")
    with pytest.raises(ValueError, match=r"seq_len=2 is shorter than the longest series \(3 steps\)"):
        series.padded(2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TS.replace("7,8", "7,x"), "line 6: could not convert string to float: 'x'"),
        (TS.replace("7,8", "7,8,9"), "line 6: expected sequence of length 3"),
        (TS.replace(":blue", ":green"), "line 6"),
        ("@data\n1:red\n", "data before an @classLabel header"),
        ("@classLabel true a\n", "no series"),
    ],
)
def test_bad_lines_are_named(ts, text, message):
    with pytest.raises(ValueError, match=message):
        read_ts(ts(text))


def test_the_packaged_set_is_the_published_one():
    train, test = JapaneseVowels().read()
    assert (len(train), len(test), train.values.shape[1], int(test.lengths.max())) == (270, 370, 12, 29)
    assert train.labels.bincount().tolist() == [30] * 9
    assert test.labels.bincount().tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]


def test_splits_are_stratified_disjoint_and_repeatable():
    labels = torch.arange(90) % 9
    first, second = stratified_split(labels, 0.2, seed=3)
    assert labels[second].bincount().tolist() == [2] * 9
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(90))
    assert stratified_split(labels, 0.2, seed=3)[1].equal(second)
    assert not stratified_split(labels, 0.2, seed=4)[1].equal(second)
    with pytest.raises(ValueError, match="val_fraction=1.0"):
        stratified_split(labels, 1.0, 0)
    for fraction, part in ((0.01, "validation"), (0.99, "training")):
        with pytest.raises(ValueError, match=f"val_fraction={fraction} leaves no {part} sample of 90"):
            stratified_split(labels, fraction, 0)
    assert len(stratified_split(labels, 0.0, 0)[1]) == 0


def test_standardisation_is_fitted_on_the_training_part_alone():
    data = JapaneseVowels(val_fraction=0.2)
    data.setup("fit")
    x, mask = data.datasets["train"].x, data.datasets["train"].mask
    real = x[mask > 0]
    torch.testing.assert_close(real.mean(0), torch.zeros(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(real.std(0, correction=0), torch.ones(12), atol=1e-5, rtol=0)
    assert x[mask == 0].abs().max() == 0
    test = data.datasets["test"].x[data.datasets["test"].mask > 0]
    assert test.mean(0).abs().max() > 0.01
    other = JapaneseVowels(val_fraction=0.0)
    other.setup("fit")
    assert len(other.datasets["train"]) == 270 and other.val_dataloader() == []
    assert not torch.equal(other.mean, data.mean)


def test_any_ts_files_make_a_data_module(ts):
    data = UEASeries(ts(), ts(name="y.ts"), val_fraction=0.0, batch_size=2)
    data.setup("fit")
    batch = next(iter(data.test_dataloader()))
    assert batch["x"].shape == (2, 3, 2) and batch["index"].tolist() == [0, 1]
    assert data.preprocessing["label_names"] == ["red", "blue"]


@pytest.fixture
def batch():
    lengths = torch.tensor([4, 7, 10])
    mask = (torch.arange(10) < lengths[:, None]).float()
    return torch.randn(3, 10, 2) * mask[..., None], mask, torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    "amounts",
    [{"time_warp": 0.5}, {"jitter": 1.0}, {"channel_shift": 1.0}, {"scale": 0.5}, {"mixup": 0.5}, {}],
)
def test_augmentation_leaves_padding_alone_and_follows_the_seed(batch, amounts):
    augment = SeriesAugment(3, **amounts)
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(augment(*batch))
    x, mask, target = results[0]
    assert all(a.equal(b) for a, b in zip(*results, strict=True))
    assert x[mask == 0].abs().sum() == 0 and x.equal(batch[0]) == (not amounts)
    torch.testing.assert_close(target.sum(1), torch.ones(3))


def test_warping_keeps_the_ends_and_straight_lines():
    x = torch.zeros(1, 12, 1)
    x[0, :5, 0] = torch.arange(5.0)
    mask = (torch.arange(12) < 5).float()[None]
    for length in (2, 5, 9, 12):
        warped, new = time_warp(x, mask, torch.tensor([length]))
        assert new.sum() == length
        torch.testing.assert_close(warped[0, :length, 0], torch.linspace(0, 4, length))
        assert warped[0, length:].abs().sum() == 0


def test_bad_amounts_are_named():
    with pytest.raises(ValueError, match="jitter=-1"):
        SeriesAugment(3, jitter=-1)
    with pytest.raises(ValueError, match="time_warp=1 must be at least 0, and below 1"):
        SeriesAugment(3, time_warp=1)


def test_groups_exempt_biases_and_norms_and_follow_the_layers():
    model = blockzoo.create_model("timesnet_classifier", d_model=4, d_ff=4)
    groups = {group["weight_decay"]: group["params"] for group in parameter_groups(model, 0.1)}
    assert all(parameter.ndim == 1 for parameter in groups[0.0]) and all(p.ndim > 1 for p in groups[0.1])
    layered = parameter_groups(model, 0.1, layer_decay=0.5)
    assert sum(len(group["params"]) for group in layered) == len(list(model.parameters()))
    assert len({group["lr_scale"] for group in layered}) >= 4


def test_the_schedule_warms_up_and_comes_down():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = cosine_schedule(optimizer, 100, warmup_fraction=0.1, min_lr_ratio=0.05)
    rates = []
    for _ in range(130):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] < 0.2 and max(rates) == pytest.approx(2.0) and rates.index(max(rates)) == 10
    assert rates[100:] == pytest.approx([0.1] * 30)
    with pytest.raises(ValueError, match="warmup_fraction=1"):
        cosine_schedule(optimizer, 10, warmup_fraction=1)
