package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

const (
	nodePrefix = "system:node:"
	nodeGroup  = "system:nodes"
)

func readKey(path string) (*ecdsa.PrivateKey, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(content)
	if block == nil || block.Type != "EC PRIVATE KEY" {
		return nil, fmt.Errorf("%s: no EC PRIVATE KEY in PEM", path)
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// printIdentity prints the digest of the public key of the key in a file.
func printIdentity(path string) error {
	key, err := readKey(path)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	fmt.Println(digestOf(public))
	return nil
}

func digestOf(public []byte) string {
	digest := sha256.Sum256(public)
	return hex.EncodeToString(digest[:])
}

// printRequest prints a certificate request (RFC 2986) of a node. The key is its identity, which the cluster records.
func printRequest(keyPath, name string) error {
	key, err := readKey(keyPath)
	if err != nil {
		return err
	}
	template := &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: nodePrefix + name, Organization: []string{nodeGroup}},
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return err
	}
	return pem.Encode(os.Stdout, &pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// identity is the requesting node: its name, and a digest of the public key that has signed the request.
type identity struct {
	node   string
	digest string
}

// readRequest checks a request against the rules for `system:node` certificates (Kubernetes documentation, "Certificates and
// Certificate Signing Requests", kube-apiserver-client-kubelet), and the signature of the requester.
func readRequest(content []byte) (identity, error) {
	block, rest := pem.Decode(content)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(strings.TrimSpace(string(rest))) > 0 {
		return identity{}, errors.New("expected one CERTIFICATE REQUEST in PEM")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return identity{}, err
	}
	if err := request.CheckSignature(); err != nil {
		return identity{}, err
	}
	if key, known := request.PublicKey.(*ecdsa.PublicKey); !known || key.Curve != elliptic.P256() {
		return identity{}, errors.New("its key is not an ECDSA key on P-256")
	}
	name, isNode := strings.CutPrefix(request.Subject.CommonName, nodePrefix)
	if !isNode || !validName(name) || !slices.Equal(request.Subject.Organization, []string{nodeGroup}) {
		return identity{}, errors.New("its subject is not that of a node")
	}
	if len(request.DNSNames)+len(request.EmailAddresses)+len(request.IPAddresses)+len(request.URIs) > 0 {
		return identity{}, errors.New("it has alternative names")
	}
	return identity{name, digestOf(request.RawSubjectPublicKeyInfo)}, nil
}

// validName reports whether a name is valid for a Node (RFC 1123 subdomain).
func validName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for _, part := range strings.Split(name, ".") {
		if part == "" || strings.HasPrefix(part, "-") || strings.HasSuffix(part, "-") {
			return false
		}
		if strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}
