"""Tables as people write them: what is read, what is refused, and that nothing is lost without a word."""

from __future__ import annotations

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from pipelines.commands.detect import command
from pipelines.detect import find_inputs
from pipelines.series_files import read_table
from pipelines.series_times import parse_times
from telemetry.errors import InputError

NS = 10**9
FIVE = [f"2026-01-05 00:0{i}:00" for i in range(5)]


def table(tmp_path, text, name="a.csv", **how):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(tmp_path / name, **how)


@pytest.mark.parametrize(
    ("cells", "between"),
    [
        (["1767571200.000000100", "1767571200.000000200"], 100),
        (["2026-01-05T00:00:00.123456789Z", "2026-01-05T00:00:00.123456790Z"], 1),
        (["20260105093000", "20260105093001"], NS),
        (["20260131", "20260201"], 86_400 * NS),
        (["01/05/2026 11:59:59 AM", "01/05/2026 12:00:00 PM"], NS),
        (["13/01/2026 10:00:00.25", "13/01/2026 10:00:00.75"], NS // 2),
        (["13/01/26 10:00", "13/01/26 10:01"], 60 * NS),
        (["2026-01-05 00:00:00 UTC", "2026-01-05 00:00:01 UTC"], NS),
        (["2026-01-05 00:00:00 +0100", "2026-01-05 00:00:01 +0100"], NS),
        (["1969-12-31T23:59:58.5", "1969-12-31T23:59:59.5"], NS),
        (["50000000000", "50000000001"], 10**6),
    ],
)
def test_times_to_the_nanosecond(cells, between):
    times = parse_times(cells)
    assert times is not None
    assert times[1] - times[0] == between


@pytest.mark.parametrize("cell", ["9" * 400, "1e400", "1600-01-01", "9999-12-31", "99999999999999999999", "nan"])
def test_times_beyond_what_nanoseconds_hold_are_none(cell):
    assert parse_times([cell]) is None


def test_large_numbers_are_no_times(tmp_path):
    rows = "".join(f"{8_000_000_000 + (i * 7919) % 1000 * 10**6},{i % 3}\n" for i in range(100))
    for scale in ("", "0", "000000000000"):
        read = table(tmp_path, "mem_free,load\n" + rows.replace(",", f"{scale},"))
        assert not read.timed
        assert read.names == ("mem_free", "load")


def test_a_time_without_a_name_for_it_is_told(tmp_path):
    read = table(tmp_path, "made_at,v\n" + "".join(f"{1_767_571_200 + i},{i % 3}\n" for i in range(9)))
    assert (read.timed, read.aside) == (True, ("made_at (taken for the time)",))


@pytest.mark.parametrize("first", ["2026-01-05 00:00:00,1.5", "nan,2.5", "1,2"])
def test_a_first_row_of_data_is_not_a_header(tmp_path, first):
    read = table(tmp_path, first + "\n" + first.replace("5 00", "6 00") + "\n")
    assert len(read.values) == 2


def test_a_first_row_that_counts_is_a_header(tmp_path):
    assert len(table(tmp_path, "0,1,2\n5.5,6.5,7.5\n").values) == 1
    assert table(tmp_path, ",0,1\n2026-01-05,6.5,7.5\n").names == ("0", "1")


@pytest.mark.parametrize(
    "text",
    [
        "t;v\n" + "".join(f"{t};{v}\n" for t, v in zip(FIVE, ["1.001,5", "2,5", "-3,25", "4", "NaN"], strict=True)),
        "".join(f"{t};{v}\n" for t, v in zip(FIVE, ["1001,5", "2,5", "-3,25", "4", "-"], strict=True)),
        '"t";"v"\n' + "".join(f'"{t}"\t"{v}"\n' for t, v in zip(FIVE, "12345", strict=True)).replace("\t", ";"),
    ],
)
def test_decimal_commas(tmp_path, text):
    read = table(tmp_path, text)
    assert len(read.values) == 5
    if "," in text:
        np.testing.assert_array_equal(read.values[:, 0], [1001.5, 2.5, -3.25, 4.0, np.nan])


def test_thousands_are_not_taken_for_decimals(tmp_path):
    for cells in (["999", "1,234"], ["12.5", "1,5"], ["1,234.5", "1,235.5"]):
        with pytest.raises(InputError, match=r"line \d: expected a number in column 'v'"):
            table(tmp_path, "t;v\n" + "".join(f"{i};{c}\n" for i, c in enumerate(cells)))


def test_numbers_in_columns_of_blanks_and_in_one_line(tmp_path):
    assert table(tmp_path, "   1.0e+00   2.0\n   3.0e+00   4.0\n", "a.txt").values.tolist() == [[1, 2], [3, 4]]
    assert table(tmp_path, "  1.5 2.5   3.5\n", "a.txt").values.tolist() == [[1.5], [2.5], [3.5]]


@pytest.mark.parametrize("encode", [lambda b: gzip.compress(b), lambda b: b.decode().encode("utf-16")])
def test_what_it_holds_counts_not_what_it_is_called(tmp_path, encode):
    for name in ("a.csv", "a.CSV.GZ"):
        assert table(tmp_path, encode(b"t,v\n1,2\n3,4\n"), name).values.tolist() == [[2], [4]]


def test_damaged_gzip_is_one_line(tmp_path):
    with pytest.raises(InputError, match="decompressing"):
        table(tmp_path, b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + b"\xff" * 50, "a.csv.gz")


def test_true_and_false_are_numbers(tmp_path):
    assert table(tmp_path, "t,up\n1,true\n2,False\n3,\n").values[:2, 0].tolist() == [1.0, 0.0]
    pq.write_table(pa.table({"t": [1, 2], "up": [True, None]}), tmp_path / "a.PARQUET")
    assert read_table(tmp_path / "a.PARQUET").values[0, 0] == 1.0


def test_a_broken_time_is_told_with_its_line(tmp_path):
    with pytest.raises(InputError, match="column 'when' is not a time: line 4 is 'oops'"):
        table(tmp_path, "when,v\n2026-01-05,1\n2026-01-06,2\noops,3\n")
    with pytest.raises(InputError, match="column 'time' is not a time: line 3 is ''"):
        table(tmp_path, "time,v\n1767571200,1\n,2\n")


def test_long_cells_and_many_columns_stay_one_short_line(tmp_path):
    with pytest.raises(InputError, match=r"line 3: .*\.\.\.") as caught:
        table(tmp_path, 't,v\n1,2\n2,"3\n' + "4,5\n" * 2000)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"column 'x y x y.*\.\.\.'") as caught:
        table(tmp_path, f'"{"x y " * 99}"\nword\n')
    assert len(str(caught.value)) < 300
    with pytest.raises(InputError, match="and 480 more"):
        table(tmp_path, ",".join(f"c{i}" for i in range(500)) + "\n" + ",".join(["1"] * 500) + "\n", values=["nope"])


def test_labels_and_row_numbers_are_told_and_not_scored(tmp_path):
    rows = "".join(f"{i},{i % 7},{int(i == 50)},tx07\n" for i in range(60))
    (tmp_path / "a.csv").write_text("no,value,Label,host\n" + rows)
    result = CliRunner().invoke(command, [str(tmp_path / "a.csv"), "--out", str(tmp_path / "o")])
    assert result.exit_code == 0
    assert "not scored: host (no numbers), no (row numbers), Label (labels)" in result.stderr
    assert (tmp_path / "o/a.csv").read_text().startswith("timestamp,value,surprise,anomaly_score,alert\n")
    args = [str(tmp_path / "a.csv"), "--out", str(tmp_path / "p"), "--value", "Label"]
    assert CliRunner().invoke(command, args).exit_code == 0
    assert (tmp_path / "p/a.csv").read_text().startswith("timestamp,Label,")


def test_a_folder_tells_what_it_passed_over(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("1,2\n3,4\n")
    (tmp_path / "in/b.npy").write_bytes(b"x")
    (tmp_path / "in/.hidden").write_text("x")
    result = CliRunner().invoke(command, [str(tmp_path / "in"), "--out", str(tmp_path / "o")])
    assert result.exit_code == 0
    assert "1 files are neither CSV nor Parquet by their names" in result.stderr
    assert (tmp_path / "o/a.txt").is_file()


def test_standard_input_has_a_name_of_its_own(tmp_path):
    (_, target), *_ = find_inputs([type(tmp_path)("-")], tmp_path)
    assert target == tmp_path / "stdin.csv"


def test_shifts_cannot_be_told_jointly(tmp_path):
    args = ["a.csv", "--out", str(tmp_path), "--joint", "--for", "shifts"]
    result = CliRunner().invoke(command, args)
    assert result.exit_code == 2
    assert "--joint" in result.stderr


@pytest.mark.parametrize(("unit", "zone"), [("ns", None), ("us", "Europe/Berlin"), ("s", None)])
def test_every_time_of_a_parquet_file_is_a_time(tmp_path, unit, zone):
    at = pa.array([1_767_571_200 * NS, 1_767_571_201 * NS], pa.timestamp("ns")).cast(pa.timestamp(unit, zone))
    pq.write_table(pa.table({"sent": at, "v": [1.5, 2.5], "seen": at}), tmp_path / "a.parquet")
    read = read_table(tmp_path / "a.parquet")
    assert (read.names, read.aside) == (("v",), ("seen (no numbers)",))
    assert read.time_ns.tolist() == [1_767_571_200 * NS, 1_767_571_201 * NS]
    far = pa.array([32_503_680_000, None], pa.timestamp("s"))
    pq.write_table(pa.table({"timestamp": far, "v": [1.5, 2.5]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="column 'timestamp' is not a time: row 1 is '3000-01-01T"):
        read_table(tmp_path / "b.parquet")
