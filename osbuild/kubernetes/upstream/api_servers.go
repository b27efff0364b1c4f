package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"k8s.io/klog/v2"
)

const (
	dialTime    = 5 * time.Second
	idleTime    = 20 * time.Second // after which an HTTP/2 connection is checked with a ping
	pingTime    = 10 * time.Second
	probeTime   = 5 * time.Second
	largestBody = 8 << 20 // bytes of a request; the API server takes 3 MiB
)

// errUnreachable says that none of the API servers answers.
var errUnreachable = errors.New("no API server of the cluster answers")

// apiServers are the API servers of a cluster, of which requests use one that answers (client-side load balancing as in K3s,
// `pkg/agent/loadbalancer`). The list is stored, so that a node finds any server of its cluster after a boot.
type apiServers struct {
	file      string
	transport http.RoundTripper
	mutex     sync.Mutex
	hosts     []string // the one that answered last comes first
	reachable bool
	changed   chan struct{} // closed and replaced when `reachable` changes
}

// newAPIServers reads the stored list, to which `configured` always belongs. The node's credentials are read again for each
// connection, because the kubelet renews them.
func newAPIServers(file, configured, authority, credentials string) (*apiServers, error) {
	pem, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate authority", authority)
	}
	transport := &http.Transport{
		DialContext: (&net.Dialer{Timeout: dialTime}).DialContext,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12,
			RootCAs:    roots,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				pair, err := tls.LoadX509KeyPair(credentials, credentials)
				return &pair, err
			},
		},
		TLSHandshakeTimeout: dialTime,
		IdleConnTimeout:     90 * time.Second,
	}
	second, err := http2.ConfigureTransports(transport)
	if err != nil {
		return nil, err
	}
	second.ReadIdleTimeout, second.PingTimeout = idleTime, pingTime
	servers := &apiServers{file: file, transport: transport, hosts: []string{configured}, changed: make(chan struct{})}
	var stored []string
	if err := readJSON(file, &stored); err != nil && !errors.Is(err, os.ErrNotExist) {
		klog.ErrorS(err, "The list of API servers is not used")
	}
	for _, host := range stored {
		if !slices.Contains(servers.hosts, host) {
			servers.hosts = append(servers.hosts, host)
		}
	}
	return servers, nil
}

// learn replaces the list by the servers that the cluster has, and the configured one.
func (servers *apiServers) learn(configured string, found []string) error {
	servers.mutex.Lock()
	hosts := slices.DeleteFunc(slices.Clone(servers.hosts), func(host string) bool {
		return host != configured && !slices.Contains(found, host)
	})
	for _, host := range found {
		if !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	servers.hosts = hosts
	servers.mutex.Unlock()
	sorted := slices.Sorted(slices.Values(hosts))
	content, err := json.Marshal(sorted)
	if err != nil {
		return err
	}
	return replaceFile(servers.file, content, 0o644)
}

// RoundTrip sends a request to the first server that answers. It returns errUnreachable if none does.
func (servers *apiServers) RoundTrip(request *http.Request) (*http.Response, error) {
	var body []byte
	if request.Body != nil && request.Body != http.NoBody {
		content, err := io.ReadAll(io.LimitReader(request.Body, largestBody))
		_ = request.Body.Close()
		if err != nil {
			return nil, err
		}
		body = content
	}
	servers.mutex.Lock()
	hosts := slices.Clone(servers.hosts)
	servers.mutex.Unlock()
	var failures []error
	for _, host := range hosts {
		attempt := request.Clone(request.Context())
		attempt.URL.Scheme, attempt.URL.Host, attempt.Host = "https", host, ""
		if body != nil {
			attempt.Body = io.NopCloser(bytes.NewReader(body))
			attempt.ContentLength = int64(len(body))
		}
		answer, err := servers.transport.RoundTrip(attempt)
		if err == nil && !slices.Contains(unavailable, answer.StatusCode) {
			servers.note(host)
			return answer, nil
		}
		if err == nil {
			_ = answer.Body.Close()
			err = errors.New(answer.Status)
		}
		if request.Context().Err() != nil {
			return nil, request.Context().Err()
		}
		failures = append(failures, fmt.Errorf("%s: %w", host, err))
	}
	servers.note("")
	return nil, fmt.Errorf("%w: %w", errUnreachable, errors.Join(failures...))
}

// unavailable are answers of a server that cannot serve at the moment, or of a load balancer before it.
var unavailable = []int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}

// note records which server has answered, "" if none has.
func (servers *apiServers) note(host string) {
	servers.mutex.Lock()
	defer servers.mutex.Unlock()
	if at := slices.Index(servers.hosts, host); at > 0 {
		servers.hosts = slices.Insert(slices.Delete(servers.hosts, at, at+1), 0, host)
		klog.InfoS("Another API server is used from now on", "server", host)
	}
	if answers := host != ""; answers != servers.reachable {
		servers.reachable = answers
		close(servers.changed)
		servers.changed = make(chan struct{})
		if answers {
			klog.InfoS("The cluster is reachable", "server", host)
		} else {
			klog.InfoS("No API server of the cluster answers: programs of this node get what is stored")
		}
	}
}

// state returns whether the cluster is reachable, and a channel that is closed when that changes.
func (servers *apiServers) state() (bool, <-chan struct{}) {
	servers.mutex.Lock()
	defer servers.mutex.Unlock()
	return servers.reachable, servers.changed
}

// probe asks for the servers' readiness while none is reachable.
func (servers *apiServers) probe(ctx context.Context) {
	for sleep(ctx, probeTime) == nil {
		if reachable, _ := servers.state(); reachable {
			continue
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://server/readyz", nil)
		if err != nil {
			return
		}
		if answer, err := servers.RoundTrip(request); err == nil {
			_ = answer.Body.Close()
		}
	}
}
