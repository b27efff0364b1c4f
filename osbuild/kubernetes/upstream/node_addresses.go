package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
)

// Labels of K3s' ServiceLB (K3s documentation, "Networking Services"). If any node has the first one, only nodes whose value
// is true are used. A Service with the second one then uses only nodes with the same value.
const (
	enableLabel = "svccontroller.k3s.cattle.io/enablelb"
	poolLabel   = "svccontroller.k3s.cattle.io/lbpool"
	// K3s' annotation of a node with its external addresses, with commas between them
	externalAnnotation = "k3s.io/external-ip"
	// our annotation of a node without configured addresses with those that it has, with commas between them
	ownAnnotation = "edge-osbuild/addresses"
)

// servicePort is a port of all addresses of a node.
type servicePort struct {
	node     string
	protocol core.Protocol
	port     int32
}

// takenPorts has the Service, or the program of the node, that uses each port.
type takenPorts map[servicePort]string

// assignment is the addresses of a Service, and why a node's are not among them.
type assignment struct {
	addresses []string
	problem   string
}

// newTakenPorts has the ports that a node needs to be one: a Service with these would cut it off from its cluster.
func newTakenPorts(nodes []*core.Node) takenPorts {
	taken := takenPorts{}
	for _, node := range nodes {
		taken[servicePort{node.Name, core.ProtocolTCP, 6443}] = "the API server"
		taken[servicePort{node.Name, core.ProtocolTCP, 10250}] = "the kubelet"
	}
	return taken
}

// comparePriority orders Services by their right to a port: those that have addresses keep them, then the older one.
func comparePriority(one, other *core.Service) int {
	waits := func(service *core.Service) int {
		if len(service.Status.LoadBalancer.Ingress) > 0 {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(waits(one), waits(other)),
		one.CreationTimestamp.Compare(other.CreationTimestamp.Time),
		cmp.Compare(one.Namespace, other.Namespace),
		cmp.Compare(one.Name, other.Name),
	)
}

// assign chooses the addresses of a Service, and takes its ports on their nodes. `ready` are the nodes with ready pods, if
// only these may be used. As in K3s, a node on which one of its ports is taken is not used at all.
func (taken takenPorts) assign(service *core.Service, nodes []*core.Node, ready map[string]bool) assignment {
	var chosen []*core.Node
	problem := "There are no available nodes for LoadBalancer"
	for _, node := range selectNodes(service, nodes) {
		if ready != nil && !ready[node.Name] {
			continue
		}
		if port, owner := taken.find(service, node.Name); owner != "" {
			problem = fmt.Sprintf("Port %d/%s of node %s is taken by %s", port.port, port.protocol, node.Name, owner)
			continue
		}
		for _, port := range service.Spec.Ports {
			taken[servicePort{node.Name, port.Protocol, port.Port}] = service.Namespace + "/" + service.Name
		}
		chosen = append(chosen, node)
	}
	addresses := familyAddresses(chosen, service.Spec.IPFamilies)
	if len(addresses) > 0 {
		problem = ""
	}
	return assignment{addresses, problem}
}

func (taken takenPorts) find(service *core.Service, node string) (servicePort, string) {
	for _, port := range service.Spec.Ports {
		key := servicePort{node, port.Protocol, port.Port}
		if owner := taken[key]; owner != "" {
			return key, owner
		}
	}
	return servicePort{}, ""
}

// selectNodes returns the nodes on which K3s' ServiceLB would run its pods for a Service, in the order of their names.
func selectNodes(service *core.Service, nodes []*core.Node) []*core.Node {
	labelled := slices.ContainsFunc(nodes, func(node *core.Node) bool {
		_, found := node.Labels[enableLabel]
		return found
	})
	pool := service.Labels[poolLabel]
	var selected []*core.Node
	for _, node := range nodes {
		excluded := labelled && (node.Labels[enableLabel] != "true" || pool != "" && node.Labels[poolLabel] != pool)
		if !excluded && isReady(node) && !slices.ContainsFunc(node.Spec.Taints, repels) {
			selected = append(selected, node)
		}
	}
	slices.SortFunc(selected, func(one, other *core.Node) int { return cmp.Compare(one.Name, other.Name) })
	return selected
}

func isReady(node *core.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(condition core.NodeCondition) bool {
		return condition.Type == core.NodeReady && condition.Status == core.ConditionTrue
	})
}

// repels says whether a taint keeps the pods of K3s' ServiceLB away from its node. They tolerate those of servers, and, as
// pods of every DaemonSet, those that Kubernetes sets for conditions of a node.
func repels(taint core.Taint) bool {
	if taint.Effect == core.TaintEffectPreferNoSchedule || strings.HasPrefix(taint.Key, "node.kubernetes.io/") {
		return false
	}
	return taint.Key != "CriticalAddonsOnly" && taint.Key != "node-role.kubernetes.io/control-plane" &&
		taint.Key != "node-role.kubernetes.io/master"
}

// familyAddresses returns the addresses of nodes in the order of a Service's families: external ones, then internal ones.
// A server without `node-ip` is registered with an address that only itself reaches; those that it has replace it.
//
// K3s lists the external ones only, if there are any. But a router in front of the node translates them, and kube-proxy has
// to know the address that it sees.
func familyAddresses(nodes []*core.Node, families []core.IPFamily) []string {
	var external, internal []string
	for _, node := range nodes {
		external = append(external, strings.Split(node.Annotations[externalAnnotation], ",")...)
		internal = append(internal, strings.Split(node.Annotations[ownAnnotation], ",")...)
		for _, address := range node.Status.Addresses {
			switch address.Type {
			case core.NodeExternalIP:
				external = append(external, address.Address)
			case core.NodeInternalIP:
				if !slices.Contains(stableAddresses, address.Address) || node.Annotations[ownAnnotation] == "" {
					internal = append(internal, address.Address)
				}
			}
		}
	}
	var chosen []string
	for _, family := range families {
		for _, addresses := range [][]string{external, internal} {
			slices.Sort(addresses)
			for _, text := range addresses {
				address, err := netip.ParseAddr(text)
				if err == nil && address.Unmap().Is4() == (family == core.IPv4Protocol) && !slices.Contains(chosen, text) {
					chosen = append(chosen, text)
				}
			}
		}
	}
	return chosen
}
