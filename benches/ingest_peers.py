"""The peers of ingest: prints the seconds that one of them takes for a source to become Parquet.

ingest_peers.py connectorx URL QUERY PARTITION_COLUMN PARTITIONS OUT | pyarrow CSV OUT | duckdb CSV OUT
"""

import sys
import time

kind, *rest = sys.argv[1:]
started = None
if kind == "connectorx":
    import connectorx
    import pyarrow.parquet

    url, query, column, partitions, out = rest
    divided = {"partition_on": column, "partition_num": int(partitions)} if int(partitions) > 1 else {}
    started = time.perf_counter()
    table = connectorx.read_sql(url, query, return_type="arrow", **divided)
    pyarrow.parquet.write_table(table, out)
elif kind == "pyarrow":
    import pyarrow.csv
    import pyarrow.parquet

    source, out = rest
    started = time.perf_counter()
    with pyarrow.csv.open_csv(source) as reader, pyarrow.parquet.ParquetWriter(out, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
elif kind == "duckdb":
    import duckdb

    source, out = rest
    started = time.perf_counter()
    duckdb.sql(f"COPY (SELECT * FROM read_csv('{source}')) TO '{out}' (FORMAT parquet, COMPRESSION zstd)")
print(time.perf_counter() - started)
