"""Row groups encoded apart and joined, against one writer's file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.rowgroups import RowGroupFile


def _part(table: pa.Table, rows: int, **options: object) -> memoryview:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=rows, **options)
    return memoryview(sink.getvalue())


def _table(n: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "time": pa.array(rng.integers(0, 1 << 62, n)),
            "maybe": pa.array([None if x < 3 else int(x) for x in rng.integers(0, 9, n)], pa.int16()),
            "name": pa.array([f"n{x}" for x in rng.integers(0, 40, n)]).dictionary_encode(),
            "yes": pa.array(rng.random(n) < 0.5),
            "real": pa.array(rng.random(n)),
        }
    )


@pytest.mark.parametrize("parts", [1, 2, 17, 40])
@pytest.mark.parametrize("options", [{}, {"write_page_index": True, "compression": "zstd"}])
def test_joined_parts_read_as_one_table(tmp_path: Path, parts: int, options: dict[str, object]) -> None:
    tables = [_table(100 + 37 * i, i) for i in range(parts)]
    out = tmp_path / "x.parquet"
    file = RowGroupFile(out)
    for table in tables:
        file.add(_part(table, 90, **options))
    file.close()
    whole = pa.concat_tables(tables, promote_options="default").unify_dictionaries()
    read = pq.read_table(out)
    for name in whole.column_names:
        assert read[name].to_pylist() == whole[name].to_pylist()
    meta = pq.read_metadata(out)
    assert meta.num_rows == len(whole)
    assert meta.num_row_groups == sum(-(-len(t) // 90) for t in tables)
    assert [meta.row_group(g).num_rows for g in range(meta.num_row_groups)][:2] == [90, 10]
    # each group can be read alone, and what its statistics say is true of it
    file_in = pq.ParquetFile(out)
    for g in range(meta.num_row_groups):
        times = file_in.read_row_group(g)["time"].to_numpy()
        stats = meta.row_group(g).column(0).statistics
        assert (stats.min, stats.max) == (times.min(), times.max())


def test_another_reader_agrees(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    tables = [_table(500, 1), _table(200, 2)]
    out = tmp_path / "x.parquet"
    file = RowGroupFile(out)
    for table in tables:
        file.add(_part(table, 1000))
    file.close()
    read = polars.read_parquet(out, use_pyarrow=False)
    assert read["time"].to_list() == tables[0]["time"].to_pylist() + tables[1]["time"].to_pylist()
    assert read["name"].cast(polars.String).to_list() == tables[0]["name"].to_pylist() + tables[1]["name"].to_pylist()


def test_an_abandoned_file_is_no_parquet(tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    file = RowGroupFile(out)
    file.add(_part(_table(10, 1), 10))
    file.abandon()
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(out)
