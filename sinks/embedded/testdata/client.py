"""Drives the embedded engine with clickhouse-connect: insert, read, parameters, streaming, errors.

Usage: client.py HOST PORT DATABASE. Prints "ok" at the end.
"""

import sys
import uuid
from datetime import datetime, timezone

import clickhouse_connect
from clickhouse_connect.driver.exceptions import DatabaseError

host, port, database = sys.argv[1], int(sys.argv[2]), sys.argv[3]

for compress in (False, True, "lz4", "zstd", "gzip", "br"):
    try:
        client = clickhouse_connect.get_client(host=host, port=port, database=database, compress=compress)
    except Exception as err:
        if compress == "br" and "br" in str(err):
            continue  # needs a package of its own
        raise
    assert client.ping()
    client.command(
        "CREATE OR REPLACE TABLE py (id UInt64, name String, kind LowCardinality(String), maybe Nullable(String), tags Array(String), "
        "attributes Map(String, String), hops Array(Tuple(key String, strength UInt8)), at DateTime64(6, 'UTC'), event UUID, "
        "grade Enum8('proven' = 1, 'stated' = 2)) ENGINE = MergeTree ORDER BY id"
    )
    at = datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=timezone.utc)
    rows = [
        [i, f"name {i}\n\n", ("human", "agent")[i % 2], None if i % 2 else "x", ["a", str(i)], {"i": str(i)}, [("k", i % 256)], at,
         uuid.uuid5(uuid.NAMESPACE_OID, str(i)), ("proven", "stated")[i % 2]]
        for i in range(10000)
    ]
    columns = ["id", "name", "kind", "maybe", "tags", "attributes", "hops", "at", "event", "grade"]
    summary = client.insert("py", rows, column_names=columns)
    assert summary.written_rows == 10000, summary.summary

    result = client.query("SELECT * FROM py WHERE id = {id:UInt64} AND name = {name:String}", parameters={"id": 42, "name": "name 42\n\n"})
    assert result.column_names == tuple(columns), result.column_names
    (row,) = result.result_rows
    want = list(rows[42])
    got = list(row)
    got[7] = got[7].replace(tzinfo=timezone.utc) if got[7].tzinfo is None else got[7]
    got[6] = [tuple(hop.values()) if isinstance(hop, dict) else tuple(hop) for hop in got[6]]
    assert got == want, (got, want)

    total = count = 0
    with client.query_row_block_stream("SELECT number FROM system.numbers LIMIT 500000") as stream:
        for block in stream:
            count += len(block)
            total += sum(r[0] for r in block)
    assert (count, total) == (500000, 124999750000), (count, total)

    assert client.command("SELECT count() FROM py") == 10000
    assert client.raw_query("SELECT 1 AS n FORMAT CSVWithNames") == b'"n"\n1\n'
    assert client.query("SELECT getSetting('max_threads')", settings={"max_threads": 3}).first_row == (3,)
    assert client.query("SELECT * FROM py WHERE id = 123456789").result_rows == []

    for sql in ("SELECT * FROM nope", "SELEC 1", "SELECT throwIf(number = 9000000) FROM numbers(10000000) SETTINGS max_threads = 1"):
        try:
            client.query(sql)
        except DatabaseError:
            pass
        else:
            raise AssertionError(f"{sql} did not fail")

    client.command("CREATE TEMPORARY TABLE mine (a UInt8)")  # the client keeps a session
    client.insert("mine", [[7]], column_names=["a"], column_type_names=["UInt8"])
    assert client.command("SELECT a FROM mine") == 7
    client.close()
print("ok")
