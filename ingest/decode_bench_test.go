package ingest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"testing"
	"time"

	"github.com/valyala/fastjson"
	"google.golang.org/protobuf/proto"

	"catena/schemas"
	"catena/schemas/sources"
)

func newDecoder(tb testing.TB, opts DecoderOptions) *Decoder {
	tb.Helper()
	set, err := sources.Embedded()
	if err != nil {
		tb.Fatal(err)
	}
	opts.HMACKey = testKey
	d, err := NewDecoder(set, opts)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// cloudtrailRecord is a management event of two kilobytes, as CloudTrail
// delivers it: compact, an assumed role, a few kinds of parameters. It mints
// nothing.
const cloudtrailRecord = `{"eventVersion":"1.11","userIdentity":{"type":"AssumedRole","principalId":"AROA5XEXAMPLEROLEIDXX:deploy-7f9c2d",` +
	`"arn":"arn:aws:sts::210987654321:assumed-role/ci-deployer/deploy-7f9c2d","accountId":"210987654321","accessKeyId":"ASIA5XNCQTPL7QHD3RWE",` +
	`"sessionContext":{"sessionIssuer":{"type":"Role","principalId":"AROA5XEXAMPLEROLEIDXX","arn":"arn:aws:iam::210987654321:role/ci-deployer",` +
	`"accountId":"210987654321","userName":"ci-deployer"},"attributes":{"creationDate":"2026-11-23T15:58:02Z","mfaAuthenticated":"false"}}},` +
	`"eventTime":"2026-11-23T16:25:12Z","eventSource":"ec2.amazonaws.com","eventName":"RunInstances","awsRegion":"eu-central-1",` +
	`"sourceIPAddress":"198.51.100.27","userAgent":"aws-sdk-go-v2/1.36.3 ua/2.1 os/linux lang/go#1.24.2 md/GOOS#linux md/GOARCH#amd64 api/ec2#1.210.0 m/E,Z",` +
	`"requestParameters":{"instancesSet":{"items":[{"imageId":"ami-0c4f7023847b90238","minCount":1,"maxCount":1,"keyName":"ops"}]},` +
	`"groupSet":{"items":[{"groupId":"sg-0a1b2c3d4e5f67890"}]},"instanceType":"m7g.large","blockDeviceMapping":{"items":[{"deviceName":"/dev/xvda",` +
	`"ebs":{"volumeSize":40,"deleteOnTermination":true,"volumeType":"gp3","encrypted":true}}]},"availabilityZone":"eu-central-1b","monitoring":{"enabled":false},` +
	`"subnetId":"subnet-0f1e2d3c4b5a69788","disableApiTermination":false,"clientToken":"9b1d7c52-0f6e-4c1d-a7c3-2f1f3f7b6a55",` +
	`"tagSpecificationSet":{"items":[{"resourceType":"instance","tags":[{"key":"team","value":"payments"},{"key":"env","value":"prod"}]}]}},` +
	`"responseElements":{"requestId":"e6c1b0f4-5a57-4d0e-9a3e-0a4c7d5b1f22","reservationId":"r-0aa11bb22cc33dd44","ownerId":"210987654321"},` +
	`"requestID":"e6c1b0f4-5a57-4d0e-9a3e-0a4c7d5b1f22","eventID":"4f7f3ad2-6c1e-4e0b-8b9a-3d5c2e1f0a9b","readOnly":false,` +
	`"eventType":"AwsApiCall","managementEvent":true,"recipientAccountId":"210987654321","eventCategory":"Management",` +
	`"tlsDetails":{"tlsVersion":"TLSv1.3","cipherSuite":"TLS_AES_128_GCM_SHA256","clientProvidedHostHeader":"ec2.eu-central-1.amazonaws.com"}}`

// BenchmarkCloudTrail puts side by side, in one run: decoding a record into an
// event, with and without the hash of its bytes that every event carries as
// evidence; what fastjson needs only to parse the same bytes; the hash alone.
func BenchmarkCloudTrail(b *testing.B) {
	rec := schemas.Record{Topic: "cloudtrail", Value: []byte(cloudtrailRecord)}
	d := newDecoder(b, DecoderOptions{})
	var out Decoded
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(int64(len(rec.Value)))
		b.ReportAllocs()
		for b.Loop() {
			out.Reset()
			d.Decode(&out, &rec)
		}
		if len(out.Events) != 1 || out.Events[0].Source != "aws.cloudtrail" {
			b.Fatal("not one event of aws.cloudtrail")
		}
	})
	b.Run("decode-without-hash", func(b *testing.B) {
		b.SetBytes(int64(len(rec.Value)))
		b.ReportAllocs()
		for b.Loop() {
			out.Reset()
			d.decode(&out, &rec, [sha256.Size]byte{})
		}
	})
	b.Run("fastjson-parse", func(b *testing.B) {
		var p fastjson.Parser
		b.SetBytes(int64(len(rec.Value)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.ParseBytes(rec.Value); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("hash", func(b *testing.B) {
		b.SetBytes(int64(len(rec.Value)))
		for b.Loop() {
			sha256.Sum256(rec.Value)
		}
	})
	b.Run("walk", func(b *testing.B) {
		b.SetBytes(int64(len(rec.Value)))
		d.begin(&out, "cloudtrail")
		s := string(rec.Value)
		for b.Loop() {
			d.eval.open(s)
			if _, end := d.walk(0); end < 0 {
				b.Fatal(d.eval.fault)
			}
		}
	})
}

// BenchmarkSideBySide measures the same in turns of a few microseconds and
// reports the best turn of each, which is what a machine that others use, too,
// does not disturb.
func BenchmarkSideBySide(b *testing.B) {
	rec := schemas.Record{Topic: "cloudtrail", Value: []byte(cloudtrailRecord)}
	d := newDecoder(b, DecoderOptions{})
	var out Decoded
	var p fastjson.Parser
	d.Decode(&out, &rec)
	s := string(rec.Value)
	turns := []struct {
		name string
		f    func()
	}{
		{"decode", func() { out.Reset(); d.Decode(&out, &rec) }},
		{"decode-without-hash", func() { out.Reset(); d.decode(&out, &rec, [sha256.Size]byte{}) }},
		{"fastjson", func() { p.ParseBytes(rec.Value) }},
		{"hash", func() { sha256.Sum256(rec.Value) }},
		{"walk", func() { d.eval.open(s); d.walk(0) }},
	}
	best := make([]time.Duration, len(turns))
	for b.Loop() {
		for i := range turns {
			const n = 16
			start := time.Now()
			for range n {
				turns[i].f()
			}
			if took := time.Since(start) / n; best[i] == 0 || took < best[i] {
				best[i] = took
			}
		}
	}
	for i := range turns {
		b.ReportMetric(float64(best[i].Nanoseconds()), turns[i].name+"-ns")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkOTLP decodes the same spans from both encodings.
func BenchmarkOTLP(b *testing.B) {
	wire, err := proto.Marshal(testTraces())
	if err != nil {
		b.Fatal(err)
	}
	for _, x := range []struct{ name, value string }{{"protobuf", string(wire)}, {"json", testTracesJSON}} {
		b.Run(x.name, func(b *testing.B) {
			rec := schemas.Record{Topic: "otlp_spans", Value: []byte(x.value)}
			d := newDecoder(b, DecoderOptions{})
			var out Decoded
			b.SetBytes(int64(len(rec.Value)))
			b.ReportAllocs()
			for b.Loop() {
				out.Reset()
				d.decode(&out, &rec, [sha256.Size]byte{})
			}
			if len(out.Events) != 3 {
				b.Fatal("not three events")
			}
		})
	}
}

// BenchmarkGoldens decodes every golden record, of all sources by turns.
func BenchmarkGoldens(b *testing.B) {
	d := newDecoder(b, DecoderOptions{})
	var recs []schemas.Record
	size := 0
	for _, p := range d.programs {
		for _, f := range testdata(b, p.source.Name) {
			for _, v := range recordsOf(b, f) {
				var compact bytes.Buffer
				if json.Compact(&compact, v) == nil {
					v = compact.Bytes()
				}
				recs = append(recs, schemas.Record{Topic: p.source.Name, Value: v})
				size += len(v)
			}
		}
	}
	var out Decoded
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		out.Reset()
		for i := range recs {
			d.Decode(&out, &recs[i])
		}
	}
	b.ReportMetric(float64(len(recs)*b.N)/b.Elapsed().Seconds(), "records/s")
}
