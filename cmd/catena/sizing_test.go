package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"catena/ingest"
	"catena/ingest/broker"
	"catena/schemas"
)

// TestSizing measures what docs/sizing.md says of the whole path, and asserts
// only that all records became rows: `make sizing`. Per access key there is one
// AssumeRole and then `uses` calls with it, of 1.2 KB each, all within ten
// minutes of event time, so that every row can still be improved and is held.
func TestSizing(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("CATENA_SIZING"))
	if n == 0 {
		t.Skip("measures for a while: run `make sizing`")
	}
	const uses = 99
	db := database(t)
	b, err := broker.Start(broker.Options{Partitions: 4, Topics: []string{"cloudtrail"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	bytes := produceCalls(t, b.Addr(), n, uses)

	c := newCatena(t, cluster{b.Addr()}, db, "sizing", "cloudtrail")
	listen := "127.0.0.1:" + freePort(t)
	c.env = append(c.env, "CATENA_ALLOWED_LATENESS=1h", "CATENA_WINDOW=168h", "CATENA_BATCH_AGE=1s", "CATENA_MEMORY=8GiB", "CATENA_LISTEN="+listen)
	if limit := os.Getenv("CATENA_SIZING_LIMIT"); limit != "" {
		c.env = append(c.env, "GOMEMLIMIT="+limit)
	}
	c.run("migrate")
	store := openTest(t, db, "sizing")
	began := time.Now()
	cmd := c.start("run")
	idle := gauges(t, listen)["process_resident_memory_bytes"]
	awaitOffsets(t, store, int64(n), c)
	took := time.Since(began)
	g := gauges(t, listen)
	c.terminate(cmd)
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	cpu := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())

	one := func(sql string) float64 {
		_, rows, err := store.Query(t.Context(), sql, 1)
		if err != nil {
			t.Fatal(err)
		}
		v, err := strconv.ParseFloat(rows[0][0], 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if got := int(one("SELECT toString(count()) FROM actions FINAL")); got != n {
		t.Errorf("%d rows of %d records", got, n)
	}
	for _, table := range []string{"actions", "bindings"} {
		if _, _, err := store.Query(t.Context(), "OPTIMIZE TABLE "+table+" FINAL", 0); err != nil {
			t.Fatal(err)
		}
	}
	disk := func(table string) float64 {
		return one("SELECT toString(sum(bytes_on_disk) / sum(rows)) FROM system.parts WHERE active AND database = currentDatabase() AND table = '" + table + "'")
	}
	report := []struct {
		what  string
		value float64
		unit  string
	}{
		{"records", float64(n), ""},
		{"size of a record", float64(bytes) / float64(n), "bytes"},
		{"records a second, with broker and database on the same cores", float64(n) / took.Seconds(), "/s"},
		{"CPU of catena run for a million records", cpu.Seconds() * 1e6 / float64(n), "s"},
		{"records a second of one core of catena run", float64(n) / cpu.Seconds(), "/s"},
		{"memory of catena run before the first record", idle / (1 << 20), "MiB"},
		{"memory of catena run at its highest", float64(usage.Maxrss) / 1024, "MiB"},
		{"state of the correlator", g["catena_state_bytes"] / (1 << 20), "MiB"},
		{"state, a row that can still be improved, with its share of keys and bindings", g["catena_state_bytes"] / g["catena_state_rows"], "bytes"},
		{"bindings held", g["catena_state_bindings"], ""},
		{"disk, a row of actions, merged", disk("actions"), "bytes"},
		{"disk, a row of bindings, merged", disk("bindings"), "bytes"},
	}
	for _, r := range report {
		t.Logf("%-80s %12.1f %s", r.what, r.value, r.unit)
	}
}

// produceCalls writes n records: of each hundred the first mints the key that
// the others use.
func produceCalls(t *testing.T, addr string, n, uses int) (bytes int64) {
	t.Helper()
	p, err := ingest.NewProducer(t.Context(), ingest.ProducerOptions{Cluster: ingest.Cluster{Brokers: []string{addr}}, RoundRobin: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	start := time.Now().Add(-10 * time.Minute)
	for i := range n {
		key, user := i/(uses+1), i/(uses+1)%500
		at := start.Add(time.Duration(i) * 10 * time.Minute / time.Duration(n)).UTC().Format("2006-01-02T15:04:05Z")
		format := callRecord
		if i%(uses+1) == 0 {
			format = mintRecord
		}
		value := fmt.Sprintf(format, at, i, key, user)
		bytes += int64(len(value))
		if err := p.Produce(t.Context(), schemas.Record{Topic: "cloudtrail", Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return bytes
}

// Made-up records: %[1]s time, %[2]d number, %[3]d key, %[4]d user.
const (
	mintRecord = `{"eventVersion":"1.11","userIdentity":{"type":"IAMUser","principalId":"AIDAFIXTURE%08[4]d","arn":"arn:aws:iam::111122223333:user/user-%[4]d","accountId":"111122223333","accessKeyId":"AKIAFIXTURE%09[4]d","userName":"user-%[4]d"},` +
		`"eventTime":"%[1]s","eventSource":"sts.amazonaws.com","eventName":"AssumeRole","awsRegion":"eu-west-1","sourceIPAddress":"198.51.100.10","userAgent":"aws-sdk-go-v2/1.32.3 os/linux lang/go#1.24",` +
		`"requestParameters":{"roleArn":"arn:aws:iam::111122223333:role/reader","roleSessionName":"session-%[3]d","durationSeconds":3600},"responseElements":{"credentials":{"accessKeyId":"ASIAFIXTURE%09[3]d","sessionToken":"IQoJb3JpZ2luX2VjFIXTURE%[3]d","expiration":"Mar 2, 2027, 12:54:47 PM"},` +
		`"assumedRoleUser":{"assumedRoleId":"AROAFIXTUREREADER001:session-%[3]d","arn":"arn:aws:sts::111122223333:assumed-role/reader/session-%[3]d"}},"requestID":"00000000-0000-4000-8000-%012[2]d","eventID":"00000000-0000-4000-9000-%012[2]d","readOnly":true,` +
		`"eventType":"AwsApiCall","managementEvent":true,"recipientAccountId":"111122223333","eventCategory":"Management"}`
	callRecord = `{"eventVersion":"1.11","userIdentity":{"type":"AssumedRole","principalId":"AROAFIXTUREREADER001:session-%[3]d","arn":"arn:aws:sts::111122223333:assumed-role/reader/session-%[3]d","accountId":"111122223333","accessKeyId":"ASIAFIXTURE%09[3]d",` +
		`"sessionContext":{"sessionIssuer":{"type":"Role","principalId":"AROAFIXTUREREADER001","arn":"arn:aws:iam::111122223333:role/reader","accountId":"111122223333","userName":"reader"},"attributes":{"creationDate":"%[1]s","mfaAuthenticated":"false"}}},` +
		`"eventTime":"%[1]s","eventSource":"s3.amazonaws.com","eventName":"GetObject","awsRegion":"eu-west-1","sourceIPAddress":"198.51.100.10","userAgent":"aws-sdk-go-v2/1.32.3 os/linux lang/go#1.24 (user %[4]d)",` +
		`"requestParameters":{"bucketName":"example-customer-records","key":"customers/%[2]d.json"},"responseElements":null,"additionalEventData":{"SignatureVersion":"SigV4","CipherSuite":"TLS_AES_128_GCM_SHA256","bytesTransferredOut":2048},` +
		`"requestID":"00000000-0000-4000-8000-%012[2]d","eventID":"00000000-0000-4000-9000-%012[2]d","readOnly":true,"resources":[{"type":"AWS::S3::Object","ARN":"arn:aws:s3:::example-customer-records/customers/%[2]d.json"}],` +
		`"eventType":"AwsApiCall","managementEvent":false,"recipientAccountId":"111122223333","eventCategory":"Data"}`
)

// gauges reads the metrics without labels of a process, once it answers.
func gauges(t *testing.T, addr string) map[string]float64 {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + addr + "/metrics")
		if err == nil {
			all := map[string]float64{}
			lines := bufio.NewScanner(resp.Body)
			for lines.Scan() {
				if name, value, found := strings.Cut(lines.Text(), " "); found && !strings.HasPrefix(name, "#") && !strings.Contains(name, "{") {
					all[name], _ = strconv.ParseFloat(value, 64)
				}
			}
			_ = resp.Body.Close()
			return all
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
