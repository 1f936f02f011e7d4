package clickhouse

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	migrations "catena/schemas/clickhouse"
	"catena/sinks"
	"catena/sinks/sinktest"
)

func cpu() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(0, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func TestZZ(t *testing.T) {
	batch := &sinks.Batch{Actions: sinktest.Actions(50000)}
	sql, _ := migrations.Files.ReadFile("0001_actions.sql")
	full := splitStatements(string(sql))[0]
	noidx := regexp.MustCompile(`(?m)^    INDEX .*\n`).ReplaceAllString(full, "")
	noidx = strings.Replace(noidx, "    resolution_nanos Int64 CODEC(Delta, Default),", "    resolution_nanos Int64 CODEC(Delta, Default)", 1)
	variants := []struct{ name, sql string }{{"full", full}, {"noidx", noidx},
		{"wide", strings.Replace(full, "134217728", "10485760", 1)},
		{"zstd", strings.NewReplacer("Default)", "ZSTD(1))").Replace(full)+", default_compression_codec='ZSTD(1)'"},
		{"null", regexp.MustCompile(`(?s)ENGINE = Repl.*`).ReplaceAllString(noidx, "ENGINE = Null")}}
	all := sinktest.Actions(1_000_000)
	_ = batch
	variants = variants[:4]
	for range 2 {
	for _, v := range variants {
		if o := os.Getenv("ONLY"); o != "" && o != v.name {
			continue
		}
		s := open(t)
		if err := s.createDatabase(t.Context()); err != nil {
			t.Fatal(err)
		}
		exec(t, s, v.sql)
		c := cpu()
		for i := 0; i < len(all); i += 50000 {
			write(t, s, &sinks.Batch{Actions: all[i : i+50000]})
		}
		ins := cpu() - c
		idle := 0
		for idle < 20 {
			time.Sleep(100 * time.Millisecond)
			if rows(t, s, "SELECT count() FROM system.merges")[0] == "0" {
				idle++
			} else {
				idle = 0
			}
		}
		d := cpu() - c
		fmt.Printf("%-18s cpu us/row: during inserts %6.1f, with merges %6.1f  parts, B/row %v\n", v.name, ins.Seconds()*1e6/float64(len(all)), d.Seconds()*1e6/float64(len(all)),
		rows(t, s, "SELECT count(), sum(data_compressed_bytes)/sum(rows) FROM system.parts WHERE active AND database=currentDatabase()"))
	}
	}
}
