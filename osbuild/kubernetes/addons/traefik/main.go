// Command edge-traefik is Traefik as an ingress controller of this cluster, in the image edge-traefik.
//
// It has Traefik's provider for Kubernetes Ingress only, and neither dashboard, plugins, tracing nor certificates by ACME.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/rs/zerolog/log"
	ptypes "github.com/traefik/paerser/types"
	"github.com/traefik/traefik/v3/pkg/config/dynamic"
	"github.com/traefik/traefik/v3/pkg/config/runtime"
	"github.com/traefik/traefik/v3/pkg/config/static"
	"github.com/traefik/traefik/v3/pkg/observability/metrics"
	otypes "github.com/traefik/traefik/v3/pkg/observability/types"
	"github.com/traefik/traefik/v3/pkg/ping"
	"github.com/traefik/traefik/v3/pkg/provider/kubernetes/ingress"
	"github.com/traefik/traefik/v3/pkg/provider/traefik"
	"github.com/traefik/traefik/v3/pkg/proxy/httputil"
	"github.com/traefik/traefik/v3/pkg/safe"
	"github.com/traefik/traefik/v3/pkg/server"
	"github.com/traefik/traefik/v3/pkg/server/middleware"
	"github.com/traefik/traefik/v3/pkg/server/service"
	"github.com/traefik/traefik/v3/pkg/tcp"
	"github.com/traefik/traefik/v3/pkg/tls"
)

// Names of the entry points, as in K3s.
const (
	web       = "web"
	webSecure = "websecure"
	internal  = "traefik" // health
	measured  = "metrics"
)

// providers are those of this program. The internal one, which Traefik waits for, is the last.
type providers struct {
	ingress  *ingress.Provider
	internal *traefik.Provider
}

func (providers *providers) Init() error { return nil }

func (providers *providers) Provide(configurations chan<- dynamic.Message, pool *safe.Pool) error {
	safe.Go(func() {
		if err := providers.ingress.Provide(configurations, pool); err != nil {
			log.Fatal().Err(err).Msg("The provider for Ingress objects does not start")
		}
	})
	return providers.internal.Provide(configurations, pool)
}

func entryPoint(address string) *static.EntryPoint {
	point := &static.EntryPoint{Address: address}
	point.SetDefaults()
	// As nginx does: X_Forwarded_For would reach programs under the same name as X-Forwarded-For, which Traefik sets.
	point.HTTP.AliasHeadersStrategy = "delete"
	return point
}

// configure returns Traefik's static configuration. `service` is the Service with the addresses that Ingress objects get.
func configure(service string) static.Configuration {
	health := &ping.Handler{}
	health.SetDefaults()
	figures := &otypes.Prometheus{}
	figures.SetDefaults()
	figures.EntryPoint = measured
	secure := entryPoint(":8443")
	secure.HTTP.TLS = &static.TLSConfig{}
	configuration := static.Configuration{
		EntryPoints: static.EntryPoints{
			web: entryPoint(":8000"), webSecure: secure, internal: entryPoint(":8080"), measured: entryPoint(":9100"),
		},
		Metrics:          &otypes.Metrics{Prometheus: figures},
		Ping:             health,
		Providers:        &static.Providers{ProvidersThrottleDuration: ptypes.Duration(2 * time.Second)},
		ServersTransport: &static.ServersTransport{MaxIdleConnsPerHost: 200},
		TCPServersTransport: &static.TCPServersTransport{
			DialTimeout: ptypes.Duration(30 * time.Second), DialKeepAlive: ptypes.Duration(15 * time.Second),
		},
	}
	configuration.Providers.KubernetesIngress = &ingress.Provider{
		IngressEndpoint:      &ingress.EndpointIngress{PublishedService: service},
		StrictPrefixMatching: true, // "foo" is not a prefix of "foobar" (Ingress API, pathType Prefix)
	}
	return configuration
}

func newServer(ctx context.Context, configuration *static.Configuration) (*server.Server, error) {
	pool := safe.NewPool(ctx)
	certificates := tls.NewManager(nil)
	pool.GoCtx(certificates.Run)
	figures := metrics.NewMultiRegistry([]metrics.Registry{metrics.RegisterPrometheus(ctx, configuration.Metrics.Prometheus)})
	observability := middleware.NewObservabilityMgr(*configuration, figures, nil, nil, nil, nil)
	points, err := server.NewTCPEntryPoints(configuration.EntryPoints, nil, figures)
	if err != nil {
		return nil, err
	}
	datagrams, err := server.NewUDPEntryPoints(configuration.EntryPoints)
	if err != nil {
		return nil, err
	}
	transports := service.NewTransportManager(nil)
	dialers := tcp.NewDialerManager(nil)
	proxies := httputil.NewProxyBuilder(transports, nil)
	services := service.NewManagerFactory(*configuration, pool, observability, transports, proxies, nil, certificates)
	routers, err := server.NewRouterFactory(*configuration, services, certificates, observability, nil, dialers)
	if err != nil {
		return nil, err
	}
	sources := &providers{ingress: configuration.Providers.KubernetesIngress, internal: traefik.New(*configuration)}
	watcher := server.NewConfigurationWatcher(pool, sources, []string{web, webSecure}, "internal", false)
	watcher.AddListener(func(changed dynamic.Configuration) {
		certificates.UpdateConfigs(ctx, changed.TLS.Stores, changed.TLS.Options, changed.TLS.Certificates)
		transports.Update(changed.HTTP.ServersTransports)
		proxies.Update(changed.HTTP.ServersTransports)
		dialers.Update(changed.TCP.ServersTransports)
		accepted, _ := routers.CreateRouters(runtime.NewConfig(changed))
		points.Switch(accepted)
		metrics.OnConfigurationUpdate(changed, []string{web, webSecure, measured})
	})
	return server.NewServer(pool, points, datagrams, watcher, observability), nil
}

func run() error {
	published := flag.String("published-service", "", "NAMESPACE/NAME of the Service whose addresses Ingress objects get")
	level := flag.String("log-level", "info", "debug, info, warn or error")
	flag.Parse()
	chosen, err := zerolog.ParseLevel(*level)
	if err != nil {
		return err
	}
	log.Logger = zerolog.New(os.Stdout).With().Timestamp().Logger().Level(chosen)
	zerolog.DefaultContextLogger = &log.Logger
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	configuration := configure(*published)
	configuration.Ping.WithContext(ctx)
	traefikServer, err := newServer(context.WithoutCancel(ctx), &configuration)
	if err != nil {
		return err
	}
	traefikServer.Start(ctx)
	defer traefikServer.Close()
	traefikServer.Wait()
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
