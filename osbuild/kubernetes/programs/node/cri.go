package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

const (
	containerdSocket = "/run/containerd/containerd.sock"
	longestAnswer    = 16 << 20 // bytes, containerd's own limit for one message
)

// notFound is gRPC's status NOT_FOUND.
const notFound = "5"

// statusError is an error returned by containerd.
type statusError struct{ method, reason, status string }

func (refusal *statusError) Error() string {
	return fmt.Sprintf("%s: %s (gRPC status %s)", refusal.method, refusal.reason, refusal.status)
}

// runtimeService calls containerd by gRPC over HTTP/2, mostly its Container Runtime Interface (k8s.io/cri-api).
type runtimeService struct {
	client *http.Client
}

func connect(socket string) *runtimeService {
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		Protocols: protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}
	return &runtimeService{&http.Client{Transport: transport}}
}

// call makes one unary call of the Container Runtime Interface.
func (service *runtimeService) call(ctx context.Context, method string, request message) (message, error) {
	return service.callService(ctx, "runtime.v1.RuntimeService", method, request)
}

// callService makes one unary call (gRPC over HTTP2, "Requests", "Responses") in containerd's namespace for Kubernetes.
func (service *runtimeService) callService(ctx context.Context, name, method string, request message) (message, error) {
	body := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request))), request...)
	address := "http://containerd/" + name + "/" + method
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	post.Header.Set("Content-Type", "application/grpc")
	post.Header.Set("TE", "trailers")
	post.Header.Set("containerd-namespace", "k8s.io")
	response, err := service.client.Do(post)
	if err != nil {
		return nil, fmt.Errorf("containerd does not answer %s: %w", method, err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, longestAnswer))
	if err != nil {
		return nil, fmt.Errorf("the answer of containerd to %s is not complete: %w", method, err)
	}
	status, reason := response.Trailer.Get("Grpc-Status"), response.Trailer.Get("Grpc-Message")
	if status == "" { // an answer without a body has its status in the headers
		status, reason = response.Header.Get("Grpc-Status"), response.Header.Get("Grpc-Message")
	}
	if status != "0" {
		if decoded, err := url.PathUnescape(reason); err == nil {
			reason = decoded
		}
		return nil, &statusError{method, reason, status}
	}
	if len(content) < 5 || content[0] != 0 || int(binary.BigEndian.Uint32(content[1:])) != len(content)-5 {
		return nil, fmt.Errorf("%s: expected one uncompressed message", method)
	}
	return content[5:], nil
}
