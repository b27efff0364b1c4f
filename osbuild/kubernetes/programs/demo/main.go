// Command demo is a web server that returns the name of its pod, to test pods, services and updates.
//
// Environment: ADDRESS (to listen on, default ":8080"), POD_NAME and DEMO_VERSION.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

type answer struct {
	Pod      string `json:"pod"`
	Version  string `json:"version"`
	Hostname string `json:"hostname"`
}

// version is set by the linker.
var version = "1"

func setting(name, otherwise string) string {
	if value, found := os.LookupEnv(name); found && value != "" {
		return value
	}
	return otherwise
}

func main() {
	hostname, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	body, err := json.Marshal(answer{setting("POD_NAME", hostname), setting("DEMO_VERSION", version), hostname})
	if err != nil {
		log.Fatal(err)
	}
	body = append(body, '\n')
	http.HandleFunc("/", func(response http.ResponseWriter, _ *http.Request) {
		response.Header().Set("Content-Type", "application/json")
		_, _ = response.Write(body)
	})
	server := &http.Server{Addr: setting("ADDRESS", ":8080"), ReadHeaderTimeout: 10 * time.Second}

	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	go func() {
		<-stop.Done()
		_ = server.Shutdown(context.Background())
	}()
	log.Printf("listening on %s", server.Addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}
