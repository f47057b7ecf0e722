"""The parts of the store: layout and manifest, the append-only log, Parquet files, merging."""
