// Command pause keeps the namespaces of a pod open: it only reaps children until it is stopped.
//
// It is the sandbox container that the Container Runtime Interface expects. As process 1 of a pod with a shared process
// namespace it inherits all orphans, so it must wait for them. In a sandbox of the health check, which has a special host
// name, it also answers connections (programs/node, sandbox.go).
package main

import (
	"os"
	"os/signal"
	"strings"
	"syscall"
)

const (
	hostnamePrefix = "edge-health-"
	answerPort     = 8097
)

// answer sends the host name to every client. It uses system calls, because the package net would double the program size.
func answer(hostname string) {
	socket, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM, 0)
	var address syscall.Sockaddr = &syscall.SockaddrInet6{Port: answerPort}
	if err == nil {
		_ = syscall.SetsockoptInt(socket, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 0)
	} else { // a kernel without IPv6
		socket, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
		address = &syscall.SockaddrInet4{Port: answerPort}
	}
	if err != nil || syscall.Bind(socket, address) != nil || syscall.Listen(socket, 4) != nil {
		return
	}
	for {
		connection, _, err := syscall.Accept(socket)
		if err != nil {
			continue
		}
		_, _ = syscall.Write(connection, []byte(hostname))
		_ = syscall.Close(connection)
	}
}

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	if hostname, err := os.Hostname(); err == nil && strings.HasPrefix(hostname, hostnamePrefix) {
		go answer(hostname)
	}
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
