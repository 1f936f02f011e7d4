package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryShare is how much of the container's memory the Go heap may take
// before the collector works harder; the rest is for stacks and the kernel.
const memoryShare = 0.9

var errNoLimit = errors.New("no memory limit")

// limitMemory tells the Go runtime how much memory the container may use, so
// that it collects harder instead of being killed. GOMEMLIMIT goes first.
func limitMemory(log *slog.Logger) {
	limit, err := memlimit.Set(memlimit.WithRatio(memoryShare), memlimit.WithProvider(memlimit.FromCgroup))
	if err == nil && limit > 0 && limit < math.MaxInt64 {
		log.Info("memory limit", "bytes", limit)
	}
}

// memoryLimit is what the container may use.
func memoryLimit() (int64, error) {
	limit, err := memlimit.FromCgroup()
	switch {
	case errors.Is(err, memlimit.ErrNoLimit), errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported),
		err == nil && limit >= math.MaxInt64/2:
		return 0, errNoLimit
	case err != nil:
		return 0, err
	}
	return int64(limit), nil
}

// neededMemory is the rule of docs/sizing.md: the state, as much again for what
// the collector has not taken back yet, and 1 GiB for fetches, batches and rows
// under way. With half as much on top it runs, and spends three times the CPU.
func neededMemory(state int64) int64 { return 2*state + 1<<30 }

func showBytes(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	default:
		return fmt.Sprintf("%d MiB", n>>20)
	}
}
