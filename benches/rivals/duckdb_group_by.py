"""Runs SQL on a Parquet file with DuckDB on one and on two threads.

Prints one JSON object: seconds of each turn. Needs duckdb.
Usage: duckdb_group_by.py PARQUET SQL TURNS      (the SQL names the table `t`)
"""

import json
import sys
import time

import duckdb


def main():
    path, sql, turns = sys.argv[1], sys.argv[2], int(sys.argv[3])
    connection = duckdb.connect()
    connection.execute(f"create view t as select * from read_parquet('{path}')")
    seconds = {}
    for threads in (1, 2):
        connection.execute(f"set threads = {threads}")
        connection.execute(sql).fetchall()
        seconds[threads] = []
        for _ in range(turns):
            start = time.perf_counter()
            answer = connection.execute(sql).fetchall()
            seconds[threads].append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "rows": len(answer), "version": duckdb.__version__}))


main()
