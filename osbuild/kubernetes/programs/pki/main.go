// Command edge-pki creates the keys, certificates and kubeconfigs of a Kubernetes node.
//
//	edge-pki PLAN.json
//	edge-pki seal|open      encrypt or decrypt the standard input, whose first line is the key in hex
//
// It can be run at any time: valid files are kept, and certificates that expire soon or have other names than in the plan
// are issued again. Keys of authorities are never replaced, and their certificates only if they have wrong dates. It is a
// separate program, because starting the large Kubernetes binary takes longer than creating all keys (ECDSA, P-256).
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

type state struct {
	plan        *Plan
	authorities map[string]*Authority
	now         time.Time
}

func (state *state) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(state.plan.Folder, name)
}

func (state *state) authority(name string) error {
	keyPath, certificatePath := state.path(name+".key"), state.path(name+".crt")
	content, err := os.ReadFile(certificatePath)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if _, missing := os.Stat(keyPath); err == nil && missing != nil {
		return fmt.Errorf("%s exists, but its key is not there: restore %s, or remove both to start a new cluster", certificatePath, keyPath)
	}
	// The key is written first, so a power cut may leave a key without certificate.
	key, keyErr := readOrMakeKey(keyPath)
	if keyErr != nil {
		return keyErr
	}
	reason := "it did not exist"
	if err == nil {
		certificate, err := parseCertificate(content)
		if err != nil {
			return fmt.Errorf("%s: %w", certificatePath, err)
		}
		if reason = validityProblem(certificate, state.now); reason == "" {
			state.authorities[name] = &Authority{certificate, key}
			return nil
		}
	}
	// The key and subject are kept, so that certificates signed by this authority remain valid.
	certificate, err := selfSign("edge-"+name, key, state.now)
	if err != nil {
		return err
	}
	state.authorities[name] = &Authority{certificate, key}
	fmt.Printf("created %s: %s\n", certificatePath, reason)
	return write(certificatePath, encodeCertificate(certificate), 0o644)
}

// issue returns certificate and key (PEM) according to `planned`: the given ones if they are valid, or new ones.
func (state *state) issue(planned *Certificate, certificatePEM, keyPEM []byte) ([]byte, []byte, string, error) {
	authority := state.authorities[planned.Authority]
	if authority == nil {
		return nil, nil, "", fmt.Errorf("the plan has no authority %q", planned.Authority)
	}
	reason := "it did not exist"
	if certificate, err := parseCertificate(certificatePEM); err == nil {
		if key, err := parseKey(keyPEM); err == nil {
			if reason = authority.problem(certificate, key, planned, state.now); reason == "" {
				return certificatePEM, keyPEM, "", nil
			}
		}
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, "", err
	}
	certificate, err := authority.sign(planned, key, state.now)
	if err != nil {
		return nil, nil, "", err
	}
	return encodeCertificate(certificate), keyPEM, reason, nil
}

func (state *state) certificate(planned *Certificate) error {
	keyPath, certificatePath := state.path(planned.Name+".key"), state.path(planned.Name+".crt")
	oldCertificate, _ := os.ReadFile(certificatePath)
	oldKey, _ := os.ReadFile(keyPath)
	certificate, key, reason, err := state.issue(planned, oldCertificate, oldKey)
	if err != nil || reason == "" {
		return err
	}
	fmt.Printf("created %s: %s\n", certificatePath, reason)
	return errors.Join(write(keyPath, key, 0o600), write(certificatePath, certificate, 0o644))
}

func (state *state) kubeconfig(planned *Kubeconfig) error {
	path := state.path(planned.Path)
	client := &Certificate{
		Authority: planned.Authority, CommonName: planned.User, Organizations: planned.Organizations, Client: true,
	}
	var oldCertificate, oldKey []byte
	content, _ := os.ReadFile(path)
	old := parseKubeconfig(content)
	if old != nil {
		oldCertificate, oldKey = old.Users[0].User.Certificate, old.Users[0].User.Key
	}
	certificate, key, reason, err := state.issue(client, oldCertificate, oldKey)
	if err != nil {
		return err
	}
	authority := encodeCertificate(state.authorities[planned.Authority].certificate)
	if reason == "" {
		cluster := old.Clusters[0].Cluster
		if cluster.Server == planned.Server && samePEM(cluster.Authority, authority) {
			return nil
		}
		reason = "its server or authority has changed"
	}
	content, err = json.MarshalIndent(newKubeconfig(planned.Server, planned.User, authority, certificate, key), "", "  ")
	if err != nil {
		return err
	}
	fmt.Printf("created %s: %s\n", path, reason)
	return write(path, append(content, '\n'), 0o600)
}

func run(path string) error {
	plan, err := readPlan(path)
	if err != nil {
		return err
	}
	state := &state{plan: plan, authorities: map[string]*Authority{}, now: time.Now().UTC()}
	for _, name := range plan.Authorities {
		if err := state.authority(name); err != nil {
			return err
		}
	}
	for _, name := range plan.Keys {
		if _, err := readOrMakeKey(state.path(name + ".key")); err != nil {
			return err
		}
	}
	for index := range plan.Certificates {
		if err := state.certificate(&plan.Certificates[index]); err != nil {
			return err
		}
	}
	for index := range plan.Kubeconfigs {
		if err := state.kubeconfig(&plan.Kubeconfigs[index]); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: edge-pki PLAN.json | seal | open")
		os.Exit(2)
	}
	var err error
	if action := os.Args[1]; action == "seal" || action == "open" {
		err = runSeal(action, os.Stdin, os.Stdout)
	} else {
		err = run(action)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "edge-pki:", err)
		os.Exit(1)
	}
}
