package check

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/promqltest"
)

const rulesDir = "../prometheus/"

// rulesOf parses a file of rules as Prometheus does.
func rulesOf(t *testing.T, name string) []rulefmt.Rule {
	t.Helper()
	text, err := os.ReadFile(rulesDir + name)
	if err != nil {
		t.Fatal(err)
	}
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, promqlParser, promslog.NewNopLogger())
	for _, err := range errs {
		t.Errorf("%s: %v", name, err)
	}
	if len(errs) > 0 {
		t.FailNow()
	}
	var all []rulefmt.Rule
	for _, g := range groups.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// scenario is what the metrics were, minute by minute for a while, and whether an
// alert then fires: whether its expression has held as long as `for` says.
type scenario struct {
	rule  string
	what  string
	load  string // series as promtool writes them: name{labels} first+step x times
	at    time.Duration
	fires bool
}

// TestAlerts: every alert fires when what it is about happens, and not when it
// does not.
func TestAlerts(t *testing.T) {
	rules := map[string]rulefmt.Rule{}
	for _, r := range append(rulesOf(t, "recording.yaml"), rulesOf(t, "alerts.yaml")...) {
		rules[r.Record+r.Alert] = r
	}
	engine := promqltest.NewTestEngine(t, false, 0, 1_000_000)
	seen := map[string][2]bool{}
	for _, s := range scenarios {
		rule, ok := rules[s.rule]
		if !ok {
			t.Errorf("there is no rule %s", s.rule)
			continue
		}
		if fires(t, engine, rule, s) != s.fires {
			t.Errorf("%s, %s: it fires: %v, want %v\n%s", s.rule, s.what, !s.fires, s.fires, s.load)
		}
		both := seen[s.rule]
		both[map[bool]int{false: 0, true: 1}[s.fires]] = true
		seen[s.rule] = both
	}
	for name := range rules {
		if strings.HasPrefix(name, "Catena") && seen[name] != [2]bool{true, true} {
			t.Errorf("%s lacks a scenario in which it fires, or one in which it does not", name)
		}
	}
}

// fires evaluates the rule every minute of its `for`, as Prometheus does.
func fires(t *testing.T, engine *promql.Engine, rule rulefmt.Rule, s scenario) bool {
	t.Helper()
	storage := promqltest.LoadedStorage(t, "load 1m"+s.load)
	hold := time.Duration(rule.For)
	if s.at < hold {
		t.Errorf("%s, %s: %v is too early, it has to hold for %v", s.rule, s.what, s.at, hold)
		return !s.fires
	}
	for at := s.at - hold; at <= s.at; at += time.Minute {
		query, err := engine.NewInstantQuery(context.Background(), storage, nil, rule.Expr, time.Unix(0, 0).Add(at))
		if err != nil {
			t.Fatalf("%s: %v", s.rule, err)
		}
		result := query.Exec(context.Background())
		if result.Err != nil {
			t.Fatalf("%s: %v", s.rule, result.Err)
		}
		vector, err := result.Vector()
		if err != nil {
			t.Fatalf("%s: %v", s.rule, err)
		}
		query.Close()
		if len(vector) == 0 {
			return false
		}
	}
	return true
}

const (
	hour = time.Hour
	day  = 24 * time.Hour
)

var scenarios = []scenario{
	{"CatenaDown", "both instances are gone", `
  up{job="catena", instance="a"} 1x5 0x20
  up{job="catena", instance="b"} 1x5 0x20`, 20 * time.Minute, true},
	{"CatenaDown", "one of two is gone", `
  up{job="catena", instance="a"} 1x5 0x20
  up{job="catena", instance="b"} 1x30`, 20 * time.Minute, false},
	{"CatenaNotReady", "it restores", `
  catena_ready{instance="a"} 0x20`, 20 * time.Minute, true},
	{"CatenaNotReady", "it is ready", `
  catena_ready{instance="a"} 1x20`, 20 * time.Minute, false},
	{"CatenaLoopStuck", "it does not turn", `
  catena_loop_age_seconds{instance="a"} 0+60x20
  catena_partitions_restoring{instance="a"} 0x20
  catena_database_failing{instance="a"} 0x20`, 10 * time.Minute, true},
	{"CatenaLoopStuck", "it waits for the database", `
  catena_loop_age_seconds{instance="a"} 0+60x20
  catena_partitions_restoring{instance="a"} 0x20
  catena_database_failing{instance="a"} 1x20`, 10 * time.Minute, false},
	{"CatenaLoopStuck", "it turns", `
  catena_loop_age_seconds{instance="a"} 0.1x20
  catena_partitions_restoring{instance="a"} 0x20
  catena_database_failing{instance="a"} 0x20`, 10 * time.Minute, false},
	{"CatenaRestoreSlow", "three partitions wait", `
  catena_partitions_restoring{instance="a"} 3x20`, 10 * time.Minute, true},
	{"CatenaRestoreSlow", "none waits", `
  catena_partitions_restoring{instance="a"} 0x20`, 10 * time.Minute, false},
	{"CatenaRebalancing", "four partitions move away every minute", `
  catena_rebalances_total{instance="a", event="revoked"} 0+4x60
  catena_rebalances_total{instance="a", event="lost"} 0x60
  catena_partitions_assigned{instance="a"} 4x60`, 40 * time.Minute, true},
	{"CatenaRebalancing", "one rebalance", `
  catena_rebalances_total{instance="a", event="revoked"} 0x30 4x30
  catena_rebalances_total{instance="a", event="lost"} 0x60
  catena_partitions_assigned{instance="a"} 4x60`, 40 * time.Minute, false},
	{"CatenaSharingFaulty", "a message is not understood", `
  catena_shared_total{instance="a", what="strange"} 0x10 1x10`, 15 * time.Minute, true},
	{"CatenaSharingFaulty", "all are understood", `
  catena_shared_total{instance="a", what="strange"} 0x20
  catena_shared_total{instance="a", what="heard"} 0+10x20`, 15 * time.Minute, false},

	{"CatenaLagGrowing", "it is ten minutes behind, and more with each", `
  catena_lag_seconds{topic="okta", partition="1", instance="a"} 600+10x60
  topic_partition:catena_lag_records:max{topic="okta", partition="1"} 1000+500x60`, 40 * time.Minute, true},
	{"CatenaLagGrowing", "it is behind and catches up", `
  catena_lag_seconds{topic="okta", partition="1", instance="a"} 600x60
  topic_partition:catena_lag_records:max{topic="okta", partition="1"} 100000-500x60`, 40 * time.Minute, false},
	{"CatenaLagGrowing", "the partition has moved to another instance, which is up to date", `
  catena_lag_seconds{topic="okta", partition="1", instance="b"} 1x60
  topic_partition:catena_lag_records:max{topic="okta", partition="1"} 0+1x60`, 40 * time.Minute, false},
	{"CatenaPartitionStalled", "records wait and nothing is committed", `
  topic_partition:catena_lag_records:max{topic="okta", partition="1"} 10+5x60
  catena_partition_committed_offset{topic="okta", partition="1", instance="a"} 500x60`, 40 * time.Minute, true},
	{"CatenaPartitionStalled", "nothing was ever committed there", `
  topic_partition:catena_lag_records:max{topic="okta", partition="1"} 10+5x60`, 40 * time.Minute, true},
	{"CatenaPartitionStalled", "records wait and commits go on", `
  topic_partition:catena_lag_records:max{topic="okta", partition="1"} 10x60
  catena_partition_committed_offset{topic="okta", partition="1", instance="a"} 500+5x60`, 40 * time.Minute, false},
	{"CatenaPartitionStalled", "nothing waits", `
  topic_partition:catena_lag_records:max{topic="okta", partition="1"} 0x60
  catena_partition_committed_offset{topic="okta", partition="1", instance="a"} 500x60`, 40 * time.Minute, false},
	{"CatenaPartitionsFailing", "two cannot be read", `
  catena_partitions_failing{instance="a"} 2x20`, 10 * time.Minute, true},
	{"CatenaPartitionsFailing", "all can be read", `
  catena_partitions_failing{instance="a"} 0x20`, 10 * time.Minute, false},
	{"CatenaRecordsLost", "retention was faster", `
  catena_offsets_without_record_total{instance="a", why="expired"} 0x10 5000x20`, 15 * time.Minute, true},
	{"CatenaRecordsLost", "retention was faster while nobody read", `
  catena_offsets_without_record_total{instance="a", why="expired"} _x20 5000x20`, 25 * time.Minute, true},
	{"CatenaRecordsLost", "it has been seen to by now", `
  catena_offsets_without_record_total{instance="a", why="expired"} _x20 5000x40`, 50 * time.Minute, false},
	{"CatenaRecordsLost", "compaction and markers", `
  catena_offsets_without_record_total{instance="a", why="expired"} 0x30
  catena_offsets_without_record_total{instance="a", why="gap"} 0+9x30
  catena_offsets_without_record_total{instance="a", why="control"} 0+9x30`, 15 * time.Minute, false},
	{"CatenaCommitFailures", "commits fail", `
  catena_commit_failures_total{instance="a"} 0+2x40`, 30 * time.Minute, true},
	{"CatenaCommitFailures", "one failed long ago", `
  catena_commit_failures_total{instance="a"} 0x2 1x40`, 30 * time.Minute, false},
	{"CatenaWatermarkStuck", "a day behind", `
  catena_watermark_delay_seconds{instance="a"} 86400x50`, 40 * time.Minute, true},
	{"CatenaWatermarkStuck", "as far behind as it should be", `
  catena_watermark_delay_seconds{instance="a"} 900x50`, 40 * time.Minute, false},

	{"CatenaSourceSilent", "it spoke ten hours, and not for two", `
  source:catena_last_heard:timestamp_seconds{source="okta.system"} 0+60x600 36000x120
  catena_events_total{source="okta.system", instance="a"} 0+100x600 60000x120`, 12 * hour, true},
	{"CatenaSourceSilent", "it is there", `
  source:catena_last_heard:timestamp_seconds{source="okta.system"} 0+60x720
  catena_events_total{source="okta.system", instance="a"} 0+100x720`, 12 * hour, false},
	{"CatenaSourceSilent", "it speaks a few times a day", `
  source:catena_last_heard:timestamp_seconds{source="okta.system"} 0x720
  catena_events_total{source="okta.system", instance="a"} 0x300 3x420`, 12 * hour, false},
	{"CatenaSourceBehind", "what it tells is two hours old", `
  catena_source_last_heard_timestamp_seconds{source="aws.cloudtrail", instance="a"} 7200+60x60
  catena_source_last_event_timestamp_seconds{source="aws.cloudtrail", instance="a"} 0+60x60
  catena_events_total{source="aws.cloudtrail", instance="a"} 0+10x60`, 40 * time.Minute, true},
	{"CatenaSourceBehind", "what it tells is minutes old", `
  catena_source_last_heard_timestamp_seconds{source="aws.cloudtrail", instance="a"} 7200+60x60
  catena_source_last_event_timestamp_seconds{source="aws.cloudtrail", instance="a"} 6900+60x60
  catena_events_total{source="aws.cloudtrail", instance="a"} 0+10x60`, 40 * time.Minute, false},
	{"CatenaDeadLetters", "one in ten", `
  topic:catena_dead_letters:rate5m{topic="okta"} 10x20
  topic:catena_records:rate5m{topic="okta"} 100x20`, 10 * time.Minute, true},
	{"CatenaDeadLetters", "one in a thousand", `
  topic:catena_dead_letters:rate5m{topic="okta"} 0.1x20
  topic:catena_records:rate5m{topic="okta"} 100x20`, 10 * time.Minute, false},
	{"CatenaDeadLetters", "nothing at all", `
  topic:catena_dead_letters:rate5m{topic="okta"} 0x20
  topic:catena_records:rate5m{topic="okta"} 0x20`, 10 * time.Minute, false},
	{"CatenaUnclassified", "half of them are new", `
  catena_unclassified_total{source="okta.system", instance="a"} 0+5x90
  catena_events_total{source="okta.system", instance="a"} 0+10x90`, 80 * time.Minute, true},
	{"CatenaUnclassified", "one in a hundred is new", `
  catena_unclassified_total{source="okta.system", instance="a"} 0+1x90
  catena_events_total{source="okta.system", instance="a"} 0+100x90`, 80 * time.Minute, false},
	{"CatenaCoverageDropped", "half of yesterday's", `
  source:catena_coverage:ratio1h{source="aws.cloudtrail"} 0.9x1440 0.45x60`, day + 40*time.Minute, true},
	{"CatenaCoverageDropped", "as yesterday", `
  source:catena_coverage:ratio1h{source="aws.cloudtrail"} 0.9x1440 0.88x60`, day + 40*time.Minute, false},
	{"CatenaCoverageDropped", "there was no yesterday", `
  source:catena_coverage:ratio1h{source="aws.cloudtrail"} 0.1x60`, 30 * time.Minute, false},

	{"CatenaStateEvicting", "keys leave", `
  catena_evictions_total{instance="a", what="key"} 0+100x60`, 40 * time.Minute, true},
	{"CatenaStateEvicting", "none leaves", `
  catena_evictions_total{instance="a", what="key"} 100x60`, 40 * time.Minute, false},
	{"CatenaLookupsFailing", "they fail", `
  catena_lookup_failures_total{instance="a"} 0+1x30`, 20 * time.Minute, true},
	{"CatenaLookupsFailing", "they do not", `
  catena_lookup_failures_total{instance="a"} 3x30`, 20 * time.Minute, false},

	{"CatenaDatabaseFailing", "inserts fail", `
  catena_database_failing{instance="a"} 1x10`, 5 * time.Minute, true},
	{"CatenaDatabaseFailing", "inserts succeed", `
  catena_database_failing{instance="a"} 0x10`, 5 * time.Minute, false},
	{"CatenaReadingPaused", "for long", `
  catena_partitions_paused{instance="a"} 12x30`, 20 * time.Minute, true},
	{"CatenaReadingPaused", "now and then", `
  catena_partitions_paused{instance="a"} 12 0 12 0 12 0 12 0 12 0 12 0 12 0 12 0 12 0 12 0 12`, 20 * time.Minute, false},
	{"CatenaRowsRejected", "one row", `
  catena_rejected_rows_total{instance="a"} 0x10 1x20`, 15 * time.Minute, true},
	{"CatenaRowsRejected", "one row of the first batch", `
  catena_rejected_rows_total{instance="a"} _x20 1x20`, 25 * time.Minute, true},
	{"CatenaRowsRejected", "none", `
  catena_rejected_rows_total{instance="a"} 0x30`, 15 * time.Minute, false},
	{"CatenaRowsLate", "minutes", `
  catena_row_latency_seconds:p99_5m 250x30`, 20 * time.Minute, true},
	{"CatenaRowsLate", "a second", `
  catena_row_latency_seconds:p99_5m 1.2x30`, 20 * time.Minute, false},

	{"CatenaCanaryMissing", "the last success is ten minutes ago", `
  catena_canary_last_success_timestamp_seconds{instance="c"} 0+60x10 600x20`, 22 * time.Minute, true},
	{"CatenaCanaryMissing", "it never came out", `
  catena_canary_last_success_timestamp_seconds{instance="c"} 0x20`, 15 * time.Minute, true},
	{"CatenaCanaryMissing", "the canary is gone", `
  up{job="catena-canary"} 0x20`, 10 * time.Minute, true},
	{"CatenaCanaryMissing", "it came out a minute ago", `
  catena_canary_last_success_timestamp_seconds{instance="c"} 0+60x20`, 20*time.Minute + 50*time.Second, false},
	{"CatenaCanaryLate", "all take twenty seconds of thirty", `
  catena_canary_seconds_bucket{le="10"} 0x30
  catena_canary_seconds_bucket{le="30"} 0+1x30
  catena_canary_seconds_bucket{le="+Inf"} 0+1x30
  catena_canary_within_seconds 30x30`, 20 * time.Minute, true},
	{"CatenaCanaryLate", "all take a second", `
  catena_canary_seconds_bucket{le="1"} 0+1x30
  catena_canary_seconds_bucket{le="30"} 0+1x30
  catena_canary_seconds_bucket{le="+Inf"} 0+1x30
  catena_canary_within_seconds 30x30`, 20 * time.Minute, false},

	{"source:catena_coverage:ratio1h", "rows come in, over a restart, and improve", `
  catena_grade_entered_total{source="s", grade="proven", instance="a"} 0+9x30 0+9x60
  catena_grade_left_total{source="s", grade="proven", instance="a"} 0x90
  catena_grade_entered_total{source="s", grade="unattributed", instance="a"} 0+2x30 0+2x60
  catena_grade_left_total{source="s", grade="unattributed", instance="a"} 0+1x30 0+1x60
  source:catena_rows:increase1h{source="s"} 600x90`, 80 * time.Minute, true},
	{"source:catena_coverage:ratio1h", "too few rows to tell", `
  catena_grade_entered_total{source="s", grade="proven", instance="a"} 0x60 1x30
  catena_grade_left_total{source="s", grade="proven", instance="a"} 0x90
  source:catena_rows:increase1h{source="s"} 1x90`, 80 * time.Minute, false},
}
