"""Random CSV, JSONL and Parquet files, and whether what ingest made of them is what other readers find there.

    files.py make FOLDER COUNT SEED     writes the files, and `asked.json`: what each is
    files.py compare FOLDER             reads `made.json`: of each file its objects, notes and left-out rows; prints what differs

A CSV file is compared field by field with DuckDB and polars, both told the dialect and to read nothing but text: what ingest took for a
number, a date or a truth must be what the text says, to the last digit. A JSONL file is compared with Python's json and DuckDB's; a
Parquet file with pyarrow, DuckDB and polars."""

import csv
import datetime
import decimal
import json
import math
import os
import random
import string
import struct
import sys
import uuid

import duckdb
import polars
import pyarrow
import pyarrow.parquet

ABSENT = {"NA", "N/A", "n/a", "#N/A", "NULL", "null", "\\N"}
WORDS = "alder birch cedar elm fir hazel larch maple oak pine rowan spruce willow yew Zoë größer naïve 日本 été".split()


def double():
    kind = random.randrange(4)
    if kind == 0:
        while not math.isfinite(value := struct.unpack("<d", random.randbytes(8))[0]):
            pass
        return value
    return [0.5 * random.randrange(1000), random.random(), round(random.uniform(-1e6, 1e6), 2)][kind - 1]


def day():
    return datetime.date(1700, 1, 1) + datetime.timedelta(days=random.randrange(150000))


def moment():
    return datetime.datetime.combine(day(), datetime.time(random.randrange(24), random.randrange(60), random.randrange(60), random.choice([0, random.randrange(10**6)])))


def text():
    return " ".join(random.choice(WORDS) for _ in range(random.randrange(1, 5)))


def odd():
    return "".join(random.choice(string.ascii_letters + string.digits + " ,;|\t'#\"\n.-_:") for _ in range(random.randrange(1, 15))).strip() or "x"


# Columns of text files: what a cell says.
CELLS = {
    "int": lambda: str(random.randrange(-1000, 1000)),
    "long": lambda: str(random.randrange(-2**63, 2**63)),
    "ulong": lambda: str(random.randrange(0, 2**64)),
    "huge": lambda: str(random.randrange(-10**30, 10**30)),
    "double": lambda: repr(double()),
    "money": lambda: "%d.%02d" % (random.randrange(10**14), random.randrange(100)),
    "point": lambda: random.choice([".5", "-.25", "5.", "0.125", "1e3"]),
    "bool": lambda: random.choice(["true", "false"]),
    "date": lambda: day().isoformat(),
    "time": lambda: "%02d:%02d:%02d" % (random.randrange(24), random.randrange(60), random.randrange(60)),
    "stamp": lambda: moment().isoformat(sep=random.choice("T ")),
    "instant": lambda: moment().isoformat() + random.choice(["Z", "+02:00", "-05:30"]),
    "code": lambda: "%05d" % random.randrange(10**5),
    "uuid": lambda: str(uuid.UUID(int=random.getrandbits(128))),
    "text": text,
    "odd": odd,
}


def table():
    """Names, kinds, and rows of texts or None."""
    width, height = random.randrange(1, 8), random.choice([1, 3, 50, 300])
    kinds = [random.choice(list(CELLS)) for _ in range(width)]
    # Of a column, a few values of another kind; or missing ones.
    mixed = [random.choice(list(CELLS)) if random.random() < 0.15 else None for _ in range(width)]
    gaps = [random.choice([0, 0, 0.2]) for _ in range(width)]
    rows = []
    for _ in range(height):
        row = []
        for kind, other, gap in zip(kinds, mixed, gaps):
            make = CELLS[other] if other and random.random() < 0.05 else CELLS[kind]
            row.append(None if random.random() < gap else make())
        rows.append(row)
    names = ["%s%s%d" % (random.choice(WORDS), random.choice(["", "_", " "]), at) for at in range(width)]
    return names, rows


def make_csv(path):
    names, rows = table()
    delimiter = random.choice([",", ",", ";", "\t", "|"])
    ending = random.choice(["\n", "\n", "\r\n"])
    encoding = random.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"])
    with open(path, "w", encoding=encoding, newline="") as file:
        quoting = random.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=ending)
        writer.writerow(names)
        # A row of one empty field is a blank line, unless all fields have quotes.
        writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    return {"names": names, "delimiter": delimiter, "encoding": encoding}


def value(depth=0):
    kinds = ["int", "long", "double", "text", "bool", "none", "date"] + (["list", "dict"] if depth < 3 else [])
    match random.choice(kinds):
        case "int":
            return random.randrange(-1000, 1000)
        case "long":
            return random.randrange(-2**63, 2**64)
        case "double":
            return double()
        case "text":
            return odd() + random.choice(["", "\u2028", "é", "\\", "😀"])
        case "bool":
            return random.random() < 0.5
        case "none":
            return None
        case "date":
            return day().isoformat()
        case "list":
            return [value(depth + 1) for _ in range(random.randrange(4))]
        case "dict":
            return {random.choice(WORDS): value(depth + 1) for _ in range(random.randrange(4))}


def alike(sample):
    """Another value of the same shape, or now and then of any."""
    if random.random() < 0.03:
        return value()
    match sample:
        case bool():
            return random.random() < 0.5
        case int():
            return random.randrange(-abs(sample) - 2, abs(sample) + 2)
        case float():
            return double()
        case str():
            return odd()
        case list():
            return [alike(random.choice(sample)) for _ in range(random.randrange(4))] if sample else []
        case dict():
            return {key: alike(one) for key, one in sample.items() if random.random() < 0.9}
    return None


def make_jsonl(path):
    first = {name: value() for name in random.sample(WORDS, random.randrange(1, 7))}
    rows = [first] + [alike(first) for _ in range(random.choice([0, 5, 200]))]
    rows = [row if isinstance(row, dict) else first for row in rows]
    # Keys that no object has make no table.
    rows[0] = {**rows[0], "id": 1}
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=random.random() < 0.5) + "\n")
    return {}


def arrow_type(depth=0):
    a = pyarrow
    plain = [
        a.int8(), a.int16(), a.int32(), a.int64(), a.uint8(), a.uint16(), a.uint32(), a.uint64(), a.float32(), a.float64(), a.bool_(),
        a.string(), a.large_string(), a.binary(), a.date32(), a.time64("us"), a.timestamp("us"), a.timestamp("ms", "UTC"), a.timestamp("ns"),
        a.decimal128(10, 2), a.decimal128(38, 10), a.decimal256(50, 5), a.dictionary(a.int32(), a.string()), a.binary(4),
    ]
    if depth < 2 and random.random() < 0.25:
        inner = arrow_type(depth + 1)
        return random.choice([a.list_(inner), a.struct([("x", inner), ("y", a.int32())]), a.map_(a.string(), inner)])
    return random.choice(plain)


def arrow_value(kind):
    t = pyarrow.types
    if random.random() < 0.1:
        return None
    if t.is_dictionary(kind):
        return random.choice(WORDS)
    if t.is_integer(kind):
        low = 0 if t.is_unsigned_integer(kind) else -(2 ** (kind.bit_width - 1))
        return random.randrange(low, low + 2**kind.bit_width)
    if t.is_float32(kind):
        return struct.unpack("<f", struct.pack("<f", random.uniform(-1e6, 1e6)))[0]
    if t.is_floating(kind):
        return double()
    if t.is_boolean(kind):
        return random.random() < 0.5
    if t.is_string(kind) or t.is_large_string(kind):
        return odd()
    if t.is_fixed_size_binary(kind):
        return random.randbytes(kind.byte_width)
    if t.is_binary(kind):
        return random.randbytes(random.randrange(9))
    if t.is_date(kind):
        return day()
    if t.is_time(kind):
        return moment().time()
    if t.is_timestamp(kind):
        at = moment()
        at = at.replace(microsecond=at.microsecond // 1000 * 1000) if kind.unit == "ms" else at
        return at.replace(tzinfo=datetime.timezone.utc) if kind.tz else at
    if t.is_decimal(kind):
        digits = random.randrange(10 ** random.randrange(1, kind.precision + 1))
        return decimal.Decimal(digits).scaleb(-kind.scale, decimal.Context(prec=60))
    if t.is_list(kind):
        return [arrow_value(kind.value_type) for _ in range(random.randrange(4))]
    if t.is_map(kind):
        return [(key, arrow_value(kind.item_type)) for key in random.sample(WORDS, random.randrange(3))]
    return {field.name: arrow_value(field.type) for field in kind}


def make_parquet(path):
    height = random.choice([0, 1, 10, 500])
    kinds = [arrow_type() for _ in range(random.randrange(1, 8))]
    columns = [pyarrow.array([arrow_value(kind) for _ in range(height or 1)], kind) for kind in kinds]
    made = pyarrow.table(columns, names=["c%d" % at for at in range(len(kinds))])
    pyarrow.parquet.write_table(
        made,
        path,
        compression=random.choice(["none", "snappy", "gzip", "brotli", "zstd", "lz4"]),
        version=random.choice(["1.0", "2.4", "2.6"]) if not any("ns" in str(kind) for kind in kinds) else "2.6",
        data_page_version=random.choice(["1.0", "2.0"]),
        use_dictionary=random.random() < 0.5,
        row_group_size=random.choice([7, 1000]),
        write_page_index=random.random() < 0.5,
        store_schema=random.random() < 0.8,
    )
    return {}


MAKERS = {"csv": make_csv, "jsonl": make_jsonl, "parquet": make_parquet}


def make(folder, count, seed):
    asked = []
    for at in range(count):
        random.seed(seed * 1_000_003 + at)
        kind = list(MAKERS)[at % 3]
        path = os.path.join(folder, f"{at}.{kind}")
        asked.append({"path": path, "kind": kind, **MAKERS[kind](path)})
    json.dump(asked, open(os.path.join(folder, "asked.json"), "w"))


def says(ours, cell):
    """Whether a value of ingest's is what a field of text says."""
    if ours is None:
        return cell is None or cell == "" or cell in ABSENT
    if cell is None:
        return False
    match ours:
        case bool():
            return cell.lower() == str(ours).lower()
        case int():
            return int(cell) == ours
        case float():
            return struct.pack("<d", float(cell)) == struct.pack("<d", ours)
        case decimal.Decimal():
            return decimal.Decimal(cell) == ours
        case str():
            return cell == ours
        case datetime.datetime():
            said = datetime.datetime.fromisoformat(cell)
            return said == ours if said.tzinfo or not ours.tzinfo else False
        case datetime.date():
            return datetime.date.fromisoformat(cell) == ours
        case datetime.time():
            return datetime.time.fromisoformat(cell) == ours
    return False


def same(ours, value):
    """Whether a value of ingest's is a value of JSON."""
    try:
        return is_same(ours, value)
    except ValueError:
        return False


def is_same(ours, value):
    if isinstance(ours, str):
        # Where sorts are mixed it is the JSON as it stands in the file, of texts without their quotes unless lists or objects are there.
        return ours == value or (ours[:1] in '"{[-0123456789tfn' and json.loads(ours) == value)
    if ours is None:
        return value is None
    if isinstance(value, dict) and isinstance(ours, dict):
        return all(same(ours.get(key), one) for key, one in value.items()) and all(one is None for key, one in ours.items() if key not in value)
    if isinstance(value, list) and isinstance(ours, list):
        return len(ours) == len(value) and all(map(same, ours, value))
    if isinstance(value, bool) or isinstance(ours, bool):
        return value is ours
    if isinstance(ours, decimal.Decimal):
        return ours == decimal.Decimal(repr(value) if isinstance(value, float) else value)
    return ours == value


def rows_of(objects):
    return pyarrow.concat_tables([pyarrow.parquet.read_table(path) for path in objects])


def plain(value):
    """Values of several readers as one: a map is a dict, NaN is itself, decimals are numbers."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list) and value and all(isinstance(one, tuple) for one in value):
        return {key: plain(one) for key, one in value}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, datetime.time):
        # Parquet's mark that a time of day is of UTC is none that Arrow has.
        return value.replace(tzinfo=None)
    if isinstance(value, datetime.datetime) and value.tzinfo:
        return value.astimezone(datetime.timezone.utc)
    return value


def compare_csv(asked, made):
    ours = rows_of(made["objects"])
    if ours.column_names != asked["names"]:
        return [f"columns are {ours.column_names}, expected {asked['names']}"]
    got = [list(row) for row in zip(*(column.to_pylist() for column in ours.columns))]
    encoding = {"utf-8-sig": "utf-8"}.get(asked["encoding"], asked["encoding"])
    readers = {}
    # Their own text of UTF-16 is another one.
    path = asked["path"]
    if encoding == "utf-16":
        plain_path = path + ".utf8"
        with open(path, encoding="utf-16", newline="") as file, open(plain_path, "w", encoding="utf-8", newline="") as copy:
            copy.write(file.read())
        path = plain_path
    options = f"delim='{asked['delimiter']}', header=true, all_varchar=true, quote='\"', escape='\"', strict_mode=true, auto_detect=false"
    names = ", ".join("'%s': 'VARCHAR'" % name.replace("'", "''") for name in asked["names"])
    options += ", columns={%s}" % names
    readers["DuckDB"] = [list(row) for row in duckdb.sql(f"SELECT * FROM read_csv('{path}', {options})").fetchall()]
    if len(asked["names"]) > 1:
        theirs = polars.read_csv(path, separator=asked["delimiter"], infer_schema=False, empty_string_is_null=True)
        readers["polars"] = [list(row) for row in theirs.rows()]
    wrong = []
    for reader, rows in readers.items():
        if len(rows) != len(got) + made["quarantined"]:
            wrong.append(f"{reader} has {len(rows)} rows, ingest {len(got)} and {made['quarantined']} left out")
            continue
        for at, (own, theirs) in enumerate(zip(got, rows)):
            for name, ours_cell, cell in zip(asked["names"], own, theirs):
                if not says(ours_cell, cell):
                    wrong.append(f"row {at + 1} column {name!r}: {ours_cell!r} of ingest is {cell!r} of {reader}")
    return wrong


def compare_jsonl(asked, made):
    got = rows_of(made["objects"]).to_pylist()
    rows = [json.loads(line) for line in open(asked["path"], encoding="utf-8")]
    count = duckdb.sql(f"SELECT count(*) FROM read_json_objects('{asked['path']}', format='newline_delimited')").fetchone()[0]
    if not len(rows) == count == len(got) + made["quarantined"]:
        return [f"{len(rows)} lines, {count} of DuckDB, {len(got)} of ingest"]
    return [f"line {at + 1}: {own!r} of ingest is {row!r}" for at, (own, row) in enumerate(zip(got, rows)) if not same(own, row)]


def compare_parquet(asked, made):
    ours, theirs = rows_of(made["objects"]), pyarrow.parquet.read_table(asked["path"])
    wrong = []
    if plain(ours.to_pylist()) != plain(theirs.to_pylist()):
        wrong.append("rows are not pyarrow's")
    for reader, read in {
        "DuckDB": lambda path: [plain(list(row)) for row in duckdb.sql(f"SET timezone='UTC'; SELECT * FROM read_parquet('{path}')").fetchall()],
        "polars": lambda path: [plain(list(row)) for row in polars.read_parquet(path).rows()],
    }.items():
        try:
            expected = read(asked["path"])
        except (Exception, polars.exceptions.PanicException) as error:  # What it does not read it cannot be compared with.
            print(f"note: {reader} does not read {asked['path']}: {str(error)[:100]}", file=sys.stderr)
            continue
        found = [row for path in made["objects"] for row in read(path)]
        if repr(found) != repr(expected):
            wrong.append(f"rows are not {reader}'s")
    return wrong


COMPARERS = {"csv": compare_csv, "jsonl": compare_jsonl, "parquet": compare_parquet}


def compare(folder):
    asked = json.load(open(os.path.join(folder, "asked.json")))
    made = json.load(open(os.path.join(folder, "made.json")))
    for one, own in zip(asked, made, strict=True):
        if own.get("error"):
            print(f"{one['path']}: {own['error']}")
            continue
        try:
            wrong = COMPARERS[one["kind"]](one, own)
        except Exception as error:
            wrong = [f"cannot be compared: {type(error).__name__}: {error}"]
        for words in wrong[:3]:
            print(f"{one['path']}: {words}; notes: {own['notes']}")
    print(f"{len(asked)} files compared")


if sys.argv[1] == "make":
    make(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
else:
    compare(sys.argv[2])
