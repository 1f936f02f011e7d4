package clickhouse

import (
	"context"
	"fmt"
	"time"
)

const (
	lockTable = "schema_migrations_lock"
	lockStale = time.Minute
	lockPoll  = 200 * time.Millisecond
)

// lock lets one starter through, and returns how to let the next one. ClickHouse
// has no locks for its clients, but of two that create a table only one
// succeeds; so the lock is a table, and holding it means having created it.
//
// A starter that died leaves it behind. After a minute it counts as left, and
// whoever waits takes it away. Two that wait may then both go on, and so may a
// holder whose single statement takes longer; which does no harm beyond doing
// things twice, since every statement can run twice.
func (s *Store) lock(ctx context.Context) (release func(), err error) {
	for {
		err := s.conn.Exec(ctx, "CREATE TABLE "+lockTable+s.onClusterClause()+" (held UInt8) ENGINE = Memory")
		if err == nil {
			return s.unlock, nil
		}
		if !isCode(err, codeTableExists) {
			return nil, err
		}
		if err := s.breakStaleLock(ctx); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another program to migrate the tables (table %s): %w", lockTable, context.Cause(ctx))
		case <-time.After(lockPoll):
		}
	}
}

func (s *Store) breakStaleLock(ctx context.Context) error {
	var name string
	stale := false
	from := fmt.Sprintf("FROM system.tables WHERE database = currentDatabase() AND name = '%s' AND metadata_modification_time < now() - %d", lockTable, int(lockStale.Seconds()))
	err := load(ctx, s, []field{{"name", &name}}, from, func() error {
		stale = true
		return nil
	})
	if err != nil || !stale {
		return err
	}
	return s.dropLock(ctx)
}

// unlock also works when the start was cancelled meanwhile: left behind, the
// lock would hold up the next one for a minute.
func (s *Store) unlock() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = s.dropLock(ctx) // if it cannot be dropped it becomes stale
}

func (s *Store) dropLock(ctx context.Context) error {
	return s.conn.Exec(ctx, "DROP TABLE IF EXISTS "+lockTable+s.onClusterClause()+" SYNC")
}
