// Command pause holds a pod's namespaces open: it does nothing but reap children until it is told to stop.
//
// The kubelet's sandbox container, as the Container Runtime Interface expects one. As process 1 of a pod with a shared
// process namespace it inherits every orphan, so it must wait for them.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if err != syscall.EINTR && pid <= 0 {
				break
			}
		}
	}
}
