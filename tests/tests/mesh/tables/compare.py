"""Compares what pyarrow and DuckDB read from Parquet with what psql prints, value by value.

compare.py HOST PORT TABLE COLUMNS_JSON FILE…: COLUMNS_JSON is the reply's `columns`. Prints "fine", or what differs.
"""

import datetime
import json
import math
import subprocess
import sys
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

host, port, table, columns, *files = sys.argv[1:]
columns = {c["name"]: c for c in json.loads(columns)}


def psql(expression):
    sql = f"select {expression} from {table} order by id"
    out = subprocess.run(
        ["psql", "-XAtq", "-U", "tester", "-d", "postgres", "-h", host, "-p", port, "-P", "null=\x01NULL", "-R", "\x1e", "-c", sql],
        check=True, capture_output=True, env={"PGTZ": "UTC", "PATH": "/usr/bin:/bin", "PGOPTIONS": "-c extra_float_digits=3"},
    ).stdout.decode()
    return [None if text == "\x01NULL" else text for text in out.removesuffix("\n").split("\x1e")]


def number(value):
    return json.loads(value, parse_float=Decimal)


def plain(value):
    """A value of Arrow as JSON would have it."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    return value


def loose(value):
    """JSON of the server: composites' numerics come as numbers, ours as text."""
    if isinstance(value, dict):
        return {k: loose(v) for k, v in value.items()}
    if isinstance(value, list):
        return [loose(v) for v in value]
    return str(value) if isinstance(value, (int, Decimal)) and not isinstance(value, bool) else value


def expected(name, kind):
    """SQL for the column, and how its text becomes what Arrow holds."""
    quoted = '"' + name.replace('"', '""') + '"'
    if pa.types.is_boolean(kind):
        return quoted, lambda t: t == "t"
    if pa.types.is_integer(kind):
        return quoted, int
    if pa.types.is_floating(kind):
        return quoted, (lambda t: float(t)) if kind == pa.float64() else (lambda t: pa.scalar(float(t), pa.float32()).as_py())
    if pa.types.is_decimal(kind):
        return quoted, Decimal
    if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        return quoted, str
    if pa.types.is_binary(kind):
        return quoted, lambda t: bytes.fromhex(t[2:])
    if pa.types.is_date(kind):
        return quoted, datetime.date.fromisoformat
    if pa.types.is_time(kind):
        return quoted, datetime.time.fromisoformat
    if pa.types.is_timestamp(kind):
        us = f"(extract(epoch from {quoted}) * 1000000)::numeric(30,0)::text"
        return f"case when isfinite({quoted}) then {us} else {quoted}::text end", int
    source = columns[name]["source_type"]
    if source == "interval":
        months = f"(extract(year from {quoted}) * 12 + extract(month from {quoted}))::bigint"
        us = f"(extract(hour from {quoted}) * 3600000000 + extract(minute from {quoted}) * 60000000 + extract(microseconds from {quoted}))::bigint"
        text = f"{months} || ' ' || extract(day from {quoted})::bigint || ' ' || {us}"
        return text, lambda t: dict(zip(("months", "days", "microseconds"), map(int, t.split())))
    if source.endswith("range"):
        bound = lambda f: f"{f}({quoted})" if source == "int4range" else f"to_char({f}({quoted}) at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"+00:00\"')"
        pairs = f"'lower', {bound('lower')}, 'upper', {bound('upper')}, 'lower_inclusive', lower_inc({quoted}), 'upper_inclusive', upper_inc({quoted}), 'empty', isempty({quoted})"
        return f"case when {quoted} is not null then json_build_object({pairs}) end", number
    if source == "hstore":
        return f"hstore_to_json({quoted})", number
    if source.endswith("[]"):
        return f"array_to_json({quoted})", number
    return f"row_to_json({quoted})", number


read = pa.concat_tables([pq.read_table(f) for f in files]).sort_by("id")
wrong = []
for field in read.schema:
    sql, parse = expected(field.name, field.type)
    made = 0
    values = read.column(field.name)
    if pa.types.is_timestamp(field.type):
        values = values.cast(pa.int64())
    for row, (got, text) in enumerate(zip(values.to_pylist(), psql(sql))):
        if got is None and text is not None:
            made += 1
            continue
        if text is None:
            same = got is None
        else:
            want = None if text == "NaN" and pa.types.is_decimal(field.type) else parse(text)
            if columns[field.name]["source_type"] == "hstore":
                got = dict(got)
            if isinstance(want, float) and math.isnan(want):
                same = isinstance(got, float) and math.isnan(got)
            elif isinstance(want, (dict, list)):
                same = loose(want) == loose(plain(got))
            else:
                same = got == want
        if not same:
            wrong.append(f"{field.name} row {row}: psql {text!r}, ours {got!r}")
    if made != columns[field.name]["nulls_made"]:
        wrong.append(f"{field.name}: {made} NULLs where psql has values, {columns[field.name]['nulls_made']} are told")

# Somebody else again: as many rows, and the same sums of what can be summed.
rows = duckdb.sql(f"select count(*) from read_parquet({files!r})").fetchone()[0]
if rows != read.num_rows:
    wrong.append(f"DuckDB reads {rows} rows, pyarrow {read.num_rows}")
for field in read.schema:
    if pa.types.is_integer(field.type) or pa.types.is_string(field.type) or pa.types.is_decimal(field.type):
        own = duckdb.sql(f'select "{field.name}"::varchar from read_parquet({files!r}) order by id').fetchall()
        ours = [None if v is None else str(v) for v in read.column(field.name).to_pylist()]
        if pa.types.is_decimal(field.type) and field.type.precision > 38:
            continue  # DuckDB has no such decimal and reads a double.
        plainly = lambda t: t if t is None or not pa.types.is_decimal(field.type) else Decimal(t)
        if [plainly(v[0]) for v in own] != [plainly(v) for v in ours]:
            wrong.append(f"{field.name}: DuckDB reads {own}, pyarrow {ours}")
print("\n".join(wrong) or "fine")
