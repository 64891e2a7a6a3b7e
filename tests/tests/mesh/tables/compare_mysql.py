"""Compares what pyarrow reads from Parquet with what mariadb prints, value by value.

compare_mysql.py SOCKET TABLE COLUMNS_JSON FILE…: COLUMNS_JSON is the reply's `columns`. Prints "fine", or what differs.
"""

import datetime
import json
import subprocess
import sys
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq

socket, table, columns, *files = sys.argv[1:]
columns = {c["name"]: c for c in json.loads(columns)}


def mariadb(expression):
    sql = f"SET time_zone = '+00:00'; SELECT ifnull(hex({expression}), 'NULL') FROM {table} ORDER BY id"
    command = ["mariadb", "--no-defaults", "-NB", "--default-character-set=utf8mb4", "-u", "tester", "-S", socket, "-e", sql, "d"]
    lines = subprocess.run(command, check=True, capture_output=True).stdout.decode().removesuffix("\n").split("\n")
    return [None if line == "NULL" else bytes.fromhex(line) for line in lines]


def span(text):
    hours, minutes, seconds = text.lstrip("-").split(":")
    whole, _, fraction = seconds.partition(".")
    us = ((int(hours) * 60 + int(minutes)) * 60 + int(whole)) * 1_000_000 + int(fraction.ljust(6, "0") or 0)
    return -us if text.startswith("-") else us


def instant(text):
    try:
        when = datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        return None
    return (when - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(microseconds=1)


def date(text):
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return None


def expected(name, kind):
    """SQL for the column, and how its text becomes what Arrow holds."""
    as_text = f"cast(`{name}` as char)"
    if columns[name]["source_type"].startswith("bit"):
        return f"cast(`{name}` + 0 as char)", (lambda t: t == "1") if pa.types.is_boolean(kind) else int
    if pa.types.is_integer(kind):
        return as_text, int
    if pa.types.is_floating(kind):
        return as_text, float
    if pa.types.is_decimal(kind):
        return as_text, Decimal
    if pa.types.is_date(kind):
        return as_text, date
    if pa.types.is_timestamp(kind):
        return as_text, instant
    if pa.types.is_duration(kind):
        return as_text, span
    if pa.types.is_list(kind):
        return as_text, lambda t: t.split(",") if t else []
    if pa.types.is_binary(kind):
        return f"`{name}`", None
    return as_text, str


read = pa.concat_tables([pq.read_table(f) for f in files]).sort_by("id")
wrong = []
for field in read.schema:
    sql, parse = expected(field.name, field.type)
    values = read.column(field.name)
    if pa.types.is_timestamp(field.type) or pa.types.is_duration(field.type):
        values = values.cast(pa.int64())
    made = 0
    for row, (got, raw) in enumerate(zip(values.to_pylist(), mariadb(sql))):
        want = raw if raw is None or parse is None else parse(raw.decode())
        made += raw is not None and want is None
        if got != want:
            wrong.append(f"{field.name} row {row}: mariadb {raw!r}, ours {got!r}")
    if made != columns[field.name]["nulls_made"]:
        wrong.append(f"{field.name}: {made} values that Arrow cannot hold, {columns[field.name]['nulls_made']} are told")
print("\n".join(wrong) or "fine")
