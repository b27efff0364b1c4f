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
	"net/http"
	"os"
)

// apiServer is a Kubernetes API server, called with the client certificate of a kubeconfig.
type apiServer struct {
	address string
	client  *http.Client
}

// apiError is an answer with an error status (API reference, `Status`).
type apiError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (failure *apiError) Error() string {
	return fmt.Sprintf("the API server returned status %d: %s", failure.Code, failure.Message)
}

func isNotFound(err error) bool {
	var failure *apiError
	return errors.As(err, &failure) && failure.Code == http.StatusNotFound
}

// openKubeconfig reads a kubeconfig of edge-pki: JSON with embedded certificates and key.
func openKubeconfig(path string) (*apiServer, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var file struct {
		Clusters []struct {
			Cluster struct {
				Server    string `json:"server"`
				Authority []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Certificate []byte `json:"client-certificate-data"`
				Key         []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(file.Clusters) != 1 || len(file.Users) != 1 {
		return nil, fmt.Errorf("%s: expected one cluster and one user", path)
	}
	pair, err := tls.X509KeyPair(file.Users[0].User.Certificate, file.Users[0].User.Key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(file.Clusters[0].Cluster.Authority) {
		return nil, fmt.Errorf("%s: no certificate authority", path)
	}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
	return &apiServer{file.Clusters[0].Cluster.Server, &http.Client{Transport: transport}}, nil
}

// open sends a request and returns the body of a successful answer, which the caller closes.
func (server *apiServer) open(ctx context.Context, method, path, kind string, body any) (io.ReadCloser, error) {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, server.address+path, content)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", kind)
	request.Header.Set("Accept", "application/json")
	response, err := server.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode < 300 {
		return response.Body, nil
	}
	defer response.Body.Close()
	failure := &apiError{Code: response.StatusCode, Message: response.Status}
	_ = json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(failure)
	return nil, failure
}

// call sends a request and decodes the JSON of its answer into `result`, unless that is nil.
func (server *apiServer) call(ctx context.Context, method, path, kind string, body, result any) error {
	answer, err := server.open(ctx, method, path, kind, body)
	if err != nil {
		return err
	}
	defer answer.Close()
	if result == nil {
		return nil
	}
	return json.NewDecoder(answer).Decode(result)
}
