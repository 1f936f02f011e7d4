-- chain_hours and key_hours: in which hours, and from which source, a chain or a key has rows. That is how the
-- sort key of actions begins, so a question about one chain, token, session, workload or person reads the rows
-- of their hours and no others: over 20 million rows, a token and all that was done with it cost 32 ms of CPU so,
-- against 56 ms by the skip index alone (make bench-sql). They say where to look, not what is so: they remember
-- every version that a row ever had, so they may name an hour that a chain has left; they never lack one. key_hours
-- has the keys of the action and those of its hops, the person at the root among them. Both cost 8 bytes a row of
-- actions on disk. What is loaded past them (ATTACH PARTITION, a restored backup of actions alone) they have to
-- be told:
--     INSERT INTO chain_hours SELECT DISTINCT chain_id, toStartOfHour(event_time), source FROM actions
--     WHERE chain_id != toUUID('00000000-0000-0000-0000-000000000000');
--     INSERT INTO key_hours SELECT DISTINCT arrayJoin(arrayConcat(keys, hops.key)), toStartOfHour(event_time), source FROM actions
CREATE TABLE IF NOT EXISTS chain_hours
(
    chain_id UUID,
    hour     DateTime('UTC') CODEC(Delta, ZSTD(1)),
    source   LowCardinality(String)
)
ENGINE = ReplacingMergeTree()
PARTITION BY toYYYYMM(hour)
ORDER BY (chain_id, hour, source);

CREATE MATERIALIZED VIEW IF NOT EXISTS chain_hours_feed TO chain_hours AS
SELECT DISTINCT chain_id, toStartOfHour(event_time) AS hour, source
FROM actions
WHERE chain_id != toUUID('00000000-0000-0000-0000-000000000000');

CREATE TABLE IF NOT EXISTS key_hours
(
    key    String CODEC(ZSTD(1)), -- kind:namespace:value
    hour   DateTime('UTC') CODEC(Delta, ZSTD(1)),
    source LowCardinality(String)
)
ENGINE = ReplacingMergeTree()
PARTITION BY toYYYYMM(hour)
ORDER BY (key, hour, source);

CREATE MATERIALIZED VIEW IF NOT EXISTS key_hours_feed TO key_hours AS
SELECT DISTINCT arrayJoin(arrayDistinct(arrayConcat(keys, hops.key))) AS key, toStartOfHour(event_time) AS hour, source
FROM actions;

-- actions_of_chain: the rows of one chain.
--
-- FINAL has to read a row, with all columns that are asked for, before it knows whether it is the newest; and
-- where a skip index has found it, also all granules that may hold its other versions. So look-ups go in two
-- steps: first, without FINAL, which events have ever met the condition, which reads the columns of the
-- condition alone; then, with FINAL, these events by their sort keys and no others, of which the newest versions
-- decide. Over 20 million rows a chain costs 4 to 22 MB and 40 ms of CPU so, against 225 to 960 MB and up to
-- 1.6 s by WHERE chain_id = … alone (make bench-sql).
CREATE OR REPLACE VIEW actions_of_chain AS
SELECT *
FROM actions FINAL
PREWHERE (toStartOfHour(event_time), source, event_time, event_id) GLOBAL IN
(
    SELECT toStartOfHour(event_time), source, event_time, event_id
    FROM actions
    WHERE chain_id = {chain:UUID} AND (toStartOfHour(event_time), source) GLOBAL IN (SELECT hour, source FROM chain_hours WHERE chain_id = {chain:UUID})
)
WHERE chain_id = {chain:UUID};

-- chains: one row per chain, by construction always the grouping of actions FINAL: rows change chain when they
-- improve, which an incremental aggregate cannot take back. Over a large table ask for one, chain(chain = …), or
-- for those of some time: chains_between.
CREATE OR REPLACE VIEW chains AS
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
    -- Of the first action that tells: that is the login, when it was seen.
    if(countIf(actions.mfa != 'unknown') = 0, 'unknown', argMinIf(actions.mfa, (event_time, event_id), actions.mfa != 'unknown')) AS mfa,
    argMinIf(actions.auth_method, (event_time, event_id), actions.auth_method != '') AS auth_method
FROM actions FINAL
WHERE chain_id != toUUID('00000000-0000-0000-0000-000000000000')
GROUP BY chain_id;

-- chain: the row of one chain, by the rows of its time alone.
CREATE OR REPLACE VIEW chain AS
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
    -- Of the first action that tells: that is the login, when it was seen.
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

-- chains_between: the same rows, of the chains that have an action at or after since and before until. All
-- of each chain is counted, also what lies outside.
CREATE OR REPLACE VIEW chains_between AS
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
    -- Of the first action that tells: that is the login, when it was seen.
    if(countIf(actions.mfa != 'unknown') = 0, 'unknown', argMinIf(actions.mfa, (event_time, event_id), actions.mfa != 'unknown')) AS mfa,
    argMinIf(actions.auth_method, (event_time, event_id), actions.auth_method != '') AS auth_method
FROM actions FINAL
PREWHERE (toStartOfHour(event_time), source) GLOBAL IN (SELECT hour, source FROM chain_hours WHERE chain_id GLOBAL IN (SELECT chain_id FROM near))
WHERE chain_id GLOBAL IN (SELECT chain_id FROM near)
GROUP BY chain_id
-- A row that has left the chains of this time for another is dropped here: what has an action in this time has
-- all its rows above.
HAVING countIf(event_time >= {since:DateTime64(6, 'UTC')} AND event_time < {until:DateTime64(6, 'UTC')}) > 0;

-- finality: rows older than final_before change no more, unless a record is later than was allowed.
-- A partition that nobody has reported on for ten minutes does not hold the others back; no report at
-- all means that nothing is final.
CREATE OR REPLACE VIEW finality AS
SELECT min(watermark) AS final_before, count() AS partitions
FROM progress FINAL
WHERE updated_at > (SELECT max(updated_at) FROM progress) - INTERVAL 10 MINUTE;

-- The questions people ask. A view with {name:Type} takes parameters: SELECT * FROM chain_tree(chain = '…').
-- Ids of keys are written kind:namespace:value throughout.

-- One chain in the order of time: who did what with which key, on whose authority, and how that is known.
CREATE OR REPLACE VIEW chain_timeline AS
SELECT
    event_time, class, action, resource, outcome,
    actor_kind, actor_id, actor_name, authority,
    -- The key that it was done with, the most telling first.
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

-- One chain as a tree, from the root down, each key above what it drove. kind is key or action; a call that
-- is an action of its own stands there once. tree is the line to print; node and parent are the same tree for
-- programs, where a node's id is the path of keys down to it.
CREATE OR REPLACE VIEW chain_tree AS
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
    -- A call that is an action of its own stands for its key: action comes before key.
    SELECT *, event_time AS first_seen
    FROM
    (
        -- Siblings in the order in which they were first seen, so each node is sorted by the times of all above it.
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

-- What was done with a key: a token, session, workload, request or call.
CREATE OR REPLACE VIEW actions_with AS
SELECT *
FROM actions FINAL
PREWHERE (toStartOfHour(event_time), source, event_time, event_id) GLOBAL IN
(
    SELECT toStartOfHour(event_time), source, event_time, event_id
    FROM actions
    WHERE has(keys, {key:String}) AND (toStartOfHour(event_time), source) GLOBAL IN (SELECT hour, source FROM key_hours WHERE key = {key:String})
);

-- What is attributed to an identity (namespace:value, as in root_id) at or after since and before until.
CREATE OR REPLACE VIEW actions_of AS
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

-- Who touched a resource, one row per identity and chain; a name that ends in * stands for all that begin so.
CREATE OR REPLACE VIEW resource_touched_by AS
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

-- The keys that a token, session, workload or address drives, directly and through others, eight steps down.
-- Only bindings that a record shows: a weak one says that two things happened at one place and time, and from
-- a shared workload would lead to everybody. Which of them held at which time, actions.hops says.
CREATE OR REPLACE VIEW keys_driven_by AS
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

-- Everything from one token, session, workload or address (driven is that of keys_driven_by; a view with
-- parameters that asked another would find it only from its own database): what was done with the keys that it drives, or
-- attributed through it. via is the key next to the action, distance how far that is from the start.
CREATE OR REPLACE VIEW blast_radius AS
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

-- How an identity's authority was handed on: each step from key to key on the paths of the actions attributed
-- to it; calls and requests, which are many, are left out between them. identity is namespace:value as in
-- root_id, or a name.
CREATE OR REPLACE VIEW delegations_of AS
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

-- What agents did, but for opening sessions, without a policy decision on it or on the tool call that caused it.
-- A decision may be recorded later than the call, so only final rows count.
CREATE OR REPLACE VIEW agent_actions_without_decision AS
SELECT *
FROM actions FINAL
WHERE by_agent AND class NOT IN ('decision', 'session') AND policy_decision = '' AND event_time < (SELECT final_before FROM finality)
    AND cause_id GLOBAL NOT IN (SELECT event_id FROM actions FINAL WHERE class = 'tool_call' AND policy_decision != '');

-- The tool calls among them.
CREATE OR REPLACE VIEW agent_tool_calls_without_decision AS
SELECT *
FROM actions FINAL
WHERE class = 'tool_call' AND policy_decision = '' AND event_time < (SELECT final_before FROM finality);

-- Rights used outside the window of their grant.
CREATE OR REPLACE VIEW outside_grant AS
SELECT * FROM actions FINAL WHERE has(flags, 'outside_grant');

-- Credentials in the wrong hands: the keys of one action lead to different people or workloads.
CREATE OR REPLACE VIEW divergent AS
SELECT * FROM actions FINAL WHERE has(flags, 'divergent');

-- Identities, rights and secrets changed, and commands run, by chains known to have begun without a second factor.
CREATE OR REPLACE VIEW privileged_without_mfa AS
SELECT * FROM actions FINAL WHERE privileged AND mfa = 'no';

-- Credentials that live for months, used by agents or by what their tool calls caused.
CREATE OR REPLACE VIEW standing_credentials_used_by_agents AS
SELECT
    standing_credential AS credential,
    actions.root_kind AS root_kind, actions.root_id AS root_id, any(actions.root_name) AS root_name,
    count() AS actions, uniqExact(chain_id) AS chains,
    arraySort(groupUniqArray(100)(action)) AS what,
    min(event_time) AS first_seen, max(event_time) AS last_seen
FROM actions FINAL
WHERE by_agent AND standing_credential != ''
GROUP BY credential, root_kind, root_id;

-- Coverage: how well the actions of each source are attributed. share is of the source's actions in the hour.
CREATE OR REPLACE VIEW coverage_by_hour AS
SELECT hour, source, grade, count() AS actions, round(count() / sum(count()) OVER (PARTITION BY hour, source), 4) AS share
FROM (SELECT toStartOfHour(event_time) AS hour, source, grade FROM actions FINAL)
GROUP BY hour, source, grade;

CREATE OR REPLACE VIEW coverage_by_day AS
SELECT day, source, grade, count() AS actions, round(count() / sum(count()) OVER (PARTITION BY day, source), 4) AS share
FROM (SELECT toDate(event_time) AS day, source, grade FROM actions FINAL)
GROUP BY day, source, grade;

-- The same for each identity that is no person: what of its work leads to a person, and how well that is known.
CREATE OR REPLACE VIEW coverage_by_identity AS
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

-- Identities, tools and edges that no action before a time had. An edge is an identity at the root and what it
-- used: the identity that acted for it, or the tool.
CREATE OR REPLACE VIEW new_since AS
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

-- How long it takes, in seconds: from the broker's timestamp and from the event itself to the row as it now
-- stands, its improvements included. ClickHouse's clock against the broker's and the source's.
CREATE OR REPLACE VIEW latency_by_hour AS
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
