// Command edge-system is the programs of the cluster's add-ons in one static binary, in the image edge-system.
//
// It acts as the program by whose name it is called (a link), or which its first argument names.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coredns/coredns/coremain"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/cli"
	"sigs.k8s.io/metrics-server/cmd/metrics-server/app"
)

// programs maps a name to what runs it; each reads os.Args as its own main would.
var programs = map[string]func(){
	"coredns":         coremain.Run,
	"metrics-server":  runMetricsServer,
	"volume-setup":    func() { exitWith(setUpVolume()) },
	"volume-teardown": func() { exitWith(tearDownVolume()) },
}

func runMetricsServer() {
	os.Exit(cli.Run(app.NewMetricsServerCommand(genericapiserver.SetupSignalHandler())))
}

func exitWith(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	name := filepath.Base(os.Args[0])
	if _, found := programs[name]; !found && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		name = os.Args[0]
	}
	run, found := programs[name]
	if !found {
		names := make([]string, 0, len(programs))
		for known := range programs {
			names = append(names, known)
		}
		slices.Sort(names)
		fmt.Fprintf(os.Stderr, "usage: edge-system PROGRAM [ARGUMENT...]\nprograms: %s\n", strings.Join(names, ", "))
		os.Exit(2)
	}
	run()
}
