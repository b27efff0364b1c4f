package main

import (
	"errors"
	"fmt"
	"strconv"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/cli"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"
)

// releaseJob brings one release to what helm-controller asks for.
type releaseJob struct {
	settings      *jobSettings
	environment   *cli.EnvSettings
	configuration *action.Configuration
}

// installRelease installs the chart, or upgrades the release. A release that has failed is treated as its failurePolicy says.
func (job *releaseJob) installRelease() error {
	last, err := job.lastRelease()
	if err != nil {
		return err
	}
	if last == nil || last.Info.Status == common.StatusUninstalled {
		return job.install(last != nil)
	}
	if !job.isExpected(last) {
		return nil
	}
	switch last.Info.Status {
	case common.StatusDeployed:
		return job.upgrade(last)
	case common.StatusPendingUpgrade, common.StatusSuperseded:
		// The job before was interrupted, but an upgrade can be repeated. If it fails, the next job finds a failed release.
		if err := job.markFailed(last); err != nil {
			return err
		}
		return job.upgrade(last)
	case common.StatusPendingInstall, common.StatusPendingRollback, common.StatusUninstalling:
		if err := job.markFailed(last); err != nil {
			return err
		}
	}
	switch job.settings.failurePolicy {
	case "", "reinstall":
		report(fmt.Sprintf("Uninstalling the release, which is %s", last.Info.Status))
		if err := job.uninstall(); err != nil {
			return err
		}
		return job.install(false)
	case "retry":
		return job.upgrade(last)
	case "abort":
		return fmt.Errorf("the release is %s, and its failurePolicy is abort: an operator has to repair it", last.Info.Status)
	}
	return fmt.Errorf("unknown failurePolicy %q", job.settings.failurePolicy)
}

// uninstallRelease uninstalls the release if there is one.
func (job *releaseJob) uninstallRelease() error {
	last, err := job.lastRelease()
	if err != nil {
		return err
	}
	if last == nil {
		report("There is no release to uninstall")
		return nil
	}
	if !job.isExpected(last) {
		return nil
	}
	report("Uninstalling the release")
	if err := job.uninstall(); err != nil {
		report(err.Error()) // as in K3s: the HelmChart object must not stay for ever because of a hook that fails
	}
	return nil
}

// lastRelease returns the newest revision of the release, or nil.
func (job *releaseJob) lastRelease() (*release.Release, error) {
	found, err := job.configuration.Releases.Last(job.settings.name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	last, known := found.(*release.Release)
	if !known {
		return nil, fmt.Errorf("unknown type of release: %T", found)
	}
	return last, nil
}

// isExpected says whether the release is still the one for which the job was made. If not, there will be another job.
func (job *releaseJob) isExpected(last *release.Release) bool {
	if job.settings.revision == "" || job.settings.revision == strconv.Itoa(last.Version) {
		return true
	}
	report(fmt.Sprintf("The release has the revision %d, not %s: nothing to do", last.Version, job.settings.revision))
	return false
}

func (job *releaseJob) markFailed(last *release.Release) error {
	report(fmt.Sprintf("The job before was interrupted: the release was %s, and counts as failed", last.Info.Status))
	last.Info.Status = common.StatusFailed
	return job.configuration.Releases.Update(last)
}

func (job *releaseJob) install(replace bool) error {
	report("Installing the chart")
	install := action.NewInstall(job.configuration)
	loaded, merged, err := job.loadChart(&install.ChartPathOptions, install.SetRegistryClient)
	if err != nil {
		return err
	}
	install.ReleaseName = job.settings.name
	install.Namespace = job.settings.namespace
	install.CreateNamespace = job.settings.createNamespace
	install.TakeOwnership = job.settings.takeOwnership
	install.Labels = job.settings.labels
	install.Replace = replace
	install.ServerSideApply = job.settings.installsServerSide()
	install.ForceConflicts = job.settings.forceConflicts && install.ServerSideApply
	install.Timeout = job.settings.timeout
	install.WaitStrategy = kube.HookOnlyStrategy
	_, err = install.Run(loaded, merged)
	return err
}

func (job *releaseJob) upgrade(last *release.Release) error {
	report("Upgrading the release")
	upgrade := action.NewUpgrade(job.configuration)
	loaded, merged, err := job.loadChart(&upgrade.ChartPathOptions, upgrade.SetRegistryClient)
	if err != nil {
		return err
	}
	upgrade.Namespace = job.settings.namespace
	upgrade.TakeOwnership = job.settings.takeOwnership
	upgrade.Labels = job.settings.labels
	if job.settings.serverSide != "" {
		upgrade.ServerSideApply = job.settings.serverSide
	}
	upgrade.ForceConflicts = job.settings.forcesConflicts(last.ApplyMethod)
	upgrade.MaxHistory = job.environment.MaxHistory
	upgrade.Timeout = job.settings.timeout
	upgrade.WaitStrategy = kube.HookOnlyStrategy
	_, err = upgrade.Run(job.settings.name, loaded, merged)
	return err
}

func (job *releaseJob) uninstall() error {
	uninstall := action.NewUninstall(job.configuration)
	uninstall.DeletionPropagation = "background"
	uninstall.Timeout = job.settings.timeout
	uninstall.WaitStrategy = kube.StatusWatcherStrategy
	_, err := uninstall.Run(job.settings.name)
	return err
}
