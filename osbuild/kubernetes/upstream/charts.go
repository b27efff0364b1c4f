package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/k3s-io/helm-controller/pkg/controllers/chart"
	"github.com/k3s-io/helm-controller/pkg/crds"
	helmcattle "github.com/k3s-io/helm-controller/pkg/generated/controllers/helm.cattle.io"
	"github.com/rancher/lasso/pkg/cache"
	lassoclient "github.com/rancher/lasso/pkg/client"
	"github.com/rancher/lasso/pkg/controller"
	"github.com/rancher/wrangler/v3/pkg/apply"
	"github.com/rancher/wrangler/v3/pkg/generated/controllers/batch"
	"github.com/rancher/wrangler/v3/pkg/generated/controllers/core"
	"github.com/rancher/wrangler/v3/pkg/generated/controllers/rbac"
	"github.com/rancher/wrangler/v3/pkg/generic"
	"github.com/rancher/wrangler/v3/pkg/schemes"
	"github.com/rancher/wrangler/v3/pkg/start"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	eventrecord "k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

const (
	chartController = "helm-controller" // K3s' name, which is stored in HelmChart objects
	chartJobRole    = "cluster-admin"
	chartWorkers    = 2
	chartsPath      = "/static/charts/" // K3s' path of charts on a server
)

// serveCharts makes the API server serve the files of a folder, as K3s' server does.
func serveCharts(folder string) http.Handler {
	return http.StripPrefix(chartsPath, http.FileServer(fileSystem{http.Dir(folder)}))
}

// fileSystem has files, but no lists of files.
type fileSystem struct{ http.FileSystem }

func (files fileSystem) Open(name string) (http.File, error) {
	file, err := files.FileSystem.Open(name)
	if err != nil {
		return nil, err
	}
	state, err := file.Stat()
	if err == nil && state.IsDir() {
		err = os.ErrNotExist
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// manageCharts runs helm-controller, which installs the chart of a HelmChart object by a job with the image `--job-image`.
func manageCharts(ctx context.Context, arguments []string) error {
	flags := pflag.NewFlagSet(chartController, pflag.ContinueOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig of the controller")
	image := flags.String("job-image", "", "image of jobs that have none of their own")
	node := flags.String("node-name", "", "name of this node, for events")
	elect := flags.Bool("leader-elect", false, "run on one server at a time only")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1
	chart.DefaultJobImage = *image
	if err := defineCharts(ctx, config); err != nil {
		return err
	}
	if !*elect {
		return runChartController(ctx, config, *node)
	}
	return leadCharts(ctx, config, *node)
}

// leadCharts runs the controller while this server has the lease.
func leadCharts(ctx context.Context, config *rest.Config, node string) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	settings := resourcelock.ResourceLockConfig{Identity: node}
	lock, err := resourcelock.New(
		resourcelock.LeasesResourceLock, metav1.NamespaceSystem, chartController, nil, client.CoordinationV1(), settings)
	if err != nil {
		return err
	}
	ended := errors.New("another server has the lease now")
	leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: 45 * time.Second, RenewDeadline: 30 * time.Second, RetryPeriod: 5 * time.Second,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				if err := runChartController(ctx, config, node); err != nil && ctx.Err() == nil {
					ended = err
				}
			},
			OnStoppedLeading: func() {},
		},
	})
	return ended
}

// defineCharts creates the definitions of HelmChart and HelmChartConfig, and waits until the API server serves them. The
// rights to do so are in a manifest, which is applied while this program starts.
func defineCharts(ctx context.Context, config *rest.Config) error {
	client, err := apiextensions.NewForConfig(config)
	if err != nil {
		return err
	}
	definitions, err := crds.List()
	if err != nil {
		return err
	}
	for _, definition := range definitions {
		definition.TypeMeta = metav1.TypeMeta{
			APIVersion: apiextensionsv1.SchemeGroupVersion.String(), Kind: "CustomResourceDefinition",
		}
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(definition)
		if err != nil {
			return err
		}
		delete(content, "status")
		data, err := json.Marshal(content)
		if err != nil {
			return err
		}
		for reported := false; ; {
			served, err := applyDefinition(ctx, client, definition.Name, data)
			if served {
				break
			}
			if err != nil && !reported {
				reported = true
				klog.InfoS("Waiting for the right to define a kind", "definition", definition.Name, "reason", err)
			}
			if err := sleep(ctx, 2*time.Second); err != nil {
				return err
			}
		}
	}
	return nil
}

// applyDefinition returns whether the API server serves the kind.
func applyDefinition(ctx context.Context, client *apiextensions.Clientset, name string, data []byte) (bool, error) {
	force := true
	options := metav1.PatchOptions{FieldManager: chartController, Force: &force}
	definition, err := client.ApiextensionsV1().CustomResourceDefinitions().Patch(
		ctx, name, types.ApplyPatchType, data, options)
	if err != nil {
		return false, err
	}
	for _, condition := range definition.Status.Conditions {
		if condition.Type == apiextensionsv1.Established {
			return condition.Status == apiextensionsv1.ConditionTrue, nil
		}
	}
	return false, nil
}

// runChartController registers the handlers of helm-controller for all namespaces, and runs them until the context ends.
func runChartController(ctx context.Context, config *rest.Config, node string) error {
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithName(chartController))
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	clients, err := lassoclient.NewSharedClientFactory(config, nil)
	if err != nil {
		return err
	}
	shared := controller.NewSharedControllerFactory(
		cache.NewSharedCachedFactory(clients, nil),
		&controller.SharedControllerFactoryOptions{
			DefaultRateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[any](5*time.Millisecond, time.Minute),
			DefaultWorkers:     chartWorkers,
		})
	options := &generic.FactoryOptions{SharedControllerFactory: shared}
	charts, errCharts := helmcattle.NewFactoryFromConfigWithOptions(config, options)
	cores, errCores := core.NewFactoryFromConfigWithOptions(config, options)
	batches, errBatches := batch.NewFactoryFromConfigWithOptions(config, options)
	roles, errRoles := rbac.NewFactoryFromConfigWithOptions(config, options)
	applying, errApply := apply.NewForConfig(config)
	if err := errors.Join(errCharts, errCores, errBatches, errRoles, errApply); err != nil {
		return err
	}
	events := eventrecord.NewBroadcaster(eventrecord.WithContext(ctx))
	events.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	recorder := events.NewRecorder(schemes.All, corev1.EventSource{Component: chartController, Host: node})
	kinds := charts.Helm().V1()
	chart.Register(ctx,
		metav1.NamespaceAll, chartController, chartJobRole, "6443", client,
		applying.WithSetOwnerReference(false, false).WithContext(ctx), recorder,
		kinds.HelmChart(), kinds.HelmChart().Cache(), kinds.HelmChartConfig(), kinds.HelmChartConfig().Cache(),
		batches.Batch().V1().Job(), batches.Batch().V1().Job().Cache(), roles.Rbac().V1().ClusterRoleBinding(),
		cores.Core().V1().ServiceAccount(), cores.Core().V1().ConfigMap(), cores.Core().V1().Secret(),
		cores.Core().V1().Secret().Cache(),
	)
	if err := start.All(ctx, chartWorkers, cores, batches, roles, charts); err != nil {
		return fmt.Errorf("starting the controllers: %w", err)
	}
	<-ctx.Done()
	return ctx.Err()
}
