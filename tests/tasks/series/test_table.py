"""Tables of series: every problem is named by line and column, nothing is dropped, dates make a grid."""

import bz2
import gzip
import lzma
import zipfile

import numpy as np
import pandas as pd
import pytest

from blockzoo.tasks.series.calendar import calendar_features, calendar_seasons, time_freq_of
from blockzoo.tasks.series.table import Reading, read_table
from blockzoo.tasks.series.time_axis import future_dates, past_dates


@pytest.fixture
def table(tmp_path):
    """Writes a file and reads it."""

    def read(text, **options):
        (tmp_path / "s.csv").write_text(text)
        return read_table(tmp_path / "s.csv", **options)

    return read


def test_values_dates_and_lines_are_those_of_the_file(table):
    found = table("date,a,b\n2024-01-01 00:00,1,2.5\n\n2024-01-01 01:00,-3e2, 4 \n")
    assert found.columns == ("a", "b") and found.values.tolist() == [[1, 2.5], [-300, 4]]
    assert found.lines.tolist() == [2, 4]
    assert found.dates.tolist() == np.array(["2024-01-01T00", "2024-01-01T01"], "datetime64[ms]").tolist()


@pytest.mark.parametrize("cell", ["", "NA", "n/a", "NaN", "null", "None", "?", "-9999"])
def test_holes_are_missing_and_counted(table, cell):
    found = table(f"date,a,b\n2024-01-01,1,2\n2024-01-02,{cell},4\n", missing_values=["-9999"])
    assert np.isnan(found.values[1, 0]) and found.missing == {"a": 1}
    assert "2 steps, 2 channels, 1 missing values (a 1)" in found.report()


def test_left_out_rows_become_missing_steps(table):
    found = table("date,a\n2024-01-01,1\n2024-01-02,2\n2024-01-05,5\n2024-01-06,6\n")
    assert found.lines.tolist() == [2, 3, 0, 0, 4, 5] and np.isnan(found.values[2:4]).all()
    assert str(found.dates[3]) == "2024-01-04T00:00:00.000" and "2 steps without a row" in found.report()


def test_months_are_equal_steps(table):
    ends = "date,a\n2023-12-31,1\n2024-01-31,2\n2024-02-29,3\n2024-04-30,5\n"
    found = table(ends)
    assert [str(date)[:10] for date in found.dates] == [
        "2023-12-31", "2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30",
    ]  # fmt: skip
    assert [str(date)[:10] for date in future_dates(found.dates, 2)] == ["2024-05-31", "2024-06-30"]
    quarters = table("date,a\n2024-01,1\n2024-04,2\n2024-07,3\n")
    assert [str(date)[:10] for date in future_dates(quarters.dates, 3)] == ["2024-10-01", "2025-01-01", "2025-04-01"]
    assert [str(date)[:10] for date in past_dates(quarters.dates, 2)] == ["2023-07-01", "2023-10-01"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("date,a\n2024-01-01,1\n2024-01-02,x\n", "line 3, column 'a': 'x' is not a finite number"),
        ("date,a\n2024-01-01,1\n2024-01-02,inf\n", "line 3, column 'a': 'inf' is not a finite number"),
        ("date,a\n2024-01-01,1_000\n", "line 2, column 'a': '1_000' is not a finite number"),
        ('date,a\n2024-01-01,"3,5"\n', "line 2, column 'a': '3,5' is not a finite number"),
        ('date,a\n2024-01-01,1\n"2024-01-02",2\n\n2024-01-03,true\n', "line 5, column 'a': 'true'"),
        ("date,a\n2024-01-01,1\nyesterday,2\n", "line 3, column 'date': 'yesterday' is not like the first one"),
        ("date,a\n2024-01-01,1\n,2\n", "line 3, column 'date': '' is not like the first one"),
        ("date,a\n01/02/2024,1\n", "line 2, column 'date': '01/02/2024' is not a date in a known format; date_format"),
        ("date,a\n2024-02-30,1\n", "line 2, column 'date': '2024-02-30'"),
        (
            "date,a\n2024-01-01,1\n2024-01-02,1\n2024-01-02,2\n",
            "line 4, column 'date': the date repeats that of line 3",
        ),
        ("date,a\n2024-01-01,1\n2024-01-02,1\n2023-01-03,2\n", "line 4, column 'date': the date 2023-01-03"),
        (
            "date,a\n2024-01-01 00:00,1\n2024-01-01 01:00,1\n2024-01-01 02:00,1\n2024-01-01 02:31,1\n",
            "line 5, column 'date': 2024-01-01T02:31:00.000 is not a whole number of steps",
        ),
        ("date,a\n2024-01-01,1\n2024-01-02,1\n2204-01-03,1\n", "line 4, column 'date': 65743 steps are missing"),
        ("date,a\n2024-01-01,1,7\n", "line 2: 3 cells, but the header has 2"),
        ("day,a\n2024-01-01,1\n", "line 1: no column 'date'; there are 'day', 'a'"),
        ("date,a,a\n2024-01-01,1,2\n", "line 1: 2 columns are named 'a'"),
        ("date;a\n2024-01-01;1\n", "line 1: one column 'date;a' with delimiter=','"),
        ("date,a\n", "no rows below the header"),
        ("date\n2024-01-01\n", "no column besides 'date'"),
    ],
)
def test_what_does_not_fit_is_named(table, text, said):
    with pytest.raises(ValueError, match="s.csv") as caught:
        table(text)
    assert said in str(caught.value)


def test_only_chosen_columns_are_read(table):
    found = table("date,station,b\n2024-01-01,north,2\n", columns=["b"])
    assert found.columns == ("b",) and found.values.tolist() == [[2]]


def test_a_format_settles_ambiguous_dates_and_offsets_become_utc(table):
    found = table("date,a\n01/02/2024,1\n", date_format="%d/%m/%Y")
    assert str(found.dates[0])[:10] == "2024-02-01"
    found = table("date,a\n2024-01-01T02:00:00+02:00,1\n2024-01-01T03:00:00+02:00,1\n")
    assert str(found.dates[0]) == "2024-01-01T00:00:00.000"


def test_irregular_dates_are_refused_or_ignored_on_request(table):
    text = "date,a\n2024-01-01,1\n2024-01-02,2\n2024-01-03,3\n2024-01-02,4\n2024-01-09,5\n"
    found = table(text, irregular="ignore")
    assert len(found.values) == 5 and found.irregular_steps == 2 and "2 irregular distances" in found.report()
    with pytest.raises(ValueError, match="line 4, column 'date'.*does not follow"):
        table("date,a\n2024-01-01,1\n2024-01-02,2\n2024-01-04,3\n2024-01-05,3\n", irregular="error")
    with pytest.raises(ValueError, match="irregular='drop' must be"):
        table(text, irregular="drop")


def test_calendar_features_are_the_closed_forms():
    dates = np.array(["2024-12-30T23:59:58", "2020-02-29T00:00:00", "2021-01-03T12:30:00"], "datetime64[ms]")
    second, minute, hour, weekday, day, yearday = calendar_features(dates, "s").T
    np.testing.assert_allclose(second, np.array([58, 0, 0]) / 59 - 0.5, atol=1e-7)
    np.testing.assert_allclose(minute, np.array([59, 0, 30]) / 59 - 0.5, atol=1e-7)
    np.testing.assert_allclose(hour, np.array([23, 0, 12]) / 23 - 0.5, atol=1e-7)
    np.testing.assert_allclose(weekday, np.array([0, 5, 6]) / 6 - 0.5, atol=1e-7)  # Monday, Saturday, Sunday
    np.testing.assert_allclose(day, np.array([29, 28, 2]) / 30 - 0.5, atol=1e-7)
    np.testing.assert_allclose(yearday, np.array([364, 59, 2]) / 365 - 0.5, atol=1e-7)
    # ISO weeks: 2024-12-30 belongs to week 1 of 2025, 2021-01-03 to week 53 of 2020
    np.testing.assert_allclose(calendar_features(dates, "w")[:, 1], np.array([0, 8, 52]) / 52 - 0.5, atol=1e-7)
    np.testing.assert_allclose(calendar_features(dates, "m")[:, 0], np.array([11, 1, 0]) / 11 - 0.5, atol=1e-7)
    for freq, count in (("t", 5), ("h", 4), ("d", 3)):
        np.testing.assert_array_equal(calendar_features(dates, freq), calendar_features(dates, "s")[:, 6 - count :])
    with pytest.raises(ValueError, match="time_freq='y' must be one of"):
        calendar_features(dates, "y")


def test_iso_weeks_and_weekdays_agree_with_python_over_centuries():
    dates = np.arange("1899-12-25", "2101-01-10", 17, dtype="datetime64[D]")
    weeks = np.array([date.isocalendar().week for date in dates.tolist()])
    np.testing.assert_allclose(calendar_features(dates, "w")[:, 1], (weeks - 1) / 52 - 0.5, atol=1e-6)
    weekdays = np.array([date.weekday() for date in dates.tolist()])
    np.testing.assert_allclose(calendar_features(dates, "d")[:, 0], weekdays / 6 - 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "freq"), [("1s", "s"), ("10m", "t"), ("1h", "h"), ("1D", "d"), ("7D", "w"), ("30D", "m")]
)
def test_the_frequency_of_dates_is_found(step, freq):
    size = np.timedelta64(int(step[:-1]), step[-1])
    assert time_freq_of(np.datetime64("2024-01-01T00:00:00") + np.arange(5) * size) == freq


def test_offsets_come_back_and_the_calendar_is_local(table):
    found = table("date,a\n2024-04-03T22:00-04:00,1\n2024-04-03T23:00-04:00,2\n2024-04-04T00:00-04:00,3\n")
    assert found.future(2).date_texts() == ["2024-04-04 01:00:00-04:00", "2024-04-04 02:00:00-04:00"]
    assert str(found.local[-1]) == "2024-04-04T00:00:00.000" and str(found.dates[-1]) == "2024-04-04T04:00:00.000"
    with pytest.raises(ValueError, match="line 3, column 'date': '2024-04-03T23:00' is not like the first one"):
        table("date,a\n2024-04-03T22:00-04:00,1\n2024-04-03T23:00,2\n")


def test_days_of_a_zone_with_summer_time_are_equal_steps(table):
    days = ["2024-03-30T00:00+01:00", "2024-03-31T00:00+01:00", "2024-04-01T00:00+02:00", "2024-04-02T00:00+02:00"]
    found = table("date,a\n" + "".join(f"{day},1\n" for day in days))
    assert found.lines.tolist() == [2, 3, 4, 5]
    assert found.future(1).date_texts() == ["2024-04-03 00:00:00+02:00"]


def test_the_repeated_hour_of_autumn_is_understood(table):
    hours = ["00:00", "01:00", "02:00", "02:00", "03:00", "04:00"]
    found = table("date,a\n" + "".join(f"2024-10-27 {hour},{i}\n" for i, hour in enumerate(hours)))
    assert found.values[:, 0].tolist() == [0, 1, 2, 3, 4, 5] and (found.lines > 0).all()
    assert found.date_texts()[2:4] == ["2024-10-27 02:00:00"] * 2
    assert found.future(1).date_texts() == ["2024-10-27 05:00:00"]
    with pytest.raises(ValueError, match="line 5.*repeats that of line 4"):
        table("date,a\n" + "".join(f"2024-07-27 {hour},1\n" for hour in hours))


def test_a_time_zone_knows_summer_time_ahead_and_in_gaps(table):
    hours = pd.date_range("2024-10-26 20:00", periods=9, freq="h", tz="Europe/Berlin")
    text = "date,a\n" + "".join(f"{hour:%Y-%m-%d %H:%M},{i}\n" for i, hour in enumerate(hours) if i != 2)
    found = table(text, time_zone="Europe/Berlin")
    assert found.date_texts() == [f"{hour:%Y-%m-%d %H:%M:%S}{str(hour)[-6:]}" for hour in hours]
    assert np.isnan(found.values[2, 0]) and found.values[-1, 0] == 8
    early = table(text, time_zone="Europe/Berlin").rows(0, 4)
    ahead = pd.date_range(hours[4], periods=6, freq="h")
    assert early.future(6).date_texts() == [f"{hour:%Y-%m-%d %H:%M:%S}{str(hour)[-6:]}" for hour in ahead]
    days = pd.date_range("2024-03-28", periods=2, freq="D", tz="Europe/Berlin")
    found = table("date,a\n" + "".join(f"{day:%Y-%m-%d},1\n" for day in days), time_zone="Europe/Berlin")
    assert found.future(4).date_texts() == [
        *(f"2024-03-{day} 00:00:00+01:00" for day in (30, 31)), *(f"2024-04-0{day} 00:00:00+02:00" for day in (1, 2)),
    ]  # fmt: skip
    shown = table("date,a\n2024-07-01T00:00Z,1\n2024-07-01T01:00Z,1\n", time_zone="America/New_York")
    assert shown.date_texts() == ["2024-06-30 20:00:00-04:00", "2024-06-30 21:00:00-04:00"]
    with pytest.raises(ValueError, match="s.csv: time_zone='Mars/Base' is unknown"):
        table(text, time_zone="Mars/Base")
    with pytest.raises(ValueError, match="s.csv: not on the clock of time_zone='Europe/Berlin': .*2024-03-31 02:30"):
        table("date,a\n2024-03-31 01:30,1\n2024-03-31 02:30,1\n", time_zone="Europe/Berlin")


def test_closed_days_are_no_missing_steps(table, tmp_path):
    (tmp_path / "closed.txt").write_text("2024-12-25\n2024-12-26\n2025-01-01\n")
    closed = np.array(["2024-12-25", "2024-12-26", "2025-01-01"], "datetime64[D]")
    days = np.busday_offset("2024-12-16", np.arange(9), holidays=closed)
    text = "date,a\n" + "".join(f"{day},1\n" for day in days)
    assert (table(text).lines == 0).sum() == 2  # Christmas looks like two rows left out
    found = table(text, closed=str(tmp_path / "closed.txt"))
    assert (found.lines > 0).all() and len(found.values) == 9
    assert [day[:10] for day in found.future(3).date_texts()] == ["2024-12-31", "2025-01-02", "2025-01-03"]
    pytest.importorskip("holidays")
    found = table(text, closed="NYSE")
    assert [day[:10] for day in found.future(3).date_texts()] == ["2024-12-31", "2025-01-02", "2025-01-03"]


def test_weekends_are_left_out_of_business_days(table):
    days = np.busday_offset("2024-01-01", np.arange(12))
    days = np.delete(days, 3)
    found = table("date,a\n" + "".join(f"{day},1\n" for day in days))
    assert len(found.values) == 12 and found.lines[3] == 0 and np.isnan(found.values[3]).all()
    following = found.future(4)
    assert [text[:10] for text in following.date_texts()] == ["2024-01-17", "2024-01-18", "2024-01-19", "2024-01-22"]
    assert np.is_busday(found.past(7).dates.astype("datetime64[D]")).all()
    assert calendar_seasons(found.dates)[0] == 5


def test_series_below_each_other_are_refused_by_name(table):
    rows = "".join(f"2024-01-0{day},{name},{day}\n" for name in ("AAPL", "IBM") for day in range(1, 6))
    for irregular in ("fill", "ignore"):
        with pytest.raises(ValueError, match=r"long format.*") as caught:
            table("date,stock,price\n" + rows, irregular=irregular)
        assert "one for each 'stock' (AAPL, IBM)" in str(caught.value)


@pytest.mark.parametrize("name", ["Date", "Month", "Time", "timestamp", "ds", ""])
def test_dates_are_found_by_the_usual_names(table, name):
    found = table(f"{name},a\n2024-01,1\n2024-02,2\n" if name else ",a\n2024-01-01,1\n2024-01-02,2\n")
    assert found.columns == ("a",) and str(found.dates[0])[:10] == "2024-01-01"


def test_headers_and_ends_of_lines_as_programs_write_them(table):
    assert table("\n\ndate,a\n2024-01-01,1\n").lines.tolist() == [4]
    found = table('"date","load\n(MW)"\n2024-01-01,1\n2024-01-02,2\n')
    assert found.columns == ("load\n(MW)",) and found.lines.tolist() == [3, 4] and found.values[:, 0].tolist() == [1, 2]
    assert table("date,a,\n2024-01-01,1,\n2024-01-02,2,\n").columns == ("a",)
    assert table('date,a\n2024-01-01,"1"\n\n2024-01-02,2\n').lines.tolist() == [2, 4]
    with pytest.raises(ValueError, match="s.csv: empty; a table begins with the names"):
        table("\n\n")


def test_dates_may_be_seconds_since_1970(table):
    found = table("time,a\n1704067200,1\n1704067260,2\n", date_format="s")
    assert found.date_texts() == ["2024-01-01 00:00:00", "2024-01-01 00:01:00"]
    assert table("time,a\n1704067200500,1\n", date_format="ms").date_texts() == ["2024-01-01 00:00:00.500"]
    with pytest.raises(ValueError, match="line 3, column 'time': 'x' is not a number of seconds since 1970"):
        table("time,a\n1704067200,1\nx,2\n", date_format="s")


def test_a_column_that_counts_rows_is_no_channel(table):
    assert table(",date,a\n0,2024-01-01,1\n1,2024-01-02,2\n").columns == ("a",)
    with pytest.raises(ValueError, match="line 1: column 1 has no name"):
        table(",date,a\n5,2024-01-01,1\n3,2024-01-02,2\n")


def test_numbers_of_rows_are_not_years(table):
    assert str(table("year,a\n1999,1\n2000,2\n", date_column="year").dates[0])[:4] == "1999"
    for text in ("date,a\n1000,1\n1001,2\n", "id,a\n2000,1\n2001,2\n"):
        with pytest.raises(ValueError, match="may be a number of a row and not a year; date_format='%Y'"):
            table(text, date_column=text.split(",")[0])


@pytest.mark.parametrize(
    "date", ["2024-01-01T00:00:00Z", "2024-01-01T01:00+0100", "20240101", "2024-01-01 00:00:00.000"]
)
def test_iso_dates_are_read_by_every_python(table, date):
    assert str(table(f"date,a\n{date},1\n").dates[0]) == "2024-01-01T00:00:00.000"


def test_marks_separators_and_encodings(tmp_path, table):
    text = "date;a\n2024-01-01;1.234,5\n2024-01-02;-6,25\n"
    options = {"delimiter": ";", "decimal": ",", "thousands": "."}
    assert table(text, **options).values[:, 0].tolist() == [1234.5, -6.25]
    with pytest.raises(ValueError, match="column 'a': '1.234,5' is not a finite number"):
        table(text, delimiter=";", decimal=",")
    with pytest.raises(ValueError, match="'1,23' is not a finite number"):
        table('date,a\n2024-01-01,"1,23"\n', thousands=",")
    assert table("sep=;\ndate;a\n2024-01-01;1\n").lines.tolist() == [3]
    assert table("date\ta\n2024-01-01\t1\n", delimiter="\\t").values.tolist() == [[1]]
    path = tmp_path / "s.csv"
    plain = "date,a\r\n2024-01-01,1\r\n2024-01-02,2\r\n"
    for data in (plain.encode("utf-16"), plain.encode("utf-8-sig"), gzip.compress(plain.encode())):
        path.write_bytes(data)
        assert read_table(path).values[:, 0].tolist() == [1, 2]
    path.write_bytes("date,a\n2024-01-01,1\n# gr\xfcn,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match="s.csv: not text in this encoding"):
        read_table(path)
    path.write_bytes(gzip.compress(plain.encode())[:-12])
    with pytest.raises(ValueError, match="s.csv: a damaged compressed file"):
        read_table(path)
    path.write_text('date,a\n2024-01-01,"' + "1" * 140_000 + '"\n')
    with pytest.raises(ValueError, match="s.csv: not a table .field larger than"):
        read_table(path)


def test_parquet_is_read_like_csv(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    zone = pandas.date_range("2024-03-30", periods=4, freq="D", tz="Europe/Berlin")
    pandas.DataFrame({"a": [1.0, None, 3.0, -9.0]}, index=zone).to_parquet(tmp_path / "s.parquet")
    found = read_table(tmp_path / "s.parquet", missing_values=["-9"])
    assert found.missing == {"a": 2} and found.date_texts()[-1] == "2024-04-02 00:00:00+02:00"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"delimiter": ",,"}, "delimiter=',,' must be one character"),
        ({"decimal": "x"}, "decimal='x' must be"),
        ({"thousands": "."}, "thousands='.' must be one character that is not decimal"),
        ({"irregular": "drop"}, "irregular='drop' must be"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, said):
    with pytest.raises(ValueError) as caught:
        Reading(**options)
    assert said in str(caught.value)


def test_every_form_of_a_table_gives_the_same_series(tmp_path):
    pandas, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    pytest.importorskip("openpyxl")
    frame = pandas.DataFrame({"ds": pandas.date_range("2024-01-31", periods=5, freq="D"), "a": [1.5, 2, None, 4, -9]})
    frame["b"] = [1, 2, 3, 4, 5]
    text = frame.to_csv(index=False).encode()
    frame.to_parquet(tmp_path / "s.parquet")
    frame.to_excel(tmp_path / "s.xlsx", index=False)
    frame.to_feather(tmp_path / "s.feather")
    table = pa.Table.from_pandas(frame)
    with pa.OSFile(str(tmp_path / "s.arrows"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "s.csv.zst").write_bytes(pa.Codec("zstd").compress(text, asbytes=True))
    (tmp_path / "s.csv.bz2").write_bytes(bz2.compress(text))
    (tmp_path / "s.csv.xz").write_bytes(lzma.compress(text))
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("inner/s.csv", text)
    sources = [*sorted(tmp_path.iterdir()), frame, frame.set_index("ds"), table]
    assert len(sources) == 11
    for source in sources:
        found = read_table(source, missing_values=["-9"])
        assert found.columns == ("a", "b") and found.missing == {"a": 2}, source
        np.testing.assert_array_equal(found.values[:, 1], [1, 2, 3, 4, 5])
        assert str(found.dates[-1])[:10] == "2024-02-04" and found.date_texts()[0] == "2024-01-31 00:00:00"
    with zipfile.ZipFile(tmp_path / "s.zip", "a") as archive:
        archive.writestr("t.csv", text)
    with pytest.raises(ValueError, match=r"s.zip: 2 files are packed in it \(inner/s.csv, t.csv\)"):
        read_table(tmp_path / "s.zip")
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("s.csv", text)
    packed = bytearray((tmp_path / "s.zip").read_bytes())
    for place in (6, packed.find(b"PK\x01\x02") + 8):
        packed[place] |= 1  # as if it had a password
    (tmp_path / "s.zip").write_bytes(packed)
    with pytest.raises(ValueError, match=r"s.zip: s.csv cannot be unpacked \(.*password"):
        read_table(tmp_path / "s.zip")


def test_tables_in_memory_that_do_not_fit_are_named():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"date": ["2024-01-01", "2024-01-02"], "a": [1.0, np.inf]})
    with pytest.raises(ValueError, match="DataFrame, line 2, column 'a': inf is not finite"):
        read_table(frame)
    with pytest.raises(ValueError, match="DataFrame, line 2, column 'a': 'x' is not a finite number"):
        read_table(frame.assign(a=["1", "x"]))
    with pytest.raises(TypeError, match="a table is the name of a file or a DataFrame, not list"):
        read_table([[1, 2]])
    zoned = frame.assign(a=1, date=pandas.date_range("2024-10-26", periods=2, freq="D", tz="Europe/Berlin"))
    assert read_table(zoned).date_texts() == ["2024-10-26 00:00:00+02:00", "2024-10-27 00:00:00+02:00"]


def test_a_damaged_file_of_every_form_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    for name, start in (("s.parquet", b"PAR1"), ("s.feather", b"ARROW1\0\0"), ("s.csv.zst", b"\x28\xb5\x2f\xfd")):
        (tmp_path / name).write_bytes(start + b"garbage" * 20)
        with pytest.raises(ValueError, match=name):
            read_table(tmp_path / name)
    (tmp_path / "s.xls").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100))
    with pytest.raises(ValueError, match="s.xls: an Excel file of before 2007"):
        read_table(tmp_path / "s.xls")


def test_a_packed_file_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("blockzoo.tasks.series.table_files._SMALL", 1 << 16)
    rows = "a\n" + "1\n" * 50_000  # 100 kB
    (tmp_path / "long.csv.gz").write_bytes(gzip.compress(rows.encode()))
    (tmp_path / "line.csv.gz").write_bytes(gzip.compress(b"1" * 100_000))
    with zipfile.ZipFile(tmp_path / "long.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("long.csv", rows)
    (tmp_path / "long.csv").write_text(rows, encoding="utf-8")
    for name in ("long.csv.gz", "line.csv.gz", "long.zip"):
        with pytest.raises(ValueError, match=f"{name} unpacks from [0-9,]+ to more than 65,536 bytes"):
            read_table(tmp_path / name, date_column=None)
    assert len(read_table(tmp_path / "long.csv", date_column=None).values) == 50_000
    (tmp_path / "short.csv.gz").write_bytes(gzip.compress(rows[:60_000].encode()))
    assert len(read_table(tmp_path / "short.csv.gz", date_column=None).values) == 29_999
    monkeypatch.setattr("blockzoo.tasks.series.table_files._LINE", 1000)
    for text in ("1" * 5000, "a\n" + "1" * 5000):
        (tmp_path / "line.csv").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="line.csv: a line of 1,000 characters or more"):
            read_table(tmp_path / "line.csv", date_column=None)
