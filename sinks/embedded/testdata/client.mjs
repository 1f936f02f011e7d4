// Drives the embedded engine with @clickhouse/client: insert, read in several formats, parameters, streaming, errors.
// Usage: node client.mjs URL DATABASE, with the package's folder in CLIENT_MODULES. Prints "ok" at the end.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const require = createRequire(process.env.CLIENT_MODULES + '/package.json');
const { createClient, ClickHouseError, ClickHouseLogLevel } = require('@clickhouse/client');
const [url, database] = process.argv.slice(2);

for (const compression of [{}, { request: true, response: true }]) {
  const client = createClient({ url, database, compression, log: { level: ClickHouseLogLevel.OFF } });
  assert.equal((await client.ping()).success, true);
  await client.command({ query: 'CREATE OR REPLACE TABLE js (id UInt64, name String, tags Array(String), attributes Map(String, String), at DateTime64(6, \'UTC\')) ENGINE = MergeTree ORDER BY id' });

  const values = Array.from({ length: 10000 }, (_, i) => ({ id: String(i), name: `name ${i}\n\n`, tags: ['a', String(i)], attributes: { i: String(i) }, at: '2026-03-01 12:00:00.000001' }));
  const inserted = await client.insert({ table: 'js', values, format: 'JSONEachRow' });
  assert.ok(inserted.query_id);
  assert.equal(inserted.summary.written_rows, '10000');

  const result = await client.query({
    query: 'SELECT * FROM js WHERE id = {id: UInt64} AND name = {name: String}',
    query_params: { id: 42, name: 'name 42\n\n' },
    clickhouse_settings: { output_format_json_quote_64bit_integers: 1, wait_end_of_query: 1 },
    query_id: 'js-query', format: 'JSON',
  });
  assert.equal(result.query_id, 'js-query');
  const json = await result.json();
  assert.deepEqual(json.data, [values[42]]);
  assert.equal(json.rows, 1);

  const streamed = await client.query({ query: 'SELECT number FROM system.numbers LIMIT 500000', format: 'JSONCompactEachRow' });
  let rows = 0, sum = 0;
  for await (const batch of streamed.stream()) for (const row of batch) { rows++; sum += Number(row.json()[0]); }
  assert.deepEqual([rows, sum], [500000, 124999750000]);

  const csv = await client.query({ query: 'SELECT count() AS n FROM js', format: 'CSVWithNames' });
  assert.equal(await csv.text(), '"n"\n10000\n');

  await assert.rejects(client.query({ query: 'SELECT * FROM nope' }), (err) => err instanceof ClickHouseError && err.code === '60' && err.type === 'UNKNOWN_TABLE');
  await assert.rejects(client.insert({ table: 'js', values: [{ id: 'x' }], format: 'JSONEachRow' }), ClickHouseError);
  await assert.rejects(async () => {
    const late = await client.query({ query: 'SELECT number, throwIf(number = 900000) FROM numbers(1000000) SETTINGS max_threads = 1', format: 'JSONEachRow' });
    for await (const batch of late.stream()) void batch;
  }, (err) => compression.response || err instanceof ClickHouseError && err.code === '395');

  const session = createClient({ url, database, session_id: crypto.randomUUID() });
  await session.command({ query: 'CREATE TEMPORARY TABLE mine (a UInt8)' });
  await session.insert({ table: 'mine', values: [[7]], format: 'JSONCompactEachRow' });
  assert.equal(await (await session.query({ query: 'SELECT a FROM mine', format: 'TabSeparated' })).text(), '7\n');
  await session.close();
  await client.close();
}
console.log('ok');
