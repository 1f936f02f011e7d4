package ingest

import (
	"math"
	"strconv"
	"strings"
)

// timeUnit says how a time is written.
type timeUnit uint8

const (
	unitRFC3339 timeUnit = iota
	unitSeconds
	unitMillis
	unitMicros
	unitNanos
	unitAWS
)

var timeUnits = map[string]timeUnit{
	"seconds": unitSeconds, "millis": unitMillis, "micros": unitMicros, "nanos": unitNanos, "aws_time": unitAWS,
}

// parseTime reads a time as Unix nanoseconds. Times that int64 nanoseconds
// cannot hold (years before 1678 and after 2261, such as Go's zero time) are
// no times here, and neither is the epoch itself, which stands for "not set".
func parseTime(s string, unit timeUnit) (nanos int64, ok bool) {
	switch unit {
	case unitRFC3339:
		nanos, ok = parseRFC3339(s)
	case unitAWS:
		nanos, ok = parseAWSTime(s)
	default:
		nanos, ok = parseEpoch(s, 9-3*int(unit-unitSeconds))
	}
	return nanos, ok && nanos != 0
}

// parseRFC3339 reads 2026-11-23T16:34:24.807Z: any number of fractional
// digits, T or a blank in the middle, and Z, UTC or an offset at the end.
func parseRFC3339(s string) (int64, bool) {
	if len(s) < 20 || s[4] != '-' || s[7] != '-' || s[10]|0x20 != 't' && s[10] != ' ' || s[13] != ':' || s[16] != ':' {
		return 0, false
	}
	year, ok0 := digitsOf(s[0:4])
	month, ok1 := digitsOf(s[5:7])
	day, ok2 := digitsOf(s[8:10])
	hour, ok3 := digitsOf(s[11:13])
	minute, ok4 := digitsOf(s[14:16])
	second, ok5 := digitsOf(s[17:19])
	if !(ok0 && ok1 && ok2 && ok3 && ok4 && ok5) || hour > 23 || minute > 59 || second > 60 || !validDate(year, month, day) {
		return 0, false
	}
	frac, zone, ok := fraction(s[19:])
	if !ok {
		return 0, false
	}
	offset, ok := zoneOffset(zone)
	if !ok {
		return 0, false
	}
	sec := daysSinceEpoch(year, month, day)*86400 + int64(hour)*3600 + int64(minute)*60 + int64(second) - offset
	return addNanos(sec, frac)
}

func addNanos(sec, nanos int64) (int64, bool) {
	const limit = math.MaxInt64/1_000_000_000 - 1
	if sec < -limit || sec > limit {
		return 0, false
	}
	return sec*1e9 + nanos, true
}

// fraction reads .807 as nanoseconds, if there is one; rest follows it.
// Digits beyond the ninth are cut off.
func fraction(s string) (nanos int64, rest string, ok bool) {
	if s == "" || s[0] != '.' && s[0] != ',' {
		return 0, s, true
	}
	i, unit := 1, int64(1e8)
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		nanos += int64(s[i]-'0') * unit
		unit /= 10
		i++
	}
	return nanos, s[i:], i > 1
}

// zoneOffset is how many seconds a zone is ahead of UTC.
func zoneOffset(z string) (int64, bool) {
	switch z {
	case "Z", "z", " UTC", "UTC", "+00:00", "-00:00":
		return 0, true
	}
	z = strings.TrimPrefix(z, " ")
	if len(z) == 5 { // +0000
		z = z[:3] + ":" + z[3:]
	}
	if len(z) != 6 || z[0] != '+' && z[0] != '-' || z[3] != ':' {
		return 0, false
	}
	hours, ok1 := digitsOf(z[1:3])
	minutes, ok2 := digitsOf(z[4:6])
	if !ok1 || !ok2 || hours > 23 || minutes > 59 {
		return 0, false
	}
	offset := int64(hours)*3600 + int64(minutes)*60
	if z[0] == '-' {
		offset = -offset
	}
	return offset, true
}

func digitsOf(s string) (n int, ok bool) {
	for i := range len(s) {
		d := s[i] - '0'
		if d > 9 {
			return 0, false
		}
		n = n*10 + int(d)
	}
	return n, true
}

func validDate(year, month, day int) bool {
	if month < 1 || month > 12 || day < 1 || day > 31 {
		return false
	}
	switch month {
	case 4, 6, 9, 11:
		return day <= 30
	case 2:
		leap := year%4 == 0 && (year%100 != 0 || year%400 == 0)
		return day <= 28 || leap && day == 29
	}
	return true
}

// daysSinceEpoch counts days in the proleptic Gregorian calendar (H. Hinnant,
// "chrono-compatible low-level date algorithms", days_from_civil).
func daysSinceEpoch(year, month, day int) int64 {
	if month <= 2 {
		year--
	}
	era := year / 400 // years are not negative here
	yoe := year - era*400
	m := (month + 9) % 12
	doy := (153*m+2)/5 + day - 1
	doe := yoe*365 + yoe/4 - yoe/100 + doy
	return int64(era)*146097 + int64(doe) - 719468
}

var pow10 = [...]int64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}

// parseEpoch reads a decimal number of units of 10^-(9-digits) seconds, such
// as digits 9 for seconds. What is finer than a nanosecond is cut off.
func parseEpoch(s string, digits int) (int64, bool) {
	scale := pow10[digits]
	if n, ok := wholeNumber(s); ok { // as nearly all are
		if n > uint64(math.MaxInt64/scale) {
			return 0, false
		}
		return int64(n) * scale, true
	}
	if strings.ContainsAny(s, "eE") { // 1.7e9: rare, and no more exact than a float
		f, err := strconv.ParseFloat(s, 64)
		f *= math.Pow10(digits)
		if err != nil || math.Abs(f) >= math.MaxInt64 || math.IsNaN(f) {
			return 0, false
		}
		return int64(f), true
	}
	whole, frac, dot := strings.Cut(s, ".")
	if whole == "" || dot && frac == "" || len(whole) > 20 {
		return 0, false
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || whole[0] == '+' {
		return 0, false
	}
	if n > math.MaxInt64/scale || n < math.MinInt64/scale {
		return 0, false
	}
	n *= scale
	if !dot {
		return n, true
	}
	part := int64(0)
	for i := range len(frac) {
		if frac[i] < '0' || frac[i] > '9' {
			return 0, false
		}
		scale /= 10
		part += int64(frac[i]-'0') * scale
	}
	if whole[0] == '-' {
		part = -part
	}
	if sum := n + part; (sum < n) == (part < 0) {
		return sum, true
	}
	return 0, false
}

// wholeNumber reads up to 19 digits, and nothing else.
func wholeNumber(s string) (n uint64, ok bool) {
	for i := range len(s) {
		d := s[i] - '0'
		if d > 9 {
			return 0, false
		}
		n = n*10 + uint64(d)
	}
	return n, s != "" && len(s) <= 19
}

// parseAWSTime reads the expiry that STS writes: Jul 10, 2023, 6:30:22 PM, and
// the older form without the second comma. It is in UTC.
func parseAWSTime(s string) (int64, bool) {
	month, rest, ok := monthOf(s)
	if !ok {
		return parseRFC3339(s)
	}
	day, rest, ok1 := numberBefore(rest, ", ")
	year, rest, ok2 := numberBefore(rest, " ")
	if !ok2 {
		year, rest, ok2 = numberBefore(rest, ", ")
	}
	hour, rest, ok3 := numberBefore(rest, ":")
	minute, rest, ok4 := numberBefore(rest, ":")
	second, half, ok5 := numberBefore(rest, " ")
	if !(ok1 && ok2 && ok3 && ok4 && ok5) || year < 1000 || !validDate(year, month, day) || hour < 1 || hour > 12 || minute > 59 || second > 59 {
		return 0, false
	}
	hour %= 12
	switch half {
	case "PM":
		hour += 12
	case "AM":
	default:
		return 0, false
	}
	return addNanos(daysSinceEpoch(year, month, day)*86400+int64(hour)*3600+int64(minute)*60+int64(second), 0)
}

// monthOf reads "Jul " at the start of a text.
func monthOf(s string) (month int, rest string, ok bool) {
	if len(s) < 4 || s[3] != ' ' {
		return 0, "", false
	}
	const names = "JanFebMarAprMayJunJulAugSepOctNovDec"
	i := strings.Index(names, s[:3])
	return i/3 + 1, s[4:], i >= 0 && i%3 == 0
}

// numberBefore reads a number of up to four digits and the text behind it. What
// it cannot read it leaves.
func numberBefore(s, sep string) (n int, rest string, ok bool) {
	i := 0
	for i < len(s) && i < 4 && '0' <= s[i] && s[i] <= '9' {
		n = n*10 + int(s[i]-'0')
		i++
	}
	if i == 0 || !strings.HasPrefix(s[i:], sep) {
		return 0, s, false
	}
	return n, s[i+len(sep):], true
}
