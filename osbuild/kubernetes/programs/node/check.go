package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"
)

// checkFiles fails with the reason why a certificate authority, or a pair of a node's certificate and key that it has
// signed, can't be used at the time `now`. `pair` is empty, or names a file and the node.
func checkFiles(authorityPath string, pair []string, now time.Time) error {
	content, err := os.ReadFile(authorityPath)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return fmt.Errorf("%s: no certificate in PEM", authorityPath)
	}
	authority, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("%s: %w", authorityPath, err)
	}
	if err := current(authority, now); err != nil {
		return fmt.Errorf("%s: %w", authorityPath, err)
	}
	if len(pair) == 0 {
		return nil
	}
	content, err = os.ReadFile(pair[0])
	if err != nil {
		return err
	}
	loaded, err := tls.X509KeyPair(content, content)
	if err == nil {
		err = usable(loaded.Leaf, authority, pair[1], now)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", pair[0], err)
	}
	return nil
}

func usable(certificate, authority *x509.Certificate, name string, now time.Time) error {
	if certificate.Subject.CommonName != nodePrefix+name {
		return fmt.Errorf("it is of %s", certificate.Subject.CommonName)
	}
	if certificate.CheckSignatureFrom(authority) != nil {
		return errors.New("it is from another authority")
	}
	return current(certificate, now)
}

func current(certificate *x509.Certificate, now time.Time) error {
	if now.Before(certificate.NotBefore) {
		return fmt.Errorf("it is not valid before %s: it was issued under a wrong clock, or this one is wrong", certificate.NotBefore)
	}
	if now.After(certificate.NotAfter) {
		return fmt.Errorf("it has expired on %s", certificate.NotAfter)
	}
	return nil
}
