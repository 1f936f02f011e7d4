-- Where every record went: dead_letters holds those that became no action, progress says up to where
-- each partition is accounted for.

CREATE TABLE IF NOT EXISTS dead_letters
(
    topic        LowCardinality(String),
    partition    Int32,
    offset       Int64,
    record_index Int32,
    reason       LowCardinality(String),
    error        String CODEC(ZSTD(1)),
    bytes        String CODEC(ZSTD(1)),          -- any bytes, not always text; secrets replaced, cut to a limit
    raw_sha256   String CODEC(ZSTD(1)),
    ingested_at  DateTime64(6, 'UTC'),
    failed_at    DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
-- A record delivered again lands on the same row.
ENGINE = ReplacingMergeTree(failed_at)
ORDER BY (topic, partition, offset, record_index);

CREATE TABLE IF NOT EXISTS progress
(
    topic      LowCardinality(String),
    partition  Int32,
    offset     Int64,                            -- the next one to read: everything below is in the tables
    watermark  DateTime64(9, 'UTC'),             -- no earlier event time is still expected
    -- The database's clock ranks the writes of all instances. A late write of a former owner lowers
    -- the row for a moment; what it says stays true, and the owner's next write raises it again.
    updated_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(updated_at)
ORDER BY (topic, partition);
