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
	joinGroup  = "system:bootstrappers:edge-osbuild" // group of join tokens, see osbuild/agent/kubernetes/join_protocol.py
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
		Username   string   `json:"username"`
		Groups     []string `json:"groups"`
		Usages     []string `json:"usages"`
	} `json:"spec"`
	Status struct {
		Conditions []condition `json:"conditions,omitempty"`
	} `json:"status"`
}

// record is stored in the cluster for each joined node: the digest of its key, and the time of its first approval.
type record struct {
	Key   string    `json:"key"`
	Since time.Time `json:"since"`
}

// approver decides on certificate requests of nodes that join. `server` is the name of its own node, which never joins.
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
			fmt.Println("retrying after an error:", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// follow decides on all existing requests, and on new ones until the API server ends the watch.
func (approver *approver) follow(ctx context.Context) error {
	var list struct {
		Metadata metadata         `json:"metadata"`
		Items    []signingRequest `json:"items"`
	}
	if err := approver.api.call(ctx, "GET", requests, jsonKind, nil, &list); err != nil {
		return err
	}
	var problems []error
	for index := range list.Items { // a failure must not block the other requests
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

// decide approves or denies a request made with a join token, and one for the serving certificate of a kubelet. The
// controller manager decides on other requests.
func (approver *approver) decide(ctx context.Context, request *signingRequest) error {
	joins := request.Spec.SignerName == signer && slices.Contains(request.Spec.Groups, joinGroup)
	if len(request.Status.Conditions) > 0 || !joins && request.Spec.SignerName != servingSigner {
		return nil
	}
	verdict := condition{Type: "Denied", Status: "True", Reason: "EdgeOsbuildJoin"}
	approval := "the key belongs to this node name, or the name is new"
	judge := approver.judge
	if !joins {
		verdict.Reason, approval, judge = "EdgeOsbuildServing", "the names and addresses are the node's", approver.judgeServing
	}
	node, reason, err := judge(ctx, request)
	if err != nil {
		return err
	}
	if verdict.Message = reason; reason == "" {
		verdict.Type, verdict.Message = "Approved", approval
	}
	request.APIVersion, request.Kind = "certificates.k8s.io/v1", "CertificateSigningRequest"
	request.Status.Conditions = []condition{verdict}
	path := requests + "/" + url.PathEscape(request.Metadata.Name) + "/approval"
	if err := approver.api.call(ctx, "PUT", path, jsonKind, request, nil); err != nil {
		return err
	}
	fmt.Printf("%s of node %q: %s: %s\n", request.Metadata.Name, node, verdict.Type, verdict.Message)
	return nil
}

// judge returns the node in a request and the reason for a denial. If the reason is "", the key is recorded.
func (approver *approver) judge(ctx context.Context, request *signingRequest) (string, string, error) {
	asker, err := readRequest(request.Spec.Request)
	if err != nil {
		return asker.node, "the request cannot be signed: " + err.Error(), nil
	}
	for _, usage := range request.Spec.Usages {
		if !slices.Contains([]string{"client auth", "digital signature", "key encipherment"}, usage) {
			return asker.node, "the usage is not allowed for a node's certificate: " + usage, nil
		}
	}
	if !slices.Contains(request.Spec.Usages, "client auth") {
		return asker.node, "a node's certificate needs the usage client auth", nil
	}
	if asker.node == approver.server {
		return asker.node, "this is the name of the server node", nil
	}
	reason, err := approver.claim(ctx, asker)
	return asker.node, reason, err
}

// claim records the key for a free name. The returned reason is "" if the name belongs to the key now.
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
		return fmt.Sprintf("node %s exists with another key; `kubectl delete node %s` frees the name", asker.node, asker.node), nil
	}
	if !isNotFound(err) {
		return "", err
	}
	// The owner of the name may be approved but not registered yet.
	if age := approver.now().Sub(old.Since).Abs(); old.Key != "" && age < joinTime {
		return fmt.Sprintf("another device has joined as %s within the last hour", asker.node), nil
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
