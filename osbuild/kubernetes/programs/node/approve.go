package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"
)

const (
	requests   = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	signer     = "kubernetes.io/kube-apiserver-client-kubelet"
	joinGroup  = "system:bootstrappers:edge-osbuild" // of join tokens: osbuild/agent/kubernetes/join_protocol.py
	records    = "/api/v1/namespaces/kube-system/configmaps"
	recordName = "edge-osbuild-nodes"
	jsonKind   = "application/json"
	mergeKind  = "application/merge-patch+json" // RFC 7386
	pause      = 2 * time.Second
	watchTime  = 300 // seconds
	joinTime   = time.Hour
)

type metadata struct {
	Name            string `json:"name"`
	ResourceVersion string `json:"resourceVersion,omitempty"`
}

type condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// signingRequest is a CertificateSigningRequest (certificates.k8s.io/v1).
type signingRequest struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   metadata `json:"metadata"`
	Spec       struct {
		Request    []byte   `json:"request"`
		SignerName string   `json:"signerName"`
		Groups     []string `json:"groups"`
		Usages     []string `json:"usages"`
	} `json:"spec"`
	Status struct {
		Conditions []condition `json:"conditions,omitempty"`
	} `json:"status"`
}

// record is what the cluster remembers of a node that has joined: the digest of its key, and when it was first approved.
type record struct {
	Key   string    `json:"key"`
	Since time.Time `json:"since"`
}

// approver decides on the certificates of nodes that join. `server` is the name of its own node, which never joins.
type approver struct {
	api    *apiServer
	server string
	now    func() time.Time
}

func approveRequests(ctx context.Context, kubeconfig, server string) error {
	api, err := openKubeconfig(kubeconfig)
	if err != nil {
		return err
	}
	approver := &approver{api, server, time.Now}
	for {
		if err := approver.follow(ctx); err != nil && ctx.Err() == nil {
			fmt.Println("asking again:", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// follow decides on all requests that are there and on those that are made until the API server ends the watch.
func (approver *approver) follow(ctx context.Context) error {
	var list struct {
		Metadata metadata         `json:"metadata"`
		Items    []signingRequest `json:"items"`
	}
	if err := approver.api.call(ctx, "GET", requests, jsonKind, nil, &list); err != nil {
		return err
	}
	var problems []error
	for index := range list.Items { // one that fails must not keep others waiting
		problems = append(problems, approver.decide(ctx, &list.Items[index]))
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	query := url.Values{
		"watch": {"1"}, "resourceVersion": {list.Metadata.ResourceVersion}, "timeoutSeconds": {fmt.Sprint(watchTime)},
	}
	stream, err := approver.api.open(ctx, "GET", requests+"?"+query.Encode(), jsonKind, nil)
	if err != nil {
		return err
	}
	defer stream.Close()
	for decoder := json.NewDecoder(stream); decoder.More(); {
		var event struct {
			Type   string         `json:"type"`
			Object signingRequest `json:"object"`
		}
		if err := decoder.Decode(&event); err != nil {
			return err
		}
		switch event.Type {
		case "ADDED", "MODIFIED":
			if err := approver.decide(ctx, &event.Object); err != nil {
				return err
			}
		case "ERROR":
			return errors.New("the watch has ended")
		}
	}
	return nil
}

// decide approves or denies a request of a node that joins by a token. All others are left to the controller manager.
func (approver *approver) decide(ctx context.Context, request *signingRequest) error {
	joins := request.Spec.SignerName == signer && slices.Contains(request.Spec.Groups, joinGroup)
	if !joins || len(request.Status.Conditions) > 0 {
		return nil
	}
	verdict := condition{Type: "Denied", Status: "True", Reason: "EdgeOsbuildJoin"}
	asker, reason, err := approver.judge(ctx, request)
	if err != nil {
		return err
	}
	if verdict.Message = reason; reason == "" {
		verdict.Type, verdict.Message = "Approved", "the node has this name's key, or is the first of this name"
	}
	request.APIVersion, request.Kind = "certificates.k8s.io/v1", "CertificateSigningRequest"
	request.Status.Conditions = []condition{verdict}
	path := requests + "/" + url.PathEscape(request.Metadata.Name) + "/approval"
	if err := approver.api.call(ctx, "PUT", path, jsonKind, request, nil); err != nil {
		return err
	}
	fmt.Printf("%s of node %q: %s: %s\n", request.Metadata.Name, asker.node, verdict.Type, verdict.Message)
	return nil
}

// judge says who asks and why that must not join; "" if it may, and then its key is on record.
func (approver *approver) judge(ctx context.Context, request *signingRequest) (identity, string, error) {
	asker, err := readRequest(request.Spec.Request)
	if err != nil {
		return asker, "the request cannot be signed: " + err.Error(), nil
	}
	for _, usage := range request.Spec.Usages {
		if !slices.Contains([]string{"client auth", "digital signature", "key encipherment"}, usage) {
			return asker, "a node's certificate is not for: " + usage, nil
		}
	}
	if !slices.Contains(request.Spec.Usages, "client auth") {
		return asker, "a node's certificate is for: client auth", nil
	}
	if asker.node == approver.server {
		return asker, "this is the name of the server itself", nil
	}
	reason, err := approver.claim(ctx, asker)
	return asker, reason, err
}

// claim records the key of a name that is free. The reason is "" if the name is the asker's.
func (approver *approver) claim(ctx context.Context, asker identity) (string, error) {
	var known struct {
		Metadata metadata          `json:"metadata"`
		Data     map[string]string `json:"data"`
	}
	err := approver.api.call(ctx, "GET", records+"/"+recordName, jsonKind, nil, &known)
	missing := isNotFound(err)
	if err != nil && !missing {
		return "", err
	}
	var old record
	if text, present := known.Data[asker.node]; present {
		if err := json.Unmarshal([]byte(text), &old); err != nil {
			return "", fmt.Errorf("ConfigMap %s, %s: %w", recordName, asker.node, err)
		}
	}
	if old.Key == asker.digest {
		return "", nil
	}
	err = approver.api.call(ctx, "GET", "/api/v1/nodes/"+asker.node, jsonKind, nil, nil)
	if err == nil {
		return fmt.Sprintf("node %s exists and has another key: `kubectl delete node %s` frees the name", asker.node, asker.node), nil
	}
	if !isNotFound(err) {
		return "", err
	}
	// The owner of a name may be approved and not be registered yet.
	if age := approver.now().Sub(old.Since).Abs(); old.Key != "" && age < joinTime {
		return fmt.Sprintf("another machine has joined as %s within the last hour", asker.node), nil
	}
	fresh, err := json.Marshal(record{asker.digest, approver.now().UTC().Truncate(time.Second)})
	if err != nil {
		return "", err
	}
	change := map[string]any{
		"metadata": metadata{Name: recordName, ResourceVersion: known.Metadata.ResourceVersion},
		"data":     map[string]string{asker.node: string(fresh)},
	}
	if missing {
		return "", approver.api.call(ctx, "POST", records, jsonKind, change, nil)
	}
	return "", approver.api.call(ctx, "PATCH", records+"/"+recordName, mergeKind, change, nil)
}
