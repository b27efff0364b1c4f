"""From one slot to the other: the cluster is left, the boot loader is told, and the node reboots. Or none of it."""

from contextlib import suppress
from dataclasses import replace

from osbuild.agent.errors import Problem
from osbuild.agent.update import history, pending, state
from osbuild.agent.update.node import Node, alone
from osbuild.agent.update.pending import INSTALLED, SWITCHED, Pending

DRAIN = 120.0  # seconds that pods get to move or end


def drain(node: Node) -> float:
    """How many seconds the profile gives to leave the cluster."""
    return float((node.system.image().get("update") or {}).get("drain_deadline", DRAIN))


def turn(node: Node, found: Pending, *, restart: bool) -> None:
    """Switch to `found.target`, which is whole. Raises `Problem` where that can't be done; then nothing has changed."""
    system, report = node.system, node.report
    try:
        facts = {}
        if node.cluster:
            report.event("cluster", "leaving the cluster")
            facts = node.cluster.leave(system, drain(node), lambda text: report.event("cluster", text))
        found = replace(found, stage=SWITCHED, cluster=facts, boot=state.boot_id(system))
        pending.save(system, found)
        node.flow.activate(system, found.target)
        first = node.flow.primary(system)
        if first != found.target:
            raise Problem(f"the boot loader takes slot {first or '?'} next, and not {found.target}", where="/efi")
    except BaseException as error:
        problem = explain(error, found)
        stay(node, found, str(problem) or "interrupted", whole=not isinstance(error, FileNotFoundError))
        raise problem from error
    history.append(system, "switched", found, cluster=facts)
    report.event("switched", f"{found.title} is booted next", version=found.after.get("version"), slot=found.target)
    if restart:
        report.event("reboot", "rebooting")
        node.restart()
    else:
        report.event("waiting", "reboot to try it")


def explain(error: BaseException, found: Pending) -> BaseException:
    """The same as a `Problem`, where it is one that people can do something about."""
    again = "the slot that runs is not touched; try again with `edge-agent update switch`"
    if isinstance(error, FileNotFoundError):
        return Problem(f"slot {found.target} has no boot file", where=error.filename, hint="install the update again")
    if isinstance(error, OSError):
        where = error.filename or "/efi"
        return Problem(f"slot {found.target} can't be switched to: {error.strerror}", where=where, hint=again)
    if isinstance(error, Problem):
        return Problem(error.message, where=error.where, hint=error.hint or again)
    return Problem(str(error), hint=again) if isinstance(error, Exception) else error


def stay(node: Node, found: Pending, why: str, *, whole: bool) -> None:
    """Undo what a switch that failed has begun: the node belongs to its cluster again, and an update that is `whole`
    waits to be switched to.

    What made it fail may make a part of this fail too, such as a disk that is full: the others are done all the same.
    """
    with suppress(OSError):  # it may have been told, and have failed after that
        if node.flow.primary(node.system) == found.target:
            node.flow.reject(node.system, found.target)
    with suppress(OSError):
        if found.kind == "update" and whole:
            pending.save(node.system, replace(found, stage=INSTALLED))
        else:
            history.over(node.system, found)
    with suppress(OSError):
        history.append(node.system, "not-switched", None, why=f"{found.title}: {why}")
    come_back(node)


def come_back(node: Node) -> None:
    """Have the node taken back into its cluster, later where that does not answer now."""
    if node.cluster and "problem" in node.cluster.arrive(node.system):
        with suppress(Problem):  # then it is done at the next boot
            node.later()


def withdraw(node: Node, found: Pending) -> None:
    """Take back a switch before it was booted. Raises `OSError`."""
    node.flow.reject(node.system, found.target)
    history.append(node.system, "withdrawn", found)
    history.over(node.system, found)
    come_back(node)
    node.report.event("withdrawn", f"{found.title} is not booted: slot {node.slot} goes on", slot=node.slot)


def resume(node: Node, *, restart: bool) -> None:
    """Switch to what is installed, or reboot into what is switched to already. Raises `Problem`."""
    with alone(node.system):
        found = pending.load(node.system)
        if found is None or found.stage == pending.WRITING:
            raise Problem("nothing is installed that could be switched to", hint="`edge-agent update install` first")
        boot = node.boot()
        if found.target == node.slot:
            raise Problem(f"{found.title} runs already", hint="`edge-agent update status` says how far it is")
        if boot.on_trial:
            hint = "wait for the verdict: `edge-agent update status`"
            raise Problem(f"slot {node.slot} is still on trial itself", hint=hint)
        if found.stage == SWITCHED and node.flow.primary(node.system) == found.target:
            node.report.event("switched", f"{found.title} is booted next", slot=found.target)
            if restart:
                node.restart()
            return
        turn(node, found, restart=restart)
