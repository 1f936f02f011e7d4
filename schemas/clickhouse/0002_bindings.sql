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

    -- Whoever goes down from a session asks for the children of several keys at a time, step by step: at one in a
    -- hundred each step would read a good part of the table for nothing.
    INDEX by_parent parent TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_proof  proof  TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
-- Child first: a lookup asks who drives a key. No partitions, because a binding that always held has
-- no date. The proof is left out of the key: a thousand uses of one access key prove one binding.
ORDER BY (child, relation, parent, strength, from);
