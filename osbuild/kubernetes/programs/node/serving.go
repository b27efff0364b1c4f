package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
)

const servingSigner = "kubernetes.io/kubelet-serving"

// nodeAddress is an entry of a Node's `status.addresses`.
type nodeAddress struct {
	Type    string `json:"type"`
	Address string `json:"address"`
}

type nodeObject struct {
	Metadata metadata `json:"metadata"`
	Status   struct {
		Addresses []nodeAddress `json:"addresses"`
	} `json:"status"`
}

// judgeServing returns the node that asks for a serving certificate of its kubelet and the reason for a denial, "" if it
// may have it. The certificate may have the node's name, and addresses that the node has and no other node has.
func (approver *approver) judgeServing(ctx context.Context, request *signingRequest) (string, string, error) {
	wanted, err := readServingRequest(request.Spec.Request)
	if err != nil {
		return request.Spec.Username, "the request cannot be signed: " + err.Error(), nil
	}
	if wanted.Subject.CommonName != request.Spec.Username || !slices.Contains(request.Spec.Groups, nodeGroup) {
		return request.Spec.Username, "a node can only request a certificate for itself", nil
	}
	name := wanted.Subject.CommonName[len(nodePrefix):]
	for _, usage := range request.Spec.Usages {
		if !slices.Contains([]string{"server auth", "digital signature", "key encipherment"}, usage) {
			return name, "the usage is not allowed for a kubelet's serving certificate: " + usage, nil
		}
	}
	var nodes struct {
		Items []nodeObject `json:"items"`
	}
	if err := approver.api.call(ctx, "GET", "/api/v1/nodes", jsonKind, nil, &nodes); err != nil {
		return name, "", err
	}
	return name, servingProblem(wanted, name, nodes.Items), nil
}

// servingProblem returns what is wrong with the names and addresses in a request, "" if nothing is.
func servingProblem(wanted *x509.CertificateRequest, name string, nodes []nodeObject) string {
	owners := map[string][]string{}
	for _, node := range nodes {
		for _, address := range node.Status.Addresses {
			owners[address.Address] = append(owners[address.Address], node.Metadata.Name)
		}
	}
	for _, text := range wanted.DNSNames {
		if text != name && !slices.Equal(owners[text], []string{name}) {
			return "the name " + text + " is not the node's"
		}
	}
	for _, address := range wanted.IPAddresses {
		if !slices.Equal(owners[address.String()], []string{name}) {
			return "the address " + address.String() + " is not the node's alone"
		}
	}
	return ""
}

// readServingRequest checks a request against the rules for `kubernetes.io/kubelet-serving` (Kubernetes documentation,
// "Certificates and Certificate Signing Requests").
func readServingRequest(content []byte) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(content)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		return nil, errors.New("expected one CERTIFICATE REQUEST in PEM")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := request.CheckSignature(); err != nil {
		return nil, err
	}
	if len(request.Subject.CommonName) <= len(nodePrefix) || request.Subject.CommonName[:len(nodePrefix)] != nodePrefix {
		return nil, errors.New("its subject is not that of a node")
	}
	if !slices.Equal(request.Subject.Organization, []string{nodeGroup}) {
		return nil, errors.New("its subject is not that of a node")
	}
	if len(request.EmailAddresses)+len(request.URIs) > 0 {
		return nil, errors.New("it has alternative names that are neither DNS names nor addresses")
	}
	if len(request.DNSNames)+len(request.IPAddresses) == 0 {
		return nil, errors.New("it has no names and no addresses")
	}
	return request, nil
}
