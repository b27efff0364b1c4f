"""`edge-agent update commit`: once a boot has been found good and the boot loader knows it.

Every step may be done again, and is, where the one before was cut off: the floor, the cluster, the history, the end of
the update.
"""

from osbuild.agent.boot import Boot
from osbuild.agent.errors import Problem
from osbuild.agent.update import boots, floor, history, leftovers, pending, state
from osbuild.agent.update.node import Node, alone


def commit(node: Node) -> None:
    """Finish the update that runs now, if there is one, and take the node back into its cluster.

    Raises `Problem` where the slot is still on trial, or where somebody installs, switches or goes back.
    """
    boot = node.boot()
    if boot.on_trial:
        hint = "systemd-bless-boot.service or edge-bless.service does that: look at its journal"
        raise Problem(f"slot {boot.slot} is on trial: the boot loader was not told that it is good", hint=hint)
    boots.judged(node.system, True)
    with alone(node.system):  # a rollback meanwhile has a note of its own, which would be taken for this one
        finish(node, boot)


def finish(node: Node, boot: Boot) -> None:
    """The same for a slot that was found good, with nobody else at work."""
    system, found = node.system, pending.load(node.system)
    version = str(system.image().get("version") or "")
    mine = found if found and found.target == boot.slot and found.stage != pending.WRITING else None
    # An older version that the signer allowed to come back lowers the floor; one that was rolled back to does not.
    change = floor.put if mine and mine.downgrade else floor.rise
    change(system, version)
    if floor.enforce(system):
        again()
    if mine:
        # At every other boot edge-kubernetes-uncordon.service sees to it.
        arrived = node.cluster.arrive(system) if node.cluster else {}
        state.discard(system)
        history.append(system, "committed", mine, cluster={**mine.cluster, **arrived})
        pending.clear(system)
        node.report.event("committed", f"{mine.title} is good", version=version, slot=mine.target)
    if mine or not found:
        leftovers.remove(system, boot)


def again() -> None:
    """Have RAUC read its configuration again, where its service runs and has nothing to do."""
    from osbuild.agent.update import bus
    from osbuild.agent.update.rauc import INSTALLING, NAME, Service
    from osbuild.agent.update.reason import Failure

    if bus.owner(NAME) is None:
        return
    try:
        service = Service()
        if service.state().operation != INSTALLING:
            service.stop()
    except Failure:
        return
