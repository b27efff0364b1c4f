package main

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// stableAddresses are those of the interface edge0, which only the node itself reaches (STABLE_ADDRESS and STABLE_ADDRESS6
// in osbuild/shared/node_settings.py).
var stableAddresses = []string{"203.0.113.254", "2001:db8:203:113::254"}

// publishAddresses keeps the annotations of this node current at which load balancers find it: its external addresses (K3s'
// `node-external-ip`), and, without configured addresses (`node-ip`), those of its interfaces.
func publishAddresses(ctx context.Context, client kubernetes.Interface, settings *networkSettings) error {
	pods, err := settings.podRanges()
	if err != nil {
		return err
	}
	published := ""
	for {
		own := ""
		if len(settings.Addresses) == 0 {
			if own, err = ownAddresses(pods); err != nil {
				return err
			}
		}
		wanted := object{externalAnnotation: textOrNull(strings.Join(settings.External, ",")), ownAnnotation: textOrNull(own)}
		patch, err := json.Marshal(object{"metadata": object{"annotations": wanted}})
		if err != nil {
			return err
		}
		if string(patch) != published {
			nodes := client.CoreV1().Nodes()
			if _, err := nodes.Patch(ctx, settings.Node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
				return err
			}
			published = string(patch)
		}
		if err := sleep(ctx, checkTime); err != nil {
			return err
		}
	}
}

// textOrNull is the value of a field in a merge patch, which null removes.
func textOrNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// podRanges returns the ranges of the pods of all nodes, from flannel's configuration.
func (settings *networkSettings) podRanges() ([]netip.Prefix, error) {
	var config struct{ Network, IPv6Network string }
	if err := readJSON(settings.Flannel, &config); err != nil {
		return nil, err
	}
	var ranges []netip.Prefix
	for _, text := range []string{config.Network, config.IPv6Network} {
		if text == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, prefix)
	}
	return ranges, nil
}

// ownAddresses returns the addresses of this node's interfaces, sorted, with commas between them: without loopback,
// link-local and stable ones, and those of the pod network.
func ownAddresses(pods []netip.Prefix) (string, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	var own []string
	for _, candidate := range all {
		network, ok := candidate.(*net.IPNet)
		if !ok {
			continue
		}
		address, ok := netip.AddrFromSlice(network.IP)
		if !ok {
			continue
		}
		address = address.Unmap()
		ofPods := slices.ContainsFunc(pods, func(prefix netip.Prefix) bool { return prefix.Contains(address) })
		if address.IsGlobalUnicast() && !ofPods && !slices.Contains(stableAddresses, address.String()) {
			own = append(own, address.String())
		}
	}
	slices.Sort(own)
	return strings.Join(own, ","), nil
}
