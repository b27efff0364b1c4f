package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

// The record: a ConfigMap with one entry for each server. An object that no server's manifests contain any more is removed.
const (
	recordNamespace = metav1.NamespaceSystem
	recordName      = "edge-manifests"
	fileAnnotation  = "edge-osbuild/manifest"
)

var (
	configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	nodes      = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
)

// keptKinds contain what users have made: their objects, or the data of their volumes. A rollback could not restore it.
var keptKinds = []string{"Namespace", "CustomResourceDefinition", "PersistentVolume", "PersistentVolumeClaim"}

// identity names an object. It is stored as group/kind/namespace/name.
type identity struct{ group, kind, namespace, name string }

func identify(object *unstructured.Unstructured) identity {
	kind := object.GroupVersionKind()
	return identity{kind.Group, kind.Kind, object.GetNamespace(), object.GetName()}
}

func (one identity) MarshalText() ([]byte, error) {
	return []byte(strings.Join([]string{one.group, one.kind, one.namespace, one.name}, "/")), nil
}

func (one *identity) UnmarshalText(text []byte) error {
	parts := strings.Split(string(text), "/")
	if len(parts) != 4 {
		return fmt.Errorf("%q is not group/kind/namespace/name", text)
	}
	*one = identity{parts[0], parts[1], parts[2], parts[3]}
	return nil
}

func (one identity) String() string {
	return strings.ReplaceAll(strings.Join([]string{one.kind, one.namespace, one.name}, " "), "  ", " ")
}

// isPerhaps says whether both may be one object. A manifest need not name the namespace.
func (one identity) isPerhaps(other identity) bool {
	unknown := one.namespace == "" || other.namespace == ""
	return one.group == other.group && one.kind == other.kind && one.name == other.name &&
		(unknown || one.namespace == other.namespace)
}

// serverRecord is what the manifests of a server contain, and what they contained before and still has to be removed.
type serverRecord struct {
	Applied []identity `json:"applied"`
	Left    []identity `json:"left,omitempty"`
	// Digest of the manifests if all of them were applied, with nothing left.
	Digest string `json:"digest,omitempty"`
}

// recorder keeps the record of one server.
type recorder struct {
	*applier
	server string
	stored string
	record serverRecord
	others []identity // what the manifests of the cluster's other servers contain
	digest string     // of the manifests
}

// newRecorder reads the record. Before anything is applied, it writes what will be: a power cut then leaves nothing behind
// that a later run does not remove.
func newRecorder(ctx context.Context, client *applier, server string, manifests []manifest) (*recorder, error) {
	keeper := &recorder{applier: client, server: server}
	earlier, err := keeper.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading what was applied: %w", err)
	}
	for _, each := range manifests {
		mark(each)
		keeper.record.Applied = append(keeper.record.Applied, identify(each.object))
	}
	if keeper.digest, err = digestOf(manifests); err != nil {
		return nil, err
	}
	if earlier.Digest == keeper.digest {
		keeper.record.Digest = keeper.digest
	}
	for _, old := range slices.Concat(earlier.Applied, earlier.Left) {
		if !slices.Contains(keeper.record.Applied, old) && !slices.Contains(keeper.record.Left, old) {
			keeper.record.Left = append(keeper.record.Left, old)
		}
	}
	err = keeper.write(ctx)
	for end := time.Now().Add(kindWait); apierrors.IsNotFound(err) && time.Now().Before(end); err = keeper.write(ctx) {
		if err := sleep(ctx, time.Second); err != nil { // the API server has just started, and makes the namespace
			return nil, err
		}
	}
	if err != nil {
		return nil, fmt.Errorf("recording what is applied: %w", err)
	}
	return keeper, nil
}

// isKnown says whether the manifests are those that were applied last.
func (keeper *recorder) isKnown() bool {
	return keeper.record.Digest != ""
}

func digestOf(manifests []manifest) (string, error) {
	hash := sha256.New()
	for _, each := range manifests {
		data, err := each.object.MarshalJSON()
		if err != nil {
			return "", err
		}
		hash.Write(data) //nolint:errcheck // it never fails
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func (keeper *recorder) records() dynamic.ResourceInterface {
	return keeper.objects.Resource(configMaps).Namespace(recordNamespace)
}

// read returns the record of this server, and remembers what other servers apply. A server without a node has left.
func (keeper *recorder) read(ctx context.Context) (serverRecord, error) {
	var own serverRecord
	object, err := keeper.records().Get(ctx, recordName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return own, nil
	} else if err != nil {
		return own, err
	}
	entries, _, err := unstructured.NestedStringMap(object.Object, "data")
	if err != nil {
		return own, err
	}
	for server, text := range entries {
		var entry serverRecord
		if err := json.Unmarshal([]byte(text), &entry); err != nil {
			return own, fmt.Errorf("ConfigMap %s, entry %s: %w", recordName, server, err)
		}
		if server == keeper.server {
			own, keeper.stored = entry, text
			continue
		}
		_, err := keeper.objects.Resource(nodes).Get(ctx, server, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		} else if err != nil {
			return own, err
		}
		keeper.others = append(keeper.others, entry.Applied...)
	}
	return own, nil
}

func (keeper *recorder) write(ctx context.Context) error {
	text, err := json.Marshal(keeper.record)
	if err != nil || string(text) == keeper.stored {
		return err
	}
	data := map[string]string{keeper.server: string(text)}
	patch, err := json.Marshal(map[string]any{"data": data})
	if err != nil {
		return err
	}
	options := metav1.PatchOptions{FieldManager: applyManager}
	_, err = keeper.records().Patch(ctx, recordName, types.MergePatchType, patch, options)
	if apierrors.IsNotFound(err) {
		empty := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": recordName},
		}}
		_, err = keeper.records().Create(ctx, empty, metav1.CreateOptions{FieldManager: applyManager})
		if err == nil || apierrors.IsAlreadyExists(err) {
			_, err = keeper.records().Patch(ctx, recordName, types.MergePatchType, patch, options)
		}
	}
	if err == nil {
		keeper.stored = string(text)
	}
	return err
}

// removeLeft removes the objects that are in no manifest any more, the ones that were applied last first. `refused` are
// manifests that could not be applied, whose namespace may be unknown.
func (keeper *recorder) removeLeft(ctx context.Context, manifests, refused []manifest) []error {
	var applied, unknown, left []identity
	for _, each := range manifests {
		applied = append(applied, identify(each.object))
	}
	for _, each := range refused {
		unknown = append(unknown, identify(each.object))
	}
	var problems []error
	for _, old := range slices.Backward(keeper.record.Left) {
		done, err := keeper.remove(ctx, old, applied, slices.Concat(unknown, keeper.others))
		if err != nil {
			problems = append(problems, fmt.Errorf("removing %s: %w", old, err))
		}
		if !done {
			left = append(left, old)
		}
	}
	slices.Reverse(left)
	keeper.record = serverRecord{Applied: applied, Left: left}
	if len(problems)+len(refused)+len(left) == 0 {
		keeper.record.Digest = keeper.digest
	}
	if err := keeper.write(ctx); err != nil {
		problems = append(problems, fmt.Errorf("recording what was applied: %w", err))
	}
	return problems
}

// remove removes an object unless it is in `applied`, or perhaps one of `kept`. It returns whether nothing is left to do.
func (keeper *recorder) remove(ctx context.Context, old identity, applied, kept []identity) (bool, error) {
	mapping, err := keeper.kinds.RESTMapping(schema.GroupKind{Group: old.group, Kind: old.kind})
	if apimeta.IsNoMatchError(err) {
		return false, nil // the kind may be defined again
	} else if err != nil {
		return false, err
	}
	client := keeper.client(mapping, &old.namespace)
	if slices.Contains(applied, old) {
		return true, nil
	}
	if slices.ContainsFunc(kept, old.isPerhaps) {
		return false, nil
	}
	object, err := client.Get(ctx, old.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	if !isApplied(object) {
		fmt.Printf("kept %s: it is not from a manifest\n", old)
		return true, nil
	}
	if slices.Contains(keptKinds, old.kind) {
		fmt.Printf("kept %s: it contains data, delete it with kubectl\n", old)
		return true, nil
	}
	identifier, policy := object.GetUID(), metav1.DeletePropagationBackground
	err = client.Delete(ctx, old.name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &identifier}, PropagationPolicy: &policy,
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, err
	}
	fmt.Println("removed", old)
	return true, nil
}

// mark adds the name of the manifest's file to the object. Without any field, the API server would not record who has
// applied it (Kubernetes documentation, "Server-Side Apply").
func mark(one manifest) {
	annotations := one.object.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[fileAnnotation] = filepath.Base(one.file)
	one.object.SetAnnotations(annotations)
}

// isApplied says whether an object is from a manifest, and not one of the same name that somebody has made since.
func isApplied(object *unstructured.Unstructured) bool {
	return slices.ContainsFunc(object.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == applyManager && entry.Operation == metav1.ManagedFieldsOperationApply
	})
}

// client returns the client for a kind. It sets the namespace to that of the object: the default one if none is given, and
// none for a kind without namespaces.
func (server *applier) client(mapping *apimeta.RESTMapping, namespace *string) dynamic.ResourceInterface {
	if mapping.Scope.Name() != apimeta.RESTScopeNameNamespace {
		*namespace = ""
		return server.objects.Resource(mapping.Resource)
	}
	if *namespace == "" {
		*namespace = corev1.NamespaceDefault
	}
	return server.objects.Resource(mapping.Resource).Namespace(*namespace)
}
