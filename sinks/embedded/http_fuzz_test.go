package embedded

import (
	"bytes"
	"io"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go/compress"
)

// A request of any shape is read without a panic and within its bounds, and its data is what followed the statement.
func FuzzReadRequest(f *testing.F) {
	f.Add("query=SELECT+1", "", "", "")
	f.Add("query=INSERT+INTO+t+FORMAT+TSV&database=d&max_threads=1&param_x=1", "1\n", "", "")
	f.Add("decompress=1&session_id=s&session_timeout=5", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "", "")
	f.Add("client_protocol_version=54460&default_format=Native&compress=1", "SELECT 1 FORMAT Native", "", "")
	f.Add("x_structure=a+Int8", "--b\r\nContent-Disposition: form-data; name=\"x\"; filename=\"x\"\r\n\r\n1\n\r\n--b--", "multipart/form-data; boundary=b", "")
	f.Add("", "\x1f\x8b\x08", "", "gzip")
	f.Add("", "\x04\x22\x4d\x18", "", "lz4")
	f.Add("", "\x28\xb5\x2f\xfd", "", "zstd")
	f.Fuzz(func(t *testing.T, params, body, contentType, encoding string) {
		const limit = 1 << 20
		h := &Handler{opts: HandlerOptions{MaxBodyBytes: limit}}
		r := httptest.NewRequest("POST", "/", strings.NewReader(body))
		r.URL.RawQuery = params
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("Content-Encoding", encoding)
		q, err := h.readRequest(r)
		if err != nil {
			if e := asError(err); e.HTTPStatus() < 400 {
				t.Fatalf("%v has status %d", err, e.HTTPStatus())
			}
			return
		}
		st := q.statement
		if len(st.SQL) > maxQueryBytes+len(params) || st.shape != nil && *st.shape != shapeOf(st.SQL) {
			t.Fatalf("%+v", st)
		}
		for _, setting := range st.Settings {
			if setting.Name == "query" || setting.Name == "password" || strings.HasPrefix(setting.Name, "param_") {
				t.Fatalf("%s became a setting", setting.Name)
			}
		}
		if st.Data != nil && encoding == "" && !strings.Contains(params, "decompress") {
			rest, err := io.ReadAll(st.Data)
			if err != nil {
				t.Fatal(err)
			}
			values, _ := url.ParseQuery(params)
			whole := body
			if sql := values.Get("query"); sql != "" {
				whole = sql + "\n" + body
			}
			if st.SQL+string(rest) != whole {
				t.Fatalf("statement %q and data %q are not %q", st.SQL, rest, whole)
			}
		}
	})
}

// Compressed blocks of any bytes are decoded or refused; what was compressed comes out again.
func FuzzBlockReader(f *testing.F) {
	w := compress.NewWriter(0, compress.LZ4)
	if err := w.Compress([]byte("hello hello hello")); err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Clone(w.Data))
	f.Add([]byte("not compressed"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			return
		}
		// The reader allocates what a block's header asks for, at most 128 MiB.
		if _, err := io.Copy(io.Discard, newBlockReader(bytes.NewReader(data))); err == nil && len(data) > 0 && len(data) < 25 {
			t.Fatal("less than a header was decoded")
		}
		var out []byte
		blocks := newBlockWriter("LZ4", func(block []byte) error { out = append(out, block...); return nil })
		if err := blocks.write(data); err != nil {
			t.Fatal(err)
		}
		if err := blocks.flush(); err != nil {
			t.Fatal(err)
		}
		back, err := io.ReadAll(newBlockReader(bytes.NewReader(out)))
		if err != nil || !bytes.Equal(back, data) {
			t.Fatalf("%d bytes came back as %d: %v", len(data), len(back), err)
		}
	})
}

func TestChooseEncoding(t *testing.T) {
	for accept, want := range map[string]string{
		"": "", "identity": "", "*": "", "gzip": "gzip", "gzip, deflate, br": "gzip", "GZIP;q=0.5": "gzip", "gzip;q=0, br": "br",
		"lz4;q=0, zstd ;q=0.1": "zstd", "br, zstd, lz4": "lz4", "gzip;q=x": "gzip", ",,": "",
	} {
		if got := chooseEncoding(accept); got != want {
			t.Errorf("%q: got %q, want %q", accept, got, want)
		}
	}
}
