-- Written by the test TestClusterStatements -update; what CATENA_CLICKHOUSE_CLUSTER=main makes.

CREATE DATABASE IF NOT EXISTS `catena` ON CLUSTER 'main';

CREATE TABLE IF NOT EXISTS schema_migrations ON CLUSTER 'main'
(
    version    UInt32,
    name       String,
    sha256     String,
    applied_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/catena/schema_migrations', '{shard}-{replica}', applied_at)
ORDER BY (version, sha256);

CREATE TABLE IF NOT EXISTS actions_local ON CLUSTER 'main'
(
    event_id         UUID,
    event_time       DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
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

    topic            LowCardinality(String),
    partition        Int32,
    offset           Int64 CODEC(Delta, ZSTD(1)),
    record_index     Int32,
    raw_sha256       String CODEC(ZSTD(1)),
    ingested_at      DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    attributed_at    DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    version          UInt64 CODEC(Delta, ZSTD(1)),
    attributes       Map(LowCardinality(String), String) CODEC(ZSTD(1)),

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

    privileged Bool ALIAS class IN ('issuance', 'grant', 'command') AND outcome = 'success'
        OR match(action, '^(iam|organizations|sso|kms):(Create|Put|Attach|Update|Add|Delete)|^secretsmanager:GetSecretValue|^(create|update|patch|delete) (cluster)?role|^(get|list) secrets'),
    by_agent Bool ALIAS class = 'tool_call' OR cause_id != toUUID('00000000-0000-0000-0000-000000000000') OR actor_kind = 'agent' OR root_kind = 'agent',
    standing_credential String ALIAS arrayFirst(k -> match(k, '^token:(aws\\.access_key:AKIA|(x509\\.sha256|okta\\.api_token|github\\.hashed|gcp\\.sa_key|entra\\.credential|azure\\.storage_key|azure\\.sas|anthropic\\.api_key|openai\\.api_key):)'), keys),

    INDEX by_end      ended_at  TYPE minmax GRANULARITY 1,

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
ENGINE = ReplicatedReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_time)
ORDER BY (toStartOfHour(event_time), source, event_time, event_id)
SETTINGS index_granularity = 2048, min_compress_block_size = 16384;

CREATE TABLE IF NOT EXISTS actions ON CLUSTER 'main' AS actions_local
ENGINE = Distributed('main', currentDatabase(), actions_local, cityHash64(event_id));

CREATE TABLE IF NOT EXISTS bindings_local ON CLUSTER 'main'
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

    PROJECTION by_parent (SELECT parent, relation, child, strength ORDER BY parent)
)
ENGINE = ReplicatedReplacingMergeTree(version)
ORDER BY (child, relation, parent, strength, from)
SETTINGS deduplicate_merge_projection_mode = 'rebuild';

CREATE TABLE IF NOT EXISTS bindings ON CLUSTER 'main' AS bindings_local
ENGINE = Distributed('main', currentDatabase(), bindings_local, cityHash64(child));

CREATE TABLE IF NOT EXISTS dead_letters_local ON CLUSTER 'main'
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
ENGINE = ReplicatedReplacingMergeTree(failed_at)
ORDER BY (topic, partition, offset, record_index);

CREATE TABLE IF NOT EXISTS dead_letters ON CLUSTER 'main' AS dead_letters_local
ENGINE = Distributed('main', currentDatabase(), dead_letters_local, cityHash64(topic, partition, offset, record_index));

CREATE TABLE IF NOT EXISTS skips_local ON CLUSTER 'main'
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
ENGINE = ReplicatedReplacingMergeTree(written_at)
ORDER BY (topic, partition, offset, record_index, until);

CREATE TABLE IF NOT EXISTS skips ON CLUSTER 'main' AS skips_local
ENGINE = Distributed('main', currentDatabase(), skips_local, cityHash64(topic, partition, offset, record_index, until));

CREATE TABLE IF NOT EXISTS item_counts_local ON CLUSTER 'main'
(
    topic      LowCardinality(String),
    partition  Int32,
    offset     Int64 CODEC(Delta, ZSTD(1)),
    items      Int32 CODEC(ZSTD(1)),
    written_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree(written_at)
ORDER BY (topic, partition, offset);

CREATE TABLE IF NOT EXISTS item_counts ON CLUSTER 'main' AS item_counts_local
ENGINE = Distributed('main', currentDatabase(), item_counts_local, cityHash64(topic, partition, offset));

CREATE TABLE IF NOT EXISTS progress_local ON CLUSTER 'main'
(
    topic      LowCardinality(String),
    partition  Int32,
    offset     Int64,                            -- the next one to read: everything below is in the tables
    watermark  DateTime64(9, 'UTC'),             -- no earlier event time is still expected
    owner      UInt64,
    updated_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplicatedReplacingMergeTree(owner)
ORDER BY (topic, partition);

CREATE TABLE IF NOT EXISTS progress ON CLUSTER 'main' AS progress_local
ENGINE = Distributed('main', currentDatabase(), progress_local, cityHash64(topic, partition));

CREATE TABLE IF NOT EXISTS backfills_local ON CLUSTER 'main'
(
    name       String,
    topic      LowCardinality(String),
    partition  Int32,
    from       Int64,
    to         Int64,
    next       Int64,                            -- offset to read next
    updated_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ReplicatedReplacingMergeTree(updated_at)
ORDER BY (name, topic, partition);

CREATE TABLE IF NOT EXISTS backfills ON CLUSTER 'main' AS backfills_local
ENGINE = Distributed('main', currentDatabase(), backfills_local, cityHash64(name, topic, partition));

CREATE TABLE IF NOT EXISTS chain_hours_local ON CLUSTER 'main'
(
    chain_id UUID,
    hour     DateTime('UTC') CODEC(Delta, ZSTD(1)),
    source   LowCardinality(String)
)
ENGINE = ReplicatedReplacingMergeTree()
PARTITION BY toYYYYMM(hour)
ORDER BY (chain_id, hour, source);

CREATE TABLE IF NOT EXISTS chain_hours ON CLUSTER 'main' AS chain_hours_local
ENGINE = Distributed('main', currentDatabase(), chain_hours_local, cityHash64(chain_id, hour, source));

CREATE MATERIALIZED VIEW IF NOT EXISTS chain_hours_feed_local ON CLUSTER 'main' TO chain_hours_local AS
SELECT DISTINCT chain_id, toStartOfHour(event_time) AS hour, source
FROM actions_local
WHERE chain_id != toUUID('00000000-0000-0000-0000-000000000000');

CREATE TABLE IF NOT EXISTS key_hours_local ON CLUSTER 'main'
(
    key    String CODEC(ZSTD(1)), -- kind:namespace:value
    hour   DateTime('UTC') CODEC(Delta, ZSTD(1)),
    source LowCardinality(String)
)
ENGINE = ReplicatedReplacingMergeTree()
PARTITION BY toYYYYMM(hour)
ORDER BY (key, hour, source);

CREATE TABLE IF NOT EXISTS key_hours ON CLUSTER 'main' AS key_hours_local
ENGINE = Distributed('main', currentDatabase(), key_hours_local, cityHash64(key, hour, source));

CREATE MATERIALIZED VIEW IF NOT EXISTS key_hours_feed_local ON CLUSTER 'main' TO key_hours_local AS
SELECT DISTINCT arrayJoin(arrayDistinct(arrayConcat(keys, hops.key))) AS key, toStartOfHour(event_time) AS hour, source
FROM actions_local;

CREATE OR REPLACE VIEW actions_of_chain ON CLUSTER 'main' AS
SELECT *
FROM actions FINAL
PREWHERE (toStartOfHour(event_time), source, event_time, event_id) GLOBAL IN
(
    SELECT toStartOfHour(event_time), source, event_time, event_id
    FROM actions
    WHERE chain_id = {chain:UUID} AND (toStartOfHour(event_time), source) GLOBAL IN (SELECT hour, source FROM chain_hours WHERE chain_id = {chain:UUID})
)
WHERE chain_id = {chain:UUID};

CREATE OR REPLACE VIEW chains ON CLUSTER 'main' AS
SELECT
    chain_id,
    argMax(actions.root_kind, (actions.root_id != '', event_time, event_id)) AS root_kind,
    argMax(actions.root_id, (actions.root_id != '', event_time, event_id)) AS root_id,
    argMax(actions.root_name, (actions.root_name != '', event_time, event_id)) AS root_name,
    min(event_time) AS first_seen,
    max(ended_at) AS last_seen,
    count() AS actions,
    arraySort(groupUniqArrayIf(action, class = 'tool_call')) AS tools,
    arraySort(groupUniqArrayIf(resource, resource != '')) AS resources,
    arraySort(groupUniqArrayIf(workload, workload != '')) AS workloads,
    arraySort(groupUniqArray(source)) AS sources,
    max(depth) AS depth,
    ['unattributed', 'ambiguous', 'inferred', 'stated', 'proven'][
        min(indexOf(['unattributed', 'ambiguous', 'inferred', 'stated', 'proven'], grade))] AS worst_grade,
    arraySort(groupUniqArrayArray(actions.flags)) AS flags,
    if(countIf(actions.mfa != 'unknown') = 0, 'unknown', argMinIf(actions.mfa, (event_time, event_id), actions.mfa != 'unknown')) AS mfa,
    argMinIf(actions.auth_method, (event_time, event_id), actions.auth_method != '') AS auth_method
FROM actions FINAL
WHERE chain_id != toUUID('00000000-0000-0000-0000-000000000000')
GROUP BY chain_id;

CREATE OR REPLACE VIEW chain ON CLUSTER 'main' AS
SELECT
    chain_id,
    argMax(actions.root_kind, (actions.root_id != '', event_time, event_id)) AS root_kind,
    argMax(actions.root_id, (actions.root_id != '', event_time, event_id)) AS root_id,
    argMax(actions.root_name, (actions.root_name != '', event_time, event_id)) AS root_name,
    min(event_time) AS first_seen,
    max(ended_at) AS last_seen,
    count() AS actions,
    arraySort(groupUniqArrayIf(action, class = 'tool_call')) AS tools,
    arraySort(groupUniqArrayIf(resource, resource != '')) AS resources,
    arraySort(groupUniqArrayIf(workload, workload != '')) AS workloads,
    arraySort(groupUniqArray(source)) AS sources,
    max(depth) AS depth,
    ['unattributed', 'ambiguous', 'inferred', 'stated', 'proven'][
        min(indexOf(['unattributed', 'ambiguous', 'inferred', 'stated', 'proven'], grade))] AS worst_grade,
    arraySort(groupUniqArrayArray(actions.flags)) AS flags,
    if(countIf(actions.mfa != 'unknown') = 0, 'unknown', argMinIf(actions.mfa, (event_time, event_id), actions.mfa != 'unknown')) AS mfa,
    argMinIf(actions.auth_method, (event_time, event_id), actions.auth_method != '') AS auth_method
FROM actions FINAL
PREWHERE (toStartOfHour(event_time), source, event_time, event_id) GLOBAL IN
(
    SELECT toStartOfHour(event_time), source, event_time, event_id
    FROM actions
    WHERE chain_id = {chain:UUID} AND (toStartOfHour(event_time), source) GLOBAL IN (SELECT hour, source FROM chain_hours WHERE chain_id = {chain:UUID})
)
WHERE chain_id = {chain:UUID}
GROUP BY chain_id;

CREATE OR REPLACE VIEW chains_between ON CLUSTER 'main' AS
WITH near AS (SELECT chain_id FROM chain_hours WHERE hour >= toStartOfHour({since:DateTime64(6, 'UTC')}) AND hour < {until:DateTime64(6, 'UTC')})
SELECT
    chain_id,
    argMax(actions.root_kind, (actions.root_id != '', event_time, event_id)) AS root_kind,
    argMax(actions.root_id, (actions.root_id != '', event_time, event_id)) AS root_id,
    argMax(actions.root_name, (actions.root_name != '', event_time, event_id)) AS root_name,
    min(event_time) AS first_seen,
    max(ended_at) AS last_seen,
    count() AS actions,
    arraySort(groupUniqArrayIf(action, class = 'tool_call')) AS tools,
    arraySort(groupUniqArrayIf(resource, resource != '')) AS resources,
    arraySort(groupUniqArrayIf(workload, workload != '')) AS workloads,
    arraySort(groupUniqArray(source)) AS sources,
    max(depth) AS depth,
    ['unattributed', 'ambiguous', 'inferred', 'stated', 'proven'][
        min(indexOf(['unattributed', 'ambiguous', 'inferred', 'stated', 'proven'], grade))] AS worst_grade,
    arraySort(groupUniqArrayArray(actions.flags)) AS flags,
    if(countIf(actions.mfa != 'unknown') = 0, 'unknown', argMinIf(actions.mfa, (event_time, event_id), actions.mfa != 'unknown')) AS mfa,
    argMinIf(actions.auth_method, (event_time, event_id), actions.auth_method != '') AS auth_method
FROM actions FINAL
PREWHERE (toStartOfHour(event_time), source) GLOBAL IN (SELECT hour, source FROM chain_hours WHERE chain_id GLOBAL IN (SELECT chain_id FROM near))
WHERE chain_id GLOBAL IN (SELECT chain_id FROM near)
GROUP BY chain_id
HAVING countIf(event_time >= {since:DateTime64(6, 'UTC')} AND event_time < {until:DateTime64(6, 'UTC')}) > 0;

CREATE OR REPLACE VIEW finality ON CLUSTER 'main' AS
SELECT min(watermark) AS final_before, count() AS partitions
FROM progress FINAL
WHERE updated_at > (SELECT max(updated_at) FROM progress) - INTERVAL 10 MINUTE;

CREATE OR REPLACE VIEW chain_timeline ON CLUSTER 'main' AS
SELECT
    event_time, class, action, resource, outcome,
    actor_kind, actor_id, actor_name, authority,
    multiIf(token != '', token, session != '', session, workload != '', workload, request) AS performed_with,
    grade, reason, cause_id, cause_grade, policy_decision, grant_id, source_ip, flags,
    root_kind, root_id, root_name, source, event_id, topic, partition, offset, record_index
FROM actions FINAL
PREWHERE (toStartOfHour(event_time), source, event_time, event_id) GLOBAL IN
(
    SELECT toStartOfHour(event_time), source, event_time, event_id
    FROM actions
    WHERE chain_id = {chain:UUID} AND (toStartOfHour(event_time), source) GLOBAL IN (SELECT hour, source FROM chain_hours WHERE chain_id = {chain:UUID})
)
WHERE chain_id = {chain:UUID}
ORDER BY event_time, event_id;

CREATE OR REPLACE VIEW chain_tree ON CLUSTER 'main' AS
SELECT
    length(path) - 1 AS level,
    concat(repeat('   ', level), if(kind = 'key',
        concat(path[-1], if(name = '', '', concat(' (', name, ')')), if(relation = '', '', concat('  ', relation, ' ', strength))),
        concat(formatDateTime(first_seen, '%H:%i:%S'), '  ', class, '  ', action, if(resource = '', '', concat('  ', resource)), '  ', grade))) AS tree,
    kind,
    arrayStringConcat(path, ' > ') AS node,
    arrayStringConcat(arrayPopBack(path), ' > ') AS parent,
    path[-1] AS key, -- for an action that is no call, its event id
    name, relation, strength,
    event AS event_id,      -- of the action, or the proof of the step
    first_seen, class, action, resource, outcome, grade, reason, cause_grade, policy_decision, flags
FROM
(
    SELECT *, event_time AS first_seen
    FROM
    (
        SELECT *, groupArray(since) OVER (PARTITION BY event_id ORDER BY part) AS position
        FROM
        (
            SELECT *, min(event_time) OVER (PARTITION BY path) AS since
            FROM
            (
                SELECT
                    event_id, event_time, part, arraySlice(whole, 1, part) AS path,
                    part = length(whole) AS last,
                    if(last, 'action', 'key') AS kind,
                    if(last, event_id, steps[part].proof) AS event,
                    if(last, '', steps[part].name) AS name,
                    if(last AND NOT is_call, '', toString(steps[part].relation)) AS relation,
                    if(last AND NOT is_call, '', toString(steps[part].strength)) AS strength,
                    if(last, class, '') AS class, if(last, action, '') AS action, if(last, resource, '') AS resource, if(last, outcome, '') AS outcome,
                    if(last, grade, '') AS grade, if(last, reason, '') AS reason, if(last, cause_grade, '') AS cause_grade,
                    if(last, policy_decision, '') AS policy_decision, if(last, flags, []) AS flags
                FROM
                (
                    SELECT
                        event_id, event_time, class, action, resource, outcome, grade, reason, cause_grade, policy_decision, flags,
                        arrayFilter(h -> NOT h.lent, hops) AS steps,
                        if(empty(steps) AND frontier != '', [frontier], arrayMap(h -> h.key, steps)) AS above,
                        notEmpty(above) AND startsWith(above[-1], 'call:') AND has(keys, above[-1]) AS is_call,
                        if(is_call, above, arrayPushBack(above, toString(event_id))) AS whole
                    FROM actions FINAL
                    PREWHERE (toStartOfHour(event_time), source, event_time, event_id) GLOBAL IN
                    (
                        SELECT toStartOfHour(event_time), source, event_time, event_id
                        FROM actions
                        WHERE chain_id = {chain:UUID} AND (toStartOfHour(event_time), source) GLOBAL IN (SELECT hour, source FROM chain_hours WHERE chain_id = {chain:UUID})
                    )
                    WHERE chain_id = {chain:UUID}
                )
                ARRAY JOIN arrayEnumerate(whole) AS part
            )
        )
    )
    ORDER BY kind, event_time, event_id
    LIMIT 1 BY path
)
ORDER BY arrayMap((at, k) -> (at, k), position, path);

CREATE OR REPLACE VIEW actions_with ON CLUSTER 'main' AS
SELECT *
FROM actions FINAL
PREWHERE (toStartOfHour(event_time), source, event_time, event_id) GLOBAL IN
(
    SELECT toStartOfHour(event_time), source, event_time, event_id
    FROM actions
    WHERE has(keys, {key:String}) AND (toStartOfHour(event_time), source) GLOBAL IN (SELECT hour, source FROM key_hours WHERE key = {key:String})
);

CREATE OR REPLACE VIEW actions_of ON CLUSTER 'main' AS
SELECT *
FROM actions FINAL
PREWHERE (toStartOfHour(event_time), source, event_time, event_id) GLOBAL IN
(
    SELECT toStartOfHour(event_time), source, event_time, event_id
    FROM actions
    WHERE root_id = {identity:String} AND event_time >= {since:DateTime64(6, 'UTC')} AND event_time < {until:DateTime64(6, 'UTC')}
        AND (toStartOfHour(event_time), source) GLOBAL IN
        (
            SELECT hour, source
            FROM key_hours
            WHERE key IN (concat('human:', {identity:String}), concat('service:', {identity:String}), concat('agent:', {identity:String}), concat('workload:', {identity:String}), concat('external:', {identity:String}))
                AND hour >= toStartOfHour({since:DateTime64(6, 'UTC')}) AND hour < {until:DateTime64(6, 'UTC')}
        )
)
WHERE root_id = {identity:String};

CREATE OR REPLACE VIEW resource_touched_by ON CLUSTER 'main' AS
SELECT
    actions.root_kind AS root_kind, actions.root_id AS root_id, any(actions.root_name) AS root_name, chain_id,
    groupUniqArray(20)(resource) AS resources,
    arraySort(groupUniqArray(action)) AS what,
    arraySort(groupUniqArray(outcome)) AS outcomes,
    count() AS actions,
    min(event_time) AS first_seen, max(event_time) AS last_seen,
    ['unattributed', 'ambiguous', 'inferred', 'stated', 'proven'][
        min(indexOf(['unattributed', 'ambiguous', 'inferred', 'stated', 'proven'], grade))] AS worst_grade,
    arraySort(groupUniqArrayIf(cause_id, cause_id != toUUID('00000000-0000-0000-0000-000000000000'))) AS tool_calls, -- event ids
    arraySort(groupUniqArray(actor_name)) AS actors,
    max(mfa) AS mfa,
    arraySort(groupUniqArrayArray(actions.flags)) AS flags
FROM actions FINAL
PREWHERE (toStartOfHour(event_time), source, event_time, event_id) GLOBAL IN
(
    SELECT toStartOfHour(event_time), source, event_time, event_id
    FROM actions
    WHERE resource = {resource:String} OR (endsWith({resource:String}, '*') AND startsWith(resource, substring({resource:String}, 1, length({resource:String}) - 1)))
)
GROUP BY root_kind, root_id, chain_id
ORDER BY first_seen, chain_id;

CREATE OR REPLACE VIEW keys_driven_by ON CLUSTER 'main' AS
WITH RECURSIVE
    driven AS
    (
        SELECT DISTINCT k AS key, '' AS parent, '' AS relation, '' AS strength, 0 AS distance, [k] AS path
        FROM
        (
            SELECT {start:String} AS k
            UNION ALL
            SELECT concat('workload:ip:', {start:String}) AS k WHERE NOT match({start:String}, '^[a-z]+:[a-z0-9_.]+:.')
            UNION ALL
            SELECT arrayJoin(arrayFilter(k -> match(k, '^(token|session):'), keys)) AS k FROM actions WHERE source_ip = {start:String} AND NOT match({start:String}, '^[a-z]+:[a-z0-9_.]+:.')
        )
        UNION ALL
        SELECT b.child AS key, b.parent AS parent, b.relation AS relation, b.strength AS strength, d.distance + 1 AS distance, arrayPushBack(d.path, b.child) AS path
        FROM driven AS d
        INNER JOIN
        (
            SELECT child, parent, toString(relation) AS relation, toString(strength) AS strength
            FROM bindings -- all versions of one say the same of who drives whom
            WHERE strength != 'weak' AND relation NOT IN ('granted', 'ended', 'revoked') AND parent GLOBAL IN (SELECT key FROM driven)
        ) AS b ON b.parent = d.key
        WHERE d.distance < 8 AND NOT has(d.path, b.child)
    )
SELECT nearest.key AS key, nearest.parent AS parent, nearest.relation AS relation, nearest.strength AS strength, proofs.proof AS proof, distance, path
FROM (SELECT * FROM driven ORDER BY distance, key, path LIMIT 1 BY key) AS nearest -- the nearest way to each key
LEFT JOIN
(
    SELECT child, parent, toString(relation) AS relation, toString(strength) AS strength, min(bindings.proof) AS proof
    FROM bindings
    WHERE child GLOBAL IN (SELECT key FROM driven)
    GROUP BY child, parent, relation, strength
) AS proofs ON proofs.child = nearest.key AND proofs.parent = nearest.parent AND proofs.relation = nearest.relation AND proofs.strength = nearest.strength
ORDER BY distance, key, path;

CREATE OR REPLACE VIEW blast_radius ON CLUSTER 'main' AS
WITH RECURSIVE
    driven AS
    (
        SELECT DISTINCT k AS key, '' AS parent, '' AS relation, '' AS strength, 0 AS distance, [k] AS path
        FROM
        (
            SELECT {start:String} AS k
            UNION ALL
            SELECT concat('workload:ip:', {start:String}) AS k WHERE NOT match({start:String}, '^[a-z]+:[a-z0-9_.]+:.')
            UNION ALL
            SELECT arrayJoin(arrayFilter(k -> match(k, '^(token|session):'), keys)) AS k FROM actions WHERE source_ip = {start:String} AND NOT match({start:String}, '^[a-z]+:[a-z0-9_.]+:.')
        )
        UNION ALL
        SELECT b.child AS key, b.parent AS parent, b.relation AS relation, b.strength AS strength, d.distance + 1 AS distance, arrayPushBack(d.path, b.child) AS path
        FROM driven AS d
        INNER JOIN
        (
            SELECT child, parent, toString(relation) AS relation, toString(strength) AS strength
            FROM bindings -- all versions of one say the same of who drives whom
            WHERE strength != 'weak' AND relation NOT IN ('granted', 'ended', 'revoked') AND parent GLOBAL IN (SELECT key FROM driven)
        ) AS b ON b.parent = d.key
        WHERE d.distance < 8 AND NOT has(d.path, b.child)
    )
SELECT
    event_time, class, action, resource, outcome, root_kind, root_id, root_name, actor_name, workload, source_ip, grade, reason, flags, chain_id, event_id,
    reached.key AS via, reached.distance AS distance
FROM
(
    SELECT *, arrayConcat(arrayReverse(keys), hops.key) AS way
    FROM actions FINAL
    PREWHERE (toStartOfHour(event_time), source, event_time, event_id) GLOBAL IN
    (
        SELECT toStartOfHour(event_time), source, event_time, event_id
        FROM actions
        ARRAY JOIN arrayConcat(keys, hops.key) AS one
        WHERE one GLOBAL IN (SELECT key FROM driven)
            AND (toStartOfHour(event_time), source) GLOBAL IN (SELECT hour, source FROM key_hours WHERE key GLOBAL IN (SELECT key FROM driven))
        UNION ALL
        SELECT toStartOfHour(event_time), source, event_time, event_id FROM actions WHERE source_ip = {start:String} AND NOT match({start:String}, '^[a-z]+:[a-z0-9_.]+:.')
    )
) AS found
LEFT ARRAY JOIN way AS step, arrayEnumerate(way) AS place
LEFT JOIN (SELECT key, min(distance) AS distance FROM driven GROUP BY key) AS reached ON reached.key = step
WHERE reached.key != '' OR source_ip = {start:String}
ORDER BY event_time, event_id, reached.key != '' DESC, place DESC
LIMIT 1 BY event_time, event_id;

CREATE OR REPLACE VIEW delegations_of ON CLUSTER 'main' AS
SELECT
    parent, child, relation,
    ['weak', 'stated', 'exact'][min(indexOf(['weak', 'stated', 'exact'], strength))] AS weakest_strength,
    any(proof) AS proof,
    count() AS actions, uniqExact(chain_id) AS chains,
    min(event_time) AS first_seen, max(event_time) AS last_seen
FROM
(
    SELECT event_time, chain_id, steps[i - 1].key AS parent, steps[i].key AS child, steps[i].relation AS relation, steps[i].strength AS strength, steps[i].proof AS proof
    FROM
    (
        SELECT event_time, chain_id, arrayFilter(h -> NOT h.lent AND NOT match(h.key, '^(call|request):'), hops) AS steps
        FROM actions FINAL
        PREWHERE (toStartOfHour(event_time), source, event_time, event_id) GLOBAL IN
        (
            SELECT toStartOfHour(event_time), source, event_time, event_id
            FROM actions
            WHERE root_id = {identity:String} AND (toStartOfHour(event_time), source) GLOBAL IN
            (
                SELECT hour, source
                FROM key_hours
                WHERE key IN (concat('human:', {identity:String}), concat('service:', {identity:String}), concat('agent:', {identity:String}), concat('workload:', {identity:String}), concat('external:', {identity:String}))
            )
            UNION ALL
            SELECT toStartOfHour(event_time), source, event_time, event_id FROM actions WHERE root_name = {identity:String}
        )
        WHERE root_id = {identity:String} OR root_name = {identity:String}
    )
    ARRAY JOIN arrayEnumerate(steps) AS i
    WHERE i > 1
)
WHERE relation != 'authenticated' -- a login hands nothing on
GROUP BY parent, child, relation
ORDER BY first_seen, parent, child;

CREATE OR REPLACE VIEW agent_actions_without_decision ON CLUSTER 'main' AS
SELECT *
FROM actions FINAL
WHERE by_agent AND class NOT IN ('decision', 'session') AND policy_decision = '' AND event_time < (SELECT final_before FROM finality)
    AND cause_id GLOBAL NOT IN (SELECT event_id FROM actions FINAL WHERE class = 'tool_call' AND policy_decision != '');

CREATE OR REPLACE VIEW agent_tool_calls_without_decision ON CLUSTER 'main' AS
SELECT *
FROM actions FINAL
WHERE class = 'tool_call' AND policy_decision = '' AND event_time < (SELECT final_before FROM finality);

CREATE OR REPLACE VIEW outside_grant ON CLUSTER 'main' AS
SELECT * FROM actions FINAL WHERE has(flags, 'outside_grant');

CREATE OR REPLACE VIEW divergent ON CLUSTER 'main' AS
SELECT * FROM actions FINAL WHERE has(flags, 'divergent');

CREATE OR REPLACE VIEW privileged_without_mfa ON CLUSTER 'main' AS
SELECT * FROM actions FINAL WHERE privileged AND mfa = 'no';

CREATE OR REPLACE VIEW standing_credentials_used_by_agents ON CLUSTER 'main' AS
SELECT
    standing_credential AS credential,
    actions.root_kind AS root_kind, actions.root_id AS root_id, any(actions.root_name) AS root_name,
    count() AS actions, uniqExact(chain_id) AS chains,
    arraySort(groupUniqArray(100)(action)) AS what,
    min(event_time) AS first_seen, max(event_time) AS last_seen
FROM actions FINAL
WHERE by_agent AND standing_credential != ''
GROUP BY credential, root_kind, root_id;

CREATE OR REPLACE VIEW coverage_by_hour ON CLUSTER 'main' AS
SELECT hour, source, grade, count() AS actions, round(count() / sum(count()) OVER (PARTITION BY hour, source), 4) AS share
FROM (SELECT toStartOfHour(event_time) AS hour, source, grade FROM actions FINAL)
GROUP BY hour, source, grade;

CREATE OR REPLACE VIEW coverage_by_day ON CLUSTER 'main' AS
SELECT day, source, grade, count() AS actions, round(count() / sum(count()) OVER (PARTITION BY day, source), 4) AS share
FROM (SELECT toDate(event_time) AS day, source, grade FROM actions FINAL)
GROUP BY day, source, grade;

CREATE OR REPLACE VIEW coverage_by_identity ON CLUSTER 'main' AS
SELECT
    toDate(event_time) AS day, actor_kind, actor_id, any(actions.actor_name) AS actor_name,
    count() AS actions,
    round(countIf(actions.root_kind = 'human') / count(), 4) AS share_with_person,
    round(countIf(grade = 'proven') / count(), 4) AS share_proven,
    round(countIf(grade = 'stated') / count(), 4) AS share_stated,
    round(countIf(grade = 'inferred') / count(), 4) AS share_inferred,
    round(countIf(grade = 'ambiguous') / count(), 4) AS share_ambiguous,
    round(countIf(grade = 'unattributed') / count(), 4) AS share_unattributed
FROM actions FINAL
WHERE actor_kind NOT IN ('human', '')
GROUP BY day, actor_kind, actor_id;

CREATE OR REPLACE VIEW new_since ON CLUSTER 'main' AS
SELECT kind, value, min(event_time) AS first_seen, count() AS actions, argMin(chain_id, (event_time, event_id)) AS first_chain, argMin(event_id, (event_time, event_id)) AS first_event
FROM
(
    SELECT event_time, event_id, chain_id, seen.1 AS kind, seen.2 AS value
    FROM
    (
        SELECT
            event_time, event_id, chain_id,
            if(root_id = '', '', concat(root_kind, ':', root_id)) AS root,
            if(actor_id = '', '', concat(actor_kind, ':', actor_id)) AS actor,
            if(class = 'tool_call', action, '') AS tool,
            arrayDistinct(arrayFilter(s -> s.2 != '', [
                ('identity', root), ('identity', actor), ('tool', tool),
                ('edge', if(root = '' OR actor IN ('', root), '', concat(root, ' -> ', actor))),
                ('edge', if(root = '' OR tool = '', '', concat(root, ' -> ', tool)))])) AS all_seen
        FROM actions FINAL
    )
    ARRAY JOIN all_seen AS seen
)
GROUP BY kind, value
HAVING first_seen >= {since:DateTime64(6, 'UTC')}
ORDER BY first_seen, kind, value;

CREATE OR REPLACE VIEW latency_by_hour ON CLUSTER 'main' AS
SELECT
    toStartOfHour(attributed_at) AS hour, source, count() AS actions,
    quantileExact(0.5)(dateDiff('millisecond', ingested_at, attributed_at)) / 1000 AS ingested_p50,
    quantileExact(0.95)(dateDiff('millisecond', ingested_at, attributed_at)) / 1000 AS ingested_p95,
    quantileExact(0.99)(dateDiff('millisecond', ingested_at, attributed_at)) / 1000 AS ingested_p99,
    quantileExact(0.5)(dateDiff('millisecond', event_time, attributed_at)) / 1000 AS event_p50,
    quantileExact(0.95)(dateDiff('millisecond', event_time, attributed_at)) / 1000 AS event_p95,
    quantileExact(0.99)(dateDiff('millisecond', event_time, attributed_at)) / 1000 AS event_p99
FROM actions FINAL
GROUP BY hour, source;

CREATE OR REPLACE VIEW findings ON CLUSTER 'main' AS
WITH
    map('divergent', 'high', 'new_source_ip', 'medium', 'outside_grant', 'high', 'denied_but_done', 'high',
        'used_after_revoke', 'high', 'used_after_expiry', 'medium', 'used_after_end', 'medium', 'scope_widened', 'medium',
        'depth_limit', 'medium', 'cycle', 'low', 'privileged_without_mfa', 'high', 'no_policy_decision', 'low') AS severities,
    map('divergent', 'The keys of one action lead to different people or different workloads: a credential in the wrong hands.',
        'new_source_ip', 'A workload''s credential was used from an address that is not the workload''s.',
        'outside_grant', 'A right that was granted for a time was used outside of it.',
        'denied_but_done', 'A policy engine denied it, and it succeeded all the same.',
        'used_after_revoke', 'A credential was used after it had been withdrawn.',
        'used_after_expiry', 'A credential was used after the expiry that its issuer stated.',
        'used_after_end', 'A credential was used after its session had ended.',
        'scope_widened', 'On the way from person to action a token was given a scope that the token before it did not have.',
        'depth_limit', 'The path is longer than the limit: a chain of delegations that nobody can have meant.',
        'cycle', 'The bindings run in a circle.',
        'privileged_without_mfa', 'A chain that began without a second factor changed identities or rights, read secrets or ran commands.',
        'no_policy_decision', 'No policy engine was asked about a tool call.') AS details
SELECT
    rule,
    severities[rule] AS severity,
    chain_id,
    subject,
    any(root_kind) AS root_kind, any(root_id) AS root_id, any(root_name) AS root_name,
    count() AS actions,
    min(event_time) AS first_seen,
    max(event_time) AS last_seen,
    groupArraySorted(100)((event_time, event_id)).2 AS events,
    details[rule] AS detail
FROM
(
    SELECT
        *,
        multiIf(token != '', token, session != '', session, workload != '', workload, concat(actor_kind, ':', actor_id)) AS subject,
        arrayConcat(
            arrayFilter(f -> mapContains(severities, f), flags),
            if(privileged AND mfa = 'no', ['privileged_without_mfa'], []),
            if(class = 'tool_call' AND policy_decision = '' AND event_time < (SELECT final_before FROM finality), ['no_policy_decision'], [])) AS rules
    FROM actions FINAL
)
ARRAY JOIN rules AS rule
GROUP BY rule, chain_id, subject;
