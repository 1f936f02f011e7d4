package clickhouse

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	migrations "catena/schemas/clickhouse"
)

// step is one migration: a file of SQL.
type step struct {
	version    uint32
	name       string // of the file, without .sql
	sha256     string
	statements []string
}

// Migrate brings the database to the tables that this program knows, creating
// it when it does not exist, and returns the names of the steps that it
// applied. It may run at any time, and by several starters at once: each
// statement can run twice, and a step is recorded when all of it has run.
//
// Only one starter applies steps at a time (see [Store.lock]), so that an older
// program cannot put its views over those of a newer one that starts with it.
//
// It refuses to touch a database that a newer program has migrated, or in
// which a recorded step differs from the one of that number here. Last it sets
// the retention ([Options.Retention]). On a cluster ([Options.Cluster]) all of
// this is done on every server.
func (s *Store) Migrate(ctx context.Context) (applied []string, err error) {
	if err := s.createDatabase(ctx); err != nil {
		return nil, s.explain(err)
	}
	pending, err := s.pending(ctx)
	if err != nil {
		return nil, err
	}
	if len(pending) > 0 {
		if applied, err = s.applyPending(ctx); err != nil {
			return applied, err
		}
	}
	if err := s.setRetention(ctx); err != nil {
		return applied, s.explain(err)
	}
	return applied, nil
}

// applyPending applies what is pending once the lock is held.
func (s *Store) applyPending(ctx context.Context) (applied []string, err error) {
	release, err := s.lock(ctx)
	if err != nil {
		return nil, s.explain(err)
	}
	defer release()
	pending, err := s.pending(ctx) // another starter may have been faster
	if err != nil {
		return nil, err
	}
	if err := s.conn.Exec(ctx, s.createRecord()); err != nil {
		return nil, s.explain(err)
	}
	for _, st := range pending {
		if err := s.apply(ctx, st); err != nil {
			return applied, s.explain(fmt.Errorf("migration %s: %w", st.name, err))
		}
		applied = append(applied, st.name)
	}
	return applied, nil
}

// Pending returns the names of the steps that Migrate would apply: none when
// the database is as this program wants it. It changes nothing.
func (s *Store) Pending(ctx context.Context) ([]string, error) {
	steps, err := s.pending(ctx)
	names := make([]string, len(steps))
	for i, st := range steps {
		names[i] = st.name
	}
	return names, err
}

// createDatabase connects without naming the database, which may not exist. It
// asks first, so that a user who may not create databases can use one that
// somebody else made.
func (s *Store) createDatabase(ctx context.Context) error {
	pool := s.pool("")
	defer func() { _ = pool.Close() }()
	conn, err := pool.get()
	if err != nil {
		return err
	}
	var n uint64
	if err := conn.QueryRow(ctx, "SELECT count() FROM system.databases WHERE name = '"+s.options.Database+"'").Scan(&n); err != nil {
		return err
	}
	if n > 0 && s.options.Cluster == "" {
		return nil
	}
	return conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS `"+s.options.Database+"`"+s.onClusterClause())
}

func (s *Store) apply(ctx context.Context, st step) error {
	statements, err := s.render(st.statements)
	if err != nil {
		return err
	}
	for i, statement := range statements {
		if err := s.conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("statement %d of %d: %w", i+1, len(statements), err)
		}
	}
	// The values are a number, a file name of ours and hexadecimal digits.
	return s.conn.Exec(ctx, fmt.Sprintf("INSERT INTO schema_migrations (version, name, sha256) SELECT %d, '%s', '%s'", st.version, st.name, st.sha256))
}

// createRecord is the table of what was applied. On a cluster all servers hold
// the same one, whatever their shard.
func (s *Store) createRecord() string {
	engine := "ReplacingMergeTree(applied_at)"
	if s.options.Cluster != "" {
		engine = "ReplicatedReplacingMergeTree('/clickhouse/tables/" + s.options.Database + "/schema_migrations', '{shard}-{replica}', applied_at)"
	}
	return `CREATE TABLE IF NOT EXISTS schema_migrations` + s.onClusterClause() + `
(
    version    UInt32,
    name       String,
    sha256     String,
    applied_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = ` + engine + `
ORDER BY (version, sha256)`
}

// pending compares the record of what was applied with what there is.
func (s *Store) pending(ctx context.Context) ([]step, error) {
	steps, err := readSteps(migrations.Files)
	if err != nil {
		return nil, err
	}
	recorded, err := s.recorded(ctx)
	if err != nil {
		return nil, s.explain(err)
	}
	todo, err := compare(steps, recorded)
	if err != nil {
		return nil, fmt.Errorf("clickhouse at %s: database %q: %w", s.where, s.options.Database, err)
	}
	return todo, nil
}

// recorded reads the steps that were applied; none if there is no record yet.
func (s *Store) recorded(ctx context.Context) ([]step, error) {
	rows, err := s.conn.Query(ctx, "SELECT version, name, sha256 FROM schema_migrations ORDER BY version, applied_at")
	if isCode(err, codeUnknownTable, codeUnknownDatabase) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var steps []step
	for rows.Next() {
		var st step
		if err := rows.Scan(&st.version, &st.name, &st.sha256); err != nil {
			return nil, err
		}
		steps = append(steps, st)
	}
	return steps, rows.Err()
}

// compare returns the steps of ours that are not recorded.
func compare(ours, recorded []step) ([]step, error) {
	done := map[uint32]bool{}
	for _, r := range recorded {
		if int(r.version) > len(ours) {
			return nil, fmt.Errorf("migration %s is newer than this program, which knows up to %s: run the newer program", r.name, ours[len(ours)-1].name)
		}
		if mine := ours[r.version-1]; mine.sha256 != r.sha256 {
			return nil, fmt.Errorf("migration %s was applied with other content (sha256 %.12s…) than this program's %s (%.12s…): "+
				"run the program that applied it, or, if the tables are known to be right, delete the line from schema_migrations", r.name, r.sha256, mine.name, mine.sha256)
		}
		done[r.version] = true
	}
	var todo []step
	for _, st := range ours {
		if !done[st.version] {
			todo = append(todo, st)
		}
	}
	return todo, nil
}

// readSteps reads the migrations in order and checks that none is missing.
func readSteps(files fs.FS) ([]step, error) {
	names, err := fs.Glob(files, "*.sql") // sorted
	if err != nil {
		return nil, err
	}
	steps := make([]step, len(names))
	for i, file := range names {
		content, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(path.Base(file), ".sql")
		number, _, _ := strings.Cut(name, "_")
		if n, err := strconv.Atoi(number); err != nil || n != i+1 {
			return nil, fmt.Errorf("migration %s: want number %04d", file, i+1)
		}
		sum := sha256.Sum256(content)
		steps[i] = step{uint32(i + 1), name, hex.EncodeToString(sum[:]), splitStatements(string(content))}
	}
	return steps, nil
}

// splitStatements cuts a file at the semicolons that end a line. Comments stay
// with the statement that follows them.
func splitStatements(sql string) []string {
	var statements []string
	var current strings.Builder
	empty := true // nothing but comments so far
	for line := range strings.Lines(sql) {
		trimmed := strings.TrimSpace(line)
		comment := strings.HasPrefix(trimmed, "--")
		if !comment && strings.HasSuffix(trimmed, ";") {
			current.WriteString(strings.TrimSuffix(strings.TrimRight(line, " \t\r\n"), ";"))
			statements = append(statements, current.String())
			current.Reset()
			empty = true
			continue
		}
		empty = empty && (comment || trimmed == "")
		current.WriteString(line)
	}
	if !empty {
		statements = append(statements, current.String())
	}
	return statements
}
