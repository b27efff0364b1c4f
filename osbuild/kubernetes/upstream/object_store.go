package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

const (
	flushTime  = 3 * time.Second
	forgetTime = 7 * 24 * time.Hour
)

// identity of an object within a list.
type objectMeta struct {
	Metadata struct {
		Name            string            `json:"name"`
		Namespace       string            `json:"namespace"`
		ResourceVersion string            `json:"resourceVersion"`
		Annotations     map[string]string `json:"annotations"`
	} `json:"metadata"`
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// record is the last answer to a request: a single object, or a list that watch events have kept up to date.
type record struct {
	Request    string                     `json:"request"`
	Used       time.Time                  `json:"used"`
	Object     json.RawMessage            `json:"object,omitempty"`
	APIVersion string                     `json:"apiVersion,omitempty"`
	Kind       string                     `json:"kind,omitempty"`
	Version    string                     `json:"resourceVersion,omitempty"`
	Items      map[string]json.RawMessage `json:"items,omitempty"`
	dirty      bool
}

// objectStore keeps what the API server has told this node, on the disk, for times without an API server.
type objectStore struct {
	folder  string
	mutex   sync.Mutex
	records map[string]*record
}

func openStore(folder string) (*objectStore, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	store := &objectStore{folder: folder, records: map[string]*record{}}
	names, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		stored := &record{}
		if err := readJSON(name, stored); err != nil || stored.Request == "" {
			klog.ErrorS(err, "A stored answer is damaged and is removed", "file", name)
			_ = os.Remove(name)
			continue
		}
		store.records[stored.Request] = stored
	}
	return store, nil
}

func (store *objectStore) path(request string) string {
	digest := sha256.Sum256([]byte(request))
	return filepath.Join(store.folder, hex.EncodeToString(digest[:16])+".json")
}

// change applies a change to the record of a request, which is created if there is none.
func (store *objectStore) change(request string, apply func(*record)) {
	store.mutex.Lock()
	defer store.mutex.Unlock()
	found := store.records[request]
	if found == nil {
		found = &record{Request: request}
		store.records[request] = found
	}
	apply(found)
	found.Used, found.dirty = time.Now().UTC().Truncate(time.Hour), true
}

// putAnswer stores a complete answer: an object or a list.
func (store *objectStore) putAnswer(request string, body []byte) error {
	var list struct {
		objectMeta
		Items *[]json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return err
	}
	if list.Items == nil {
		store.change(request, func(stored *record) { *stored = record{Request: request, Object: body} })
		return nil
	}
	items := make(map[string]json.RawMessage, len(*list.Items))
	for _, item := range *list.Items {
		var meta objectMeta
		if err := json.Unmarshal(item, &meta); err != nil {
			return err
		}
		items[meta.Metadata.Namespace+"/"+meta.Metadata.Name] = item
	}
	store.change(request, func(stored *record) {
		*stored = record{
			Request: request, APIVersion: list.APIVersion, Kind: strings.TrimSuffix(list.Kind, "List"),
			Version: list.Metadata.ResourceVersion, Items: items,
		}
	})
	return nil
}

// watchEvent is an event of a watch (Kubernetes API concepts, "Efficient detection of changes").
type watchEvent struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

// putEvent keeps a stored list up to date.
func (store *objectStore) putEvent(request string, event *watchEvent) error {
	var meta objectMeta
	if err := json.Unmarshal(event.Object, &meta); err != nil {
		return err
	}
	name := meta.Metadata.Namespace + "/" + meta.Metadata.Name
	switch event.Type {
	case "ADDED", "MODIFIED":
		store.change(request, func(stored *record) {
			if stored.Items == nil {
				stored.Items = map[string]json.RawMessage{}
			}
			stored.APIVersion, stored.Kind = meta.APIVersion, meta.Kind
			stored.Items[name], stored.Version = event.Object, meta.Metadata.ResourceVersion
		})
	case "DELETED":
		store.change(request, func(stored *record) {
			delete(stored.Items, name)
			stored.Version = meta.Metadata.ResourceVersion
		})
	}
	return nil
}

// beginList forgets the items of a list, before a watch sends all of them again.
func (store *objectStore) beginList(request string) {
	store.change(request, func(stored *record) { stored.Items = map[string]json.RawMessage{} })
}

// find returns a copy of a record, nil if there is none.
func (store *objectStore) find(request string) *record {
	store.mutex.Lock()
	defer store.mutex.Unlock()
	found := store.records[request]
	if found == nil {
		return nil
	}
	result := *found
	result.Items = make(map[string]json.RawMessage, len(found.Items))
	for name, item := range found.Items {
		result.Items[name] = item
	}
	return &result
}

// flush writes changed records to the disk, and forgets those that nothing has asked for in a week.
func (store *objectStore) flush() error {
	store.mutex.Lock()
	contents := map[string][]byte{}
	var problems []error
	for request, stored := range store.records {
		if !stored.dirty {
			continue
		}
		content, err := json.Marshal(stored)
		problems = append(problems, err)
		contents[store.path(request)] = content
		stored.dirty = false
	}
	store.mutex.Unlock()
	for path, content := range contents {
		problems = append(problems, replaceFile(path, content, 0o600))
	}
	return errors.Join(problems...)
}

// forget removes records that nothing has asked for in a week.
func (store *objectStore) forget(now time.Time) {
	store.mutex.Lock()
	defer store.mutex.Unlock()
	for request, stored := range store.records {
		if now.Sub(stored.Used) > forgetTime {
			delete(store.records, request)
			_ = os.Remove(store.path(request))
		}
	}
}
