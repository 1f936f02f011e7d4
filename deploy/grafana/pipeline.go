package main

// pipeline shows both what the process says of itself (Prometheus) and what
// the tables say, which is true also when the process is gone.
func pipeline() dashboard {
	return dashboard{
		uid: "catena-pipeline", title: "Pipeline", about: "Is everything read, in time, complete, and within its limits?",
		panels: []panel{
			{id: 1, title: "From the tables", kind: "row", w: 24, h: 1},
			{id: 2, title: "Final before", about: "Rows older than this change no more, unless a record comes later than was allowed.", kind: "stat", w: 8, h: 4, unit: "dateTimeAsIso",
				sql: `SELECT toUnixTimestamp64Milli(final_before) AS final_before FROM finality`},
			{id: 3, title: "Records accounted for", about: "Everything below the offsets of progress is in the tables.", kind: "stat", w: 8, h: 4, sql: `SELECT sum(offset) AS records FROM progress FINAL`},
			{id: 4, title: "Dead letters", about: "Records that could not be decoded; all of them, whatever the time range.", kind: "stat", w: 8, h: 4, steps: []step{{0, "green"}, {1, "orange"}},
				sql: `SELECT count() AS dead_letters FROM dead_letters FINAL`},
			{id: 5, title: "Progress", about: "How far each partition is accounted for.", kind: "table", w: 12, h: 9,
				sql: `SELECT topic, partition, offset, watermark, updated_at FROM progress FINAL ORDER BY topic, partition`},
			{id: 6, title: "Newest event by source", about: "A source that used to speak and is silent now is a broken log pipeline, or somebody who broke it.", kind: "table", w: 12, h: 9,
				units: map[string]string{"silent_for": "s"},
				sql: `SELECT source, max(event_time) AS newest, greatest(0, dateDiff('second', max(event_time), toDateTime64($__toTime, 6, 'UTC'))) AS silent_for, count() AS actions
FROM actions FINAL
WHERE $__timeFilter(event_time)
GROUP BY source ORDER BY newest, source`},
			{id: 7, title: "From record to row, 99th percentile", about: "By the broker's timestamp and the database's clock; a row that was improved later counts with its last write.", kind: "timeseries", w: 12, h: 8,
				series: "source", unit: "s", lines: true,
				sql: `SELECT $__timeInterval(ingested_at) AS time, source, quantile(0.99)(dateDiff('millisecond', ingested_at, attributed_at)) / 1000 AS seconds
FROM actions FINAL
WHERE $__timeFilter(ingested_at)
GROUP BY time, source ORDER BY time, source`},
			{id: 8, title: "From event to record, median", about: "The source's own delay: minutes for CloudTrail are as its maker says.", kind: "timeseries", w: 12, h: 8, series: "source", unit: "s", lines: true,
				sql: `SELECT $__timeInterval(ingested_at) AS time, source, quantile(0.5)(dateDiff('millisecond', ended_at, ingested_at)) / 1000 AS seconds
FROM actions FINAL
WHERE $__timeFilter(ingested_at)
GROUP BY time, source ORDER BY time, source`},
			{id: 9, title: "Dead letters by reason", about: "catena deadletters lists them and sends them again.", kind: "table", w: 14, h: 8,
				sql: `SELECT reason, topic, count() AS records, max(failed_at) AS last_seen, any(error) AS such_as
FROM dead_letters FINAL
GROUP BY reason, topic ORDER BY records DESC, reason, topic`},
			{id: 10, title: "Left out by name", about: "Records that are no action, each with its place in skips.", kind: "table", w: 10, h: 8,
				sql: `SELECT name, source, topic, count() AS records, max(written_at) AS last_seen
FROM skips FINAL
GROUP BY name, source, topic ORDER BY records DESC, name, topic`},
			{id: 11, title: "From the process", kind: "row", w: 24, h: 1},
			{id: 12, title: "Records", about: "Read from Kafka, by topic.", kind: "timeseries", w: 12, h: 8, unit: "cps", promql: []query{
				{`sum by (topic) (rate(catena_records_total[$__rate_interval]))`, "{{topic}}"}}},
			{id: 13, title: "Rows", about: "Made durable, by table; of actions, improvements too.", kind: "timeseries", w: 12, h: 8, unit: "cps", promql: []query{
				{`sum by (table) (rate(catena_rows_total[$__rate_interval]))`, "{{table}}"}}},
			{id: 14, title: "Behind, in records", about: "Records in Kafka that are not durable in the tables yet.", kind: "timeseries", w: 12, h: 8, lines: true, promql: []query{
				{`sum by (topic) (catena_lag_records)`, "{{topic}}"}}},
			{id: 15, title: "Behind, in time", about: "The oldest record that is not durable, and the watermark, which trails by the out-of-orderness bound on purpose.", kind: "timeseries", w: 12, h: 8, unit: "s", lines: true, promql: []query{
				{`max by (topic) (catena_lag_seconds)`, "{{topic}}"},
				{`max(catena_watermark_delay_seconds)`, "watermark"}}},
			{id: 16, title: "From append to row", about: "Until the first row of a record can be queried.", kind: "timeseries", w: 8, h: 8, unit: "s", lines: true, promql: []query{
				{`histogram_quantile(0.5, sum by (le) (rate(catena_row_latency_seconds_bucket[$__rate_interval])))`, "50th percentile"},
				{`histogram_quantile(0.99, sum by (le) (rate(catena_row_latency_seconds_bucket[$__rate_interval])))`, "99th percentile"}}},
			{id: 17, title: "Inserts", about: "Time of one, 95th percentile, by table.", kind: "timeseries", w: 8, h: 8, unit: "s", lines: true, promql: []query{
				{`histogram_quantile(0.95, sum by (le, table) (rate(catena_insert_seconds_bucket[$__rate_interval])))`, "{{table}}"}}},
			{id: 18, title: "Trouble", about: "All of these should be nothing.", kind: "timeseries", w: 8, h: 8, unit: "cps", promql: []query{
				{`sum by (reason) (rate(catena_dead_letters_total[$__rate_interval]))`, "dead letters, {{reason}}"},
				{`sum(rate(catena_insert_retries_total[$__rate_interval]))`, "insert retries"},
				{`sum(rate(catena_commit_failures_total[$__rate_interval]))`, "commit failures"},
				{`sum by (what) (rate(catena_evictions_total[$__rate_interval]))`, "evicted, {{what}}"},
				{`sum(rate(catena_offsets_without_record_total{why="expired"}[$__rate_interval]))`, "lost to retention"}}},
			{id: 19, title: "State", about: "Memory of the correlator, and its limit.", kind: "timeseries", w: 12, h: 8, unit: "bytes", lines: true, promql: []query{
				{`catena_state_bytes`, "{{instance}}"},
				{`catena_state_limit_bytes`, "limit, {{instance}}"}}},
			{id: 20, title: "What is remembered", about: "Keys, bindings and rows in the state.", kind: "timeseries", w: 12, h: 8, lines: true, promql: []query{
				{`sum(catena_state_keys)`, "keys"}, {`sum(catena_state_bindings)`, "bindings"}, {`sum(catena_state_rows)`, "rows"}}},
			{id: 22, title: "Canary", about: "How long a chain of catena canary takes to come out attributed, and how long ago the last one did.", kind: "timeseries", w: 12, h: 8, unit: "s", lines: true, promql: []query{
				{`histogram_quantile(0.99, sum by (le) (rate(catena_canary_seconds_bucket[$__rate_interval])))`, "takes, 99th percentile"},
				{`time() - max(catena_canary_last_success_timestamp_seconds)`, "last success ago"}}},
			{id: 21, title: "Instances", about: "Ready, in the group, and able to write.", kind: "timeseries", w: 12, h: 8, lines: true, promql: []query{
				{`sum(catena_ready)`, "ready"}, {`sum(catena_group_joined)`, "in the group"}, {`sum(catena_database_failing)`, "failing to write"}}},
		},
	}
}
