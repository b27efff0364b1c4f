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

// checkFiles returns an error if a certificate authority is not valid at the time `now`. If `pair` names a file and a node,
// it also checks this node's certificate and key in the file.
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
	if err := checkValidity(authority, now); err != nil {
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
		err = checkCertificate(loaded.Leaf, authority, pair[1], now)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", pair[0], err)
	}
	return nil
}

func checkCertificate(certificate, authority *x509.Certificate, name string, now time.Time) error {
	if certificate.Subject.CommonName != nodePrefix+name {
		return fmt.Errorf("it belongs to %s", certificate.Subject.CommonName)
	}
	if certificate.CheckSignatureFrom(authority) != nil {
		return errors.New("it was issued by another authority")
	}
	return checkValidity(certificate, now)
}

func checkValidity(certificate *x509.Certificate, now time.Time) error {
	if now.Before(certificate.NotBefore) {
		return fmt.Errorf("it is not valid before %s: the clock of this node is wrong, or was wrong when it was issued", certificate.NotBefore)
	}
	if now.After(certificate.NotAfter) {
		return fmt.Errorf("it has expired on %s", certificate.NotAfter)
	}
	return nil
}
