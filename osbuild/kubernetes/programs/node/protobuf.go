package main

import (
	"encoding/binary"
	"errors"
)

// message is an encoded protobuf message (protobuf.dev, "Encoding"), as far as the Container Runtime Interface needs it.
type message []byte

const (
	varint    = 0
	fixed64   = 1
	delimited = 2
	fixed32   = 5
)

var errTruncated = errors.New("truncated protobuf message")

func (encoded message) number(field int, value uint64) message {
	encoded = binary.AppendUvarint(encoded, uint64(field)<<3|varint)
	return binary.AppendUvarint(encoded, value)
}

func (encoded message) text(field int, value string) message {
	encoded = binary.AppendUvarint(encoded, uint64(field)<<3|delimited)
	encoded = binary.AppendUvarint(encoded, uint64(len(value)))
	return append(encoded, value...)
}

func (encoded message) nested(field int, value message) message {
	return encoded.text(field, string(value))
}

// entry adds one entry of a map<string, string>.
func (encoded message) entry(field int, key, value string) message {
	return encoded.nested(field, message{}.text(1, key).text(2, value))
}

// visit calls `visitor` for each field, with `number` for a varint, and `content` for a field with a length.
func (encoded message) visit(visitor func(field int, number uint64, content message)) error {
	rest := encoded
	for len(rest) > 0 {
		tag, size := binary.Uvarint(rest)
		if size <= 0 {
			return errTruncated
		}
		rest = rest[size:]
		value, skip := uint64(0), 0
		switch tag & 7 {
		case varint:
			value, skip = binary.Uvarint(rest)
			if skip <= 0 {
				return errTruncated
			}
			visitor(int(tag>>3), value, nil)
		case delimited:
			value, skip = binary.Uvarint(rest)
			if skip <= 0 || value > uint64(len(rest)-skip) {
				return errTruncated
			}
			visitor(int(tag>>3), 0, rest[skip:skip+int(value)])
			skip += int(value)
		case fixed64:
			skip = 8
		case fixed32:
			skip = 4
		default:
			return errTruncated
		}
		if skip > len(rest) {
			return errTruncated
		}
		rest = rest[skip:]
	}
	return nil
}

// first returns the content of the first field with this number; nil if there is none.
func (encoded message) first(field int) message {
	var result message
	_ = encoded.visit(func(number int, _ uint64, content message) {
		if number == field && result == nil {
			result = content
		}
	})
	return result
}

// value returns the last varint with this number; 0 if there is none.
func (encoded message) value(field int) uint64 {
	var result uint64
	_ = encoded.visit(func(number int, value uint64, content message) {
		if number == field && content == nil {
			result = value
		}
	})
	return result
}
