-- chains: one row per chain. A view, so that by construction it always equals the grouping of
-- actions FINAL: rows change chain when they improve, which an incremental aggregate cannot take
-- back. Ask for one chain (WHERE chain_id = …) or for a time range over actions; a form that is
-- cheaper over all of history may come.
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

-- finality: rows older than final_before change no more, unless a record is later than was allowed.
-- A partition that nobody has reported on for ten minutes does not hold the others back; no report at
-- all means that nothing is final.
CREATE OR REPLACE VIEW finality AS
SELECT min(watermark) AS final_before, count() AS partitions
FROM progress FINAL
WHERE updated_at > (SELECT max(updated_at) FROM progress) - INTERVAL 10 MINUTE;

-- Tool calls that no policy engine was asked about. A decision may be recorded later than the call, so
-- only final rows count.
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
