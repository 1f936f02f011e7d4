package clickhouse

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// OldestVersion is the oldest server that is tested.
const OldestVersion = "25.3"

// Facts are what a server says of itself and of our user.
type Facts struct {
	Version   string
	Supported bool // not older than OldestVersion
	Database  bool // it exists

	MissingGrants []string      // of those that reading, inserting and migrating need
	FixedSettings []string      // settings of inserts that our user may not set
	DiskFree      float64       // share of the fullest disk; -1 if unknown
	Clock         time.Duration // how far the server's is ahead of ours, half of a round trip unsure
}

// grants are what Migrate, Write and the look-ups need on the database.
var grants = []string{"SELECT", "INSERT", "CREATE TABLE", "CREATE VIEW", "ALTER TABLE", "DROP TABLE", "DROP VIEW"}

// Inspect asks the server. It changes nothing.
func (s *Store) Inspect(ctx context.Context) (Facts, error) {
	// A connection without the database, which may not exist yet.
	s = &Store{conn: s.pool(""), options: s.options, where: s.where, native: s.native, tls: s.tls}
	defer func() { _ = s.conn.Close() }()
	f := Facts{DiskFree: -1}
	began := time.Now()
	now, err := s.one(ctx, "SELECT toString(toUnixTimestamp64Micro(now64(6)))")
	if err != nil {
		return f, err
	}
	trip := time.Since(began)
	micros, err := strconv.ParseInt(now, 10, 64)
	if err != nil {
		return f, s.explain(fmt.Errorf("clock: %w", err))
	}
	f.Clock = time.UnixMicro(micros).Sub(began.Add(trip / 2))
	if f.Version, err = s.one(ctx, "SELECT version()"); err != nil {
		return f, err
	}
	f.Supported = !older(f.Version, OldestVersion)
	exists, err := s.one(ctx, "SELECT toString(count()) FROM system.databases WHERE name = "+quote(s.options.Database))
	if err != nil {
		return f, err
	}
	f.Database = exists != "0"
	for _, grant := range grants {
		// Servers that do not know CHECK GRANT answer with an error: nothing is
		// known then, and the first statement that lacks a right will say so.
		if has, err := s.one(ctx, "CHECK GRANT "+grant+" ON `"+s.options.Database+"`.*"); err == nil && has == "0" {
			f.MissingGrants = append(f.MissingGrants, grant)
		}
	}
	if f.FixedSettings, err = s.fixedSettings(ctx); err != nil {
		return f, err
	}
	if free, err := s.one(ctx, "SELECT toString(min(unreserved_space / total_space)) FROM system.disks WHERE total_space > 0 AND type = 'Local'"); err == nil {
		if share, err := strconv.ParseFloat(free, 64); err == nil {
			f.DiskFree = share
		}
	}
	return f, nil
}

// fixedSettings are those that inserts send and our user may not change.
func (s *Store) fixedSettings(ctx context.Context) ([]string, error) {
	_, rows, err := s.Query(ctx, "SELECT name FROM system.settings WHERE readonly AND name IN ("+insertSettingNames()+") ORDER BY name", 0)
	var names []string
	for _, row := range rows {
		names = append(names, row[0])
	}
	return names, err
}

// one returns the only cell of an answer.
func (s *Store) one(ctx context.Context, sql string) (string, error) {
	_, rows, err := s.Query(ctx, sql, 1)
	if err != nil {
		return "", err
	}
	if len(rows) == 0 || len(rows[0]) == 0 {
		return "", s.explain(fmt.Errorf("%s: no answer", sql))
	}
	return rows[0][0], nil
}

// older compares two versions by their first two numbers.
func older(version, than string) bool { return slices.Compare(numbers(version), numbers(than)) < 0 }

func numbers(version string) []int {
	var all []int
	for part := range strings.SplitSeq(version, ".") {
		n, err := strconv.Atoi(part)
		if err != nil || len(all) == 2 {
			break
		}
		all = append(all, n)
	}
	return all
}
