package main

import (
	"context"
	"sync"

	kineapp "github.com/k3s-io/kine/pkg/app"
	"github.com/k3s-io/kine/pkg/endpoint"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	apiserveroptions "k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	controlleroptions "k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	scheduleroptions "k8s.io/kubernetes/cmd/kube-scheduler/app/options"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// Each program as its own command would run it, but until a context ends: the commands install handlers of signals, which
// they can do only once in a process, and read the flags of the process.

func init() {
	// Each program applies its logging options. Only the first ones have an effect.
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
}

func parseFlags(name string, sets cliflag.NamedFlagSets, arguments []string) error {
	flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
	flags.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	for _, set := range sets.FlagSets {
		flags.AddFlagSet(set)
	}
	return flags.Parse(arguments)
}

func serveKine(ctx context.Context, arguments []string) error {
	config := kineapp.Config(arguments)
	config.WaitGroup = &sync.WaitGroup{}
	if _, err := endpoint.Listen(ctx, config); err != nil {
		return err
	}
	<-ctx.Done()
	config.WaitGroup.Wait()
	return nil
}

func serveAPI(ctx context.Context, arguments []string) error {
	options := apiserveroptions.NewServerRunOptions()
	sets := options.Flags()
	charts := sets.FlagSet("charts").String("static-charts", "", "folder with charts that this server offers")
	if err := parseFlags("kube-apiserver", sets, arguments); err != nil {
		return err
	}
	if err := options.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	completed, err := options.Complete(ctx)
	if err != nil {
		return err
	}
	if problems := completed.Validate(); len(problems) != 0 {
		return utilerrors.NewAggregate(problems)
	}
	if *charts == "" {
		return apiserver.Run(ctx, completed)
	}
	config, err := apiserver.NewConfig(completed)
	if err != nil {
		return err
	}
	whole, err := config.Complete()
	if err != nil {
		return err
	}
	server, err := apiserver.CreateServerChain(whole)
	if err != nil {
		return err
	}
	server.GenericAPIServer.Handler.NonGoRestfulMux.UnlistedHandlePrefix(chartsPath, serveCharts(*charts))
	prepared, err := server.PrepareRun()
	if err != nil {
		return err
	}
	return prepared.Run(ctx)
}

func manageControllers(ctx context.Context, arguments []string) error {
	options, err := controlleroptions.NewKubeControllerManagerOptions()
	if err != nil {
		return err
	}
	known, off := controllermanager.KnownControllers(), controllermanager.ControllersDisabledByDefault()
	aliases := controllermanager.ControllerAliases()
	sets := options.Flags(known, off, aliases)
	options.ParsedFlags = &sets
	if err := parseFlags("kube-controller-manager", sets, arguments); err != nil {
		return err
	}
	if err := options.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	config, err := options.Config(ctx, known, off, aliases)
	if err != nil {
		return err
	}
	return controllermanager.Run(ctx, config.Complete())
}

func schedulePods(ctx context.Context, arguments []string) error {
	options := scheduleroptions.NewOptions()
	if err := parseFlags("kube-scheduler", *options.Flags, arguments); err != nil {
		return err
	}
	if err := options.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	config, running, err := scheduler.Setup(ctx, options)
	if err != nil {
		return err
	}
	return scheduler.Run(ctx, config, running)
}

// runKubelet runs the kubelet. Of all members only its command handles signals itself: it has no other entry.
func runKubelet(ctx context.Context, arguments []string) error {
	return execute(ctx, kubelet.NewKubeletCommand(ctx), arguments)
}

func proxyServices(ctx context.Context, arguments []string) error {
	return execute(ctx, proxy.NewProxyCommand(), arguments)
}

// execute runs a command, or ends with the context, though the command then continues until the process ends.
func execute(ctx context.Context, command *cobra.Command, arguments []string) error {
	command.SetArgs(arguments)
	ended := make(chan error, 1)
	go func() { ended <- command.ExecuteContext(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
