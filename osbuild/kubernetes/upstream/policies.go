package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cloudnativelabs/kube-router/v2/pkg/controllers/netpol"
	"github.com/cloudnativelabs/kube-router/v2/pkg/healthcheck"
	"github.com/cloudnativelabs/kube-router/v2/pkg/options"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const policyResync = 5 * time.Minute

// enforcePolicies filters the traffic of this node's pods by the cluster's NetworkPolicy objects, with kube-router's
// controller. It needs the programs iptables and ipset.
func enforcePolicies(ctx context.Context, client kubernetes.Interface, settings *networkSettings) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := watchAddresses(ctx, client, settings.Node, stop); err != nil {
		return err
	}
	config := options.NewKubeRouterConfig()
	config.HostnameOverride = settings.Node
	config.ClusterIPCIDRs = settings.ServiceRanges
	config.IPTablesSyncPeriod = policyResync
	for _, text := range settings.ServiceRanges {
		if strings.Contains(text, ":") {
			config.EnableIPv6 = true
		} else {
			config.EnableIPv4 = true
		}
	}
	tables, sets, err := netpol.NewIPTablesHandlers(config)
	if err != nil {
		return fmt.Errorf("network policies: %w", err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	pods := factory.Core().V1().Pods().Informer()
	namespaces := factory.Core().V1().Namespaces().Informer()
	policies := factory.Networking().V1().NetworkPolicies().Informer()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	var mutex sync.Mutex
	controller, err := netpol.NewNetworkPolicyController(client, config, pods, policies, namespaces, &mutex, tables, sets)
	if err != nil {
		return fmt.Errorf("network policies: %w", err)
	}
	_, errPods := pods.AddEventHandler(controller.PodEventHandler)
	_, errNamespaces := namespaces.AddEventHandler(controller.NamespaceEventHandler)
	_, errPolicies := policies.AddEventHandler(controller.NetworkPolicyEventHandler)
	for _, err := range []error{errPods, errNamespaces, errPolicies} {
		if err != nil {
			return fmt.Errorf("network policies: %w", err)
		}
	}
	heartbeats := make(chan *healthcheck.ControllerHeartbeat, 10)
	go func() { // nobody asks for them: a failure ends the process, and a hang shows in the journal
		for {
			select {
			case <-heartbeats:
			case <-ctx.Done():
				return
			}
		}
	}()
	var group sync.WaitGroup
	group.Add(1)
	controller.Run(heartbeats, ctx.Done(), &group)
	return errors.New("the controller of network policies has ended")
}

// watchAddresses calls `changed` once the node has other addresses than now. The controller asks for them once, and finds
// the pods of its node by them.
func watchAddresses(ctx context.Context, client kubernetes.Interface, name string, changed func()) error {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(
		func(options *metav1.ListOptions) { options.FieldSelector = "metadata.name=" + name },
	))
	nodes := factory.Core().V1().Nodes()
	informer := nodes.Informer()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	node, err := nodes.Lister().Get(name)
	if err != nil {
		return fmt.Errorf("network policies: %w", err)
	}
	known := node.Status.Addresses
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, updated any) {
		if node, ok := updated.(*core.Node); ok && !slices.Equal(node.Status.Addresses, known) {
			klog.InfoS("The addresses of the node have changed: network policies start again")
			changed()
		}
	}})
	return err
}
