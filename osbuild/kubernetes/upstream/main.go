// Command edge-kubernetes is all of Kubernetes' programs and kine in one static binary.
//
// It acts as the program by whose name it is called (a symlink), or which its first argument names.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	_ "time/tzdata" // time zones of CronJobs

	kine "github.com/k3s-io/kine/pkg/app"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubeadm "k8s.io/kubernetes/cmd/kubeadm/app"
	kubeadmerrors "k8s.io/kubernetes/cmd/kubeadm/app/util/errors"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

const administratorKubeconfig = "/etc/kubernetes/admin.conf"

// programs maps a name to what runs it; each reads os.Args as its own main would.
var programs = map[string]func(){
	"kube-apiserver":          component(func() *cobra.Command { return apiserver.NewAPIServerCommand() }),
	"kube-controller-manager": component(func() *cobra.Command { return controllermanager.NewControllerManagerCommand() }),
	"kube-scheduler":          component(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kube-proxy":              component(func() *cobra.Command { return proxy.NewProxyCommand() }),
	"kubelet":                 component(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) }),
	"run":                     runPlan,
	"apply":                   applyFiles,
	"kubectl":                 runKubectl,
	"kubeadm":                 func() { kubeadmerrors.HandleError(kubeadm.Run()) },
	"kine":                    runKine,
	"etcd":                    runEtcd,
	"bootstrap":               runBootstrap,
}

func component(command func() *cobra.Command) func() {
	return func() { os.Exit(cli.Run(command())) }
}

// chooseKubeconfig makes kubectl read the administrator's kubeconfig of a server node, as K3s' kubectl does, if the user
// has neither chosen a kubeconfig nor an own one.
func chooseKubeconfig() {
	if os.Getenv(clientcmd.RecommendedConfigPathEnvVar) != "" {
		return
	}
	_, own := os.Stat(clientcmd.RecommendedHomeFile)
	_, administrator := os.Stat(administratorKubeconfig)
	if own != nil && administrator == nil {
		os.Setenv(clientcmd.RecommendedConfigPathEnvVar, administratorKubeconfig) //nolint:errcheck
	}
}

func runKubectl() {
	chooseKubeconfig()
	// As kubectl's own main: verbosity must hold before the command is constructed.
	logs.GlogSetter(kubectl.GetLogVerbosity(os.Args)) //nolint:errcheck
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
}

func runKine() {
	if err := kine.New().Run(os.Args); err != nil && !errors.Is(err, context.Canceled) {
		logrus.Fatal(err)
	}
}

func main() {
	settle(os.Getenv("EDGE_SETTLE"))
	if run, found := programs[filepath.Base(os.Args[0])]; found {
		run()
		return
	}
	if len(os.Args) > 1 {
		if run, found := programs[os.Args[1]]; found {
			os.Args = os.Args[1:]
			run()
			return
		}
	}
	names := make([]string, 0, len(programs))
	for name := range programs {
		names = append(names, name)
	}
	sort.Strings(names)
	fmt.Fprintf(os.Stderr, "usage: %s PROGRAM [ARGUMENT...]\nprograms: %s\n", filepath.Base(os.Args[0]), strings.Join(names, ", "))
	os.Exit(2)
}
