package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

const (
	hashLabel      = "helmcharts.helm.cattle.io/configHash"
	apiPlaceholder = "%{KUBERNETES_API}%"
	stablePrefix   = "stable/"
	stableURL      = "https://charts.helm.sh/stable/"
	defaultTimeout = 5 * time.Minute // Helm's own
)

// jobSettings are what helm-controller asks for.
type jobSettings struct {
	action          string
	name            string
	namespace       string
	createNamespace bool
	takeOwnership   bool
	chart           string
	fromCluster     bool // the chart is a file that the API server's host serves
	version         string
	repository      string
	set             []string
	setString       []string
	driver          string
	failurePolicy   string
	serverSide      string
	forceConflicts  bool
	passCredentials bool
	insecure        bool
	plainHTTP       bool
	timeout         time.Duration
	revision        string // the release must have this revision, if it exists
	labels          map[string]string
}

func readSettings(arguments []string) (*jobSettings, error) {
	settings := &jobSettings{
		name:            os.Getenv("NAME"),
		namespace:       os.Getenv("TARGET_NAMESPACE"),
		chart:           os.Getenv("CHART"),
		repository:      os.Getenv("REPO"),
		driver:          os.Getenv("HELM_DRIVER"),
		failurePolicy:   os.Getenv("FAILURE_POLICY"),
		serverSide:      os.Getenv("SERVER_SIDE"),
		forceConflicts:  os.Getenv("FORCE_CONFLICTS") == "true",
		passCredentials: os.Getenv("AUTH_PASS_CREDENTIALS") == "true",
		insecure:        os.Getenv("INSECURE_SKIP_TLS_VERIFY") == "true",
		plainHTTP:       os.Getenv("PLAIN_HTTP") == "true",
		timeout:         defaultTimeout,
		revision:        os.Getenv("EXPECTED_RELEASE_REVISION"),
		labels:          map[string]string{},
	}
	flags := pflag.NewFlagSet("edge-helm", pflag.ContinueOnError)
	flags.StringVar(&settings.namespace, "namespace", settings.namespace, "namespace of the release")
	flags.BoolVar(&settings.createNamespace, "create-namespace", false, "create the namespace")
	flags.BoolVar(&settings.takeOwnership, "take-ownership", false, "take over objects that exist")
	flags.StringVar(&settings.version, "version", os.Getenv("VERSION"), "version of the chart")
	flags.StringArrayVar(&settings.set, "set", nil, "values, in Helm's syntax")
	flags.StringArrayVar(&settings.setString, "set-string", nil, "values that are strings")
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	if flags.NArg() != 1 || (flags.Arg(0) != "install" && flags.Arg(0) != "delete") {
		return nil, errors.New("usage: edge-helm install|delete [--set NAME=VALUE]…")
	}
	settings.action = flags.Arg(0)
	if settings.name == "" || settings.namespace == "" {
		return nil, errors.New("the variables NAME and TARGET_NAMESPACE are required")
	}
	if os.Getenv("HELM_VERSION") == "v2" {
		return nil, errors.New("charts of Helm v2 are not supported: upgrade the chart to Helm v3")
	}
	if text := os.Getenv("TIMEOUT"); text != "" {
		timeout, err := time.ParseDuration(text)
		if err != nil {
			return nil, fmt.Errorf("TIMEOUT: %w", err)
		}
		settings.timeout = timeout
	}
	if hash := os.Getenv("CONFIG_HASH"); hash != "" {
		settings.labels[hashLabel] = hash
	}
	settings.chooseChart()
	return settings, nil
}

// chooseChart fills in the address of the API server, and separates repository and chart.
func (settings *jobSettings) chooseChart() {
	server := net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	settings.fromCluster = strings.Contains(settings.chart, apiPlaceholder)
	settings.chart = strings.ReplaceAll(settings.chart, apiPlaceholder, server)
	if settings.repository != "" {
		// helm-controller names the repository after the HelmChart object.
		settings.chart = strings.TrimPrefix(settings.chart, settings.name+"/")
	} else if rest, found := strings.CutPrefix(settings.chart, stablePrefix); found {
		settings.chart, settings.repository = rest, stableURL
	}
}

// installsServerSide says whether a new release is applied on the server.
func (settings *jobSettings) installsServerSide() bool {
	return settings.serverSide != "false"
}

// forcesConflicts says whether objects are taken from other field managers: only on the server. `method` is that of the
// release, which counts for `auto`.
func (settings *jobSettings) forcesConflicts(method string) bool {
	onServer := settings.serverSide == "true" || (settings.serverSide == "auto" && method == "ssa")
	return settings.forceConflicts && onServer
}
