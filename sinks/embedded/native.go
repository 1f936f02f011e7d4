package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// Revisions of ClickHouse's protocol at which the Native format changed (ProtocolDefines.h).
const (
	revisionBlockInfo     = 1     // a block begins with its info
	revisionSerialization = 54454 // a column's type is followed by a flag: custom serialization

	// MaxRevision is the newest revision that blocks are encoded at. A client that names a newer one gets this one, which
	// is what clickhouse-go speaks; it differs from later ones only in types that are refused here (JSON, Dynamic).
	MaxRevision = 54460
)

// maxTypeDepth bounds how deep types nest; the engine's own parser allows far less than the stack would.
const maxTypeDepth = 100

// transcoder re-encodes Native blocks from one revision to another. The revisions differ in a few bytes around the columns,
// not in the values, so values are skipped over and passed on as they are, uncopied; only the types are understood, as far as
// is needed to know where a column ends.
//
// Rejected: decoding and encoding with clickhouse-go's columns. They lose the values of Nullable(Nothing), panic on an Enum
// whose names have quotes, and cost an allocation per column.
type transcoder struct {
	from, to uint64
	layouts  map[string]*layout // by type, as blocks of a result repeat them
}

func newTranscoder(from, to uint64) *transcoder {
	return &transcoder{from: from, to: min(to, MaxRevision), layouts: make(map[string]*layout)}
}

// transcode passes whole blocks on to emit, in pieces that alias data.
func (t *transcoder) transcode(data []byte, emit func([]byte) error) error {
	c := &cursor{data: data}
	for c.at < len(data) {
		if err := t.block(c, emit); err != nil {
			return err
		}
	}
	return nil
}

// block re-encodes one block.
func (t *transcoder) block(c *cursor, emit func([]byte) error) error {
	_, err := t.blockRows(c, emit, nil)
	return err
}

// maxBlockRows bounds what a block may claim; clients refuse more as well.
const maxBlockRows = 1_000_000_000

// blockRows re-encodes one block, tells column, unless it is nil, of each column, and returns the number of rows.
func (t *transcoder) blockRows(c *cursor, emit func([]byte) error, column func(name, kind string)) (uint64, error) {
	if t.from >= revisionBlockInfo {
		c.blockInfo()
	}
	var head []byte
	if t.to >= revisionBlockInfo {
		// Field 1: no overflow rows; field 2: no bucket (-1); 0: the end.
		head = append(head, 1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0)
	}
	start := c.at
	columns, rows := c.uvarint(), c.uvarint()
	if c.err == nil && rows > maxBlockRows {
		c.err = fmt.Errorf("%d rows in a block, more than %d", rows, maxBlockRows)
	}
	head = append(head, c.since(start)...)
	for range columns {
		if c.err != nil {
			break
		}
		start := c.at
		name, kind := c.text(), c.text()
		head = append(head, c.since(start)...)
		if column != nil && c.err == nil {
			column(name, kind)
		}
		if t.from >= revisionSerialization && c.byte() != 0 {
			return rows, unsupportedColumn(name, "custom serialization of "+kind)
		}
		if t.to >= revisionSerialization {
			head = append(head, 0)
		}
		l, err := t.layout(kind)
		if err != nil {
			return rows, unsupportedColumn(name, err.Error())
		}
		values := c.at
		if rows > 0 {
			l.prefix(c)
			l.skip(c, rows)
		}
		if c.err != nil {
			break
		}
		if err := emit(head); err != nil {
			return rows, err
		}
		if err := emit(c.since(values)); err != nil {
			return rows, err
		}
		head = head[:0]
		c.compact()
	}
	if c.err != nil {
		return rows, fmt.Errorf("native block: %w", c.err)
	}
	if len(head) > 0 {
		return rows, emit(head) // a block without columns
	}
	return rows, nil
}

func unsupportedColumn(name, what string) error {
	return newError(codeNotImplemented, "column %s: cannot encode %s at the client's protocol revision: ask for another format or convert the column. (NOT_IMPLEMENTED)", name, what)
}

// cursor reads a block. The first error sticks; after it everything reads as zero.
type cursor struct {
	data []byte
	at   int
	err  error

	// more appends to data what comes next on a connection; nil when data is all there is. It is called only when what is
	// there does not suffice, so that nothing is waited for that a block does not need. limit bounds data, in bytes.
	more  func(*cursor) error
	limit int
}

func (c *cursor) since(start int) []byte { return c.data[start:c.at] }

// compact forgets what has been read, so that a stream needs the memory of its longest column only.
func (c *cursor) compact() {
	if c.more != nil {
		c.data, c.at = c.data[:copy(c.data, c.data[c.at:])], 0
	}
}

// need makes sure that n more bytes are there. What a length field claims is never allocated before it has arrived.
func (c *cursor) need(n uint64) bool {
	for c.err == nil && n > uint64(len(c.data)-c.at) {
		switch {
		case c.more == nil:
			c.err = io.ErrUnexpectedEOF
		case n > uint64(c.limit) || len(c.data) >= c.limit:
			c.err = fmt.Errorf("%w: %d bytes", errPacketTooLarge, c.limit)
		default:
			c.err = c.more(c)
		}
	}
	return c.err == nil
}

func (c *cursor) skip(n uint64) {
	if c.need(n) {
		c.at += int(n)
	}
}

// skipRows passes rows values of one size.
func (c *cursor) skipRows(rows, size uint64) {
	high, n := bits.Mul64(rows, size)
	if high > 0 {
		n = math.MaxUint64
	}
	c.skip(n)
}

func (c *cursor) byte() byte {
	c.skip(1)
	if c.err != nil {
		return 0
	}
	return c.data[c.at-1]
}

func (c *cursor) uvarint() uint64 {
	for ahead := uint64(1); c.need(ahead); ahead++ {
		v, n := binary.Uvarint(c.data[c.at:])
		if n > 0 {
			c.at += n
			return v
		}
		if n < 0 {
			c.err = errors.New("a number of more than 64 bits")
		}
		ahead = uint64(len(c.data) - c.at)
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	c.skip(8)
	if c.err != nil {
		return 0
	}
	return binary.LittleEndian.Uint64(c.data[c.at-8:])
}

func (c *cursor) text() string {
	n := c.uvarint()
	c.skip(n)
	if c.err != nil {
		return ""
	}
	return string(c.data[c.at-int(n) : c.at])
}

// blockInfo passes numbered fields up to 0.
func (c *cursor) blockInfo() {
	for c.err == nil {
		switch field := c.uvarint(); field {
		case 0:
			return
		case 1:
			c.skip(1)
		case 2:
			c.skip(4)
		default:
			c.err = fmt.Errorf("unknown block info field %d", field)
		}
	}
}

type layoutKind uint8

const (
	layoutFixed   layoutKind = iota // size bytes a value
	layoutString                    // length and bytes
	layoutNull                      // a byte a value, then the values
	layoutArray                     // ends of the rows, then the elements
	layoutTuple                     // one column after the other
	layoutLowCard                   // dictionary and indexes
)

// layout is how a type's values lie in a column.
type layout struct {
	kind  layoutKind
	size  uint64
	elems []*layout
}

// prefix passes what comes once in front of a column's values: the version of every LowCardinality in it.
func (l *layout) prefix(c *cursor) {
	if l.kind == layoutLowCard {
		c.skip(8)
	}
	for _, elem := range l.elems {
		elem.prefix(c)
	}
}

// skip passes the values of that many rows.
func (l *layout) skip(c *cursor, rows uint64) {
	if rows == 0 || c.err != nil {
		return
	}
	switch l.kind {
	case layoutFixed:
		c.skipRows(rows, l.size)
	case layoutString:
		c.skipStrings(rows)
	case layoutNull:
		c.skip(rows)
		l.elems[0].skip(c, rows)
	case layoutArray:
		c.skipRows(rows-1, 8)
		l.elems[0].skip(c, c.uint64())
	case layoutTuple:
		for _, elem := range l.elems {
			elem.skip(c, rows)
		}
	case layoutLowCard:
		l.skipLowCardinality(c, rows)
	}
}

// skipStrings is the one loop that runs per value.
func (c *cursor) skipStrings(rows uint64) {
	for rows > 0 && c.err == nil {
		rows -= c.skipStringsHere(rows)
		if rows > 0 { // one that is not wholly here
			c.skip(c.uvarint())
			rows--
		}
	}
}

// skipStringsHere passes at most that many values, as far as they are in data, and returns how many those were.
func (c *cursor) skipStringsHere(rows uint64) (passed uint64) {
	data, at := c.data, c.at
	for ; passed < rows; passed++ {
		var n uint64
		from := at
		if at < len(data) && data[at] < 0x80 { // nearly always
			n = uint64(data[at])
			at++
		} else {
			v, width := binary.Uvarint(data[at:])
			if width <= 0 {
				break
			}
			n = v
			at += width
		}
		if n > uint64(len(data)-at) {
			at = from
			break
		}
		at += int(n)
	}
	c.at = at
	return passed
}

// skipLowCardinality passes one or more runs of dictionary and indexes (SerializationLowCardinality.cpp).
func (l *layout) skipLowCardinality(c *cursor, rows uint64) {
	const globalDictionary, additionalKeys = 1 << 8, 1 << 9
	for rows > 0 && c.err == nil {
		flags := c.uint64()
		if flags&globalDictionary != 0 || flags&0xff > 3 {
			c.err = fmt.Errorf("LowCardinality flags %#x", flags)
			return
		}
		if flags&additionalKeys != 0 {
			l.elems[0].skip(c, c.uint64())
		}
		run := c.uint64()
		if c.err == nil && (run == 0 || run > rows) {
			c.err = fmt.Errorf("LowCardinality run of %d in %d rows", run, rows)
		}
		c.skipRows(run, 1<<(flags&0xff))
		rows -= run
	}
}

// layout returns the layout of a type.
func (t *transcoder) layout(kind string) (*layout, error) {
	if l := t.layouts[kind]; l != nil {
		return l, nil
	}
	l, err := parseLayout(kind, 0)
	if err == nil {
		t.layouts[kind] = l
	}
	return l, err
}

// fixedSizes are the bytes a value of the types without arguments takes. Nothing has a byte so that rows can be counted.
var fixedSizes = map[string]uint64{
	"Int8": 1, "Int16": 2, "Int32": 4, "Int64": 8, "Int128": 16, "Int256": 32,
	"UInt8": 1, "UInt16": 2, "UInt32": 4, "UInt64": 8, "UInt128": 16, "UInt256": 32,
	"BFloat16": 2, "Float32": 4, "Float64": 8, "Bool": 1, "Nothing": 1, "UUID": 16, "IPv4": 4, "IPv6": 16,
	"Enum8": 1, "Enum16": 2, "Date": 2, "Date32": 4, "DateTime": 4, "DateTime64": 8, "Time": 4, "Time64": 8,
	"Decimal32": 4, "Decimal64": 8, "Decimal128": 16, "Decimal256": 32,
}

// aliases are types that are laid out as others.
var aliases = map[string]string{
	"Point": "Tuple(Float64, Float64)", "Ring": "Array(Point)", "LineString": "Array(Point)",
	"MultiLineString": "Array(LineString)", "Polygon": "Array(Ring)", "MultiPolygon": "Array(Polygon)",
}

// parseLayout reads a type as the engine prints it.
func parseLayout(kind string, depth int) (*layout, error) {
	if depth > maxTypeDepth {
		return nil, fmt.Errorf("a type nested more than %d deep", maxTypeDepth)
	}
	name, args, err := splitType(kind)
	if err != nil {
		return nil, err
	}
	if size, ok := fixedSizes[name]; ok {
		return &layout{kind: layoutFixed, size: size}, nil
	}
	if alias, ok := aliases[name]; ok {
		return parseLayout(alias, depth+1)
	}
	switch {
	case name == "String":
		return &layout{kind: layoutString}, nil
	case strings.HasPrefix(name, "Interval"):
		return &layout{kind: layoutFixed, size: 8}, nil
	case name == "FixedString" && len(args) == 1:
		size, err := strconv.ParseUint(args[0], 10, 32)
		return &layout{kind: layoutFixed, size: size}, err
	case name == "Decimal" && len(args) > 0:
		precision, err := strconv.ParseUint(args[0], 10, 32)
		return &layout{kind: layoutFixed, size: decimalSize(precision)}, err
	case name == "Nullable" && len(args) == 1:
		return wrapLayout(layoutNull, args, depth)
	case name == "Array" && len(args) == 1:
		return wrapLayout(layoutArray, args, depth)
	case name == "Tuple" && len(args) == 0:
		return &layout{kind: layoutFixed, size: 1}, nil
	case name == "Tuple":
		return wrapLayout(layoutTuple, args, depth)
	case name == "Map" && len(args) == 2, name == "Nested" && len(args) > 0:
		elem, err := wrapLayout(layoutTuple, args, depth)
		return &layout{kind: layoutArray, elems: []*layout{elem}}, err
	case name == "LowCardinality" && len(args) == 1:
		// Null is an entry of the dictionary, not a mark beside it.
		if inner, nested, err := splitType(args[0]); err == nil && inner == "Nullable" {
			args = nested
		}
		return wrapLayout(layoutLowCard, args, depth)
	case name == "SimpleAggregateFunction" && len(args) == 2:
		return parseLayout(args[1], depth+1)
	}
	return nil, fmt.Errorf("type %s", kind)
}

// wrapLayout makes a layout of the arguments' layouts; an argument may have a name in front.
func wrapLayout(kind layoutKind, args []string, depth int) (*layout, error) {
	l := &layout{kind: kind}
	for _, arg := range args {
		elem, err := parseLayout(dropName(arg), depth+1)
		if err != nil {
			return nil, err
		}
		l.elems = append(l.elems, elem)
	}
	return l, nil
}

func decimalSize(precision uint64) uint64 {
	switch {
	case precision <= 9:
		return 4
	case precision <= 18:
		return 8
	case precision <= 38:
		return 16
	}
	return 32
}

// splitType cuts Name(arg, arg) into its parts.
func splitType(kind string) (name string, args []string, err error) {
	t := tokenizer{sql: kind}
	first := t.next()
	if first.kind != tokenWord {
		return "", nil, fmt.Errorf("type %q", kind)
	}
	open := t.next()
	if open.kind == tokenEnd {
		return first.text, nil, nil
	}
	if open.text != "(" {
		return "", nil, fmt.Errorf("type %q", kind)
	}
	depth, start := 1, open.end
	for tok := t.next(); tok.kind != tokenEnd; tok = t.next() {
		switch tok.text {
		case "(":
			depth++
		case ")":
			depth--
		}
		if depth == 0 || depth == 1 && tok.text == "," {
			if arg := strings.TrimSpace(kind[start:tok.start]); arg != "" {
				args = append(args, arg)
			}
			start = tok.end
		}
		if depth == 0 {
			return first.text, args, nil
		}
	}
	return "", nil, fmt.Errorf("type %q", kind)
}

// dropName cuts the name off an element of a tuple: "key String" is a String. A type alone is one word, perhaps with
// arguments.
func dropName(arg string) string {
	t := tokenizer{sql: arg}
	t.next()
	if second := t.next(); second.kind == tokenWord {
		return arg[second.start:]
	}
	return arg
}
