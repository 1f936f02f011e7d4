package clickhouse

import (
	"regexp"
	"strings"
	"testing"
)

var viewParameter = regexp.MustCompile(`\{(\w+):(\w+)`)

// Every view answers whoever asks from another database, as people and
// dashboards do who write catena.chains.
func TestViewsFromAnotherDatabase(t *testing.T) {
	s := migrated(t)
	values := map[string]string{"UUID": "01234567-89ab-8cde-8f01-23456789abcd", "String": "session:okta:x", "DateTime64": "2026-03-02 00:00:00"}
	pool := s.pool("")
	defer pool.Close()
	outside := &Store{options: s.options, where: s.where, native: s.native, conn: pool}
	views := rows(t, s, "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'View'")
	if len(views) < 20 {
		t.Fatalf("only %d views: %v", len(views), views)
	}
	for _, name := range views {
		var given []string
		for _, p := range viewParameter.FindAllStringSubmatch(rows(t, s, "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = "+quote(name))[0], -1) {
			if argument := p[1] + " = " + quote(values[p[2]]); !strings.Contains(strings.Join(given, ", "), argument) {
				given = append(given, argument)
			}
		}
		from := "`" + s.options.Database + "`.`" + name + "`"
		if len(given) > 0 {
			from += "(" + strings.Join(given, ", ") + ")"
		}
		if _, _, err := outside.Query(t.Context(), "SELECT * FROM "+from+" LIMIT 1", 1); err != nil {
			t.Errorf("%s: %v", from, err)
		}
	}
}
