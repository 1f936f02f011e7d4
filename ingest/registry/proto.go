package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

// mainProto names the file of a schema among those that it imports.
const mainProto = "catena/schema.proto"

// maxProtoDepth bounds messages in each other; the decoder's own limit on the
// JSON is lower.
const maxProtoDepth = 200

func compileProto(ctx context.Context, text string, parts *parts) (*schema, error) {
	files := map[string]string{mainProto: text}
	for name, text := range parts.have {
		files[name] = text
	}
	c := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(files)}),
		MaxParallelism: 1,
	}
	compiled, err := c.Compile(ctx, mainProto)
	if err != nil {
		return nil, err
	}
	file := compiled[0]
	var known protoregistry.Files
	if err := register(&known, file); err != nil {
		return nil, err
	}
	types := dynamicpb.NewTypes(&known)
	read := proto.UnmarshalOptions{Resolver: types, RecursionLimit: maxProtoDepth}
	write := protojson.MarshalOptions{Resolver: types}
	return &schema{indexed: true, json: func(dst, payload []byte, indexes []int) ([]byte, error) {
		of, err := messageAt(file, indexes)
		if err != nil {
			return dst, err
		}
		m := dynamicpb.NewMessage(of)
		if err := read.Unmarshal(payload, m); err != nil {
			return dst, err
		}
		doc, err := write.Marshal(m)
		if err != nil {
			return dst, err
		}
		// protojson puts blanks where it likes.
		b := bytes.NewBuffer(dst)
		err = json.Compact(b, doc)
		return b.Bytes(), err
	}}, nil
}

// register adds a file and what it imports, for messages in an Any.
func register(known *protoregistry.Files, file protoreflect.FileDescriptor) error {
	if _, err := known.FindFileByPath(file.Path()); err == nil {
		return nil
	}
	for i := range file.Imports().Len() {
		if err := register(known, file.Imports().Get(i).FileDescriptor); err != nil {
			return err
		}
	}
	return known.RegisterFile(file)
}

// messageAt finds a message by its position in the file, and in the messages
// around it.
func messageAt(file protoreflect.FileDescriptor, indexes []int) (of protoreflect.MessageDescriptor, err error) {
	list := file.Messages()
	for _, i := range indexes {
		if i < 0 || i >= list.Len() {
			return nil, fmt.Errorf("there is no message at the indexes %v", indexes)
		}
		of = list.Get(i)
		list = of.Messages()
	}
	if of == nil {
		return nil, fmt.Errorf("no message index is given")
	}
	return of, nil
}
