package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// plan is a set of programs that run in one process, with their arguments. One process needs much less memory than one for
// each program, because each would hold the same tables of types, schemas and metrics.
//
// On a server, `ready` is the kubeconfig with which the programs that need the API server wait for it.
type plan struct {
	Programs map[string][]string `json:"programs"`
	Ready    string              `json:"ready"`
}

// member runs a program of a plan until the context ends. `begin` does what the next members wait for.
type member struct {
	name  string
	begin func(ctx context.Context, arguments []string) (func(ctx context.Context) error, error)
	run   func(ctx context.Context, arguments []string) error
	// needsServer says that the program ends with an error if the API server does not answer when it starts.
	needsServer bool
}

// members in the order in which they start. They stop in the opposite order.
var members = []member{
	{name: "etcd", begin: beginEtcd},
	{name: "kine", run: serveKine},
	{name: "kube-apiserver", run: serveAPI},
	{name: "kube-controller-manager", run: manageControllers, needsServer: true},
	{name: "kube-scheduler", run: schedulePods, needsServer: true},
	{name: balancerName, run: balanceServices, needsServer: true},
	{name: "helm-controller", run: manageCharts, needsServer: true},
	{name: "local-api", begin: beginLocalAPI},
	{name: "kubelet", run: runKubelet},
	{name: "kube-proxy", run: proxyServices},
	{name: "edge-network", run: connectPods},
}

const (
	stopTime = 20 * time.Second // a member that takes longer to stop is left behind
	pollTime = 250 * time.Millisecond
)

// runPlan runs all programs of a plan in this process, which ends when one of them does.
func runPlan() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: edge-kubernetes run PLAN.json")
		os.Exit(2)
	}
	var chosen plan
	if err := readJSON(os.Args[1], &chosen); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := chosen.run(ctx); err != nil {
		klog.ErrorS(err, "All programs of this process stop")
		klog.FlushAndExit(klog.ExitFlushTimeout, 1)
	}
}

// run starts the members, and stops them when the context ends or one of them has ended.
func (chosen *plan) run(ctx context.Context) error {
	ended := make(chan error, len(members))
	var stops []func()
	defer func() {
		for _, stop := range slices.Backward(stops) {
			stop()
		}
	}()
	ready := sync.OnceValue(func() error { return waitForServer(ctx, chosen.Ready) })
	for _, member := range members {
		arguments, wanted := chosen.Programs[member.name]
		if !wanted {
			continue
		}
		run := func(ctx context.Context) error { return member.run(ctx, arguments) }
		if member.begin != nil {
			begun, err := member.begin(ctx, arguments)
			if err != nil {
				return fmt.Errorf("%s: %w", member.name, err)
			}
			run = begun
		}
		part, cancel := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan struct{})
		go func() {
			defer close(done)
			err := error(nil)
			if member.needsServer {
				err = ready()
			}
			if err == nil {
				err = run(part)
			}
			if err == nil {
				err = errors.New("has ended")
			}
			ended <- fmt.Errorf("%s: %w", member.name, err)
		}()
		stops = append(stops, func() {
			cancel()
			select {
			case <-done:
			case <-time.After(stopTime):
				klog.InfoS("This program has not stopped in time", "program", member.name)
			}
		})
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

// waitForServer waits until the API server is ready (Kubernetes documentation, "Kubernetes API health endpoints").
func waitForServer(ctx context.Context, kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	for {
		if answer, err := client.Get(config.Host + "/readyz"); err == nil {
			_, _ = io.Copy(io.Discard, answer.Body)
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		if err := sleep(ctx, pollTime); err != nil {
			return err
		}
	}
}
