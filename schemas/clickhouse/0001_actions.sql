-- actions: one row per observed action, with who or what it is attributed to.
--
-- A row is written as soon as the action is seen and written again, with the same event_id and a
-- higher version, when a later record improves it. Read it with FINAL, or take the row with the
-- highest version of each event_id yourself:
--
--     SELECT event_time, action, resource, root_name, grade FROM actions FINAL WHERE chain_id = '…' ORDER BY event_time
--
-- Tokens, sessions, workloads and the like are written kind:namespace:value, as in
-- token:aws.access_key:ASIA…; the closed lists of words are in the reference.
CREATE TABLE IF NOT EXISTS actions
(
    event_id         UUID,
    event_time       DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    -- An instant ends when it begins, so that "ended_at >= x" needs no special case.
    ended_at         DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    source           LowCardinality(String),
    class            LowCardinality(String),
    action           LowCardinality(String),
    resource         String CODEC(ZSTD(1)),
    outcome          LowCardinality(String),
    tenant           LowCardinality(String),
    actor_kind       LowCardinality(String),
    actor_id         String CODEC(ZSTD(1)),      -- namespace:value
    actor_name       String CODEC(ZSTD(1)),
    token            String CODEC(ZSTD(1)),      -- the first key of the kind; keys has them all
    session          String CODEC(ZSTD(1)),
    workload         String CODEC(ZSTD(1)),
    request          String CODEC(ZSTD(1)),
    trace_id         String CODEC(ZSTD(1)),
    span_id          String CODEC(ZSTD(1)),
    source_ip        String CODEC(ZSTD(1)),      -- text: some sources put a service's name here
    user_agent       String CODEC(ZSTD(1)),

    grade            LowCardinality(String),
    reason           LowCardinality(String),
    chain_id         UUID,                       -- zero when the action belongs to no chain
    root_kind        LowCardinality(String),     -- empty when the root is unknown
    root_id          String CODEC(ZSTD(1)),      -- namespace:value
    root_name        String CODEC(ZSTD(1)),
    -- From the root to the actor. hops.key is the array of the keys alone. A lent hop is a login that
    -- was found by name and time: it tells mfa and auth_method and changes neither grade nor chain.
    hops             Array(Tuple(
                         key      String,
                         name     String,
                         relation LowCardinality(String),
                         strength LowCardinality(String),
                         proof    UUID,
                         at       DateTime64(9, 'UTC'),
                         lent     Bool)) CODEC(ZSTD(1)),
    depth            UInt16,
    frontier         String CODEC(ZSTD(1)),      -- the key at which the walk stopped; empty when it reached a root
    cause_id         UUID,                       -- event_id of the tool call that drove it; zero when none is known
    cause_grade      LowCardinality(String),
    candidates       Array(Tuple(
                         parent String,
                         root   String,
                         proof  UUID)) CODEC(ZSTD(1)),

    authority        String CODEC(ZSTD(1)),
    scopes           String CODEC(ZSTD(1)),      -- separated by blanks, as the record has them
    grant_id         String CODEC(ZSTD(1)),
    policy_decision  LowCardinality(String),
    policy_id        String CODEC(ZSTD(1)),
    auth_method      LowCardinality(String),
    mfa              LowCardinality(String),
    flags            Array(LowCardinality(String)),

    -- Where the record lies. The hash is of the whole record and in hexadecimal, because it is there to
    -- be compared with what sha256sum prints; under ZSTD it takes little more than the 32 bytes.
    topic            LowCardinality(String),
    partition        Int32,
    offset           Int64 CODEC(Delta, ZSTD(1)),
    record_index     Int32,
    raw_sha256       String CODEC(ZSTD(1)),
    ingested_at      DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    -- The database's own clock at the insert, so that latencies are measured by one clock.
    attributed_at    DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    version          UInt64 CODEC(Delta, ZSTD(1)),
    attributes       Map(LowCardinality(String), String) CODEC(ZSTD(1)),

    -- What a restart needs beyond the columns above to go on exactly where it stopped: every key, and
    -- the times to the nanosecond, since order within a microsecond decides which mint comes first.
    keys             Array(String) CODEC(ZSTD(1)),
    redacted         Bool,
    self_reported    Bool,
    record_auth_method LowCardinality(String),   -- what the record itself says; auth_method and mfa are the chain's
    record_mfa       LowCardinality(String),
    decision         LowCardinality(String),     -- what this event itself decided, if it is a policy decision
    decision_id      String CODEC(ZSTD(1)),
    decision_policy  String CODEC(ZSTD(1)),
    time_nanos       Int64 CODEC(Delta, ZSTD(1)),
    ended_nanos      Int64 CODEC(Delta, ZSTD(1)), -- 0 for an instant
    resolution_nanos Int64 CODEC(Delta, ZSTD(1)),

    -- Worked out when they are read, so that every question means the same by them. SELECT * leaves
    -- them out; name them.
    -- Changes of identities, roles and policies; secrets; commands.
    privileged Bool ALIAS class IN ('issuance', 'grant', 'command') AND outcome = 'success'
        OR match(action, '^(iam|organizations|sso|kms):(Create|Put|Attach|Update|Add|Delete)|^secretsmanager:GetSecretValue|^(create|update|patch|delete) (cluster)?role|^(get|list) secrets'),
    -- An agent's tool call, what such a call caused, or what an agent did under its own identity.
    by_agent Bool ALIAS class = 'tool_call' OR cause_id != toUUID('00000000-0000-0000-0000-000000000000') OR actor_kind = 'agent' OR root_kind = 'agent',
    -- The first of the keys that lives for months: a user's access key, an API key, a certificate; empty if none.
    standing_credential String ALIAS arrayFirst(k -> match(k, '^token:(aws\\.access_key:AKIA|(x509\\.sha256|okta\\.api_token|github\\.hashed|gcp\\.sa_key|entra\\.credential|azure\\.storage_key|azure\\.sas|anthropic\\.api_key|openai\\.api_key):)'), keys),

    -- So that a restart and a question about a time range skip what had ended before it.
    INDEX by_end      ended_at  TYPE minmax GRANULARITY 1,

    -- None of these is in the sort key: investigations start from one id, and each index lets such a
    -- question skip the granules that cannot hold it.
    INDEX by_event    event_id  TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_chain    chain_id  TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_cause    cause_id  TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_root     root_id   TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_name     root_name TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_token    token     TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_session  session   TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_workload workload  TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_trace    trace_id  TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_key      keys      TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_hop      hops.key  TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_resource resource  TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_ip       source_ip TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
-- By month, not by day: an insert makes one part for each partition it touches, and late records,
-- replays and backfills touch many days. To keep a year, for instance:
--     ALTER TABLE actions MODIFY TTL toDateTime(event_time) + INTERVAL 1 YEAR
PARTITION BY toYYYYMM(event_time)
-- Only what can never change for an event may stand here, or a later version would not replace the
-- earlier one; hence no grade and no chain. Rows of one source and time lie together, which is what
-- a chain looks like.
ORDER BY (toStartOfHour(event_time), source, event_time, event_id)
-- Whoever follows an identity reads single rows with many columns, and what is read at the least is a granule of
-- each. A quarter of the usual granule, in compressed blocks that are no larger, costs 3 % of disk and nothing where
-- all rows are read, and what a person did on one day takes 37 ms of CPU in place of 60. (Smaller granules alone
-- gain nothing: the blocks stay large. 1,024 rows: 30 ms, 6 % of disk, and the marks take twice the memory. LZ4
-- in place of ZSTD(1): look-ups the same, a full scan a third faster, 62 % more disk.)
SETTINGS index_granularity = 2048, min_compress_block_size = 16384;
