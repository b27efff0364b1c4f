package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
	"k8s.io/klog/v2"
)

const (
	snapshotTime   = 10 * time.Minute
	scheduledName  = "etcd-snapshot" // of snapshots of the schedule, as in K3s
	revisionBump   = 1_000_000_000   // more than a cluster writes in years
	etcdctlUsage   = "usage: edge-kubernetes etcd SETTINGS members | snapshot NAME | status NAME | restore NAME"
	unfinishedMark = ".part"
)

// snapshotSettings say when snapshots are taken, and how many are kept (K3s' etcd-snapshot-*).
type snapshotSettings struct {
	Folder    string `json:"folder"`
	Schedule  string `json:"schedule"` // cron; "" for none
	Retention int    `json:"retention"`
}

// takeSnapshots takes snapshots by the schedule, until the context ends.
func (member *etcdMember) takeSnapshots(ctx context.Context) {
	settings := member.settings.Snapshots
	if settings.Schedule == "" {
		return
	}
	schedule, err := cron.ParseStandard(settings.Schedule)
	if err != nil {
		klog.ErrorS(err, "No snapshots of etcd are taken: the schedule is not valid", "schedule", settings.Schedule)
		return
	}
	for sleep(ctx, time.Until(schedule.Next(time.Now()))) == nil {
		name := fmt.Sprintf("%s-%s-%d", scheduledName, member.settings.Node, time.Now().Unix())
		if err := member.settings.saveSnapshot(ctx, name); err != nil {
			klog.ErrorS(err, "No snapshot of etcd is taken")
			continue
		}
		klog.InfoS("A snapshot of etcd is taken", "name", name)
		if err := settings.rotate(scheduledName + "-" + member.settings.Node + "-"); err != nil {
			klog.ErrorS(err, "Old snapshots of etcd are not removed")
		}
	}
}

// saveSnapshot writes a snapshot of the member on this server. The client within the process cannot: it ends the stream.
func (settings *etcdSettings) saveSnapshot(ctx context.Context, name string) error {
	client, err := settings.connect(ctx, []string{localClientURL})
	if err != nil {
		return err
	}
	defer client.Close()
	return settings.Snapshots.save(ctx, client, name)
}

func (settings *snapshotSettings) path(name string) string {
	return filepath.Join(settings.Folder, name)
}

// save writes a snapshot of the member that the client is connected to. An unfinished one has another name.
func (settings *snapshotSettings) save(ctx context.Context, client *clientv3.Client, name string) error {
	if err := os.MkdirAll(settings.Folder, 0o700); err != nil {
		return err
	}
	unfinished := settings.path("." + name + unfinishedMark)
	file, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(unfinished)
	part, cancel := context.WithTimeout(ctx, snapshotTime)
	defer cancel()
	stream, err := client.Snapshot(part)
	if err == nil {
		_, err = io.Copy(file, stream)
		err = errors.Join(err, stream.Close())
	}
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(unfinished, settings.path(name)); err != nil {
		return err
	}
	return syncFolder(settings.Folder)
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// rotate removes the oldest snapshots whose name is a prefix with a time, and what a power cut has left.
func (settings *snapshotSettings) rotate(prefix string) error {
	entries, err := os.ReadDir(settings.Folder)
	if err != nil {
		return err
	}
	var problems []error
	var times []int64
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "."+prefix) {
			problems = append(problems, os.Remove(settings.path(entry.Name())))
		}
		end, found := strings.CutPrefix(entry.Name(), prefix)
		if taken, err := strconv.ParseInt(end, 10, 64); found && err == nil {
			times = append(times, taken)
		}
	}
	slices.Sort(times)
	for _, taken := range times[:max(len(times)-settings.Retention, 0)] {
		problems = append(problems, os.Remove(settings.path(prefix+fmt.Sprint(taken))))
	}
	return errors.Join(problems...)
}

// restore makes a cluster of this member alone from a snapshot, with a higher revision than any before, so that clients read
// everything again. The server must be stopped. The other servers must join again.
func (settings *etcdSettings) restore(name string) error {
	source := settings.Snapshots.path(name)
	fresh := settings.Folder + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	member, err := settings.newName()
	if err != nil {
		return err
	}
	err = snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: source, Name: member, OutputDataDir: fresh, PeerURLs: []string{settings.peerURL()},
		InitialCluster: member + "=" + settings.peerURL(), InitialClusterToken: clusterToken,
		RevisionBump: revisionBump, MarkCompacted: true,
	})
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(fresh, "name"), []byte(member), 0o600); err != nil {
		return err
	}
	if _, err := os.Stat(settings.Folder); err == nil {
		if err := settings.replaceFolder(); err != nil {
			return err
		}
	}
	if err := os.Rename(fresh, settings.Folder); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(settings.Folder))
}

// runEtcd is a command for the edge agent: it prints JSON.
func runEtcd() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, etcdctlUsage)
		os.Exit(2)
	}
	answer, err := commandEtcd(context.Background(), os.Args[1], os.Args[2], os.Args[3:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(answer)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func commandEtcd(ctx context.Context, file, action string, names []string) (any, error) {
	settings := &etcdSettings{}
	if err := readJSON(file, settings); err != nil {
		return nil, err
	}
	if action == "members" && len(names) == 0 {
		return settings.listMembers(ctx)
	}
	if len(names) != 1 || names[0] != filepath.Base(names[0]) {
		return nil, errors.New(etcdctlUsage)
	}
	switch action {
	case "snapshot":
		if err := settings.saveSnapshot(ctx, names[0]); err != nil {
			return nil, err
		}
	case "restore":
		if err := settings.restore(names[0]); err != nil {
			return nil, err
		}
	case "status":
	default:
		return nil, errors.New(etcdctlUsage)
	}
	return snapshot.NewV3(zap.NewNop()).Status(settings.Snapshots.path(names[0]))
}

// memberState is a member as this server sees it.
type memberState struct {
	Name    string `json:"name"`
	Node    string `json:"node"`
	Learner bool   `json:"learner"`
	Healthy bool   `json:"healthy"`
}

// listMembers asks each member for its status.
func (settings *etcdSettings) listMembers(ctx context.Context) ([]memberState, error) {
	client, err := settings.connect(ctx, []string{localClientURL})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	part, cancel := context.WithTimeout(ctx, etcdRequestTime)
	defer cancel()
	list, err := client.MemberList(part)
	if err != nil {
		return nil, err
	}
	states := []memberState{}
	for _, member := range list.Members {
		state := memberState{Name: member.Name, Node: nodeOf(member.Name), Learner: member.IsLearner}
		for _, address := range member.ClientURLs {
			short, cancel := context.WithTimeout(ctx, dialTime)
			status, err := client.Status(short, address)
			cancel()
			state.Healthy = state.Healthy || err == nil && status.Leader != 0 && len(status.Errors) == 0
		}
		states = append(states, state)
	}
	return states, nil
}
