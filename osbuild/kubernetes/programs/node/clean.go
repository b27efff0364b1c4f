package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

const (
	containers = "containerd.services.containers.v1.Containers"
	tasks      = "containerd.services.tasks.v1.Tasks"
	snapshots  = "containerd.services.snapshots.v1.Snapshots"
)

// clean stops and removes every sandbox of this program, including those of earlier runs that a power cut has ended.
func (service *runtimeService) clean(ctx context.Context) error {
	for number := 1; ; number++ {
		err := service.tryClean(ctx)
		if err == nil || number == attempts || ctx.Err() != nil {
			return err
		}
		// The kubelet stops and removes sandboxes that it does not know. If both do it at the same time, one of them may
		// fail, because the other has already removed the network.
		time.Sleep(time.Second)
	}
}

// tryClean does the work of clean once.
//
// A power cut between two steps of containerd may leave a container that its Container Runtime Interface does not load
// at the next start. It is not listed, and neither the kubelet nor containerd ever removes it.
func (service *runtimeService) tryClean(ctx context.Context) error {
	filter := message{}.entry(3, label, "sandbox")
	listed, err := service.call(ctx, "ListPodSandbox", message{}.nested(1, filter))
	if err != nil {
		return err
	}
	var problems []error
	_ = listed.visit(func(_ int, _ uint64, sandbox message) {
		named := message{}.text(1, string(sandbox.first(1)))
		_, err := service.call(ctx, "StopPodSandbox", named)
		if err == nil {
			_, err = service.call(ctx, "RemovePodSandbox", named)
		}
		problems = append(problems, err)
	})
	if err := errors.Join(problems...); err != nil {
		return err
	}
	return service.cleanUnlisted(ctx)
}

// cleanUnlisted removes the containers of sandboxes that the Container Runtime Interface does not list.
func (service *runtimeService) cleanUnlisted(ctx context.Context) error {
	filter := message{}.text(1, fmt.Sprintf("labels.%q==sandbox", label))
	listed, err := service.callService(ctx, containers, "List", filter)
	if err != nil {
		return err
	}
	var problems []error
	_ = listed.visit(func(_ int, _ uint64, container message) {
		problems = append(problems, service.removeContainer(ctx, container))
	})
	return errors.Join(problems...)
}

// removeContainer removes a container, its processes and its file system. Missing parts are not an error.
func (service *runtimeService) removeContainer(ctx context.Context, container message) error {
	named := message{}.text(1, string(container.first(1)))
	if err := service.endTask(ctx, named); err != nil {
		return err
	}
	if key := string(container.first(7)); key != "" {
		snapshot := message{}.text(1, string(container.first(6))).text(2, key)
		if err := service.callIfPresent(ctx, snapshots, "Remove", snapshot); err != nil {
			return err
		}
	}
	return service.callIfPresent(ctx, containers, "Delete", named)
}

// endTask kills the processes of a container, waits for their end, and deletes containerd's record of them.
func (service *runtimeService) endTask(ctx context.Context, named message) error {
	kill := append(message{}, named...).number(3, uint64(syscall.SIGKILL)).number(4, 1) // all processes
	if err := service.callIfPresent(ctx, tasks, "Kill", kill); err != nil {
		return err
	}
	if err := service.callIfPresent(ctx, tasks, "Wait", named); err != nil {
		return err
	}
	return service.callIfPresent(ctx, tasks, "Delete", named)
}

// callIfPresent calls a method for an object that may not exist.
func (service *runtimeService) callIfPresent(ctx context.Context, name, method string, request message) error {
	_, err := service.callService(ctx, name, method, request)
	var refusal *statusError
	if errors.As(err, &refusal) && refusal.status == notFound {
		return nil
	}
	return err
}
