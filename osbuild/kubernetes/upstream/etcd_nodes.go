package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	// memberAnnotation of a Node names the etcd member of a server (osbuild/agent/kubernetes/etcd.py).
	memberAnnotation = "edge-osbuild/etcd-member"
	followTime       = 5 * time.Second
)

// endpointList is what is read of Endpoints (API reference).
type endpointList struct {
	Subsets []struct {
		Addresses []struct {
			IP string `json:"ip"`
		} `json:"addresses"`
		Ports []struct {
			Port int `json:"port"`
		} `json:"ports"`
	} `json:"subsets"`
}

// hosts returns the addresses of a service as `host:port`.
func (list *endpointList) hosts() []string {
	var hosts []string
	for _, subset := range list.Subsets {
		for _, address := range subset.Addresses {
			for _, port := range subset.Ports {
				hosts = append(hosts, net.JoinHostPort(address.IP, fmt.Sprint(port.Port)))
			}
		}
	}
	return hosts
}

// findMembers returns the URLs of etcd at the cluster's servers: at that of the settings, and at those with an API server.
func (settings *etcdSettings) findMembers(ctx context.Context) ([]string, error) {
	server, err := url.Parse(settings.Join)
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.BuildConfigFromFlags(settings.Join, settings.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.Timeout = etcdRequestTime
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	target := server.JoinPath("/api/v1/namespaces/default/endpoints/kubernetes").String()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", target, answer.Status)
	}
	var list endpointList
	if err := json.NewDecoder(io.LimitReader(answer.Body, largestBody)).Decode(&list); err != nil {
		return nil, err
	}
	hosts := []string{server.Hostname()}
	for _, host := range list.hosts() {
		if name, _, err := net.SplitHostPort(host); err == nil && !slices.Contains(hosts, name) {
			hosts = append(hosts, name)
		}
	}
	var urls []string
	for _, host := range hosts {
		if host != settings.Address {
			urls = append(urls, "https://"+net.JoinHostPort(host, clientPort))
		}
	}
	if len(urls) == 0 {
		return nil, errors.New("it has no other servers")
	}
	return urls, nil
}

// followNodes removes the members of servers whose Node was deleted, as K3s does. All servers of a cluster do it: to remove
// a member that does not exist any more is no error.
func (member *etcdMember) followNodes(ctx context.Context) {
	nodes := map[string]string{} // node -> name of its member
	deleted := map[string]bool{} // names of members
	for sleep(ctx, followTime) == nil {
		if err := member.watchNodes(ctx, nodes, deleted); err != nil && ctx.Err() == nil {
			klog.V(2).InfoS("The nodes of this cluster cannot be watched", "reason", err)
		}
	}
}

func (member *etcdMember) watchNodes(ctx context.Context, nodes map[string]string, deleted map[string]bool) error {
	config, err := clientcmd.BuildConfigFromFlags("", member.settings.Kubeconfig)
	if err != nil {
		return err
	}
	client, err := metadata.NewForConfig(config)
	if err != nil {
		return err
	}
	resource := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "nodes"})
	list, err := resource.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	current := map[string]string{}
	for index := range list.Items {
		if name := list.Items[index].Annotations[memberAnnotation]; name != "" {
			current[list.Items[index].Name] = name
		}
	}
	for node, name := range nodes {
		if current[node] != name {
			deleted[name] = true
		}
	}
	clear(nodes)
	for node, name := range current {
		nodes[node] = name
		delete(deleted, name)
	}
	member.removeMembers(ctx, deleted)
	seconds := int64(300)
	if len(deleted) > 0 {
		seconds = int64(followTime / time.Second) // and try again
	}
	stream, err := resource.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion, TimeoutSeconds: &seconds})
	if err != nil {
		return err
	}
	defer stream.Stop()
	for event := range stream.ResultChan() {
		object, known := event.Object.(*metav1.PartialObjectMetadata)
		if !known {
			return errors.New("the watch has ended")
		}
		name := object.Annotations[memberAnnotation]
		switch {
		case name == "":
		case event.Type == watch.Deleted:
			delete(nodes, object.Name)
			deleted[name] = true
			if member.removeMembers(ctx, deleted); len(deleted) > 0 {
				return nil // and try again soon: etcd refuses it for some seconds after another member was away
			}
		default:
			nodes[object.Name] = name
		}
	}
	return nil
}

// removeMembers removes members from etcd, and from the set if they do not exist any more. A server does not remove itself.
func (member *etcdMember) removeMembers(ctx context.Context, deleted map[string]bool) {
	part, cancel := context.WithTimeout(ctx, etcdRequestTime)
	defer cancel()
	list, err := member.client.MemberList(part)
	if err != nil {
		return
	}
	for name := range deleted {
		removed := true
		for _, other := range list.Members {
			if other.Name != name || name == member.name {
				continue
			}
			_, err := member.client.MemberRemove(part, other.ID)
			if err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
				klog.ErrorS(err, "The etcd member of a deleted node is not removed yet", "member", name)
				removed = false
				continue
			}
			klog.InfoS("The etcd member of a deleted node is removed", "member", name)
		}
		if removed {
			delete(deleted, name)
		}
	}
}
