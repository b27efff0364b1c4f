package main

import (
	"context"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	_ "github.com/k3s-io/kine/pkg/endpoint" // registers the drivers
	"github.com/k3s-io/kine/pkg/server"
	"k8s.io/klog/v2"
)

// kine tells the API server how far its watches have come (etcd's progress notifications), but does not wait for changes
// that are on their way from the database to a watch. The API server then answers a list from its cache without such a
// change, and a watch that begins at the revision of this list never gets it. Here, one goroutine reads all changes and
// gives them to the watches, and progress means what it has given.

const (
	// batches of changes that a watch may be behind before it is cancelled, as in kine
	watchBacklog = 100

	followPause = time.Second
)

// orderedBackend is a backend of kine whose watches have received all changes up to its current revision.
type orderedBackend struct {
	server.Backend
	mutex   sync.Mutex
	given   int64 // revision of the last change that all watches were given
	watches map[*orderedWatch]struct{}
}

// orderedWatch is one watch of the API server. Until its first answer is complete, `pending` collects new changes.
type orderedWatch struct {
	key, end string
	start    int64 // the first revision that it wants
	starting bool
	pending  []*server.Event
	events   chan []*server.Event
}

// init puts the backend in front of the databases that a server may have.
func init() {
	for _, scheme := range []string{"sqlite", "postgres", "mysql"} {
		if construct, found := drivers.Get(scheme); found {
			drivers.Register(scheme, orderWatches(construct))
		}
	}
}

func orderWatches(construct drivers.Constructor) drivers.Constructor {
	return func(ctx context.Context, wait *sync.WaitGroup, config *drivers.Config) (bool, server.Backend, error) {
		elects, backend, err := construct(ctx, wait, config)
		if err != nil || backend == nil {
			return elects, backend, err
		}
		return elects, &orderedBackend{Backend: backend, watches: map[*orderedWatch]struct{}{}}, nil
	}
}

// Start starts the backend, and begins to follow the changes.
func (backend *orderedBackend) Start(ctx context.Context) error {
	if err := backend.Backend.Start(ctx); err != nil {
		return err
	}
	revision, err := backend.Backend.CurrentRevision(ctx)
	if err != nil {
		return err
	}
	backend.given = revision
	go backend.follow(ctx)
	return nil
}

// CurrentRevision is the revision up to which all watches have their changes.
func (backend *orderedBackend) CurrentRevision(context.Context) (int64, error) {
	backend.mutex.Lock()
	defer backend.mutex.Unlock()
	return backend.given, nil
}

// WaitForSyncTo does not wait: the current revision is what the watches have. kine itself notices up to a second later that
// it has read a change, and all lists of the API server that want the newest state wait for it.
func (backend *orderedBackend) WaitForSyncTo(int64) {}

// follow gives all changes to the watches. If it loses some, it cancels the watches: their clients list again.
func (backend *orderedBackend) follow(ctx context.Context) {
	for ctx.Err() == nil {
		given, _ := backend.CurrentRevision(ctx)
		result := backend.Backend.Watch(ctx, "", "", given+1)
		if result.CompactRevision != 0 {
			given = result.CurrentRevision
		}
		for events := range result.Events {
			backend.give(events)
		}
		backend.cancelAll(given)
		select {
		case <-ctx.Done():
		case <-time.After(followPause):
		}
	}
}

func (backend *orderedBackend) give(events []*server.Event) {
	if len(events) == 0 {
		return
	}
	backend.mutex.Lock()
	defer backend.mutex.Unlock()
	for watch := range backend.watches {
		wanted := watch.choose(events)
		if len(wanted) == 0 {
			continue
		}
		if watch.starting {
			watch.pending = append(watch.pending, wanted...)
			continue
		}
		select {
		case watch.events <- wanted:
		default:
			klog.InfoS("A watch is too slow and is cancelled", "key", watch.key)
			backend.cancel(watch)
		}
	}
	backend.given = max(backend.given, events[len(events)-1].KV.ModRevision)
}

// choose returns the changes that a watch wants.
func (watch *orderedWatch) choose(events []*server.Event) []*server.Event {
	var wanted []*server.Event
	for _, event := range events {
		if event.KV.ModRevision >= watch.start && event.InRange(watch.key, watch.end) {
			wanted = append(wanted, event)
		}
	}
	return wanted
}

// cancel ends a watch. The mutex is held.
func (backend *orderedBackend) cancel(watch *orderedWatch) {
	if _, found := backend.watches[watch]; found {
		delete(backend.watches, watch)
		close(watch.events)
	}
}

func (backend *orderedBackend) cancelAll(given int64) {
	backend.mutex.Lock()
	defer backend.mutex.Unlock()
	backend.given = max(backend.given, given)
	for watch := range backend.watches {
		backend.cancel(watch)
	}
}

// Watch begins a watch. It returns when all changes from the wanted revision up to now are in the channel of the result,
// so that the watch counts as behind until it has sent them.
func (backend *orderedBackend) Watch(ctx context.Context, key, end string, revision int64) server.WatchResult {
	if revision <= 0 {
		return backend.Backend.Watch(ctx, key, end, revision)
	}
	watch := &orderedWatch{
		key: key, end: end, start: revision, starting: true, events: make(chan []*server.Event, watchBacklog),
	}
	backend.mutex.Lock()
	given := backend.given
	backend.watches[watch] = struct{}{}
	backend.mutex.Unlock()
	context.AfterFunc(ctx, func() {
		backend.mutex.Lock()
		defer backend.mutex.Unlock()
		backend.cancel(watch)
	})
	var earlier []*server.Event
	result := server.WatchResult{}
	if revision <= given {
		earlier, result = backend.history(ctx, revision, given)
	}
	backend.mutex.Lock()
	defer backend.mutex.Unlock()
	if result.CompactRevision != 0 || result.Errorc != nil {
		backend.cancel(watch)
	} else if _, found := backend.watches[watch]; found {
		if first := append(watch.choose(earlier), watch.pending...); len(first) != 0 {
			watch.events <- first
		}
	}
	watch.starting, watch.pending = false, nil
	result.Events = watch.events
	return result
}

// history reads the changes from a revision up to the last that the watches were given. All keys are read, because only
// then the last one is certainly among them. A result without events says why it cannot.
func (backend *orderedBackend) history(ctx context.Context, revision, last int64) ([]*server.Event, server.WatchResult) {
	reading, cancel := context.WithCancel(ctx)
	read := backend.Backend.Watch(reading, "", "", revision)
	defer func() {
		cancel()
		go func() { // it ends once its channel is closed
			for range read.Events {
			}
		}()
	}()
	if read.CompactRevision != 0 {
		return nil, server.WatchResult{CurrentRevision: read.CurrentRevision, CompactRevision: read.CompactRevision}
	}
	var earlier []*server.Event
	for events := range read.Events {
		for _, event := range events {
			if event.KV.ModRevision <= last {
				earlier = append(earlier, event)
			}
		}
		if len(events) != 0 && events[len(events)-1].KV.ModRevision >= last {
			return earlier, server.WatchResult{}
		}
	}
	failed := make(chan error, 1)
	select {
	case err := <-read.Errorc:
		failed <- err
	default:
		failed <- context.Cause(ctx)
	}
	return nil, server.WatchResult{Errorc: failed}
}
