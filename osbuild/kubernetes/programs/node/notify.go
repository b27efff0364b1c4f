package main

import (
	"fmt"
	"net"
	"os"
)

// notifyReady tells systemd that the service of this process is started (sd_notify(3)). It does nothing if the process
// was not started by systemd.
func notifyReady() error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	connection, err := net.Dial("unixgram", path) // a leading @ means an abstract socket here too
	if err != nil {
		return fmt.Errorf("systemd cannot be notified: %w", err)
	}
	defer connection.Close()
	if _, err := connection.Write([]byte("READY=1")); err != nil {
		return fmt.Errorf("systemd cannot be notified: %w", err)
	}
	return nil
}
