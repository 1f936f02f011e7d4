//go:build race

package correlate

// raceEnabled: the race detector makes everything ten times slower.
const raceEnabled = true
