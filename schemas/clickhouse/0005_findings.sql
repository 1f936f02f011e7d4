-- findings: what an investigator should look at, one row per rule, chain and key. A view over the rows'
-- flags, so that a finding goes when the evidence that arrives later takes its flag away; severity is
-- high, medium or low. events lists the first hundred.
CREATE OR REPLACE VIEW findings AS
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
        -- The key that the action was performed with, the most telling first.
        multiIf(token != '', token, session != '', session, workload != '', workload, concat(actor_kind, ':', actor_id)) AS subject,
        arrayConcat(
            arrayFilter(f -> mapContains(severities, f), flags),
            if(privileged AND mfa = 'no', ['privileged_without_mfa'], []),
            if(class = 'tool_call' AND policy_decision = '' AND event_time < (SELECT final_before FROM finality), ['no_policy_decision'], [])) AS rules
    FROM actions FINAL
)
ARRAY JOIN rules AS rule
GROUP BY rule, chain_id, subject;
