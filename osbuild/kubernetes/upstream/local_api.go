package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// localAPISettings is what the edge agent writes to local-api.json, see osbuild/agent/kubernetes/local_api.py.
type localAPISettings struct {
	// Listen is an address on loopback, Server the host and port of the server that the node has joined.
	Listen string `json:"listen"`
	Server string `json:"server"`
	// Authority is the cluster's, Credentials the file with certificate and key of this node, Node its user name.
	Authority   string `json:"authority"`
	Credentials string `json:"credentials"`
	Node        string `json:"node"`
	// OwnAuthority is the file for the authority of this proxy, which is made at every start.
	OwnAuthority string `json:"own_authority"`
	// Store is the folder for answers, Servers the file with the list of API servers.
	Store   string `json:"store"`
	Servers string `json:"servers"`
}

const (
	largestAnswer = 256 << 20 // bytes
	tokenTime     = 10 * time.Minute
	initialEnd    = "k8s.io/initial-events-end"
)

// localAPI is the API server as the programs of an agent node see it: a proxy that uses any server of the cluster, and
// answers from what it has stored if none is reachable. So pods start again after a boot without a server.
type localAPI struct {
	settings localAPISettings
	servers  *apiServers
	store    *objectStore
	proxy    *httputil.ReverseProxy
}

// beginLocalAPI writes the proxy's authority and opens its port, which the other programs of the node need when they start.
func beginLocalAPI(_ context.Context, arguments []string) (func(ctx context.Context) error, error) {
	var settings localAPISettings
	if err := readJSON(arguments[0], &settings); err != nil {
		return nil, err
	}
	servers, err := newAPIServers(settings.Servers, settings.Server, settings.Authority, settings.Credentials)
	if err != nil {
		return nil, err
	}
	store, err := openStore(settings.Store)
	if err != nil {
		return nil, err
	}
	configuration, err := settings.serverTLS()
	if err != nil {
		return nil, err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(*httputil.ProxyRequest) {}, // apiServers chooses the host
		Transport:     servers,
		FlushInterval: -1,
		ErrorHandler:  func(writer http.ResponseWriter, _ *http.Request, err error) { refuse(writer, err) },
	}
	local := &localAPI{settings, servers, store, proxy}
	listener, err := net.Listen("tcp", settings.Listen)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: local, TLSConfig: configuration, ReadHeaderTimeout: dialTime}
	return func(ctx context.Context) error { return local.serve(ctx, server, listener) }, nil
}

func (local *localAPI) serve(ctx context.Context, server *http.Server, listener net.Listener) error {
	go local.servers.probe(ctx)
	go local.followServers(ctx)
	go local.keep(ctx)
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	err := server.ServeTLS(listener, "", "")
	return errors.Join(err, local.store.flush())
}

// serverTLS makes an authority and a certificate for this proxy. Only the node itself may connect.
func (settings *localAPISettings) serverTLS() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(settings.Listen)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: "edge-osbuild local API"},
		// The clock may be wrong at boot, and jump when it is set.
		NotBefore:             time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              now.AddDate(30, 0, 0),
		IPAddresses:           []net.IP{net.ParseIP(host)},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := replaceFile(settings.OwnAuthority, encoded, 0o644); err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(settings.Authority)
	if err != nil {
		return nil, err
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%s: no certificate authority", settings.Authority)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		// Not verified by the standard library, because a node whose certificate has expired while it had no server still needs its
		// pods: the key and the name are what counts here.
		ClientAuth: tls.RequireAnyClientCert,
		VerifyConnection: func(state tls.ConnectionState) error {
			certificate := state.PeerCertificates[0]
			if certificate.Subject.CommonName != settings.Node {
				return fmt.Errorf("%s is not this node", certificate.Subject.CommonName)
			}
			options := x509.VerifyOptions{
				Roots: clients, CurrentTime: certificate.NotAfter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			}
			_, err := certificate.Verify(options)
			return err
		},
	}, nil
}

func (local *localAPI) ServeHTTP(writer http.ResponseWriter, request *http.Request) {
	switch key, watch := cacheKey(request); {
	case key == "":
		local.proxy.ServeHTTP(writer, request)
	case watch:
		local.watch(writer, request, key)
	case request.Method == http.MethodPost:
		local.token(writer, request)
	default:
		local.read(writer, request, key)
	}
}

// cacheKey returns the name under which the answer to a request is stored, "" if it is not, and whether it is a watch.
func cacheKey(request *http.Request) (string, bool) {
	path := request.URL.Path
	if request.Method == http.MethodPost && strings.Contains(path, "/serviceaccounts/") && strings.HasSuffix(path, "/token") {
		return path, false
	}
	// Of discovery, logs and other things the programs of a node need nothing, and leases and events are not worth keeping.
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if request.Method != http.MethodGet || len(parts) < 3 || parts[0] != "api" && parts[0] != "apis" {
		return "", false
	}
	if slices.Contains(parts, "leases") || slices.Contains(parts, "events") || parts[0] == "apis" && len(parts) < 4 {
		return "", false
	}
	query := request.URL.Query()
	key := path
	for _, name := range []string{"fieldSelector", "labelSelector"} {
		if value := query.Get(name); value != "" {
			key += "?" + name + "=" + value
		}
	}
	watch := query.Get("watch")
	return key, watch == "true" || watch == "1"
}

// forward sends a request for JSON to the cluster. All pages of a list are asked for at once.
func (local *localAPI) forward(request *http.Request, body []byte) (*http.Response, error) {
	target := *request.URL
	query := target.Query()
	query.Del("limit")
	target.RawQuery = query.Encode()
	outgoing := request.Clone(request.Context())
	outgoing.URL, outgoing.RequestURI = &target, ""
	outgoing.Header.Set("Accept", "application/json")
	outgoing.Header.Del("Accept-Encoding")
	if body != nil {
		outgoing.Body, outgoing.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	return local.servers.RoundTrip(outgoing)
}

// read answers a request for an object or a list.
func (local *localAPI) read(writer http.ResponseWriter, request *http.Request, key string) {
	answer, err := local.forward(request, nil)
	if errors.Is(err, errUnreachable) {
		if stored := local.store.find(key); stored != nil {
			writeJSON(writer, http.StatusOK, stored.answer())
			return
		}
	}
	if err != nil {
		refuse(writer, err)
		return
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, largestAnswer))
	if err != nil {
		refuse(writer, err)
		return
	}
	if answer.StatusCode == http.StatusOK {
		if err := local.store.putAnswer(key, body); err != nil {
			klog.ErrorS(err, "An answer is not stored", "request", key)
		}
	}
	writer.Header().Set("Content-Type", answer.Header.Get("Content-Type"))
	writer.WriteHeader(answer.StatusCode)
	_, _ = writer.Write(body)
}

// answer returns the stored object or list as the API server would send it.
func (stored *record) answer() any {
	if stored.Object != nil {
		return stored.Object
	}
	items := make([]json.RawMessage, 0, len(stored.Items))
	for _, name := range sortedNames(stored.Items) {
		items = append(items, stored.Items[name])
	}
	return object{
		"apiVersion": stored.APIVersion, "kind": stored.Kind + "List",
		"metadata": object{"resourceVersion": stored.Version}, "items": items,
	}
}

// watch follows the changes of a list. Without a server it sends nothing, and ends once a server answers, whereupon the
// client asks for everything again.
func (local *localAPI) watch(writer http.ResponseWriter, request *http.Request, key string) {
	initial := request.URL.Query().Get("sendInitialEvents") == "true"
	answer, err := local.forward(request, nil)
	if errors.Is(err, errUnreachable) {
		local.hold(writer, request, key, initial)
		return
	}
	if err != nil {
		refuse(writer, err)
		return
	}
	defer answer.Body.Close()
	writer.Header().Set("Content-Type", "application/json")
	writer.WriteHeader(answer.StatusCode)
	if answer.StatusCode != http.StatusOK {
		_, _ = io.Copy(writer, answer.Body)
		return
	}
	if initial {
		local.store.beginList(key)
	}
	_ = http.NewResponseController(writer).Flush()
	for decoder := json.NewDecoder(answer.Body); ; {
		var line json.RawMessage
		if err := decoder.Decode(&line); err != nil {
			return // the client watches again
		}
		var event watchEvent
		if err := json.Unmarshal(line, &event); err != nil {
			return
		}
		if err := local.store.putEvent(key, &event); err != nil {
			klog.ErrorS(err, "An event is not stored", "request", key)
		}
		if _, err := writer.Write(append(line, '\n')); err != nil {
			return
		}
		_ = http.NewResponseController(writer).Flush()
	}
}

// hold answers a watch from what is stored, and keeps it open until a server answers.
func (local *localAPI) hold(writer http.ResponseWriter, request *http.Request, key string, initial bool) {
	stored := local.store.find(key)
	if stored == nil {
		refuse(writer, errUnreachable)
		return
	}
	reachable, changed := local.servers.state()
	writer.Header().Set("Content-Type", "application/json")
	writer.WriteHeader(http.StatusOK)
	if initial {
		if err := stored.writeEvents(writer); err != nil {
			return
		}
	}
	_ = http.NewResponseController(writer).Flush()
	if reachable {
		return
	}
	select {
	case <-request.Context().Done():
	case <-changed:
	}
}

// writeEvents writes the stored list as the first events of a watch (KEP-3157, "watch-list").
func (stored *record) writeEvents(writer io.Writer) error {
	encoder := json.NewEncoder(writer)
	for _, name := range sortedNames(stored.Items) {
		var item map[string]json.RawMessage
		if err := json.Unmarshal(stored.Items[name], &item); err != nil {
			return err
		}
		for field, value := range map[string]string{"apiVersion": stored.APIVersion, "kind": stored.Kind} {
			if _, present := item[field]; !present { // the items of a list have neither
				item[field], _ = json.Marshal(value)
			}
		}
		if err := encoder.Encode(object{"type": "ADDED", "object": item}); err != nil {
			return err
		}
	}
	end := object{
		"apiVersion": stored.APIVersion, "kind": stored.Kind,
		"metadata": object{"resourceVersion": stored.Version, "annotations": object{initialEnd: "true"}},
	}
	return encoder.Encode(object{"type": "BOOKMARK", "object": end})
}

// token answers a request for the token of a service account (API reference, TokenRequest). Without a server, the last one
// is repeated: it may have expired, but pods need one to start.
func (local *localAPI) token(writer http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(io.LimitReader(request.Body, largestBody))
	if err != nil {
		refuse(writer, err)
		return
	}
	key := tokenKey(request.URL.Path, body)
	request.Header.Set("Content-Type", request.Header.Get("Content-Type"))
	answer, err := local.forward(request, body)
	if errors.Is(err, errUnreachable) {
		if stored := local.store.find(key); stored != nil {
			writeJSON(writer, http.StatusCreated, extended(stored.Object, time.Now()))
			return
		}
	}
	if err != nil {
		refuse(writer, err)
		return
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(io.LimitReader(answer.Body, largestBody))
	if err != nil {
		refuse(writer, err)
		return
	}
	if answer.StatusCode == http.StatusCreated {
		local.store.change(key, func(stored *record) { *stored = record{Request: key, Object: content} })
	}
	writer.Header().Set("Content-Type", answer.Header.Get("Content-Type"))
	writer.WriteHeader(answer.StatusCode)
	_, _ = writer.Write(content)
}

// tokenKey names a token by account, audiences and the pod to which it is bound. The request is JSON or protobuf.
func tokenKey(path string, body []byte) string {
	return fmt.Sprintf("%s#%x", path, body)
}

// extended returns a stored token that is asked for again soon, when a server may be there.
func extended(stored json.RawMessage, now time.Time) any {
	var answer map[string]any
	if err := json.Unmarshal(stored, &answer); err != nil {
		return stored
	}
	if status, known := answer["status"].(map[string]any); known {
		status["expirationTimestamp"] = now.Add(tokenTime).UTC().Format(time.RFC3339)
	}
	return answer
}

// followServers keeps the list of API servers: the endpoints of the service `kubernetes`.
func (local *localAPI) followServers(ctx context.Context) {
	target := &url.URL{Scheme: "https", Host: "server", Path: "/api/v1/namespaces/default/endpoints/kubernetes"}
	for {
		if hosts, err := local.readServers(ctx, target.String()); err != nil {
			klog.V(2).InfoS("The API servers of the cluster are not known", "reason", err)
		} else if err := local.servers.learn(local.settings.Server, hosts); err != nil {
			klog.ErrorS(err, "The list of API servers is not stored")
		}
		if sleep(ctx, time.Minute) != nil {
			return
		}
	}
}

func (local *localAPI) readServers(ctx context.Context, target string) ([]string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	answer, err := local.servers.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, errors.New(answer.Status)
	}
	var endpoints endpointList
	if err := json.NewDecoder(io.LimitReader(answer.Body, largestBody)).Decode(&endpoints); err != nil {
		return nil, err
	}
	return endpoints.hosts(), nil
}

// keep writes what is new to the disk.
func (local *localAPI) keep(ctx context.Context) {
	for sleep(ctx, flushTime) == nil {
		if err := local.store.flush(); err != nil {
			klog.ErrorS(err, "Answers of the API server are not stored")
		}
		if reachable, _ := local.servers.state(); reachable {
			local.store.forget(time.Now())
		}
	}
}

func sortedNames(items map[string]json.RawMessage) []string {
	names := make([]string, 0, len(items))
	for name := range items {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func writeJSON(writer http.ResponseWriter, status int, content any) {
	encoded, err := json.Marshal(content)
	if err != nil {
		refuse(writer, err)
		return
	}
	writer.Header().Set("Content-Type", "application/json")
	writer.WriteHeader(status)
	_, _ = writer.Write(encoded)
}

// refuse answers with a Status, which clients take as a server that they should ask again later.
func refuse(writer http.ResponseWriter, problem error) {
	status := object{
		"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "ServiceUnavailable",
		"code": http.StatusServiceUnavailable, "message": problem.Error(),
	}
	encoded, _ := json.Marshal(status)
	writer.Header().Set("Content-Type", "application/json")
	writer.Header().Set("Retry-After", "2")
	writer.WriteHeader(http.StatusServiceUnavailable)
	_, _ = writer.Write(encoded)
}
