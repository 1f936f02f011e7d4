-- Where every record went: dead_letters holds those that became no action, skips says what was left out
-- on purpose, and progress up to where each partition is accounted for. Every item of every record below
-- progress.offset is a row of actions, of dead_letters or of skips; `catena verify` proves it.

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

-- One row a place, or a run of whole offsets left out for one reason: offset <= x < until. Names are those
-- of the sources (plain_span, …), plain_log, and of the path itself: duplicate (the event's row names
-- another place), absent (the broker has no record there), lost (retention was faster), unreadable,
-- before_start. Runs of one replay may overlap those of another, which is why until is in the key.
CREATE TABLE IF NOT EXISTS skips
(
    topic        LowCardinality(String),
    partition    Int32,
    offset       Int64 CODEC(Delta, ZSTD(1)),
    record_index Int32 CODEC(ZSTD(1)),
    until        Int64 CODEC(Delta, ZSTD(1)),
    name         LowCardinality(String),
    source       LowCardinality(String),
    event_id     UUID,                           -- zero where no event is known
    written_at   DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC') CODEC(Delta, ZSTD(1)),

    INDEX by_event event_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY (topic, partition, offset, record_index, until);

-- How many items the records have that hold several: one OTLP record holds many spans. They are numbered
-- from 0 in record_index. A record without a row here has one.
CREATE TABLE IF NOT EXISTS item_counts
(
    topic      LowCardinality(String),
    partition  Int32,
    offset     Int64 CODEC(Delta, ZSTD(1)),
    items      Int32 CODEC(ZSTD(1)),
    written_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY (topic, partition, offset);

CREATE TABLE IF NOT EXISTS progress
(
    topic      LowCardinality(String),
    partition  Int32,
    offset     Int64,                            -- the next one to read: everything below is in the tables
    watermark  DateTime64(9, 'UTC'),             -- no earlier event time is still expected
    -- When the writer was assigned the partition, in Unix milliseconds: a late write of a former owner
    -- does not count. Of one owner the last write counts.
    owner      UInt64,
    updated_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(owner)
ORDER BY (topic, partition);

-- How far each backfill has come, so that one that was stopped goes on.
CREATE TABLE IF NOT EXISTS backfills
(
    name       String,
    topic      LowCardinality(String),
    partition  Int32,
    from       Int64,
    to         Int64,
    next       Int64,                            -- offset to read next
    updated_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(updated_at)
ORDER BY (name, topic, partition);
