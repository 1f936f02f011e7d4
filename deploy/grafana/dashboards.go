package main

import (
	"maps"
	"slices"
)

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// What a share of attributed actions has to be before it is green.
var goodShare = []step{{0, "red"}, {0.8, "orange"}, {0.95, "green"}}

// Any of them is one too many.
var noneWanted = []step{{0, "green"}, {1, "red"}}

// page is where catena's own page answers.
var page = variable{name: "page", label: "catena's page", constant: "http://127.0.0.1:8321"}

func dashboards() []dashboard {
	return []dashboard{overview(), oneChain(), agents(), identities(), findings(), pipeline()}
}

func overview() dashboard {
	const where = `
WHERE $__timeFilter(event_time) AND source IN (${source:singlequote}) AND grade IN (${grade:singlequote})`
	return dashboard{
		uid: "catena-overview", title: "Attribution", about: "How much of what happened is tied to who drove it, and how well that is known.",
		variables: []variable{
			{name: "source", label: "Source", multi: true, sql: `SELECT DISTINCT source FROM actions WHERE $__timeFilter(event_time) ORDER BY 1`},
			{name: "grade", label: "Grade", multi: true, values: []string{"proven", "stated", "inferred", "ambiguous", "unattributed"}},
			page,
		},
		panels: []panel{
			{id: 1, title: "Actions", about: "Rows, each with its newest version.", kind: "stat", w: 4, h: 4, sql: `SELECT count() AS actions FROM actions FINAL` + where},
			{id: 2, title: "Attributed", about: "The share whose root is known, at whatever grade.", kind: "stat", w: 4, h: 4, unit: "percentunit", steps: goodShare,
				sql: `SELECT countIf(grade != 'unattributed') / count() AS attributed FROM actions FINAL` + where},
			{id: 3, title: "Proven", about: "The share of which every step is proven by a record.", kind: "stat", w: 4, h: 4, unit: "percentunit",
				sql: `SELECT countIf(grade = 'proven') / count() AS proven FROM actions FINAL` + where},
			{id: 4, title: "Roots", about: "Different people, services and workloads at the upper end.", kind: "stat", w: 4, h: 4,
				sql: `SELECT uniqIf((root_kind, root_id), root_id != '') AS roots FROM actions FINAL` + where},
			{id: 5, title: "Chains", about: "Login sessions, runs, conversations and long-lived credentials by day.", kind: "stat", w: 4, h: 4,
				sql: `SELECT uniqIf(chain_id, chain_id != toUUID('00000000-0000-0000-0000-000000000000')) AS chains FROM actions FINAL` + where},
			{id: 6, title: "Severe", about: "Actions in the wrong hands, outside a grant, denied and done, or after a revocation: see the page of findings.", kind: "stat", w: 4, h: 4, steps: noneWanted,
				sql: `SELECT countIf(hasAny(flags, ['divergent', 'outside_grant', 'denied_but_done', 'used_after_revoke'])) AS severe FROM actions FINAL` + where},
			{id: 7, title: "Actions by grade", about: "A band that grows is a log that is missing or late.", kind: "timeseries", w: 12, h: 8, series: "grade",
				sql: `SELECT $__timeInterval(event_time) AS time, grade, count() AS actions FROM actions FINAL` + where + `
GROUP BY time, grade ORDER BY time, grade`},
			{id: 8, title: "Attributed share by source", about: "A fall after a change of a log pipeline shows what the change lost.", kind: "timeseries", w: 12, h: 8, series: "source",
				unit: "percentunit", lines: true,
				sql: `SELECT $__timeInterval(event_time) AS time, source, countIf(grade != 'unattributed') / count() AS share FROM actions FINAL` + where + `
GROUP BY time, source ORDER BY time, source`},
			{id: 9, title: "Coverage by source", about: "Shares of each source's actions by grade.", kind: "table", w: 12, h: 9,
				shares: []string{"proven", "stated", "inferred", "ambiguous", "unattributed"},
				sql: `SELECT source, count() AS actions, countIf(grade = 'proven') / actions AS proven, countIf(grade = 'stated') / actions AS stated,
    countIf(grade = 'inferred') / actions AS inferred, countIf(grade = 'ambiguous') / actions AS ambiguous, countIf(grade = 'unattributed') / actions AS unattributed
FROM actions FINAL` + where + `
GROUP BY source ORDER BY actions DESC, source`},
			{id: 10, title: "Why not proven", about: "The reasons, and where they occur.", kind: "table", w: 12, h: 9,
				sql: `SELECT grade, reason, count() AS actions, arrayStringConcat(arraySort(groupUniqArray(source)), ', ') AS sources
FROM actions FINAL` + where + ` AND grade != 'proven'
GROUP BY grade, reason ORDER BY actions DESC, grade, reason`},
			{id: 11, title: "Chains, the newest first", about: "A chain opens on its own page.", kind: "table", w: 24, h: 10,
				sql: `SELECT max(event_time) AS last_seen, any(root_kind) AS root_kind, any(root_id) AS root_id, any(root_name) AS root_name, count() AS actions,
    uniqIf(resource, class = 'tool_call') AS tools, uniqIf(resource, resource != '') AS resources,
    ['unattributed', 'ambiguous', 'inferred', 'stated', 'proven'][min(indexOf(['unattributed', 'ambiguous', 'inferred', 'stated', 'proven'], grade))] AS worst_grade,
    arrayStringConcat(arraySort(groupUniqArrayArray(actions.flags)), ', ') AS flags, toString(chain_id) AS chain_id
FROM actions FINAL` + where + ` AND actions.chain_id != toUUID('00000000-0000-0000-0000-000000000000')
GROUP BY chain_id ORDER BY last_seen DESC, chain_id LIMIT 100`},
			{id: 12, title: "Which log is missing", about: "Keys at which the walk stopped: nothing that is read says who drives them.", kind: "table", w: 24, h: 7,
				sql: `SELECT frontier, reason, count() AS actions, arrayStringConcat(arraySort(groupUniqArray(action)), ', ') AS such_as, max(event_time) AS last_seen
FROM actions FINAL` + where + ` AND frontier != '' AND grade = 'unattributed'
GROUP BY frontier, reason ORDER BY actions DESC, frontier LIMIT 100`},
		},
	}
}

func oneChain() dashboard {
	const rows = `
FROM actions_of_chain(chain = ${chain:singlequote})`
	return dashboard{
		uid: "catena-chain", title: "One chain", about: "Everything with one root: as a tree, in order, with what it touched and the records that prove it.",
		variables: []variable{
			{name: "chain", label: "Chain", sql: `SELECT toString(chain_id) AS value, concat(any(root_name), ', ', formatDateTime(min(event_time), '%F %T'), ', ', toString(count()), ' actions') AS text
FROM actions FINAL
WHERE $__timeFilter(event_time) AND chain_id != toUUID('00000000-0000-0000-0000-000000000000')
GROUP BY chain_id ORDER BY max(event_time) DESC, value LIMIT 500`},
			page,
		},
		panels: []panel{
			{id: 1, title: "The chain", about: "Its root, how that began, and its weakest grade.", kind: "table", w: 24, h: 4,
				sql: `SELECT root_kind, root_id, root_name, mfa, auth_method, first_seen, last_seen, actions, depth, worst_grade,
    arrayStringConcat(flags, ', ') AS flags, toString(chain_id) AS chain_id
FROM chains
WHERE chains.chain_id = toUUID(${chain:singlequote})`},
			{id: 2, title: "As a tree", about: "Each key above what it drove. Weak steps make a row inferred; they say that two things happened at one place and time.", kind: "table", w: 24, h: 16,
				sql: `SELECT concat(repeat('\xC2\xA0\xC2\xA0\xC2\xA0', toUInt32(level)), trimLeft(tree)) AS chain, grade, reason, cause_grade,
    policy_decision, arrayStringConcat(flags, ', ') AS flags, toString(event_id) AS event_id
FROM chain_tree(chain = ${chain:singlequote})`},
			{id: 3, title: "In order", about: "The same as a timeline.", kind: "table", w: 24, h: 12,
				sql: `SELECT event_time, class, action, resource, outcome, actor_name, authority, performed_with,
    grade, reason, source_ip, arrayStringConcat(flags, ', ') AS flags, source, toString(event_id) AS event_id
FROM chain_timeline(chain = ${chain:singlequote})`},
			{id: 4, title: "What it touched", about: "Resources by what was done to them.", kind: "table", w: 12, h: 9,
				sql: `SELECT resource, arrayStringConcat(arraySort(groupUniqArray(action)), ', ') AS what, count() AS times, countIf(outcome != 'success') AS not_done, max(event_time) AS last_seen` + rows + `
WHERE resource != ''
GROUP BY resource ORDER BY last_seen DESC, resource`},
			{id: 5, title: "By class over time", about: "", kind: "timeseries", w: 12, h: 9, series: "class",
				sql: `SELECT $__timeInterval(event_time) AS time, class, count() AS actions` + rows + `
WHERE $__timeFilter(event_time)
GROUP BY time, class ORDER BY time, class`},
			{id: 6, title: "Findings in it", about: "", kind: "table", w: 24, h: 6,
				sql: `SELECT severity, rule, subject, actions, first_seen, last_seen, detail FROM findings
WHERE chain_id = toUUID(${chain:singlequote})
ORDER BY indexOf(['high', 'medium', 'low'], severity), rule, subject`},
			{id: 7, title: "What proves its steps", about: "For each step the place in Kafka of the record that shows it.", kind: "table", w: 24, h: 10,
				sql: `SELECT b.relation AS relation, hop.1 AS key, b.strength AS strength, b.parent AS driven_by, b.source AS source, b.topic AS topic, b.partition AS partition,
    b.offset AS offset, b.record_index AS record_index, toString(b.proof) AS event_id
FROM (SELECT DISTINCT arrayJoin(arrayZip(hops.key, hops.proof)) AS hop` + rows + `) AS steps
INNER JOIN (SELECT child, parent, relation, strength, source, topic, partition, offset, record_index, proof FROM bindings FINAL WHERE relation NOT IN ('ended', 'revoked')) AS b
    ON b.child = hop.1 AND b.proof = hop.2
ORDER BY topic, partition, offset, record_index, key
LIMIT 1 BY key, strength`},
		},
	}
}

func agents() dashboard {
	const where = `
WHERE $__timeFilter(event_time) AND $__conditionalAll(root_id IN (${root:singlequote}), $root)`
	return dashboard{
		uid: "catena-agents", title: "Agents", about: "What AI agents do, for whom, with which tools, under which decisions and with whose credentials.",
		variables: []variable{
			{name: "root", label: "For", all: true, sql: `SELECT root_id AS value, any(root_name) AS text FROM actions FINAL WHERE $__timeFilter(event_time) AND class = 'tool_call' AND root_id != ''
GROUP BY root_id ORDER BY text, value`},
			page,
		},
		panels: []panel{
			{id: 1, title: "Tool calls", about: "Calls that no other call caused.", kind: "stat", w: 6, h: 4,
				sql: `SELECT count() AS calls FROM actions FINAL` + where + ` AND class = 'tool_call' AND cause_grade = ''`},
			{id: 2, title: "People and services behind them", about: "", kind: "stat", w: 6, h: 4,
				sql: `SELECT uniqIf(root_id, root_id != '') AS roots FROM actions FINAL` + where + ` AND class = 'tool_call'`},
			{id: 3, title: "Denied and done", about: "A policy engine said no, and the call succeeded.", kind: "stat", w: 6, h: 4, steps: noneWanted,
				sql: `SELECT count() AS denied_but_done FROM actions FINAL` + where + ` AND class = 'tool_call' AND cause_grade = '' AND has(flags, 'denied_but_done')`},
			{id: 4, title: "Without a decision", about: "Final rows only, since a decision may be recorded later than the call.", kind: "stat", w: 6, h: 4, steps: []step{{0, "green"}, {1, "orange"}},
				sql: `SELECT count() AS undecided FROM agent_tool_calls_without_decision` + where + ` AND cause_grade = ''`},
			{id: 5, title: "Tool calls by tool", about: "", kind: "timeseries", w: 16, h: 8, series: "tool",
				sql: `SELECT $__timeInterval(event_time) AS time, resource AS tool, count() AS calls FROM actions FINAL` + where + ` AND class = 'tool_call' AND cause_grade = ''
GROUP BY time, tool ORDER BY time, tool`},
			{id: 6, title: "Decisions", about: "", kind: "piechart", w: 8, h: 8,
				sql: `SELECT if(policy_decision = '', 'none', policy_decision) AS decision, count() AS calls FROM actions FINAL` + where + ` AND class = 'tool_call' AND cause_grade = ''
GROUP BY decision ORDER BY decision`},
			{id: 7, title: "Who let which tools be used", about: "One row a root and tool. mfa is that of the login at the start of the chain.", kind: "table", w: 24, h: 9,
				sql: `SELECT root_id, any(root_name) AS name, resource AS tool, mfa, count() AS calls, countIf(outcome != 'success') AS failed, countIf(policy_decision = 'allow') AS allowed,
    countIf(policy_decision = 'deny') AS denied, countIf(policy_decision = '') AS undecided, max(event_time) AS last_seen
FROM actions FINAL` + where + ` AND class = 'tool_call' AND cause_grade = ''
GROUP BY root_id, tool, mfa ORDER BY last_seen DESC, root_id, tool`},
			{id: 8, title: "What the calls caused", about: "Cloud calls, data reads and commands tied to a tool call: exact by its request id, inferred by time and place.", kind: "table", w: 24, h: 9,
				sql: `SELECT event_time, root_name, action, resource, authority, outcome, grade, cause_grade,
    toString(chain_id) AS chain_id, toString(event_id) AS event_id
FROM actions FINAL` + where + ` AND cause_grade != '' AND class NOT IN ('tool_call', 'decision')
ORDER BY event_time DESC, event_id LIMIT 500`},
			{id: 9, title: "Agents at work", about: "As their telemetry names them: not a register, but what ran.", kind: "table", w: 12, h: 8,
				sql: `SELECT actor_id AS agent, any(actor_name) AS name, count() AS runs, uniqIf(root_id, root_id != '') AS roots, arrayStringConcat(arraySort(groupUniqArray(grade)), ', ') AS grades, max(event_time) AS last_seen
FROM actions FINAL` + where + ` AND actor_kind = 'agent'
GROUP BY agent ORDER BY runs DESC, agent`},
			{id: 10, title: "Credentials that their tools use", about: "A tool that uses its machine's role has the same rights whoever asks.", kind: "table", w: 12, h: 8,
				sql: `SELECT authority, uniq(token) AS keys, uniqIf(root_id, root_id != '') AS roots, count() AS calls, max(event_time) AS last_seen
FROM actions FINAL` + where + ` AND cause_grade != '' AND authority != ''
GROUP BY authority ORDER BY calls DESC, authority`},
			{id: 11, title: "Sessions of agents", about: "", kind: "table", w: 24, h: 8,
				sql: `SELECT event_time, actor_name AS agent, root_id, root_name, mfa, auth_method, grade, reason,
    toString(chain_id) AS chain_id, toString(event_id) AS event_id
FROM actions FINAL` + where + ` AND class = 'session' AND actor_kind = 'agent'
ORDER BY event_time DESC, event_id LIMIT 200`},
		},
	}
}

func identities() dashboard {
	const where = `
WHERE $__timeFilter(event_time) AND actor_kind IN (${kind:singlequote})`
	return dashboard{
		uid: "catena-identities", title: "Non-human identities", about: "Roles, service accounts, bots, agents and workloads: what they do, who drives them, what is new.",
		variables: []variable{{name: "kind", label: "Kind", multi: true, values: []string{"service", "agent", "workload"}}, page},
		panels: []panel{
			{id: 1, title: "Identities", about: "", kind: "stat", w: 6, h: 4, sql: `SELECT uniq(actor_id) AS identities FROM actions FINAL` + where},
			{id: 2, title: "Their actions", about: "", kind: "stat", w: 6, h: 4, sql: `SELECT count() AS actions FROM actions FINAL` + where},
			{id: 3, title: "Driven by a person", about: "The share of their actions whose root is a person.", kind: "stat", w: 6, h: 4, unit: "percentunit",
				sql: `SELECT countIf(root_kind = 'human') / count() AS with_person FROM actions FINAL` + where},
			{id: 4, title: "Attributed", about: "", kind: "stat", w: 6, h: 4, unit: "percentunit", steps: goodShare,
				sql: `SELECT countIf(grade != 'unattributed') / count() AS attributed FROM actions FINAL` + where},
			{id: 5, title: "Busiest identities", about: "The ten with the most actions.", kind: "timeseries", w: 24, h: 8, series: "identity",
				sql: `SELECT $__timeInterval(event_time) AS time, actor_id AS identity, count() AS actions FROM actions FINAL` + where + `
    AND actor_id IN (SELECT actor_id FROM actions` + where + ` AND actor_id != '' GROUP BY actor_id ORDER BY count() DESC, actor_id LIMIT 10)
GROUP BY time, identity ORDER BY time, identity`},
			{id: 6, title: "Coverage by identity", about: "What of the work of each leads to a person, and how well it is known.", kind: "table", w: 24, h: 10,
				shares: []string{"share_with_person", "share_proven", "share_unattributed"},
				sql: `SELECT day, actor_kind AS kind, actor_id, actor_name, actions, share_with_person, share_proven, share_unattributed
FROM coverage_by_identity
WHERE day >= toDate($__fromTime) AND day <= toDate($__toTime) AND actor_kind IN (${kind:singlequote})
ORDER BY day DESC, actions DESC, actor_id LIMIT 500`},
			{id: 7, title: "Who drives them", about: "From the identity to the upper end of its chains.", kind: "table", w: 24, h: 10,
				sql: `SELECT actor_id, root_kind, root_id, any(root_name) AS root_name, count() AS actions, uniqIf(chain_id, root_id != '') AS chains,
    arrayStringConcat(arraySort(groupUniqArray(grade)), ', ') AS grades, max(event_time) AS last_seen
FROM actions FINAL` + where + ` AND actor_id != ''
GROUP BY actor_id, root_kind, root_id ORDER BY actor_id, actions DESC, root_id LIMIT 500`},
			{id: 8, title: "Credentials minted for them", about: "Roles assumed, tokens requested, certificates made.", kind: "table", w: 12, h: 9,
				sql: `SELECT action, resource, any(root_name) AS root_name, count() AS mints, countIf(outcome != 'success') AS refused, max(event_time) AS last_seen
FROM actions FINAL` + where + ` AND class = 'issuance'
GROUP BY action, resource, root_id ORDER BY mints DESC, action, resource LIMIT 200`},
			{id: 9, title: "Roles used across accounts", about: "The caller's account beside the role's own.", kind: "table", w: 12, h: 9,
				sql: `SELECT splitByChar(':', root_id)[6] AS from_account, splitByChar(':', resource)[5] AS to_account, resource AS role, root_id, any(root_name) AS root_name, count() AS mints, max(event_time) AS last_seen
FROM actions FINAL
WHERE $__timeFilter(event_time) AND startsWith(action, 'sts:AssumeRole') AND startsWith(root_id, 'aws.user:') AND splitByChar(':', root_id)[6] != splitByChar(':', resource)[5]
GROUP BY from_account, to_account, role, root_id ORDER BY role, root_id`},
			{id: 10, title: "New identities, tools and edges", about: "Not seen before the time range.", kind: "table", w: 24, h: 10,
				sql: `SELECT first_seen, kind, value, actions, toString(first_chain) AS chain_id, toString(first_event) AS event_id
FROM new_since(since = $__fromTime_ms)
WHERE first_seen <= $__toTime
ORDER BY first_seen DESC, kind, value LIMIT 500`},
		},
	}
}

func findings() dashboard {
	const where = `
WHERE $__timeFilter(event_time)`
	return dashboard{
		uid: "catena-findings", title: "Findings", about: "What an investigator should look at. A finding goes when later evidence takes its flag away.",
		variables: []variable{{name: "severity", label: "Severity", multi: true, values: []string{"high", "medium", "low"}}, page},
		panels: []panel{
			{id: 1, title: "Findings by severity", about: "", kind: "stat", w: 12, h: 4,
				sql: `SELECT countIf(severity = 'high') AS high, countIf(severity = 'medium') AS medium, countIf(severity = 'low') AS low
FROM findings WHERE last_seen >= $__fromTime AND first_seen <= $__toTime`},
			{id: 2, title: "Chains with a flag", about: "", kind: "stat", w: 6, h: 4,
				sql: `SELECT uniq(chain_id) AS chains FROM actions FINAL` + where + ` AND notEmpty(flags)`},
			{id: 3, title: "Failed logins", about: "", kind: "stat", w: 6, h: 4,
				sql: `SELECT count() AS failed FROM actions FINAL` + where + ` AND reason = 'failed_login'`},
			{id: 4, title: "Flagged actions", about: "", kind: "timeseries", w: 24, h: 7, series: "flag",
				sql: `SELECT $__timeInterval(event_time) AS time, flag, count() AS actions
FROM (SELECT event_time, arrayJoin(arrayMap(f -> toString(f), flags)) AS flag FROM actions FINAL` + where + `)
GROUP BY time, flag ORDER BY time, flag`},
			{id: 5, title: "Findings", about: "One row a rule, chain and credential.", kind: "table", w: 24, h: 10,
				sql: `SELECT severity, rule, root_id, root_name, subject, actions, first_seen, last_seen, detail, toString(chain_id) AS chain_id
FROM findings
WHERE last_seen >= $__fromTime AND first_seen <= $__toTime AND severity IN (${severity:singlequote})
ORDER BY indexOf(['high', 'medium', 'low'], severity), last_seen DESC, rule, subject LIMIT 500`},
			{id: 6, title: "Credentials in the wrong hands", about: "Whose the key is, and what the other keys of the action lead to.", kind: "table", w: 24, h: 8,
				sql: `SELECT event_time, token, root_name AS belongs_to, arrayStringConcat(candidates.root, ', ') AS used_by, source_ip, action, resource, outcome,
    toString(chain_id) AS chain_id, toString(event_id) AS event_id
FROM divergent` + where + `
ORDER BY event_time DESC, event_id LIMIT 200`},
			{id: 7, title: "Outside a grant", about: "", kind: "table", w: 12, h: 7,
				sql: `SELECT event_time, root_name, action, resource, attributes['statement'] AS statement, toString(chain_id) AS chain_id
FROM outside_grant` + where + `
ORDER BY event_time DESC, event_id LIMIT 200`},
			{id: 8, title: "Denied and done", about: "", kind: "table", w: 12, h: 7,
				sql: `SELECT event_time, root_name, action, policy_id, outcome, toString(chain_id) AS chain_id
FROM actions FINAL` + where + ` AND has(flags, 'denied_but_done')
ORDER BY event_time DESC, event_id LIMIT 200`},
			{id: 9, title: "Privileged without a second factor", about: "", kind: "table", w: 12, h: 7,
				sql: `SELECT event_time, root_name, auth_method, action, resource, source_ip, toString(chain_id) AS chain_id
FROM privileged_without_mfa` + where + `
ORDER BY event_time DESC, event_id LIMIT 200`},
			{id: 10, title: "Failed logins by person", about: "", kind: "table", w: 12, h: 7,
				sql: `SELECT actor_id AS person, source, count() AS failed, uniq(source_ip) AS addresses, max(event_time) AS last_seen
FROM actions FINAL` + where + ` AND reason = 'failed_login'
GROUP BY person, source ORDER BY failed DESC, person`},
		},
	}
}
