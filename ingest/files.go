package ingest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
)

// MaxFileBytes bounds what [SplitFile] reads, after gunzipping.
const MaxFileBytes = 4 << 30

// SplitFile cuts a log file into the records that a producer would have sent,
// and calls each with them in order. It takes what log files come as: one JSON
// object a line, a JSON array, CloudTrail's {"Records":[…]}, a single object
// over several lines, all of them gzipped or not. What is no JSON is passed on
// line by line, for the decoder to say so.
//
// The values alias one buffer that is never reused. The error is that of
// reading, or each's own, which ends the file.
func SplitFile(r io.Reader, each func(value []byte) error) error {
	data, err := readAll(r)
	if err != nil {
		return err
	}
	if first, _, _ := bytes.Cut(bytes.TrimLeft(data, " \t\r\n"), []byte("\n")); !json.Valid(first) {
		if values, ok := documents(data); ok {
			return eachItem(values, each)
		}
	}
	for len(data) > 0 {
		var line []byte
		line, data, _ = bytes.Cut(data, []byte("\n"))
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if err := eachItem([]json.RawMessage{line}, each); err != nil {
			return err
		}
	}
	return nil
}

func readAll(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxFileBytes+1))
	if err == nil && len(data) > 2 && data[0] == 0x1f && data[1] == 0x8b {
		var zr *gzip.Reader
		if zr, err = gzip.NewReader(bytes.NewReader(data)); err == nil {
			data, err = io.ReadAll(io.LimitReader(zr, MaxFileBytes+1))
		}
	}
	if err == nil && len(data) > MaxFileBytes {
		err = fmt.Errorf("larger than %d bytes: split the file", int64(MaxFileBytes))
	}
	return data, err
}

// documents reads JSON values that span lines; ok is false if anything in the
// data is not JSON.
func documents(data []byte) (values []json.RawMessage, ok bool) {
	dec := json.NewDecoder(bytes.NewReader(data))
	for {
		var v json.RawMessage
		switch err := dec.Decode(&v); err {
		case nil:
			values = append(values, v)
		case io.EOF:
			return values, len(values) > 0
		default:
			return nil, false
		}
	}
}

// eachItem opens the two containers that files have and streams do not.
func eachItem(values []json.RawMessage, each func([]byte) error) error {
	for _, v := range values {
		items := []json.RawMessage{v}
		switch {
		case v[0] == '[':
			var list []json.RawMessage
			if json.Unmarshal(v, &list) == nil && len(list) > 0 {
				items = list
			}
		case bytes.HasPrefix(v, []byte(`{"Records"`)) || v[0] == '{' && bytes.Contains(v[:min(len(v), 64)], []byte(`"Records"`)):
			var file struct{ Records []json.RawMessage }
			if json.Unmarshal(v, &file) == nil && len(file.Records) > 0 {
				items = file.Records
			}
		}
		for _, item := range items {
			if err := each(item); err != nil {
				return err
			}
		}
	}
	return nil
}
