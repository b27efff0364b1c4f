package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

const (
	hostnamePrefix = "edge-health-" // the image's `pause` answers if its host name begins with this, see programs/pause
	answerPort     = "8097"
	label          = "edge-osbuild/health"
	proofTime      = 3 * time.Minute // it takes some seconds, but much longer on a slow and busy processor
	cleaningTime   = time.Minute
	answerTime     = 15 * time.Second
	attempts       = 5
	networkOfNode  = 2 // NamespaceMode NODE
	ready          = 0 // PodSandboxState SANDBOX_READY
	// containerd gives sandboxes the smallest CPU weight. In a slice with other services the process of the sandbox would
	// hardly run while they use all processors. In a slice of its own it has nothing to compete with, and the slice has
	// the weight that every slice has.
	slice = "edge-health.slice"
)

// Plugins of the CNI project and flannel. They can set up a sandbox without a Pod object. Plugins of other networks read
// the Pod from the API server, where it does not exist.
var independentPlugins = []string{
	"bandwidth", "bridge", "firewall", "flannel", "host-device", "ipvlan", "loopback", "macvlan", "portmap", "ptp", "sbr",
	"tuning", "vlan", "vrf",
}

// errStopped says that something else has stopped the sandbox.
var errStopped = errors.New("a pod sandbox was stopped before it answered")

// proveSandbox starts a temporary pod sandbox, waits for its answer, and removes it and leftovers of earlier runs.
// systemd is notified of the answer at once, because removing takes about as long as starting.
func proveSandbox(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, proofTime)
	defer cancel()
	began := time.Now()
	service := connect(containerdSocket)
	if err := service.clean(ctx); err != nil {
		return err
	}
	networks, err := service.networks(ctx)
	if err != nil {
		return err
	}
	foreign := ""
	for _, plugin := range networks {
		if !slices.Contains(independentPlugins, plugin) {
			foreign = plugin
		}
	}
	answer, err := service.attempt(ctx, foreign != "")
	if err == nil {
		if foreign != "" {
			answer = fmt.Sprintf("runs on the node's network (the plugin %s needs a pod of the cluster)", foreign)
		}
		fmt.Printf("a pod sandbox %s after %.1f s\n", answer, time.Since(began).Seconds())
		err = notifyReady()
	}
	cleaning, stop := context.WithTimeout(context.WithoutCancel(ctx), cleaningTime)
	defer stop()
	remaining := service.clean(cleaning)
	if err != nil {
		return errors.Join(err, remaining)
	}
	if remaining != nil { // not an error, because it has answered; the next check or the kubelet removes it
		fmt.Println("the sandbox is not removed yet:", remaining)
	}
	return nil
}

// attempt starts sandboxes until one has answered, and returns how.
func (service *runtimeService) attempt(ctx context.Context, onNode bool) (string, error) {
	for number := 1; ; number++ {
		suffix := strings.ToLower(rand.Text()[:12])
		answer, err := service.start(ctx, hostnamePrefix+suffix, suffix, onNode)
		// The kubelet stops unknown sandboxes some seconds after their start. Usually this one has answered by then, but
		// not if the node is busy, for example because Kubernetes has just started.
		if !errors.Is(err, errStopped) || number == attempts {
			return answer, err
		}
		fmt.Println(err, "and another one is started")
		if err := service.clean(ctx); err != nil {
			return "", err
		}
	}
}

// networks returns the types of the CNI plugins for pods. It returns an error if containerd is not ready yet.
func (service *runtimeService) networks(ctx context.Context) ([]string, error) {
	status, err := service.call(ctx, "Status", message{}.number(1, 1))
	if err != nil {
		return nil, err
	}
	var problem error
	var information string
	_ = status.visit(func(field int, _ uint64, content message) {
		if field == 2 && string(content.first(1)) == "cniconfig" {
			information = string(content.first(2))
		}
	})
	_ = status.first(1).visit(func(_ int, _ uint64, condition message) {
		name := string(condition.first(1)) // other conditions are only advice
		if condition.value(2) == 0 && (name == "RuntimeReady" || name == "NetworkReady") {
			problem = fmt.Errorf("containerd is not ready: %s: %s", name, condition.first(4))
		}
	})
	if problem != nil {
		return nil, problem
	}
	return pluginTypes(information)
}

// pluginTypes parses containerd's network configuration (verbose Status, `cniconfig`), without the loopback network.
func pluginTypes(information string) ([]string, error) {
	var parsed struct {
		Networks []struct {
			Config struct {
				Plugins []struct {
					Network struct {
						Type string `json:"type"`
					}
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(information), &parsed); err != nil {
		return nil, fmt.Errorf("containerd's network configuration: %w", err)
	}
	var types []string
	for _, network := range parsed.Networks {
		for _, plugin := range network.Config.Plugins {
			types = append(types, plugin.Network.Type)
		}
	}
	return types, nil
}

// start starts a sandbox and returns how it has answered. With `onNode`, it uses the network of the node.
func (service *runtimeService) start(ctx context.Context, hostname, suffix string, onNode bool) (string, error) {
	answer, err := service.call(ctx, "RunPodSandbox", message{}.nested(1, sandboxConfig(hostname, suffix, onNode)))
	if err != nil {
		return "", fmt.Errorf("no pod sandbox starts: %w", err)
	}
	id := string(answer.first(1))
	status, err := service.status(ctx, id)
	if err != nil || onNode {
		return "", err
	}
	address := string(status.first(5).first(1))
	if address == "" {
		return "", errors.New("a pod sandbox got no address")
	}
	return "answers at " + address, service.hear(ctx, id, address, hostname)
}

// status returns the status of a running sandbox, errStopped if it does not run.
func (service *runtimeService) status(ctx context.Context, id string) (message, error) {
	answer, err := service.call(ctx, "PodSandboxStatus", message{}.text(1, id))
	var refusal *statusError
	if errors.As(err, &refusal) && refusal.status == notFound {
		return nil, errStopped
	}
	if err != nil {
		return nil, err
	}
	status := answer.first(1)
	if status.value(3) != ready {
		return nil, errStopped
	}
	return status, nil
}

func sandboxConfig(hostname, suffix string, onNode bool) message {
	metadata := message{}.text(1, hostname).text(2, suffix).text(3, "edge-osbuild")
	context := message{}
	if onNode {
		context = context.nested(1, message{}.number(1, networkOfNode))
	}
	context = context.nested(9, message{}) // seccomp: the runtime's default
	linux := message{}.text(1, slice).nested(2, context)
	config := message{}.nested(1, metadata)
	if !onNode {
		config = config.text(2, hostname)
	}
	config = config.nested(4, message{}.text(1, "127.0.0.1")) // without a name server, containerd would copy those of the node
	return config.entry(6, label, "sandbox").nested(8, linux)
}

// hear asks the process in the sandbox for its host name until the answer is right, or the sandbox does not run any more.
func (service *runtimeService) hear(ctx context.Context, id, address, hostname string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	for {
		heard, err := ask(ctx, net.JoinHostPort(address, answerPort))
		if err == nil && heard != hostname {
			err = fmt.Errorf("another pod answers: %q", heard)
		}
		if err == nil {
			return nil
		}
		if _, stopped := service.status(ctx, id); errors.Is(stopped, errStopped) {
			return errStopped
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("a pod sandbox does not answer at its address: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func ask(ctx context.Context, address string) (string, error) {
	connection, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(time.Second))
	content, err := io.ReadAll(io.LimitReader(connection, 256))
	return string(content), err
}
