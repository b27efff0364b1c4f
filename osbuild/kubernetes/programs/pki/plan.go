package main

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
)

// Plan lists the keys, certificates and kubeconfigs that must exist. Relative paths are below Folder.
type Plan struct {
	Folder       string        `json:"folder"`
	Authorities  []string      `json:"authorities"`
	Keys         []string      `json:"keys"`
	Certificates []Certificate `json:"certificates"`
	Kubeconfigs  []Kubeconfig  `json:"kubeconfigs"`
}

// Certificate is one key pair, at NAME.crt and NAME.key.
type Certificate struct {
	Name          string   `json:"name"`
	Authority     string   `json:"authority"`
	CommonName    string   `json:"common_name"`
	Organizations []string `json:"organizations"`
	Server        bool     `json:"server"`
	Client        bool     `json:"client"`
	DNSNames      []string `json:"dns_names"`
	Addresses     []net.IP `json:"addresses"`
}

// Kubeconfig contains the credentials of a client and the address of its server.
type Kubeconfig struct {
	Path          string   `json:"path"`
	Authority     string   `json:"authority"`
	Server        string   `json:"server"`
	User          string   `json:"user"`
	Organizations []string `json:"organizations"`
}

func readPlan(path string) (*Plan, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	plan := &Plan{}
	if err := json.Unmarshal(text, plan); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return plan, nil
}

func (planned *Certificate) usages() []x509.ExtKeyUsage {
	usages := []x509.ExtKeyUsage{}
	if planned.Server {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	if planned.Client {
		usages = append(usages, x509.ExtKeyUsageClientAuth)
	}
	return usages
}
