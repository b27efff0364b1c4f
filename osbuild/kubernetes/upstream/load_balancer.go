package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	eventlog "k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
)

const (
	balancerName = "edge-load-balancer"
	balancerOff  = "off"
	// changes that follow each other within this time are handled together
	balancerDelay = 200 * time.Millisecond
	balancerRetry = 5 * time.Second
)

// balancer keeps the addresses of Services of type LoadBalancer current. kube-proxy of each node does the forwarding: it
// also serves the addresses of a Service in status.loadBalancer.
//
// Servers of one cluster each run one. They come to the same result, because it follows from the stored objects only.
type balancer struct {
	client   kubernetes.Interface
	services corelisters.ServiceLister
	nodes    corelisters.NodeLister
	slices   discoverylisters.EndpointSliceLister
	events   eventlog.EventRecorder
	said     map[types.UID]string // the last problem of a Service that was reported
}

// balanceServices runs the balancer until the context ends. The arguments are a kubeconfig and, if the cluster is to have
// none, `off`: then the addresses that an earlier image has assigned are removed.
func balanceServices(ctx context.Context, arguments []string) error {
	config, err := clientcmd.BuildConfigFromFlags("", arguments[0])
	if err != nil {
		return err
	}
	config.UserAgent = balancerName
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if len(arguments) > 1 && arguments[1] == balancerOff {
		again(ctx, "release of addresses", func(ctx context.Context) error { return releaseAddresses(ctx, client) })
		<-ctx.Done()
		return ctx.Err()
	}
	return runBalancer(ctx, client)
}

func runBalancer(ctx context.Context, client kubernetes.Interface) error {
	// At the first boot of a cluster, its rights are among the manifests that are applied last.
	for {
		_, err := client.DiscoveryV1().EndpointSlices("").List(ctx, metav1.ListOptions{Limit: 1})
		if err == nil {
			break
		}
		if err := sleep(ctx, retryTime); err != nil {
			return err
		}
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(dropUnused))
	broadcaster := eventlog.NewBroadcaster(eventlog.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: client.CoreV1().Events("")})
	defer broadcaster.Shutdown()
	balancer := &balancer{
		client:   client,
		services: factory.Core().V1().Services().Lister(),
		nodes:    factory.Core().V1().Nodes().Lister(),
		slices:   factory.Discovery().V1().EndpointSlices().Lister(),
		events:   broadcaster.NewRecorder(scheme.Scheme, core.EventSource{Component: balancerName}),
		said:     map[types.UID]string{},
	}
	changed := make(chan struct{}, 1)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { notify() }, UpdateFunc: func(any, any) { notify() }, DeleteFunc: func(any) { notify() },
	}
	for _, informer := range []cache.SharedIndexInformer{
		factory.Core().V1().Services().Informer(),
		factory.Core().V1().Nodes().Informer(),
		factory.Discovery().V1().EndpointSlices().Informer(),
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	klog.InfoS("Services of type LoadBalancer get addresses of nodes")
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
		if err := sleep(ctx, balancerDelay); err != nil {
			return err
		}
		if err := balancer.assign(ctx); err != nil {
			klog.ErrorS(err, "Addresses of services are assigned again")
			time.AfterFunc(balancerRetry, notify)
		}
	}
}

// dropUnused removes what this program does not need from objects before they are stored, to save memory.
func dropUnused(stored any) (any, error) {
	switch object := stored.(type) {
	case *core.Service:
		object.ManagedFields, object.Annotations = nil, nil
	case *core.Node:
		object.ManagedFields = nil
		kept := map[string]string{}
		for _, name := range []string{externalAnnotation, ownAnnotation} {
			kept[name] = object.Annotations[name]
		}
		object.Annotations = kept
		object.Status = core.NodeStatus{Conditions: object.Status.Conditions, Addresses: object.Status.Addresses}
	case *discovery.EndpointSlice:
		object.ManagedFields, object.Annotations, object.Ports = nil, nil, nil
		for index := range object.Endpoints {
			old := &object.Endpoints[index]
			object.Endpoints[index] = discovery.Endpoint{Conditions: old.Conditions, NodeName: old.NodeName, TargetRef: old.TargetRef}
		}
	}
	return stored, nil
}

// wantsAddresses says whether a Service is one of this load balancer: one with a class is another one's.
func wantsAddresses(service *core.Service) bool {
	return service.Spec.Type == core.ServiceTypeLoadBalancer && service.Spec.LoadBalancerClass == nil &&
		service.DeletionTimestamp == nil
}

// assign updates the addresses of all Services.
func (balancer *balancer) assign(ctx context.Context) error {
	services, err := balancer.services.List(labels.Everything())
	if err != nil {
		return err
	}
	nodes, err := balancer.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	var problems []error
	wanting := services[:0:0]
	for _, service := range services {
		switch {
		case wantsAddresses(service):
			wanting = append(wanting, service)
		case service.Spec.Type != core.ServiceTypeLoadBalancer && len(service.Status.LoadBalancer.Ingress) > 0:
			problems = append(problems, balancer.publish(ctx, service, nil))
		}
	}
	slices.SortFunc(wanting, comparePriority)
	taken := newTakenPorts(nodes)
	said := balancer.said
	balancer.said = map[types.UID]string{} // without Services that are gone
	for _, service := range wanting {
		ready, err := balancer.readyNodes(service)
		if err != nil {
			return err
		}
		chosen := taken.assign(service, nodes, ready)
		if balancer.said[service.UID] = chosen.problem; chosen.problem != "" && chosen.problem != said[service.UID] {
			balancer.events.Event(service, core.EventTypeWarning, "UnAvailableLoadBalancer", chosen.problem)
		}
		problems = append(problems, balancer.publish(ctx, service, chosen.addresses))
	}
	return errors.Join(problems...)
}

// readyNodes returns the nodes with ready pods of a Service, or nil if each node forwards to pods of others.
func (balancer *balancer) readyNodes(service *core.Service) (map[string]bool, error) {
	if service.Spec.ExternalTrafficPolicy != core.ServiceExternalTrafficPolicyLocal {
		return nil, nil
	}
	selector := labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: service.Name})
	parts, err := balancer.slices.EndpointSlices(service.Namespace).List(selector)
	if err != nil {
		return nil, err
	}
	ready := map[string]bool{}
	for _, part := range parts {
		for _, endpoint := range part.Endpoints {
			if endpoint.NodeName != nil && endpoint.TargetRef != nil && endpoint.TargetRef.Kind == "Pod" &&
				endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
				ready[*endpoint.NodeName] = true
			}
		}
	}
	return ready, nil
}

// publish writes the addresses of a Service to its status if they have changed.
func (balancer *balancer) publish(ctx context.Context, service *core.Service, addresses []string) error {
	current := addressesOf(service)
	if slices.Equal(current, addresses) {
		return nil
	}
	if err := patchAddresses(ctx, balancer.client, service, addresses); err != nil {
		return err
	}
	if len(addresses) > 0 {
		balancer.events.Eventf(service, core.EventTypeNormal, "UpdatedLoadBalancer",
			"Updated LoadBalancer with new IPs: [%s] -> [%s]", strings.Join(current, " "), strings.Join(addresses, " "))
	}
	return nil
}

func addressesOf(service *core.Service) []string {
	var addresses []string
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		addresses = append(addresses, ingress.IP+ingress.Hostname)
	}
	return addresses
}

func patchAddresses(ctx context.Context, client kubernetes.Interface, service *core.Service, addresses []string) error {
	ingress := []object{}
	for _, address := range addresses {
		ingress = append(ingress, object{"ip": address})
	}
	patch, err := json.Marshal(object{
		"metadata": object{"uid": service.UID}, // not that of a new Service with the same name
		"status":   object{"loadBalancer": object{"ingress": ingress}},
	})
	if err != nil {
		return err
	}
	options := metav1.PatchOptions{FieldManager: balancerName}
	_, err = client.CoreV1().Services(service.Namespace).Patch(ctx, service.Name, types.MergePatchType, patch, options, "status")
	if err != nil {
		return fmt.Errorf("%s/%s: %w", service.Namespace, service.Name, err)
	}
	return nil
}

// releaseAddresses removes the addresses that this program has assigned when it was on.
func releaseAddresses(ctx context.Context, client kubernetes.Interface) error {
	services, err := client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var problems []error
	for index := range services.Items {
		service := &services.Items[index]
		ours := slices.ContainsFunc(service.ManagedFields, func(entry metav1.ManagedFieldsEntry) bool {
			return entry.Manager == balancerName && entry.Subresource == "status"
		})
		if ours && len(service.Status.LoadBalancer.Ingress) > 0 {
			problems = append(problems, patchAddresses(ctx, client, service, nil))
		}
	}
	return errors.Join(problems...)
}
