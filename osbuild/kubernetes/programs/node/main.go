// Command edge-node contains small tools of a Kubernetes node.
//
//	edge-node sandbox                      check that containerd starts a pod sandbox that answers
//	edge-node request KEY NAME             print a certificate request of node NAME, signed by the key in the file KEY
//	edge-node identity KEY                 print the digest of that key, which the cluster records for a node
//	edge-node check AUTHORITY [PAIR NAME]  check a certificate authority, and the certificate and key of node NAME
//	edge-node approve KUBECONFIG SERVER    approve or deny requests of nodes that join, until it is stopped
//
// It is a small program with only the standard library, because the large Kubernetes binary takes seconds to start on a slow
// processor.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func run(ctx context.Context, arguments []string) error {
	switch {
	case len(arguments) == 1 && arguments[0] == "sandbox":
		return proveSandbox(ctx)
	case len(arguments) == 3 && arguments[0] == "request":
		return printRequest(arguments[1], arguments[2])
	case len(arguments) == 2 && arguments[0] == "identity":
		return printIdentity(arguments[1])
	case (len(arguments) == 2 || len(arguments) == 4) && arguments[0] == "check":
		return checkFiles(arguments[1], arguments[2:], time.Now())
	case len(arguments) == 3 && arguments[0] == "approve":
		return approveRequests(ctx, arguments[1], arguments[2])
	}
	fmt.Fprintln(os.Stderr, "usage: edge-node sandbox | request KEY NAME | identity KEY | check AUTHORITY [PAIR NAME] | approve KUBECONFIG SERVER")
	os.Exit(2)
	return nil
}

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
