"""`edge-osbuild publish`: upload a bundle to an update server, or to an Eclipse hawkBit."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from osbuild.cli.fleet_context import chosen_context, context_option
from osbuild.cli.location import LOCATION
from osbuild.cli.options import REFERENCE, as_object, resolve_option
from osbuild.cli.table import print_lines
from osbuild.keys.development import signing_keys
from osbuild.shared.counts import format_count
from osbuild.shared.errors import UsageError
from osbuild.shared.quoting import escaped_json
from osbuild.shared.sizes import format_decimal

if TYPE_CHECKING:
    from osbuild.fleet.hawkbit.publishing import HawkbitBundle, LocalBundle
    from osbuild.fleet.hawkbit.rollout import HawkbitRollout, RolloutRequest


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """The arguments and options of `edge-osbuild publish`."""

    bundle: Path
    as_json: bool
    hawkbit: str | None
    login: str | None
    ca: Path | None
    keys: Path | None
    rollout: str | None
    patterns: tuple[str, ...]
    groups: str
    success: int
    error: int
    soft: bool
    confirm: bool
    now: bool


@click.command(short_help="upload a bundle to an update server")
@click.argument("bundle", type=LOCATION)
@click.option("--json", "as_json", is_flag=True, help="Print the bundle as JSON.")
@click.option("--hawkbit", metavar="URL", help="Upload to the Eclipse hawkBit at URL instead.")
@click.option("--login", metavar=REFERENCE, help="hawkBit: USER:PASSWORD of its management API.")
@click.option("--ca", type=LOCATION, metavar="FILE",
              help="hawkBit: certificate of the server's authority. Default: those of this host.")  # fmt: skip
@click.option("--keys", type=LOCATION, metavar="FOLDER",
              help="hawkBit: keys that the bundle must be signed with. Default: the development keys.")  # fmt: skip
@click.option("--rollout", metavar="NAME", help="hawkBit: also create the rollout NAME of the bundle.")
@click.option("--select", "patterns", multiple=True, metavar="KEY=PATTERN",
              help="hawkBit: only devices whose attribute KEY, or `name`, matches. May be repeated.")  # fmt: skip
@click.option("--groups", default="100", show_default=True, metavar="PERCENT,…",
              help="hawkBit: shares of the groups in percent.")  # fmt: skip
@click.option("--success", type=click.IntRange(0, 100), default=100, show_default=True, metavar="PERCENT",
              help="hawkBit: the next group begins when this share of a group has succeeded.")  # fmt: skip
@click.option("--error", type=click.IntRange(1, 100), default=1, show_default=True, metavar="PERCENT",
              help="hawkBit: the rollout pauses when this share of a group has failed.")  # fmt: skip
@click.option("--soft", is_flag=True, help="hawkBit: let each device install when it suits it.")
@click.option("--confirm", is_flag=True, help="hawkBit: ask for a confirmation on each device.")
@click.option("--now", is_flag=True, help="hawkBit: start the rollout at once.")
@context_option
@as_object(PublishOptions)
def command(options: PublishOptions) -> None:
    """Upload BUNDLE to the update server of `edge-osbuild fleet login`, which checks its signature.

    With --hawkbit, the signature is checked here, and the bundle becomes a software module and a distribution set of
    an Eclipse hawkBit.
    """
    check_options(options)
    if options.hawkbit is not None:
        publish_hawkbit(options, options.hawkbit)
        return
    import msgspec

    from osbuild.fleet.client import FleetClient

    view = FleetClient(chosen_context()).publish_bundle(options.bundle)
    if options.as_json:
        click.echo(escaped_json(msgspec.json.encode(view).decode()))
    else:
        print_lines([f"{view.id}: {view.name} {view.version} for {view.compatible}, {format_decimal(view.size)}"])


def check_options(options: PublishOptions) -> None:
    """Raise `UsageError` for options that would be ignored, or that are missing."""
    source = click.get_current_context().get_parameter_source
    names = {
        "login": "--login", "ca": "--ca", "keys": "--keys", "rollout": "--rollout", "patterns": "--select",
        "groups": "--groups", "success": "--success", "error": "--error", "soft": "--soft", "confirm": "--confirm",
        "now": "--now",
    }  # fmt: skip
    named = [option for name, option in names.items() if source(name) is not ParameterSource.DEFAULT]
    if options.hawkbit is None and named:
        hint = "`edge-osbuild fleet rollout create` creates a rollout on the update server"
        raise UsageError(f"{named[0]} needs --hawkbit", hint=hint)
    of_rollout = [option for option in named if option not in ("--login", "--ca", "--keys", "--rollout")]
    if options.rollout is None and of_rollout:
        raise UsageError(f"{of_rollout[0]} needs --rollout", hint="name the rollout that hawkBit must create")
    if options.hawkbit is not None and source("context") is ParameterSource.COMMANDLINE:
        raise UsageError("--context is not for --hawkbit", hint="leave out one of them")
    if options.hawkbit is not None and options.login is None:
        raise UsageError("--hawkbit needs --login", hint="write --login env:NAME; the variable has USER:PASSWORD")


def publish_hawkbit(options: PublishOptions, url: str) -> None:
    """Put the bundle into a hawkBit, and create the rollout. Raises `Error`."""
    from osbuild.fleet.hawkbit import publishing, rollout
    from osbuild.fleet.hawkbit.management import HawkbitLogin, HawkbitManagement

    secret = resolve_option("--login", options.login or "")
    management = HawkbitManagement(HawkbitLogin.parse(url, secret, options.ca))
    bundle = publishing.read_bundle(options.bundle, signing_keys(options.keys).keyring())
    request = None if options.rollout is None else make_request(options, options.rollout, bundle.compatible)
    if request is not None:
        rollout.check_request(management, request)
    published = publishing.publish_to_hawkbit(management, bundle)
    created = None
    if request is not None:
        created = rollout.create_hawkbit_rollout(management, request, published.distribution_set, start=options.now)
    show_published(bundle, published, created, as_json=options.as_json)


def make_request(options: PublishOptions, name: str, compatible: str) -> "RolloutRequest":
    """Return the rollout that the options ask for. Raises `UsageError`."""
    from osbuild.fleet.hawkbit.rollout import RolloutRequest, parse_selection, parse_shares
    from osbuild.fleet.states import ActionKind

    return RolloutRequest(
        name=name, compatible=compatible, selection=parse_selection(options.patterns),
        shares=parse_shares(options.groups), success=options.success, error=options.error,
        kind=ActionKind.soft if options.soft else ActionKind.forced, confirm=options.confirm,
    )  # fmt: skip


def show_published(
    bundle: "LocalBundle", published: "HawkbitBundle", rollout: "HawkbitRollout | None", *, as_json: bool
) -> None:
    """Print where the bundle is in the hawkBit, and its rollout."""
    import msgspec

    if as_json:
        document = {
            "compatible": bundle.compatible, "version": bundle.version, "sha256": bundle.sha256,
            "module": published.module, "distribution_set": published.distribution_set, "is_new": published.is_new,
            "rollout": rollout and {"name": rollout.name, "status": rollout.status, "devices": rollout.total_targets},
        }  # fmt: skip
        click.echo(escaped_json(msgspec.json.encode(document).decode()))
        return
    news = "uploaded" if published.is_new else "already there"
    lines = [
        f"{bundle.compatible} {bundle.version}: {news}, software module {published.module}, distribution set "
        f"{published.distribution_set}"
    ]
    if rollout is not None:
        lines.append(f"rollout {rollout.name}: {rollout.status}, {format_count(rollout.total_targets, 'device')}")
    print_lines(lines)
