package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	kineapp "github.com/k3s-io/kine/pkg/app"
	"github.com/k3s-io/kine/pkg/endpoint"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const (
	bootstrapKey   = "/bootstrap/edge-osbuild" // in the datastore; the API server uses /registry only
	bootstrapTime  = time.Minute
	bootstrapUsage = "usage: edge-kubernetes bootstrap ARGUMENTS.json get | create | put"
)

// runBootstrap reads or writes what the servers of an external database have in common (osbuild/agent/kubernetes/
// external_datastore.py). The file has the arguments of kine, the standard input the content. It prints the content that
// the datastore has in the end, "" if there is none.
func runBootstrap() {
	ctx, cancel := context.WithTimeout(context.Background(), bootstrapTime)
	defer cancel()
	content, err := commandBootstrap(ctx, os.Args[1:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(content)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func commandBootstrap(ctx context.Context, arguments []string) (string, error) {
	if len(arguments) != 2 {
		return "", errors.New(bootstrapUsage)
	}
	var kineArguments []string
	if err := readJSON(arguments[0], &kineArguments); err != nil {
		return "", err
	}
	folder, err := os.MkdirTemp("", "edge-bootstrap-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(folder)
	listen := "unix://" + filepath.Join(folder, "kine.sock")
	for index, argument := range kineArguments {
		if strings.HasPrefix(argument, "--listen-address=") {
			kineArguments[index] = "--listen-address=" + listen
		}
	}
	config := kineapp.Config(kineArguments)
	config.WaitGroup = &sync.WaitGroup{}
	part, cancel := context.WithCancel(ctx)
	defer config.WaitGroup.Wait()
	defer cancel()
	if _, err := endpoint.Listen(part, config); err != nil {
		return "", err
	}
	client, err := clientv3.New(clientv3.Config{
		Context: part, Endpoints: []string{listen}, DialTimeout: dialTime, Logger: zap.NewNop(),
	})
	if err != nil {
		return "", err
	}
	defer client.Close()
	return exchangeBootstrap(part, client, arguments[1])
}

func exchangeBootstrap(ctx context.Context, client *clientv3.Client, action string) (string, error) {
	stored, err := client.Get(ctx, bootstrapKey)
	if err != nil {
		return "", err
	}
	revision, current := int64(0), ""
	if len(stored.Kvs) > 0 {
		revision, current = stored.Kvs[0].ModRevision, string(stored.Kvs[0].Value)
	}
	if action == "get" || action == "create" && current != "" {
		return current, nil
	}
	if action != "create" && action != "put" {
		return "", errors.New(bootstrapUsage)
	}
	content, err := io.ReadAll(io.LimitReader(os.Stdin, largestBody))
	if err != nil || string(content) == current {
		return current, err
	}
	// kine knows two transactions: one creates, the other updates a revision and reads if it is another one.
	txn := client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(bootstrapKey), "=", revision)).
		Then(clientv3.OpPut(bootstrapKey, string(content)))
	if revision != 0 {
		txn = txn.Else(clientv3.OpGet(bootstrapKey))
	}
	answer, err := txn.Commit()
	if err != nil {
		return "", err
	}
	if answer.Succeeded {
		return string(content), nil
	}
	stored, err = client.Get(ctx, bootstrapKey)
	if err == nil && len(stored.Kvs) > 0 && action == "create" {
		return string(stored.Kvs[0].Value), nil // another server was faster
	}
	return "", errors.Join(err, errors.New("another server has changed the content meanwhile"))
}
