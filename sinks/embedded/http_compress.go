package embedded

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// openBody undoes Content-Encoding and, if asked, ClickHouse's own compression. What comes out is bounded like what goes in.
func (h *Handler) openBody(r *http.Request, blocks bool) (io.Reader, error) {
	body, err := newDecoder(r.Header.Get("Content-Encoding"), r.Body)
	if err != nil {
		return nil, err
	}
	if blocks {
		body = newBlockReader(body)
	}
	return &boundedReader{src: body, left: h.opts.MaxBodyBytes, limit: h.opts.MaxBodyBytes}, nil
}

// newDecoder undoes a Content-Encoding.
func newDecoder(encoding string, src io.Reader) (_ io.Reader, err error) {
	var decoder io.Reader
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
		return src, nil
	case "gzip", "x-gzip":
		decoder, err = gzip.NewReader(src)
	case "deflate":
		decoder, err = zlib.NewReader(src)
	case "br":
		decoder = brotli.NewReader(src)
	case "lz4":
		decoder = lz4.NewReader(src)
	case "zstd":
		// One goroutine, and a window that a small request cannot make large.
		var z *zstd.Decoder
		if z, err = zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20)); err == nil {
			decoder = z
		}
	default:
		return nil, newError(codeUnknownCompression, "Unknown compression method %q. (UNKNOWN_COMPRESSION_METHOD)", encoding)
	}
	if err != nil {
		return nil, cannotDecompress(err)
	}
	return decodeReader{decoder}, nil
}

// decodeReader gives decoding errors ClickHouse's code.
type decodeReader struct{ src io.Reader }

func (d decodeReader) Read(p []byte) (int, error) {
	n, err := d.src.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = cannotDecompress(err)
	}
	return n, err
}

func cannotDecompress(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	return newError(codeCannotDecompress, "cannot decompress the request body: %v. (CANNOT_DECOMPRESS)", err)
}

// boundedReader fails once more than limit bytes have come out of a decoder.
type boundedReader struct {
	src         io.Reader
	left, limit int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.src.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, &http.MaxBytesError{Limit: b.limit}
	}
	return n, err
}

// blockReader undoes ClickHouse's own compression: blocks of LZ4 or ZSTD with a checksum, up to 128 MiB each.
type blockReader struct {
	src   countingReader
	inner *compress.Reader
}

func newBlockReader(src io.Reader) *blockReader {
	b := &blockReader{src: countingReader{src: src}}
	b.inner = compress.NewReader(&b.src)
	return b
}

func (b *blockReader) Read(p []byte) (int, error) {
	before := b.src.count
	n, err := b.inner.Read(p)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF) && b.src.count == before:
		return n, io.EOF // between two blocks
	case errors.Is(err, io.EOF):
		return n, cannotDecompress(io.ErrUnexpectedEOF) // inside one
	}
	return n, cannotDecompress(err)
}

type countingReader struct {
	src   io.Reader
	count int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.src.Read(p)
	c.count += int64(n)
	return n, err
}

// blockWriter writes ClickHouse's compressed blocks.
type blockWriter struct {
	inner *compress.Writer
	buf   []byte
	emit  func([]byte) error
}

// blockSize is a server's: DBMS_DEFAULT_BUFFER_SIZE.
const blockSize = 1 << 20

func newBlockWriter(method string, emit func([]byte) error) *blockWriter {
	m := compress.LZ4
	if method == "ZSTD" {
		m = compress.ZSTD
	}
	return &blockWriter{inner: compress.NewWriter(compress.LevelZero, m), emit: emit}
}

// write gathers data into blocks of one size: a reader pays per block.
func (b *blockWriter) write(data []byte) error {
	for len(data) > 0 {
		n := min(len(data), blockSize-len(b.buf))
		b.buf, data = append(b.buf, data[:n]...), data[n:]
		if len(b.buf) == blockSize {
			if err := b.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *blockWriter) flush() error {
	if len(b.buf) == 0 {
		return nil
	}
	if err := b.inner.Compress(b.buf); err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	b.buf = b.buf[:0]
	return b.emit(b.inner.Data)
}

// chooseEncoding picks the cheapest encoding that the client accepts; empty means none.
func chooseEncoding(accept string) string {
	accepted := make(map[string]bool)
	for _, item := range strings.Split(accept, ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(item), ";")
		weight, ok := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q=")
		if q, err := strconv.ParseFloat(weight, 64); ok && err == nil && q == 0 {
			continue
		}
		accepted[strings.ToLower(strings.TrimSpace(name))] = true
	}
	for _, name := range []string{"lz4", "zstd", "gzip", "deflate", "br"} {
		if accepted[name] {
			return name
		}
	}
	return ""
}

// newEncoder applies a Content-Encoding; nil for none. Levels favour speed: most clients are on this machine.
func newEncoder(encoding string, dst io.Writer) io.WriteCloser {
	switch encoding {
	case "gzip":
		w, _ := gzip.NewWriterLevel(dst, gzip.BestSpeed) // fails for an unknown level only
		return w
	case "deflate":
		w, _ := zlib.NewWriterLevel(dst, zlib.BestSpeed)
		return w
	case "br":
		return brotli.NewWriterLevel(dst, brotli.BestSpeed)
	case "lz4":
		return lz4.NewWriter(dst)
	case "zstd":
		w, _ := zstd.NewWriter(dst, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
		return w
	}
	return nil
}
