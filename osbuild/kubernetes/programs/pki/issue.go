package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"slices"
	"time"
)

const (
	day            = 24 * time.Hour
	authorityYears = 20 * 365 * day
	lifetime       = 2 * 365 * day
	renewBefore    = lifetime / 2
	// A clock that is set back a little, as after a flat battery, must not make a new certificate invalid.
	skew = day
)

// Authority is a certificate authority with its key.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func serial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// selfSign issues the certificate of an authority (RFC 5280, section 4.2.1.9).
func selfSign(name string, key *ecdsa.PrivateKey, now time.Time) (*x509.Certificate, error) {
	number, err := serial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          number,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(authorityYears),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		DNSNames:              []string{name},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func (authority *Authority) sign(planned *Certificate, key *ecdsa.PrivateKey, now time.Time) (*x509.Certificate, error) {
	number, err := serial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          number,
		Subject:               pkix.Name{CommonName: planned.CommonName, Organization: planned.Organizations},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           planned.usages(),
		BasicConstraintsValid: true,
		DNSNames:              planned.DNSNames,
		IPAddresses:           planned.Addresses,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, authority.certificate, key.Public(), authority.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// validityProblem returns why a certificate is not valid now, or "". It may have been issued with a wrong clock.
func validityProblem(certificate *x509.Certificate, now time.Time) string {
	switch {
	case now.Before(certificate.NotBefore):
		return "it is not valid before " + certificate.NotBefore.Format(time.DateOnly)
	case now.After(certificate.NotAfter):
		return "it has expired on " + certificate.NotAfter.Format(time.DateOnly)
	}
	return ""
}

// problem returns why an existing certificate and key have to be replaced, or "".
func (authority *Authority) problem(pair *x509.Certificate, key *ecdsa.PrivateKey, planned *Certificate, now time.Time) string {
	switch {
	case pair.CheckSignatureFrom(authority.certificate) != nil:
		return "it was issued by another authority"
	case !key.PublicKey.Equal(pair.PublicKey):
		return "it belongs to another key"
	case validityProblem(pair, now) != "":
		return validityProblem(pair, now)
	case now.After(pair.NotAfter.Add(-renewBefore)):
		return "it expires on " + pair.NotAfter.Format(time.DateOnly)
	case pair.Subject.CommonName != planned.CommonName || !sameSet(pair.Subject.Organization, planned.Organizations):
		return "its subject has changed"
	case !slices.Equal(pair.ExtKeyUsage, planned.usages()):
		return "its usage has changed"
	case !sameSet(pair.DNSNames, planned.DNSNames) || !sameSet(texts(pair.IPAddresses), texts(planned.Addresses)):
		return "its names or addresses have changed"
	}
	return ""
}

func texts(addresses []net.IP) []string {
	result := make([]string, 0, len(addresses))
	for _, address := range addresses {
		result = append(result, address.String())
	}
	return result
}

func sameSet(one, other []string) bool {
	a, b := slices.Clone(one), slices.Clone(other)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

func samePEM(one, other []byte) bool {
	return bytes.Equal(bytes.TrimSpace(one), bytes.TrimSpace(other))
}
