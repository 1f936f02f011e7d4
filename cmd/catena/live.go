package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"catena/ingest"
	"catena/schemas"
)

// live keeps playing the stories, each time with new ids and at the present
// time, until ctx ends.
func (d *demo) live(ctx context.Context, producer *ingest.Producer, ended <-chan error, web string) error {
	addr := d.server.Addr().String()
	fmt.Fprintf(d.env.stdout, `
ClickHouse answers at http://%s until Ctrl-C, with live traffic:

  curl 'http://%s/' --data-binary "SELECT grade, count() FROM catena.actions FINAL GROUP BY grade"
  CATENA_CLICKHOUSE_ADDR=http://%s bin/catena explain alice.moreau@example.com --limit 1

`, addr, addr, addr)
	if web != "" {
		fmt.Fprintf(d.env.stdout, "The page is at http://%s/, beside /healthz, /readyz and /metrics.\n\n", web)
	}
	for round := 1; ; round++ {
		moved := newShift(time.Now(), round) // one for all files, which belong together
		for _, name := range storyFiles() {
			if err := playAgain(ctx, producer, name, moved); err != nil && ctx.Err() == nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return errors.Join(errors.New("the pipeline ended"), err)
		case <-time.After(5 * time.Second):
		}
	}
}

func playAgain(ctx context.Context, producer *ingest.Producer, name string, moved shift) error {
	err := eachStoryRecord(name, func(value []byte) error {
		return producer.Produce(ctx, schemas.Record{Topic: topicOf(name), Value: moved.apply(value)})
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return producer.Flush(ctx)
}

const spelledLayout = "Jan 2, 2006, 3:04:05 PM"

// storyEnd is when the last of the stories ends, all of which play on one day.
var storyEnd = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// shift rewrites a record of a story as one of another time and of other
// things: times move, ids change, names stay. Equal ids change equally, so
// that what joined still joins.
type shift struct {
	by    time.Duration
	round string
}

func newShift(now time.Time, round int) shift {
	return shift{by: now.Sub(storyEnd).Truncate(time.Second), round: strconv.Itoa(round)}
}

// What changes from round to round: times as text, as epoch nanoseconds and
// milliseconds, and ids that name one session, token, request or event.
var (
	textTime    = regexp.MustCompile(`2026-03-0[12]T\d\d:\d\d:\d\d`)
	spelledTime = regexp.MustCompile(`Mar 2, 2026, \d{1,2}:\d\d:\d\d [AP]M`) // as STS spells it
	podAddress  = regexp.MustCompile(`\b10\.\d+\.\d+\.\d+\b`)
	epochTime   = regexp.MustCompile(`\b1772[34]\d{5}(\d{3})?(\d{6})?\b`)
	freshID     = regexp.MustCompile(`\b([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{64}|[0-9a-f]{32}|[0-9a-f]{16}|ASIA[A-Z0-9]{16}|FX[0-9A-Z]{14}|i-[0-9a-f]{17}|102[A-Za-z0-9_-]{12,}|AT\.[A-Za-z0-9_-]{6,}|conv-[a-z0-9-]+|90\d{8,9})\b`)
)

func (s shift) apply(value []byte) []byte {
	value = freshID.ReplaceAllFunc(value, s.id)
	value = textTime.ReplaceAllFunc(value, func(b []byte) []byte {
		t, err := time.Parse("2006-01-02T15:04:05", string(b))
		if err != nil {
			return b
		}
		return []byte(t.Add(s.by).Format("2006-01-02T15:04:05"))
	})
	value = spelledTime.ReplaceAllFunc(value, func(b []byte) []byte {
		t, err := time.Parse(spelledLayout, string(b))
		if err != nil {
			return b
		}
		return []byte(t.Add(s.by).Format(spelledLayout))
	})
	value = podAddress.ReplaceAllFunc(value, func(b []byte) []byte {
		sum := sha256.Sum256(append([]byte(s.round+"/"), b...))
		return fmt.Appendf(nil, "10.%d.%d.%d", sum[0], sum[1], sum[2])
	})
	return epochTime.ReplaceAllFunc(value, func(b []byte) []byte {
		n, err := strconv.ParseInt(string(b), 10, 64)
		if err != nil {
			return b
		}
		unit := map[int]time.Duration{10: time.Second, 13: time.Millisecond, 19: time.Nanosecond}[len(b)]
		return strconv.AppendInt(nil, n+int64(s.by/unit), 10)
	})
}

// id changes the letters and digits of an id, each into one of its own sort,
// and leaves a prefix that says what it is.
func (s shift) id(b []byte) []byte {
	keep := 0
	switch b[0] {
	case 'A', '1', 'c':
		keep = 5
	case 'F', 'i':
		keep = 2
	}
	if epochTime.Match(b) {
		return b
	}
	sum := sha256.Sum256(append([]byte(s.round+"/"), b...))
	out := append([]byte(nil), b...)
	hexID := (keep == 0 || b[0] == 'i') && b[0] != '9'
	for i := keep; i < len(out); i++ {
		r := int(sum[i%len(sum)]) + i*int(s.round[0])
		switch c := out[i]; {
		case c >= '0' && c <= '9':
			out[i] = byte('0' + (int(c-'0')+r)%10)
		case hexID && c >= 'a' && c <= 'f':
			out[i] = byte('a' + (int(c-'a')+r)%6)
		case c >= 'a' && c <= 'z':
			out[i] = byte('a' + (int(c-'a')+r)%26)
		case c >= 'A' && c <= 'Z':
			out[i] = byte('A' + (int(c-'A')+r)%26)
		}
	}
	return out
}
