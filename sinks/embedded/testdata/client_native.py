"""Drives the embedded engine over the native protocol with clickhouse-driver: insert, read, parameters, streaming, errors.

Usage: client_native.py HOST PORT DATABASE. Prints "ok" at the end.
"""

import sys
import uuid
from datetime import datetime, timezone

from clickhouse_driver import Client
from clickhouse_driver.errors import ServerException

host, port, database = sys.argv[1], int(sys.argv[2]), sys.argv[3]

for compression in (False, "lz4", "zstd"):
    client = Client(host, port=port, database=database, compression=compression, settings={"max_threads": 2, "use_numpy": False})
    client.execute("DROP TABLE IF EXISTS py")
    client.execute(
        "CREATE TABLE py (id UInt64, name String, kind LowCardinality(String), maybe Nullable(String), tags Array(String), "
        "attributes Map(String, String), hops Array(Tuple(key String, strength UInt8)), at DateTime64(6, 'UTC'), event UUID, "
        "grade Enum8('proven' = 1, 'stated' = 2)) ENGINE = MergeTree ORDER BY id"
    )
    at = datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=timezone.utc)
    rows = [
        (i, f"name {i}\n\n", ("human", "agent")[i % 2], None if i % 2 else "x", ["a", str(i)], {"i": str(i)}, [("k", i % 256)], at,
         uuid.uuid5(uuid.NAMESPACE_OID, str(i)), ("proven", "stated")[i % 2])
        for i in range(10000)
    ]
    assert client.execute("INSERT INTO py VALUES", rows, settings={"insert_block_size": 3000}) == 10000

    got = client.execute("SELECT * FROM py WHERE id = %(id)s AND name = %(name)s", {"id": 42, "name": "name 42\n\n"}, with_column_types=True)
    assert [name for name, _ in got[1]] == ["id", "name", "kind", "maybe", "tags", "attributes", "hops", "at", "event", "grade"], got[1]
    row = list(got[0][0])
    row[6] = [tuple(hop.values()) if isinstance(hop, dict) else tuple(hop) for hop in row[6]]
    assert row == list(rows[42]), (row, rows[42])

    total = count = 0
    for (number,) in client.execute_iter("SELECT number FROM system.numbers LIMIT 500000"):
        count += 1
        total += number
    assert (count, total) == (500000, 124999750000), (count, total)

    assert client.execute("SELECT count() FROM py FORMAT JSON") == [(10000,)]
    assert client.execute("SELECT getSetting('max_threads')") == [(2,)]
    assert client.execute("SELECT * FROM py WHERE id = 123456789", with_column_types=True)[1][0] == ("id", "UInt64")
    external = [{"name": "mine", "structure": [("a", "UInt8")], "data": [{"a": 7}, {"a": 8}]}]
    assert client.execute("SELECT sum(a) FROM mine", external_tables=external) == [(15,)]
    progress = client.execute_with_progress("SELECT max(number) FROM numbers(1000000)")
    assert progress.get_result() == [(999999,)]

    for sql in ("SELECT * FROM nope", "SELEC 1", "SELECT throwIf(number = 9000000) FROM numbers(10000000) SETTINGS max_threads = 1"):
        try:
            client.execute(sql)
        except ServerException:
            pass
        else:
            raise AssertionError(f"{sql} did not fail")
    try:
        client.execute("INSERT INTO nope VALUES", [(1,)])
    except ServerException as err:
        assert err.code == 60, err
    else:
        raise AssertionError("an insert into no table did not fail")

    client.execute("CREATE TEMPORARY TABLE mine (a UInt8)")  # a connection is a session
    client.execute("INSERT INTO mine VALUES", [(7,)])
    assert client.execute("SELECT a FROM mine") == [(7,)]
    client.disconnect()
print("ok")
