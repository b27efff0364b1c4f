package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw"
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"
	_ "github.com/flannel-io/flannel/pkg/backend/wireguard"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
	"github.com/flannel-io/flannel/pkg/trafficmngr/nftables"
	"github.com/vishvananda/netlink"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	annotations = "flannel.alpha.coreos.com"
	resyncTime  = 60 // seconds
	retryTime   = 2 * time.Second
	checkTime   = 10 * time.Second
)

// networkSettings is what the edge agent writes to network.json, see osbuild/agent/kubernetes/pod_network.py.
type networkSettings struct {
	Node       string `json:"node"`
	Kubeconfig string `json:"kubeconfig"`
	// Flannel is the path of flannel's configuration (flannel documentation, "Configuration").
	Flannel string `json:"flannel"`
	// Interface is the name of the interface for the traffic between nodes. Without it, that with the first of Addresses, or
	// that of the default route.
	Interface string `json:"interface"`
	// Addresses are the configured ones of the node, at most one per family.
	Addresses []string `json:"addresses"`
	// PublicIP and PublicIPv6 are the addresses at which other nodes reach this one, if they differ from the interface's.
	PublicIP   string `json:"public_ip"`
	PublicIPv6 string `json:"public_ipv6"`
	// External are the addresses at which clients in other networks reach this node.
	External []string `json:"external"`
	// Lease is the file that stores the node's range for the next boot.
	Lease string `json:"lease"`
	// CNI is the path of the configuration that is written once the node's range is known.
	CNI string `json:"cni"`
	// Policies says whether network policies are enforced; ServiceRanges are the cluster's.
	Policies      bool     `json:"policies"`
	ServiceRanges []string `json:"service_ranges"`
}

// networkLease is the range of the pods of this node, and the MTU of their interfaces.
type networkLease struct {
	Ranges []string `json:"ranges"`
	MTU    int      `json:"mtu"`
}

// errAddress says that the interface between nodes has another address than at the start.
var errAddress = errors.New("the address for the traffic between nodes has changed")

// connectPods connects the pods of this node with those of other nodes (flannel), and enforces network policies
// (kube-router). What fails, and what an address of this node that has changed makes wrong, starts again.
func connectPods(ctx context.Context, arguments []string) error {
	var settings networkSettings
	if err := readJSON(arguments[0], &settings); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", settings.Kubeconfig)
	if err != nil {
		return err
	}
	config.UserAgent = "edge-network"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := waitForRange(ctx, client, settings.Node); err != nil {
		return err
	}
	go again(ctx, "addresses", func(ctx context.Context) error { return publishAddresses(ctx, client, &settings) })
	if settings.Policies {
		go again(ctx, "network policies", func(ctx context.Context) error { return enforcePolicies(ctx, client, &settings) })
	}
	again(ctx, "flannel", func(ctx context.Context) error { return runFlannel(ctx, &settings) })
	return ctx.Err()
}

// again runs a part of a program until it ends without an error, or the context ends.
func again(ctx context.Context, name string, part func(ctx context.Context) error) {
	for ctx.Err() == nil {
		attempt, cancel := context.WithCancel(ctx)
		err := part(attempt)
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			klog.ErrorS(err, "A part of the program starts again", "part", name)
		}
		_ = sleep(ctx, retryTime)
	}
}

// waitForRange waits until the controller manager has given the node a range for its pods.
func waitForRange(ctx context.Context, client kubernetes.Interface, name string) error {
	said := ""
	for {
		node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err == nil && node.Spec.PodCIDR != "" {
			return nil
		}
		reason := "the node has no range for its pods yet"
		if err != nil {
			reason = err.Error()
		}
		if reason != said {
			klog.InfoS("Waiting for the node's range", "reason", reason)
			said = reason
		}
		if err := sleep(ctx, retryTime); err != nil {
			return err
		}
	}
}

func runFlannel(ctx context.Context, settings *networkSettings) error {
	if err := os.Setenv("NODE_NAME", settings.Node); err != nil { // flannel reads its node's name from it
		return err
	}
	manager, err := kube.NewSubnetManager(ctx, "", settings.Kubeconfig, annotations, settings.Flannel, true)
	if err != nil {
		return err
	}
	config, err := manager.GetNetworkConfig(ctx)
	if err != nil {
		return err
	}
	external, err := settings.findInterface(config)
	if err != nil {
		return err
	}
	kind, err := backend.NewManager(ctx, manager, external).GetBackend(config.BackendType)
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	network, err := kind.RegisterNetwork(ctx, &group, config)
	if err != nil {
		return err
	}
	rules := &nftables.NFTablesManager{}
	if err := rules.Init(ctx); err != nil {
		return err
	}
	lease := network.Lease()
	var none4 ip.IP4Net
	var none6 ip.IP6Net
	if err := rules.SetupAndEnsureMasqRules(
		ctx, config.Network, none4, none4, config.IPv6Network, none6, none6, lease, resyncTime, false,
	); err != nil {
		return err
	}
	rules.SetupAndEnsureForwardRules(ctx, config.Network, config.IPv6Network, resyncTime)
	stored := networkLease{MTU: network.MTU()}
	if config.EnableIPv4 {
		stored.Ranges = append(stored.Ranges, lease.Subnet.String())
	}
	if config.EnableIPv6 {
		stored.Ranges = append(stored.Ranges, lease.IPv6Subnet.String())
	}
	if err := settings.store(stored); err != nil {
		return err
	}
	go network.Run(ctx)
	if err := manager.CompleteLease(ctx, lease, &group); err != nil {
		return err
	}
	klog.InfoS("Pods are connected", "ranges", stored.Ranges, "backend", config.BackendType, "interface", external.IfaceName)
	for seen := ""; ; {
		if err := sleep(ctx, checkTime); err != nil {
			return err
		}
		state := networkState()
		if state == seen { // flannel's search writes to the log each time
			continue
		}
		now, err := settings.findInterface(config)
		if err != nil {
			continue // without a network, the address that other nodes know is as good as any
		}
		seen = state
		if now.IfaceName != external.IfaceName || !now.IfaceAddr.Equal(external.IfaceAddr) || !now.IfaceV6Addr.Equal(external.IfaceV6Addr) ||
			!now.ExtAddr.Equal(external.ExtAddr) || !now.ExtV6Addr.Equal(external.ExtV6Addr) {
			return errAddress
		}
	}
}

// networkState returns what the choice of an interface depends on: the addresses of this node, and its default routes.
func networkState() string {
	addresses, _ := net.InterfaceAddrs()
	state := fmt.Sprint(addresses)
	routes, _ := netlink.RouteList(nil, netlink.FAMILY_ALL)
	for _, route := range routes {
		if route.Dst == nil || route.Dst.IP.IsUnspecified() {
			state += fmt.Sprint(route)
		}
	}
	return state
}

func (settings *networkSettings) findInterface(config *subnet.Config) (*backend.ExternalInterface, error) {
	family, err := ipmatch.GetIPFamily(config.EnableIPv4, config.EnableIPv6)
	if err != nil {
		return nil, err
	}
	name := settings.Interface
	if name == "" && len(settings.Addresses) > 0 {
		if name, err = interfaceWith(settings.Addresses[0]); err != nil {
			return nil, err
		}
	}
	public := ipmatch.PublicIPOpts{PublicIP: settings.PublicIP, PublicIPv6: settings.PublicIPv6}
	external, err := ipmatch.LookupExtIface(name, "", "", family, public)
	if err != nil {
		return nil, err
	}
	for _, text := range settings.Addresses { // the interface may have more addresses
		address := net.ParseIP(text)
		switch {
		case address.To4() == nil && config.EnableIPv6:
			external.IfaceV6Addr = address
			if settings.PublicIPv6 == "" {
				external.ExtV6Addr = address
			}
		case address.To4() != nil && config.EnableIPv4:
			external.IfaceAddr = address
			if settings.PublicIP == "" {
				external.ExtAddr = address
			}
		}
	}
	return external, nil
}

// interfaceWith returns the name of the interface that has an address.
func interfaceWith(address string) (string, error) {
	wanted := net.ParseIP(address)
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	for _, candidate := range interfaces {
		addresses, err := candidate.Addrs()
		if err != nil {
			continue // it is gone
		}
		for _, existing := range addresses {
			if network, ok := existing.(*net.IPNet); ok && network.IP.Equal(wanted) {
				return candidate.Name, nil
			}
		}
	}
	return "", fmt.Errorf("no interface has the address %s", address)
}

// store writes the node's range for the next boot, and the CNI configuration of this boot.
func (settings *networkSettings) store(lease networkLease) error {
	content, err := json.Marshal(lease)
	if err != nil {
		return err
	}
	if err := replaceFile(settings.Lease, content, 0o644); err != nil {
		return err
	}
	content, err = json.MarshalIndent(cniConfig(lease), "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(settings.CNI, content, 0o644)
}

type object map[string]any

// cniConfig is a bridge with addresses from the node's ranges (CNI specification 1.0.0). The edge agent writes the same at
// boot from the stored lease, see osbuild/agent/kubernetes/pod_network.py.
func cniConfig(lease networkLease) object {
	var ranges [][]object
	var routes []object
	for _, text := range lease.Ranges {
		ranges = append(ranges, []object{{"subnet": text}})
		everything := "0.0.0.0/0"
		if prefix, err := netip.ParsePrefix(text); err == nil && prefix.Addr().Is6() {
			everything = "::/0"
		}
		routes = append(routes, object{"dst": everything})
	}
	bridge := object{
		"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "mtu": lease.MTU,
		"ipam": object{"type": "host-local", "dataDir": "/run/cni/networks", "ranges": ranges, "routes": routes},
	}
	ports := object{"type": "portmap", "capabilities": object{"portMappings": true}}
	return object{"cniVersion": "1.0.0", "name": "edge", "plugins": []object{bridge, ports}}
}
