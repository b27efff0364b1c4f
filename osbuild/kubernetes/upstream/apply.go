package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/pflag"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	applyManager = "edge-osbuild"
	kindWait     = time.Minute // for a kind whose definition was just applied
	requestTime  = time.Minute
)

// manifest is one object of a file.
type manifest struct {
	file   string
	object *unstructured.Unstructured
}

// applier applies objects on the server ("Server-Side Apply" in Kubernetes' documentation).
//
// Unlike kubectl it does not read the schemas of all kinds (/openapi) first. For them an API server computes for seconds on
// a small board, and again whenever a kind or an aggregated API was added; clients that wait for it give up and ask again.
type applier struct {
	kinds   *restmapper.DeferredDiscoveryRESTMapper
	objects dynamic.Interface
}

// applyFiles applies all manifests of the files and folders that the arguments name. It goes on after an error.
// With `--server NAME` these are all manifests of a server, and what its manifests contained before is removed.
func applyFiles() {
	flags := pflag.NewFlagSet("apply", pflag.ExitOnError)
	server := flags.String("server", "", "name of the node whose manifests these are: what they contained before is removed")
	_ = flags.Parse(os.Args[1:]) // ends the program itself
	if err := applyPaths(context.Background(), *server, flags.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func applyPaths(ctx context.Context, name string, paths []string) error {
	manifests, err := readManifests(paths)
	if err != nil || (len(manifests) == 0 && name == "") {
		return err
	}
	server, err := newApplier()
	if err != nil {
		return err
	}
	var keeper *recorder
	if name != "" {
		if keeper, err = newRecorder(ctx, server, name, manifests); err != nil {
			return err
		}
	}
	if keeper != nil && keeper.isKnown() {
		notifyStarted()
	}
	var refused []manifest
	var problems []error
	for _, each := range manifests {
		title := fmt.Sprintf("%s %s", each.object.GetKind(), each.object.GetName())
		if err := server.apply(ctx, each.object); err != nil {
			problems = append(problems, fmt.Errorf("%s: %s: %w", each.file, title, err))
			refused = append(refused, each)
			continue
		}
		fmt.Println("applied", title)
	}
	if keeper != nil {
		problems = append(problems, keeper.removeLeft(ctx, manifests, refused)...)
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	notifyStarted()
	return nil
}

// notifyStarted tells systemd that the unit of this program is started (sd_notify(3)).
func notifyStarted() {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		fmt.Fprintln(os.Stderr, "systemd cannot be notified:", err)
	}
}

func newApplier() (*applier, error) {
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst, config.Timeout = -1, -1, requestTime
	kinds, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &applier{restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(kinds)), objects}, nil
}

func (server *applier) apply(ctx context.Context, object *unstructured.Unstructured) error {
	mapping, err := server.findKind(ctx, object)
	if err != nil {
		return err
	}
	namespace := object.GetNamespace()
	client := server.client(mapping, &namespace)
	object.SetNamespace(namespace)
	data, err := object.MarshalJSON()
	if err != nil {
		return err
	}
	force := true
	options := metav1.PatchOptions{
		FieldManager: applyManager, Force: &force, FieldValidation: metav1.FieldValidationStrict,
	}
	_, err = client.Patch(ctx, object.GetName(), types.ApplyPatchType, data, options)
	return err
}

// findKind returns how the API names a kind. It waits for one that the server does not know yet.
func (server *applier) findKind(ctx context.Context, object *unstructured.Unstructured) (*apimeta.RESTMapping, error) {
	kind := object.GroupVersionKind()
	for end := time.Now().Add(kindWait); ; {
		mapping, err := server.kinds.RESTMapping(kind.GroupKind(), kind.Version)
		if err == nil || !apimeta.IsNoMatchError(err) || time.Now().After(end) {
			return mapping, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
			server.kinds.Reset()
		}
	}
}

// podKinds start pods, which need the processor and what other manifests contain.
var podKinds = []string{"CronJob", "DaemonSet", "Deployment", "Job", "Pod", "ReplicaSet", "ReplicationController", "StatefulSet"}

// readManifests returns the objects of files and folders: first those that others need, last those that start pods, the rest
// in their order.
func readManifests(paths []string) ([]manifest, error) {
	var found []manifest
	for _, path := range paths {
		files, err := listManifests(path)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			objects, err := readObjects(file)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			for _, object := range objects {
				found = append(found, manifest{file, object})
			}
		}
	}
	slices.SortStableFunc(found, func(one, other manifest) int { return rank(one.object) - rank(other.object) })
	return found, nil
}

func rank(object *unstructured.Unstructured) int {
	switch kind := object.GetKind(); {
	case kind == "Namespace" || kind == "CustomResourceDefinition":
		return 0
	case slices.Contains(podKinds, kind):
		return 2
	}
	return 1
}

// listManifests returns a file, or the files of a folder that kubectl would read.
func listManifests(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		if _, other := os.Stat(path); other != nil {
			return nil, other
		}
		return []string{path}, nil
	}
	var files []string
	for _, entry := range entries {
		if slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(entry.Name())) {
			files = append(files, filepath.Join(path, entry.Name()))
		}
	}
	return files, nil
}

// readObjects returns the objects of a YAML or JSON file. A list counts as its items.
func readObjects(file string) ([]*unstructured.Unstructured, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(&object.Object); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		if len(object.Object) == 0 {
			continue
		}
		if err := checkObject(object); err != nil {
			return nil, err
		}
		if !object.IsList() {
			objects = append(objects, object)
			continue
		}
		list, err := object.ToList()
		if err != nil {
			return nil, err
		}
		for index := range list.Items {
			if err := checkObject(&list.Items[index]); err != nil {
				return nil, err
			}
			objects = append(objects, &list.Items[index])
		}
	}
}

func checkObject(object *unstructured.Unstructured) error {
	if object.GetKind() == "" || object.GetAPIVersion() == "" {
		return errors.New("an object has no kind or no apiVersion")
	}
	if object.GetName() == "" && !object.IsList() && !strings.HasSuffix(object.GetKind(), "List") {
		return fmt.Errorf("a %s has no name", object.GetKind())
	}
	return nil
}
