// Command edge-helm installs, upgrades and uninstalls a Helm chart. It is the container of the jobs that helm-controller
// creates for HelmChart objects, with the arguments, variables and files that the controller gives K3s' own image
// (https://github.com/k3s-io/klipper-helm): `install` or `delete`, and flags of Helm.
package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	_ "golang.org/x/crypto/x509roots/fallback" // authorities of public repositories: the image has no other files

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/cli"
)

// What Kubernetes shows as the last state of a failed container (Kubernetes documentation, "Determine the Reason for Pod
// Failure").
const terminationLog = "/dev/termination-log"

func main() {
	// An interrupted action would leave a release that no later job can change without a repair.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM)
	if err := run(os.Args[1:]); err != nil {
		report(err.Error())
		os.Exit(1)
	}
}

func run(arguments []string) error {
	settings, err := readSettings(arguments)
	if err != nil {
		return err
	}
	for name, value := range map[string]string{
		"HOME": "/tmp", "HELM_CACHE_HOME": "/tmp/cache", "HELM_CONFIG_HOME": "/tmp/config", "HELM_DATA_HOME": "/tmp/data",
		"HELM_NAMESPACE": settings.namespace, "DOCKER_CONFIG": "/home/klipper-helm/.docker",
	} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	environment := cli.New()
	handler := slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})
	configuration := action.NewConfiguration(action.ConfigurationSetLogger(handler))
	err = configuration.Init(environment.RESTClientGetter(), settings.namespace, settings.driver)
	if err != nil {
		return err
	}
	configuration.SetHookOutputFunc(func(_, _, _ string) io.Writer { return io.Discard })
	job := &releaseJob{settings: settings, environment: environment, configuration: configuration}
	if settings.action == "delete" {
		return job.uninstallRelease()
	}
	return job.installRelease()
}

// report prints a line, and adds it to the message of the container.
func report(line string) {
	fmt.Println(line)
	file, err := os.OpenFile(terminationLog, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return // not in a container
	}
	defer file.Close()
	_, _ = fmt.Fprintln(file, line)
}
