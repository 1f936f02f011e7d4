-- bindings: who drives what. child is driven by parent while `from` <= time < `until`.
--
-- The rows of a restart: what was proven before it stopped is read back from here. Times keep their
-- nanoseconds, because the order of a mint and a use within one microsecond matters. 1970-01-01 stands
-- for always in `from`, and for not known in `until` and expires.
CREATE TABLE IF NOT EXISTS bindings
(
    child        String CODEC(ZSTD(1)),          -- kind:namespace:value
    parent       String CODEC(ZSTD(1)),          -- empty for the relations ended and revoked
    child_name   String CODEC(ZSTD(1)),
    parent_name  String CODEC(ZSTD(1)),
    relation     LowCardinality(String),
    strength     LowCardinality(String),
    from         DateTime64(9, 'UTC') CODEC(ZSTD(1)),
    until        DateTime64(9, 'UTC') CODEC(ZSTD(1)),
    expires      DateTime64(9, 'UTC') CODEC(ZSTD(1)), -- stated by the record, not enforced by the issuer
    auth_method  LowCardinality(String),
    mfa          LowCardinality(String),
    scopes       String CODEC(ZSTD(1)),          -- of a token, space separated
    source       LowCardinality(String),
    proof        UUID,                           -- event_id of the event that shows it
    proof_time   DateTime64(9, 'UTC') CODEC(ZSTD(1)),
    topic        LowCardinality(String),
    partition    Int32,
    offset       Int64,
    record_index Int32,
    version      UInt64,

    INDEX by_proof proof TYPE bloom_filter(0.01) GRANULARITY 1,

    -- Whoever goes down from a session asks for the children of many keys at a time, and so does a running catena
    -- for logins and grants below the keys that it looks up. Of 30 million bindings, those of 500 parents cost 50 ms
    -- so and 2 s by a skip index; it takes a quarter of the table's disk. FINAL does not use it: ask it for children
    -- first, and the table for these.
    PROJECTION by_parent (SELECT parent, relation, child, strength ORDER BY parent)
)
ENGINE = ReplacingMergeTree(version)
-- Child first: a lookup asks who drives a key. No partitions, because a binding that always held has
-- no date. The proof is left out of the key: a thousand uses of one access key prove one binding.
ORDER BY (child, relation, parent, strength, from)
SETTINGS deduplicate_merge_projection_mode = 'rebuild';
