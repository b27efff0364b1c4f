package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"errors"
	"io"
)

const (
	sealKeyBytes = 32 // AES-256
	largestSeal  = 1 << 20
)

// runSeal seals or opens the standard input (NIST SP 800-38D, AES-256-GCM with a random nonce in front). The first line of
// the input is the key in hex.
func runSeal(action string, input io.Reader, output io.Writer) error {
	content, err := io.ReadAll(io.LimitReader(input, largestSeal))
	if err != nil {
		return err
	}
	line, content, _ := bytes.Cut(content, []byte("\n"))
	key, err := hex.DecodeString(string(line))
	if err != nil || len(key) != sealKeyBytes {
		return errors.New("the first line is not a key of 32 bytes in hex")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return err
	}
	if action == "seal" {
		_, err = output.Write(aead.Seal(nil, nil, content, nil))
		return err
	}
	opened, err := aead.Open(nil, nil, content, nil)
	if err != nil {
		return errors.New("sealed with another key, or damaged")
	}
	_, err = output.Write(opened)
	return err
}
