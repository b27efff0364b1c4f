package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"k8s.io/klog/v2"
)

const (
	clientPort      = "2379"
	peerPort        = "2380"
	etcdRequestTime = 10 * time.Second
	promoteTime     = 2 * time.Second // between two attempts
	mostLearners    = 3               // servers that may join at the same time
	replacedFolders = 2               // folders of members that were removed or replaced by a snapshot
	clusterToken    = "edge-osbuild"
	localClientURL  = "https://127.0.0.1:" + clientPort
)

// etcdSettings are those of the member of this server (osbuild/agent/kubernetes/etcd.py).
type etcdSettings struct {
	Node       string           `json:"node"`
	Folder     string           `json:"folder"`
	Address    string           `json:"address"` // at which other servers reach this one
	Authority  string           `json:"authority"`
	Pair       string           `json:"pair"`       // without .crt and .key
	Join       string           `json:"join"`       // the URL of a server of the cluster; "" for the first one
	Kubeconfig string           `json:"kubeconfig"` // of the administrator
	Snapshots  snapshotSettings `json:"snapshots"`
}

// etcdMember is the etcd server in this process.
type etcdMember struct {
	settings *etcdSettings
	name     string
	server   *embed.Etcd
	client   *clientv3.Client // to the server in this process, without a connection
}

// beginEtcd starts the member of this server, and returns when the member votes and its data are up to date. A new server
// joins as a learner first, which does not count for a quorum (etcd documentation, "Learner"; K3s, pkg/etcd).
func beginEtcd(ctx context.Context, arguments []string) (func(ctx context.Context) error, error) {
	settings := &etcdSettings{}
	if err := readJSON(arguments[0], settings); err != nil {
		return nil, err
	}
	if err := settings.setAside(); err != nil {
		return nil, err
	}
	member := &etcdMember{settings: settings}
	if err := member.start(ctx); err != nil {
		return nil, err
	}
	if err := member.awaitVote(ctx); err != nil {
		member.stop()
		return nil, err
	}
	klog.InfoS("The etcd member is ready", "name", member.name)
	return member.run, nil
}

func (member *etcdMember) stop() {
	if member.client != nil {
		_ = member.client.Close()
	}
	member.server.Close()
}

// run waits for the end of the member, and meanwhile removes the members of deleted nodes.
func (member *etcdMember) run(ctx context.Context) error {
	part, cancel := context.WithCancel(ctx)
	defer cancel()
	go member.followNodes(part)
	go member.takeSnapshots(part)
	select {
	case <-ctx.Done():
		member.stop()
		return nil
	case err := <-member.server.Err():
		return err
	case <-member.server.Server.StopNotify():
		return member.explainEnd(ctx)
	}
}

func (settings *etcdSettings) clientURL() string {
	return "https://" + net.JoinHostPort(settings.Address, clientPort)
}

func (settings *etcdSettings) peerURL() string {
	return "https://" + net.JoinHostPort(settings.Address, peerPort)
}

func (settings *etcdSettings) started() bool {
	_, err := os.Stat(filepath.Join(settings.Folder, "member", "wal"))
	return err == nil
}

// readName returns the name of the member: the node's with a random end, because a node that was deleted gets another one.
func (settings *etcdSettings) readName() (string, error) {
	path := filepath.Join(settings.Folder, "name")
	content, err := os.ReadFile(path)
	if err == nil && strings.HasPrefix(string(content), settings.Node+"-") {
		return string(content), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	name, err := settings.newName()
	if err != nil {
		return "", err
	}
	return name, replaceFile(path, []byte(name), 0o600)
}

func (settings *etcdSettings) newName() (string, error) {
	end := make([]byte, 4)
	if _, err := rand.Read(end); err != nil {
		return "", err
	}
	return settings.Node + "-" + hex.EncodeToString(end), nil
}

func (settings *etcdSettings) tls() transport.TLSInfo {
	return transport.TLSInfo{
		CertFile: settings.Pair + ".crt", KeyFile: settings.Pair + ".key", TrustedCAFile: settings.Authority,
		ClientCertAuth: true,
		// Only servers have a certificate of this authority, and one may use another of its addresses.
		SkipClientSANVerify: true,
	}
}

// start starts the server, which joins a cluster if it has no data and the settings name one.
func (member *etcdMember) start(ctx context.Context) error {
	settings := member.settings
	if err := os.MkdirAll(settings.Folder, 0o700); err != nil {
		return err
	}
	name, err := settings.readName()
	if err != nil {
		return err
	}
	member.name = name
	cluster, state := name+"="+settings.peerURL(), embed.ClusterStateFlagNew
	if !settings.started() && settings.Join != "" {
		state = embed.ClusterStateFlagExisting
		if cluster, err = member.join(ctx); err != nil {
			return fmt.Errorf("the server cannot join the etcd cluster of %s: %w", settings.Join, err)
		}
	}
	config, err := settings.serverConfig(name, cluster, state)
	if err != nil {
		return err
	}
	if member.server, err = embed.StartEtcd(config); err != nil {
		return err
	}
	select {
	case <-member.server.Server.ReadyNotify():
		member.client = v3client.New(member.server.Server)
		return nil
	case err = <-member.server.Err():
	case <-member.server.Server.StopNotify():
		err = member.explainEnd(ctx)
	case <-ctx.Done():
		err = ctx.Err()
	}
	member.server.Close()
	return err
}

func (settings *etcdSettings) serverConfig(name, cluster, state string) (*embed.Config, error) {
	config := embed.NewConfig()
	config.Name, config.Dir = name, settings.Folder
	config.InitialCluster, config.ClusterState = cluster, state
	config.InitialClusterToken = clusterToken
	config.ClientTLSInfo, config.PeerTLSInfo = settings.tls(), settings.tls()
	config.MaxLearners = mostLearners
	config.TickMs, config.ElectionMs = 500, 5000 // those of K3s, for slow disks
	config.EnableGRPCGateway = false
	config.WarningUnaryRequestDuration = time.Second
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(etcdLogger())
	for _, list := range []struct {
		target *[]url.URL
		texts  []string
	}{
		{&config.ListenClientUrls, []string{localClientURL, settings.clientURL()}},
		{&config.AdvertiseClientUrls, []string{settings.clientURL()}},
		{&config.ListenPeerUrls, []string{settings.peerURL()}},
		{&config.AdvertisePeerUrls, []string{settings.peerURL()}},
	} {
		*list.target = nil
		for _, text := range list.texts {
			parsed, err := url.Parse(text)
			if err != nil {
				return nil, err
			}
			*list.target = append(*list.target, *parsed)
		}
	}
	return config, config.Validate()
}

func etcdLogger() *zap.Logger {
	config := zap.NewProductionConfig()
	config.Level = zap.NewAtomicLevelAt(zap.WarnLevel)
	config.Encoding, config.DisableStacktrace = "console", true
	logger, err := config.Build()
	if err != nil {
		return zap.NewNop()
	}
	return logger
}

// connect returns a client of the members at these URLs.
func (settings *etcdSettings) connect(ctx context.Context, urls []string) (*clientv3.Client, error) {
	credentials, err := settings.tls().ClientConfig()
	if err != nil {
		return nil, err
	}
	return clientv3.New(clientv3.Config{
		Context: ctx, Endpoints: urls, TLS: credentials, DialTimeout: dialTime, Logger: zap.NewNop(),
	})
}

// join adds this server to the cluster as a learner, and returns all members as etcd's flag --initial-cluster has them.
func (member *etcdMember) join(ctx context.Context) (string, error) {
	settings := member.settings
	urls, err := settings.findMembers(ctx)
	if err != nil {
		return "", err
	}
	client, err := settings.connect(ctx, urls)
	if err != nil {
		return "", err
	}
	defer client.Close()
	part, cancel := context.WithTimeout(ctx, 3*etcdRequestTime)
	defer cancel()
	list, err := client.MemberList(part)
	if err != nil {
		return "", err
	}
	others := slices.DeleteFunc(slices.Clone(list.Members), func(other *etcdserverpb.Member) bool {
		return slices.Contains(other.PeerURLs, settings.peerURL())
	})
	for _, other := range list.Members {
		switch {
		case slices.Contains(other.PeerURLs, settings.peerURL()):
			if other.Name == "" {
				continue // added by an attempt before
			}
			// Its data are lost: this server has the address, and no data.
			klog.InfoS("A member with the address of this server is replaced", "name", other.Name)
			if _, err := client.MemberRemove(part, other.ID); err != nil && !errors.Is(err, rpctypes.ErrMemberNotFound) {
				return "", err
			}
		case nodeOf(other.Name) == settings.Node:
			return "", fmt.Errorf("another server has the node name %s: its member is %s at %v", settings.Node, other.Name, other.PeerURLs)
		}
	}
	known := slices.ContainsFunc(list.Members, func(other *etcdserverpb.Member) bool {
		return other.Name == "" && slices.Contains(other.PeerURLs, settings.peerURL())
	})
	if !known {
		if _, err := client.MemberAddAsLearner(part, []string{settings.peerURL()}); err != nil {
			return "", err
		}
	}
	cluster := []string{member.name + "=" + settings.peerURL()}
	for _, other := range others {
		if other.Name == "" {
			return "", fmt.Errorf("another server joins at the moment: %v", other.PeerURLs)
		}
		for _, peer := range other.PeerURLs {
			cluster = append(cluster, other.Name+"="+peer)
		}
	}
	return strings.Join(cluster, ","), nil
}

// nodeOf returns the node of a member.
func nodeOf(name string) string {
	return name[:max(strings.LastIndex(name, "-"), 0)]
}

// awaitVote asks the other members to promote this one if it is a learner, until they do, and for an answer of the quorum.
func (member *etcdMember) awaitVote(ctx context.Context) error {
	for {
		if !member.server.Server.IsLearner() {
			part, cancel := context.WithTimeout(ctx, etcdRequestTime)
			_, err := member.client.Get(part, "/edge-osbuild") // linearizable, so by the quorum
			cancel()
			if err == nil {
				return nil
			}
			klog.InfoS("The etcd cluster has no quorum yet", "reason", err)
		} else if err := member.promote(ctx); err != nil {
			klog.InfoS("This member is still a learner", "reason", err)
		}
		select {
		case err := <-member.server.Err():
			return err
		case <-member.server.Server.StopNotify():
			return member.explainEnd(ctx)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(promoteTime):
		}
	}
}

func (member *etcdMember) promote(ctx context.Context) error {
	client, err := member.settings.connect(ctx, member.otherURLs())
	if err != nil {
		return err
	}
	defer client.Close()
	part, cancel := context.WithTimeout(ctx, etcdRequestTime)
	defer cancel()
	_, err = client.MemberPromote(part, uint64(member.server.Server.MemberID()))
	if errors.Is(err, rpctypes.ErrMemberNotLearner) {
		return nil
	}
	return err
}

// otherURLs returns the addresses of the other members for clients.
func (member *etcdMember) otherURLs() []string {
	var urls []string
	for _, other := range member.server.Server.Cluster().Members() {
		if other.ID != member.server.Server.MemberID() {
			urls = append(urls, other.ClientURLs...)
		}
	}
	return urls
}

// explainEnd returns why the member has stopped. If it was removed, its data are set aside at the next start, and it joins
// again as a new member.
func (member *etcdMember) explainEnd(ctx context.Context) error {
	removed, err := member.isRemoved(ctx)
	if err != nil {
		return fmt.Errorf("the etcd member has stopped: %w", err)
	}
	if !removed {
		return errors.New("the etcd member has stopped")
	}
	if err := replaceFile(member.settings.tombstone(), []byte("removed\n"), 0o600); err != nil {
		return err
	}
	return errors.New("the etcd member was removed from its cluster; it joins again as a new member")
}

func (member *etcdMember) isRemoved(ctx context.Context) (bool, error) {
	identifier := member.server.Server.MemberID()
	if member.server.Server.IsIDRemoved(uint64(identifier)) {
		return true, nil
	}
	urls := member.otherURLs()
	if len(urls) == 0 {
		return false, nil
	}
	client, err := member.settings.connect(ctx, urls)
	if err != nil {
		return false, err
	}
	defer client.Close()
	part, cancel := context.WithTimeout(ctx, etcdRequestTime)
	defer cancel()
	list, err := client.MemberList(part)
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(list.Members, func(other *etcdserverpb.Member) bool {
		return other.ID == uint64(identifier)
	}), nil
}

func (settings *etcdSettings) tombstone() string {
	return filepath.Join(settings.Folder, "tombstone")
}

// setAside renames the folder of a member that was removed.
func (settings *etcdSettings) setAside() error {
	if _, err := os.Stat(settings.tombstone()); err != nil {
		return nil
	}
	if settings.Join == "" {
		return fmt.Errorf("%s: the member of this server was removed from its cluster: set `kubernetes.server` to another server, "+
			"so that it joins again", settings.tombstone())
	}
	return settings.replaceFolder()
}

// replaceFolder renames the folder of the member's data, and removes older ones.
func (settings *etcdSettings) replaceFolder() error {
	if err := os.Rename(settings.Folder, fmt.Sprintf("%s-old-%d", settings.Folder, time.Now().Unix())); err != nil {
		return err
	}
	old, err := filepath.Glob(settings.Folder + "-old-*")
	if err != nil {
		return err
	}
	slices.Sort(old)
	for _, folder := range old[:max(len(old)-replacedFolders, 0)] {
		if err := os.RemoveAll(folder); err != nil {
			return err
		}
	}
	return nil
}
