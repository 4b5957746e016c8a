"""Reads the same table over Flight from Weir and from pyarrow's own C++ server, taking turns.

Prints one JSON object: GB/s of each side, best and median. Needs pyarrow.
Usage: flight_get.py WEIR_URI COMMAND_JSON TURNS
"""

import json
import statistics
import sys
import time

import pyarrow
import pyarrow.flight as flight


class TableServer(flight.FlightServerBase):
    """Serves one table from memory in record batches of the size that Weir sends."""

    def __init__(self, batches, schema):
        super().__init__("grpc://127.0.0.1:0")
        self.batches = batches
        self.table_schema = schema

    def do_get(self, context, ticket):
        return flight.RecordBatchStream(pyarrow.RecordBatchReader.from_batches(self.table_schema, self.batches))


def read(client, tickets):
    """Returns bytes of Arrow buffers and rows, read batch by batch."""
    size = rows = 0
    for ticket in tickets:
        for chunk in client.do_get(ticket):
            size += chunk.data.nbytes
            rows += chunk.data.num_rows
    return size, rows


def main():
    uri, command, turns = sys.argv[1], sys.argv[2], int(sys.argv[3])
    weir = flight.connect(uri)
    info = weir.get_flight_info(flight.FlightDescriptor.for_command(command))
    tickets = [endpoint.ticket for endpoint in info.endpoints]
    batches = []
    for ticket in tickets:
        batches += [chunk.data for chunk in weir.do_get(ticket) if chunk.data.num_rows]
    server = TableServer(batches, info.schema)
    rival = flight.connect(f"grpc://127.0.0.1:{server.port}")
    sides = {"weir": (weir, tickets), "pyarrow": (rival, [flight.Ticket(b"table")])}
    rates = {name: [] for name in sides}
    rows = {}
    for _ in range(turns):
        for name, (client, wanted) in sides.items():
            start = time.perf_counter()
            size, rows[name] = read(client, wanted)
            rates[name].append(size / (time.perf_counter() - start) / 1e9)
    assert rows["weir"] == rows["pyarrow"], rows
    report = {name: {"best": max(r), "median": statistics.median(r)} for name, r in rates.items()}
    print(json.dumps({"rows": rows["weir"], "batches": len(batches), "bytes": size, "gb_per_s": report}))


main()
