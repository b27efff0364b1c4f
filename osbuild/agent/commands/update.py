"""`edge-agent update`: installs, switches and commits updates, and shows their state."""

import argparse
import json
import sys

from osbuild.agent.errors import Problem


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    install = commands.add_parser(
        "install", help="install a bundle into the other slot, and reboot into it",
        description="Installs a signed bundle into the other slot, switches to that slot and reboots. The running slot "
        "is not changed; the device falls back to it if the new slot fails its health checks.",
    )  # fmt: skip
    install.add_argument("source", metavar="FILE|URL", help="a file, or an http or https URL")
    install.add_argument("--no-switch", action="store_true", help="only write the slot; `update switch` does the rest")
    install.add_argument("--no-reboot", action="store_true", help="switch, but do not reboot")
    install.add_argument(
        "--deadline",
        type=parse_seconds,
        metavar="SECONDS",
        help="time limit of the installation (default: from the profile, or 3600)",
    )
    install.add_argument(
        "--fetch", choices=("auto", "parts", "whole"), default="auto",
        help="how to download: only new blocks (parts), the whole bundle first (whole), or whole if the Kubernetes "
        "version changes and there is space for it (auto, the default)",
    )  # fmt: skip
    install.add_argument("--json", action="store_true", help="print one JSON object per line")
    switching = commands.add_parser(
        "switch", help="switch to an update that was installed with --no-switch, and reboot"
    )
    switching.add_argument("--no-reboot", action="store_true", help="do not reboot")
    switching.add_argument("--json", action="store_true", help="print one JSON object per line")
    for name, help in (
        ("status", "show the pending update and the minimum version"),
        ("history", "show past updates and their results"),
    ):
        commands.add_parser(name, help=help).add_argument("--json", action="store_true", help="print JSON")
    confirming = commands.add_parser("confirm", help="let the update begin that the update server asks about")
    confirming.add_argument("--deny", action="store_true", help="do not let it begin")
    commands.add_parser(
        "boot", help="record this boot, and determine the result of the pending update (runs at every boot)"
    )
    commands.add_parser("commit", help="finish an update (runs after the slot was marked as good)")


def parse_seconds(text: str) -> float:
    """Parse a positive number for argparse. Raises `ValueError`."""
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError
    return value


def main(options: argparse.Namespace) -> int:
    """Run one of the actions. Their modules are imported when needed: imports take time at boot."""
    from osbuild.agent.update.context import handle_signals, need_root, this_device
    from osbuild.agent.update.progress import ConsoleProgress, JsonProgress, Progress, ProgressEvent

    as_json = bool(getattr(options, "json", False))
    progress: Progress = JsonProgress() if as_json else ConsoleProgress()
    try:
        need_root()
        if options.action in ("status", "history"):
            return show_state(options.action, as_json)
        if options.action == "confirm":
            return confirm_update(denied=options.deny)
        context = this_device(progress)
        if options.action == "boot":
            from osbuild.agent.update.after_boot import handle_boot

            return handle_boot(context)
        if options.action == "commit":
            from osbuild.agent.update.commit import commit_update

            commit_update(context)
            return 0
        handle_signals()
        if options.action == "switch":
            from osbuild.agent.update.switch import switch_pending

            switch_pending(context, reboot=not options.no_reboot)
            return 0
        from osbuild.agent.update.install import InstallOptions, install_bundle

        install_options = InstallOptions(not options.no_switch, not options.no_reboot, options.deadline, options.fetch)
        install_bundle(context, options.source, install_options)
    except (Problem, OSError, KeyboardInterrupt) as error:
        if not as_json:
            raise
        match error:
            case Problem():
                progress.report_event(ProgressEvent.error, error.message, where=error.where, hint=error.hint)
            case OSError():
                progress.report_event(
                    ProgressEvent.error, error.strerror or str(error), where=error.filename, hint=None
                )
            case _:
                progress.report_event(
                    ProgressEvent.error,
                    "interrupted",
                    where=None,
                    hint="see `edge-agent update status`",
                )
                return 130
        return 1
    return 0


def confirm_update(*, denied: bool) -> int:
    """Answer the question of the update server."""
    from osbuild.agent.fleet.confirmation import answer_question
    from osbuild.agent.system import System

    question = answer_question(System(), confirmed=not denied)
    title = f"{question.name} {question.version}"
    print(f"{title} is denied" if denied else f"{title} is confirmed, and begins at the next poll of the update server")
    return 0


def show_state(action: str, as_json: bool) -> int:
    """Print the status or the history."""
    from osbuild.agent.update import history, status
    from osbuild.agent.update.context import this_device

    context = this_device()
    if action == "history":
        rows = history.read_history(context.system)
        text = (
            [json.dumps(rows, indent=2)] if as_json else [history.event_line(row) for row in rows] or ["no update yet"]
        )
    else:
        status_report = status.update_status(context)
        text = [json.dumps(status_report, indent=2)] if as_json else status.status_lines(status_report)
    sys.stdout.write("\n".join(text) + "\n")
    return 0
