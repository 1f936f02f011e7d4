package clickhouse

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"catena/schemas"
)

// The proof that every offset is accounted for.
//
// In a block of 65,536 offsets each place (offset and record_index) is a
// number, and the tables are right if the numbers of their rows are those that
// have to be there, each once. So the sum of the hashes of what is there is
// compared with the sum of the hashes of what has to be, modulo 2^64. Both are
// one pass over a table and a few bytes a block, however many rows there are;
// that a fault leaves the sum as it is has a chance of 2^-64. Only blocks whose
// sums differ are looked into place by place, a few at a time.

// Range is a part of a partition's offsets: From <= offset < To.
type Range struct {
	Topic     string
	Partition int32
	From, To  int64
}

// Account is what became of the offsets of a range. It balances:
//
//	In - Missing + Surplus = Actions + DeadLetters + all Skips - Again
type Account struct {
	Range
	In          int64 // items of the range's records; an offset without a record is one
	Actions     int64
	DeadLetters int64
	Skips       map[string]int64 // by name
	// Again are accounts of places that have another: what was a dead letter or
	// left out and became an action when it was read again. That is no fault.
	Again int64

	Missing, Twice, Conflict, Surplus int64
	Faults                            []Fault // the first of them, in the order of offsets
}

// Balanced reports whether the sums agree: they always do unless rows were
// written while they were read.
func (a *Account) Balanced() bool {
	out := a.Actions + a.DeadLetters - a.Again
	for _, n := range a.Skips {
		out += n
	}
	return a.In-a.Missing+a.Surplus == out
}

// FaultKind says what is wrong with offsets.
type FaultKind string

// The kinds of faults.
const (
	FaultMissing  FaultKind = "missing"  // items without any account
	FaultTwice    FaultKind = "twice"    // two live actions name one place
	FaultConflict FaultKind = "conflict" // an action and a skip as duplicate name one place
	FaultSurplus  FaultKind = "surplus"  // rows of items that the record does not have
)

// Fault is one thing that is wrong with a run of offsets.
type Fault struct {
	Kind     FaultKind
	From, To int64 // From <= offset < To
	Count    int64 // items
}

// maxFaults is how many faults of a range are kept; all are counted.
const maxFaults = 100

const (
	blockSize = 1 << 16 // as cmd cuts runs of skips
	indexBits = 20      // of record_index in a place's number; more items than any record may have
)

// placeHash is ClickHouse's intHash64 of a place.
func placeHash(offset int64, index uint64) uint64 {
	x := uint64(offset)<<indexBits + index
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return x
}

// Prove accounts for the offsets of the ranges, one a partition.
func (s *Store) Prove(ctx context.Context, ranges []Range) ([]Account, error) {
	p := prover{s: s, parts: make([]proving, len(ranges)), index: map[Place]int{}}
	for i, r := range ranges {
		if _, twice := p.index[Place{r.Topic, r.Partition}]; twice {
			return nil, fmt.Errorf("clickhouse: %s/%d is to be proved twice", r.Topic, r.Partition)
		}
		p.index[Place{r.Topic, r.Partition}] = i
		p.parts[i] = proving{Account: Account{Range: r, Skips: map[string]int64{}}, blocks: map[int64]*block{}}
	}
	if err := p.sums(ctx, ranges); err != nil {
		return nil, err
	}
	accounts := make([]Account, len(ranges))
	for i := range p.parts {
		if err := p.settle(ctx, &p.parts[i]); err != nil {
			return nil, err
		}
		accounts[i] = p.parts[i].Account
	}
	return accounts, nil
}

type prover struct {
	s     *Store
	parts []proving
	index map[Place]int
}

// proving is one partition's proof under way.
type proving struct {
	Account
	blocks map[int64]*block
	long   []longRun
}

// block is what stands in the tables of a block of offsets.
type block struct {
	there uint64 // sum of the hashes of all places
	items uint64 // sum of those that item_counts demands, without index 0
	rows  int64
	extra int64 // items that item_counts demands, without index 0
	skips map[string]int64
}

// longRun is a run of skips of one or more whole blocks.
type longRun struct {
	name     string
	from, to int64
}

func (part *proving) block(n int64) *block {
	b := part.blocks[n]
	if b == nil {
		b = &block{}
		part.blocks[n] = b
	}
	return b
}

// inRanges is the condition that a row lies in one of the ranges.
func inRanges(ranges []Range) string {
	byTopic := map[string][]string{}
	var topics []string
	for _, r := range ranges {
		if byTopic[r.Topic] == nil {
			topics = append(topics, r.Topic)
		}
		byTopic[r.Topic] = append(byTopic[r.Topic], fmt.Sprintf("(partition = %d AND offset >= %d AND offset < %d)", r.Partition, r.From, r.To))
	}
	either := make([]string, len(topics))
	for i, t := range topics {
		either[i] = "topic = " + quote(t) + " AND (" + strings.Join(byTopic[t], " OR ") + ")"
	}
	return "(" + strings.Join(either, " OR ") + ")"
}

// rangesAtOnce is how many ranges one statement names, so that it stays well
// under the server's max_query_size.
const rangesAtOnce = 1500

// sums fills the blocks.
func (p *prover) sums(ctx context.Context, ranges []Range) error {
	for part := range slices.Chunk(ranges, rangesAtOnce) {
		for _, table := range []string{"actions", "dead_letters"} {
			if err := p.rows(ctx, table, part); err != nil {
				return err
			}
		}
		if err := p.skips(ctx, part); err != nil {
			return err
		}
		if err := p.items(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

var hashOfRow = fmt.Sprintf("intHash64(bitShiftLeft(toUInt64(offset), %d) + toUInt64(record_index))", indexBits)

// rows adds the rows of a table that has one a place.
func (p *prover) rows(ctx context.Context, table string, ranges []Range) error {
	var (
		at   Place
		b    int64
		n    uint64
		hash uint64
	)
	fields := []field{{"topic", &at.Topic}, {"partition", &at.Partition}, {fmt.Sprintf("intDiv(offset, %d) AS block", blockSize), &b},
		{"count()", &n}, {"sum(" + hashOfRow + ")", &hash}}
	return load(ctx, p.s, fields, "FROM "+table+" FINAL WHERE "+inRanges(ranges)+" GROUP BY topic, partition, block", func() error {
		part := &p.parts[p.index[at]]
		bl := part.block(b)
		bl.there += hash
		bl.rows += int64(n)
		if table == "actions" {
			part.Actions += int64(n)
		} else {
			part.DeadLetters += int64(n)
		}
		return nil
	})
}

// bounds has a row for each range, to be joined with.
func bounds(ranges []Range) string {
	rows := make([]string, len(ranges))
	for i, r := range ranges {
		rows[i] = fmt.Sprintf("(%s, toInt32(%d), toInt64(%d), toInt64(%d))", quote(r.Topic), r.Partition, r.From, r.To)
	}
	return "(SELECT r.1 AS topic, r.2 AS partition, r.3 AS lo, r.4 AS hi FROM (SELECT arrayJoin([" + strings.Join(rows, ", ") + "]) AS r))"
}

// skips adds what was left out: runs within a block by their sums, and runs of
// whole blocks as they are.
func (p *prover) skips(ctx context.Context, ranges []Range) error {
	var (
		at       Place
		b        int64
		name     string
		n        int64
		hash     uint64
		from, to int64
	)
	clipped := "FROM (SELECT topic, partition, greatest(offset, lo) AS first, least(until, hi) AS behind, until - offset AS length, record_index, name " +
		"FROM skips FINAL INNER JOIN " + bounds(ranges) + " AS bounds USING (topic, partition) WHERE offset < hi AND until > lo)"
	whole := fmt.Sprintf("length >= %d", blockSize)
	hashes := fmt.Sprintf("sum(arraySum(o -> intHash64(bitShiftLeft(toUInt64(o), %d) + toUInt64(record_index)), range(toUInt64(first), toUInt64(behind))))", indexBits)
	fields := []field{{"toString(topic)", &at.Topic}, {"partition", &at.Partition}, {fmt.Sprintf("intDiv(first, %d) AS block", blockSize), &b}, {"name", &name}, {"toInt64(sum(behind - first))", &n}, {hashes, &hash}}
	err := load(ctx, p.s, fields, clipped+" WHERE NOT "+whole+" GROUP BY topic, partition, block, name", func() error {
		bl := p.parts[p.index[at]].block(b)
		bl.there += hash
		bl.rows += n
		if bl.skips == nil {
			bl.skips = map[string]int64{}
		}
		bl.skips[name] += n
		return nil
	})
	if err != nil {
		return err
	}
	fields = []field{{"toString(topic)", &at.Topic}, {"partition", &at.Partition}, {"name", &name}, {"first", &from}, {"behind", &to}}
	return load(ctx, p.s, fields, clipped+" WHERE "+whole+" ORDER BY first, behind", func() error {
		part := &p.parts[p.index[at]]
		part.long = append(part.long, longRun{name, from, to})
		return nil
	})
}

// items adds the items that records with several have beyond the first.
func (p *prover) items(ctx context.Context, ranges []Range) error {
	var (
		at   Place
		b    int64
		n    int64
		hash uint64
	)
	fields := []field{{"topic", &at.Topic}, {"partition", &at.Partition}, {fmt.Sprintf("intDiv(offset, %d) AS block", blockSize), &b}, {"toInt64(sum(items - 1))", &n},
		{fmt.Sprintf("sum(arraySum(i -> intHash64(bitShiftLeft(toUInt64(offset), %d) + i), range(toUInt64(1), toUInt64(items))))", indexBits), &hash}}
	return load(ctx, p.s, fields, "FROM item_counts FINAL WHERE "+inRanges(ranges)+" GROUP BY topic, partition, block", func() error {
		bl := p.parts[p.index[at]].block(b)
		bl.items += hash
		bl.extra += n
		return nil
	})
}

// settle compares block by block, and looks into those that differ.
func (p *prover) settle(ctx context.Context, part *proving) error {
	var odd []int64
	covered, long := part.From, part.long // up to where whole blocks were left out
	for n := part.From / blockSize; n*blockSize < part.To; n++ {
		from, to := max(part.From, n*blockSize), min(part.To, (n+1)*blockSize)
		for len(long) > 0 && long[0].from <= from {
			if long[0].to > covered {
				part.Skips[long[0].name] += long[0].to - max(covered, long[0].from)
				covered = long[0].to
			}
			long = long[1:]
		}
		bl := part.blocks[n]
		if bl == nil {
			bl = &block{}
		}
		part.In += to - from + bl.extra
		switch {
		case bl.rows == 0 && bl.extra == 0 && covered >= to:
		case bl.rows == 0 && bl.extra == 0 && covered <= from:
			part.fault(Fault{FaultMissing, from, to, to - from})
		case covered < to && bl.there == bl.items+hashes(from, to):
			for name, k := range bl.skips {
				part.Skips[name] += k
			}
		default:
			if covered > from { // counted again with the block
				part.uncount(n, min(covered, to)-from)
			}
			odd = append(odd, n)
		}
	}
	for some := range slices.Chunk(odd, 16) {
		if err := p.lookInto(ctx, part, some); err != nil {
			return err
		}
	}
	slices.SortStableFunc(part.Faults, func(a, b Fault) int { return cmp.Compare(a.From, b.From) })
	return nil
}

// uncount takes back the offsets of a block from the run that covers it.
func (part *proving) uncount(n, offsets int64) {
	for i := range part.long {
		if r := &part.long[i]; r.from <= max(part.From, n*blockSize) && r.to > n*blockSize {
			part.Skips[r.name] -= offsets
			return
		}
	}
}

// hashes is the sum of the hashes of a run of offsets.
func hashes(from, to int64) (sum uint64) {
	for o := from; o < to; o++ {
		sum += placeHash(o, 0)
	}
	return sum
}

// fault counts a fault and keeps it if there is room, with the one before it
// if it goes on.
func (part *proving) fault(f Fault) {
	switch f.Kind {
	case FaultMissing:
		part.Missing += f.Count
	case FaultTwice:
		part.Twice += f.Count
	case FaultConflict:
		part.Conflict += f.Count
	case FaultSurplus:
		part.Surplus += f.Count
	}
	for i := len(part.Faults) - 1; i >= 0 && i >= len(part.Faults)-4; i-- {
		if last := &part.Faults[i]; last.Kind == f.Kind && last.To == f.From {
			last.To, last.Count = f.To, last.Count+f.Count
			return
		}
	}
	if len(part.Faults) < maxFaults {
		part.Faults = append(part.Faults, f)
	}
}

// lookInto accounts for blocks place by place.
func (p *prover) lookInto(ctx context.Context, part *proving, blocks []int64) error {
	texts := make([]string, len(blocks))
	for i, n := range blocks {
		texts[i] = strconv.FormatInt(n, 10)
	}
	v := strings.NewReplacer(
		"{topic}", quote(part.Topic), "{partition}", fmt.Sprint(part.Partition), "{from}", fmt.Sprintf("toInt64(%d)", part.From), "{to}", fmt.Sprintf("toInt64(%d)", part.To),
		"{blocks}", "CAST(["+strings.Join(texts, ", ")+"], 'Array(Int64)')", "{size}", fmt.Sprint(blockSize))
	var name string
	var n uint64
	err := load(ctx, p.s, []field{{"name", &name}, {"count()", &n}}, v.Replace("FROM (SELECT DISTINCT o, record_index, name FROM ("+skippedPlaces+")) GROUP BY name"), func() error {
		part.Skips[strings.Clone(name)] += int64(n)
		return nil
	})
	if err != nil {
		return err
	}
	var offset, want, have, again, twice, conflict, surplus int64
	fields := []field{{"o", &offset}, {"want", &want}, {"have", &have}, {"again", &again}, {"twice", &twice}, {"conflict", &conflict}, {"surplus", &surplus}}
	return load(ctx, p.s, fields, v.Replace(oddOffsets), func() error {
		part.Again += again
		for _, f := range []Fault{{FaultMissing, offset, offset + 1, want - have}, {FaultTwice, offset, offset + 1, twice},
			{FaultConflict, offset, offset + 1, conflict}, {FaultSurplus, offset, offset + 1, surplus}} {
			if f.Count > 0 {
				part.fault(f)
			}
		}
		return nil
	})
}

// skippedPlaces has a row for each place that a skip names, within the blocks.
const skippedPlaces = `SELECT toInt64(arrayJoin(range(toUInt64(greatest(offset, b * {size}, {from})), toUInt64(least(until, (b + 1) * {size}, {to}))))) AS o, record_index, name
	FROM (SELECT offset, until, record_index, name, arrayJoin({blocks}) AS b FROM skips FINAL WHERE topic = {topic} AND partition = {partition})
	WHERE offset < (b + 1) * {size} AND until > b * {size}`

// oddOffsets has a row for each offset of the blocks whose places do not each
// have one account.
const oddOffsets = `FROM (
	SELECT every.o AS o, if(counted.items = 0, 1, toInt64(counted.items)) AS want, toInt64(countIf(placed AND record_index < want)) AS have,
		toInt64(sum(if(placed, rows + skips - 1, 0))) AS again, toInt64(countIf(actions > 1)) AS twice, toInt64(countIf(actions > 0 AND duplicate)) AS conflict,
		toInt64(countIf(placed AND record_index >= want)) AS surplus
	FROM (SELECT o FROM (SELECT arrayJoin(range(toUInt64({size}))) + b * {size} AS o FROM (SELECT toInt64(arrayJoin({blocks})) AS b)) WHERE o >= {from} AND o < {to}) AS every
	LEFT JOIN (
		SELECT o, record_index, toInt64(sum(a)) AS actions, toInt64(sum(a + d)) AS rows, toInt64(uniqExactIf(name, name != '')) AS skips, max(name = 'duplicate') AS duplicate, true AS placed
		FROM (
			SELECT offset AS o, record_index, 1 AS a, 0 AS d, '' AS name FROM actions FINAL WHERE topic = {topic} AND partition = {partition} AND has({blocks}, intDiv(offset, {size})) AND offset >= {from} AND offset < {to}
			UNION ALL
			SELECT offset AS o, record_index, 0 AS a, 1 AS d, '' AS name FROM dead_letters FINAL WHERE topic = {topic} AND partition = {partition} AND has({blocks}, intDiv(offset, {size})) AND offset >= {from} AND offset < {to}
			UNION ALL
			SELECT o, record_index, 0 AS a, 0 AS d, toString(name) AS name FROM (` + skippedPlaces + `)
		)
		GROUP BY o, record_index
	) AS places ON every.o = places.o
	LEFT JOIN (SELECT offset AS o, items FROM item_counts FINAL WHERE topic = {topic} AND partition = {partition} AND has({blocks}, intDiv(offset, {size}))) AS counted ON every.o = counted.o
	GROUP BY o, want
	HAVING have < want OR again > 0 OR twice > 0 OR conflict > 0 OR surplus > 0
	ORDER BY o
)`

// Arrived narrows ranges to the offsets whose records arrived between two
// times, in nanoseconds; zero means no bound. What is known of an offset's
// arrival stands in its action or dead letter: the first and the last of those
// in time bound the range. Ranges without any are left out.
func (s *Store) Arrived(ctx context.Context, ranges []Range, sinceNanos, untilNanos int64) ([]Range, error) {
	when := "1"
	if sinceNanos != 0 {
		when += fmt.Sprintf(" AND ingested_at >= fromUnixTimestamp64Micro(%d, 'UTC')", toMicros(sinceNanos))
	}
	if untilNanos != 0 {
		when += fmt.Sprintf(" AND ingested_at < fromUnixTimestamp64Micro(%d, 'UTC')", toMicros(untilNanos))
	}
	var (
		at       Place
		from, to int64
	)
	found := map[Place][2]int64{}
	for part := range slices.Chunk(ranges, rangesAtOnce) {
		where := " WHERE " + inRanges(part) + " AND " + when
		union := "FROM (SELECT topic, partition, offset FROM actions" + where + " UNION ALL SELECT topic, partition, offset FROM dead_letters" + where + ") GROUP BY topic, partition"
		fields := []field{{"toString(topic) AS topic", &at.Topic}, {"partition", &at.Partition}, {"min(offset)", &from}, {"max(offset) + 1", &to}}
		if err := load(ctx, s, fields, union, func() error { found[at] = [2]int64{from, to}; return nil }); err != nil {
			return nil, err
		}
	}
	var narrowed []Range
	for _, r := range ranges {
		if f, ok := found[Place{r.Topic, r.Partition}]; ok {
			r.From, r.To = f[0], f[1]
			narrowed = append(narrowed, r)
		}
	}
	return narrowed, nil
}

// bucketRows is about how many ids one statement compares at a time: 4 million
// of them take some 400 MB of the server's memory.
const bucketRows = 4_000_000

// buckets cuts a comparison of ids by their hash, so that its memory does not
// grow with the table.
func (s *Store) buckets(ctx context.Context, table string) (int, error) {
	var n uint64
	err := load(ctx, s, []field{{"count()", &n}}, "FROM "+table, func() error { return nil })
	return int(n/bucketRows) + 1, err
}

// LiveTwice returns events that have two live rows, at most limit of them: rows
// that no merge will ever make one, since what they say of the event's time or
// source differs.
func (s *Store) LiveTwice(ctx context.Context, limit int) ([]schemas.ID, error) {
	return s.bucketed(ctx, "actions", limit, `SELECT event_id AS id FROM (SELECT DISTINCT event_id, event_time, source FROM actions WHERE cityHash64(event_id) %% %[1]d = %[2]d)
		GROUP BY id HAVING count() > 1`)
}

// OddChains returns chains whose row in chains is not the grouping of their
// actions, at most limit of them. It says nothing of rows that change while it
// reads: ask twice.
func (s *Store) OddChains(ctx context.Context, limit int) ([]schemas.ID, error) {
	const none = "toUUID('00000000-0000-0000-0000-000000000000')"
	return s.bucketed(ctx, "actions", limit, `SELECT id FROM (
			SELECT chain_id AS id, toUInt64(actions) AS n, first_seen AS first, last_seen AS last FROM chains WHERE cityHash64(chain_id) %% %[1]d = %[2]d
			UNION ALL
			SELECT chain_id AS id, count() AS n, min(event_time) AS first, max(ended_at) AS last FROM actions FINAL
			WHERE chain_id != `+none+` AND cityHash64(chain_id) %% %[1]d = %[2]d GROUP BY id
		) GROUP BY id HAVING count() != 2 OR uniqExact(n, first, last) != 1`)
}

// Unproven returns events that bindings name as their proof and that the tables
// do not know, at most limit of them. Bindings of places outside the ranges
// are not asked after, nor those whose proof is older than the oldest row:
// rows may be deleted before the bindings that they prove.
func (s *Store) Unproven(ctx context.Context, ranges []Range, limit int) ([]schemas.ID, error) {
	var all []schemas.ID
	for part := range slices.Chunk(ranges, rangesAtOnce) {
		ids, err := s.bucketed(ctx, "actions", limit-len(all), `SELECT DISTINCT proof AS id FROM bindings FINAL
			WHERE cityHash64(proof) %% %[1]d = %[2]d AND proof_time >= (SELECT min(event_time) FROM actions) AND `+strings.ReplaceAll(inRanges(part), "%", "%%")+`
			AND proof NOT IN (
				SELECT event_id FROM actions WHERE cityHash64(event_id) %% %[1]d = %[2]d
				UNION ALL SELECT event_id FROM skips WHERE cityHash64(event_id) %% %[1]d = %[2]d)`)
		all = append(all, ids...)
		if err != nil || len(all) >= limit {
			return all, err
		}
	}
	return all, nil
}

// bucketed runs a statement once a bucket and collects ids.
func (s *Store) bucketed(ctx context.Context, table string, limit int, statement string) ([]schemas.ID, error) {
	n, err := s.buckets(ctx, table)
	if err != nil {
		return nil, err
	}
	var ids []schemas.ID
	for b := 0; b < n && len(ids) < limit; b++ {
		var text string
		err := load(ctx, s, []field{{"toString(id)", &text}}, fmt.Sprintf("FROM ("+statement+") ORDER BY id LIMIT %[3]d", n, b, limit-len(ids)), func() error {
			id, err := schemas.ParseID(text)
			ids = append(ids, id)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// PlaceRow is one row of actions at a place that several name.
type PlaceRow struct {
	Event  schemas.ID
	Source string
	SHA256 string
}

// AtPlace returns the live actions of an offset, at most limit.
func (s *Store) AtPlace(ctx context.Context, topic string, partition int32, offset int64, limit int) ([]PlaceRow, error) {
	var id string
	var row PlaceRow
	var rows []PlaceRow
	from := fmt.Sprintf("FROM actions FINAL WHERE topic = %s AND partition = %d AND offset = %d ORDER BY record_index, event_id LIMIT %d", quote(topic), partition, offset, limit)
	err := load(ctx, s, []field{{"toString(event_id)", &id}, {"source", &row.Source}, {"raw_sha256", &row.SHA256}}, from, func() (err error) {
		row.Event, err = schemas.ParseID(id)
		rows = append(rows, row)
		return err
	})
	return rows, err
}
