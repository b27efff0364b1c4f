"""Renders the three files of a seed from a profile for one node."""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from osbuild.config import secrets
from osbuild.config.checks import kubernetes
from osbuild.config.checks.hosts import LOCAL_NAMES
from osbuild.config.profile import NAME, KubernetesSettings, Profile, TimeSettings
from osbuild.host import log, paths
from osbuild.seed import (
    cloud_config,
    groups,
    login,
    network_config,
    proxy,
    registries,
    user_checks,
    user_files,
    user_settings,
)
from osbuild.seed.users import resolve_accounts
from osbuild.shared import cluster_ranges, join_token
from osbuild.shared.errors import Error, UsageError
from osbuild.shared.node_settings import FORMAT, AgentSeed, KubernetesSeed
from osbuild.shared.records import record_to_json

FILES = ("user-data", "meta-data", "network-config")
SUMS = "SHA256SUMS"
SHORTEST_TOKEN = 16  # characters of a join token; a shorter one can be guessed


@dataclass(frozen=True)
class RenderedSeed:
    """The files of one node's seed. `instance` is cloud-init's instance-id. Contains secrets and must not be logged."""

    node: str
    instance: str
    files: dict[str, str] = field(repr=False)

    def warnings(self) -> list[str]:
        """Return warnings about settings that are probably not intended, as sentences."""
        return [] if login.allows_login(self.files["user-data"]) else [login.WARNING]

    def with_sums(self) -> dict[str, bytes]:
        """Return all files and, as the last one, SHA256SUMS (sha256sum(1)), with which a device detects a torn seed."""
        data = {name: text.encode() for name, text in self.files.items()}
        sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in data.items())
        return {**data, SUMS: sums.encode()}


def render_seed(
    profile: Profile, node: str, *, folder: Path, user_data: cloud_config.UserData | None = None
) -> RenderedSeed:
    """Render the seed of `node`, merged with `user_data`. Secrets are resolved relative to `folder`, the profile's.

    The instance-id is derived from the name and all contents, so a changed seed is a new instance. Raises `Error` if
    the profile lacks settings of a node, and `UsageError` for an invalid name.
    """
    if not re.fullmatch(NAME, node) or node in LOCAL_NAMES:
        raise UsageError(
            f"`{node}` is not a node's name",
            where="--node",
            hint="use up to 63 lower-case letters, digits and inner hyphens, such as `edge-7`",
        )
    context: dict[str, Any] = {
        "profile": profile,
        "node": node,
        "hostname": profile.hostname or node,
        "users": resolve_accounts(profile.users, folder),
        "kubernetes": kubernetes_settings(profile.kubernetes, folder),
        "agent": agent_settings(profile, node, folder),
        "ca_certificates": ca_certificates(profile, folder),
        "registry_files": registries.registry_files(profile.kubernetes, folder),
        "network": network_config.network_config(profile.network, folder),
        "proxy": proxy.proxy_environment(profile, folder),
    }
    templates = template_environment()
    files = {name: templates.get_template(f"{name}.j2").render(context) for name in ("user-data", "network-config")}
    if user_data is not None:
        # `user_data` may override the host name and the time zone if the profile only has their defaults.
        stated = {"hostname": profile.hostname is not None, "timezone": profile.time.zone != TimeSettings().zone}
        cloud_config.check_user_data(user_data, profile, folder)
        user_checks.check(user_data, profile, folder)
        groups.check(user_data, profile, folder)
        user_files.check(user_data)
        user_settings.check(user_data, profile, folder)
        defaults = frozenset(name for name, chosen in stated.items() if not chosen)
        files["user-data"] = cloud_config.merge_user_data(files["user-data"], user_data, defaults)
    digest = hashlib.sha256("\0".join([node, context["hostname"], *files.values()]).encode()).hexdigest()
    instance = f"{node}-{digest[:16]}"
    files["meta-data"] = templates.get_template("meta-data.j2").render(context, instance=instance)
    return RenderedSeed(node, instance, {name: files[name] for name in FILES})


def ca_certificates(profile: Profile, folder: Path) -> list[str]:
    """Return the certificates of authorities that the node trusts, each as PEM. Raises `Error`."""
    if not profile.ca_certificates:
        return []
    from osbuild.seed.certificates import read_certificates, to_pem  # cryptography takes long to import

    certificates = [
        certificate
        for number, ref in enumerate(profile.ca_certificates)
        for certificate in read_certificates(ref, folder, f"ca_certificates[{number}]")
    ]
    return list(dict.fromkeys(to_pem([certificate]) for certificate in certificates))


@cache
def template_environment() -> jinja2.Environment:
    """Return the templates of `cloud-init/`, compiled once for all nodes. An unknown variable is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(paths.TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # YAML, not HTML: every value goes through the filter `yaml`
    )
    environment.filters |= {"yaml": yaml_value, "json": json_text}
    return environment


def yaml_value(value: object) -> str:
    """Return a value as one line of YAML: JSON, with the characters escaped that YAML forbids (YAML 1.1, 5.1)."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda match: f"\\u{ord(match.group()):04x}", text)


def json_text(value: object) -> str:
    """Return the text of a JSON file."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def kubernetes_settings(settings: KubernetesSettings, folder: Path) -> dict[str, Any] | None:
    """Return the contents of /etc/edge-osbuild/kubernetes.json, with secrets resolved; None without Kubernetes.

    Raises `Error`.
    """
    if settings.role == "none":
        return None
    if settings.role == "agent":
        for name, missing in (("server", not settings.server), ("token", not (settings.agent_token or settings.token))):
            if missing:
                example = "https://NAME:6443" if name == "server" else "file:PATH"
                raise Error(
                    f"an agent node needs `{name}` to join its cluster",
                    where=f"kubernetes.{name}",
                    hint=f"add it to the profile, or give `--set kubernetes.{name}={example}`",
                )
    values: dict[str, Any] = {
        key.name: getattr(settings, key.name)
        for key in dataclasses.fields(settings)
        if key.metadata.get("affects") == "seed" and key.name != "registries"  # files of their own
    }
    values |= resolve_tokens(settings, folder)
    values["config"] = {
        name: secrets.resolve_secret(value, folder=folder) if kubernetes.is_reference(name, value) else value
        for name, value in settings.config.items()
    }
    try:
        cluster_ranges.check_ranges(kubernetes.node_settings(settings).ranges)
    except cluster_ranges.RangeError as error:
        raise Error(str(error), where=f"kubernetes, {error.name}", hint=error.hint) from error
    return record_to_json(KubernetesSeed(format=FORMAT, **values))


def resolve_tokens(settings: KubernetesSettings, folder: Path) -> dict[str, str | None]:
    """The join tokens of a node's settings. Raises `Error`.

    An agent node gets one token, and never that of the servers if there is another.
    """
    tokens: dict[str, str | None] = {"token": None, "agent_token": None}
    agent = settings.role == "agent"
    for name in ("agent_token",) if agent and settings.agent_token else ("token", "agent_token"):
        if (reference := getattr(settings, name)) is None:
            continue
        text = secrets.resolve_secret(reference, folder=folder)
        try:
            token = join_token.parse_token(text)
        except ValueError as error:
            hint = "copy the whole line that `edge-agent kubernetes token show` prints on a server"
            raise Error(str(error), where=f"kubernetes.{name}", hint=hint) from None
        if token.identifier and not agent:
            message = "a server cannot have a created token, which has the form `id.secret`"
            raise Error(message, where=f"kubernetes.{name}", hint="`openssl rand -hex 16` creates a token")
        if len(token.password) < SHORTEST_TOKEN:
            log.warn(
                f"kubernetes.{name} has only {len(token.password)} characters, and anyone who guesses it can add nodes "
                "to the cluster: `openssl rand -hex 16` creates a token of 128 bits"
            )
        tokens["token" if agent else name] = text  # agents of earlier versions know only `token`
    return tokens


def agent_settings(profile: Profile, node: str, folder: Path) -> dict[str, Any]:
    """Return the contents of /etc/edge-osbuild/agent.json. Raises `Error`."""
    if profile.agent.server is None and not profile.agent.offline:
        raise Error(
            "a node without an update server must be declared offline",
            where="agent.offline",
            hint="set `agent.server`, or `agent.offline: true`",
        )
    agent = profile.agent
    for name in ("authority", "enrolment", "token", "window", "attributes", "facts"):
        if getattr(agent, name) and agent.server is None:
            hint = "set `agent.server`"
            raise Error("this has no effect without an update server", where=f"agent.{name}", hint=hint)
    if agent.token is not None and agent.authority is None:
        hint = "set `agent.authority` to the certificate of the authority of the server's certificate"
        raise Error("this has no effect without an authority", where="agent.token", hint=hint)
    if agent.token is not None and agent.enrolment is not None:
        raise Error("a node with a target token does not enrol", where="agent.enrolment", hint="set only one of both")

    def resolve(reference: str | None) -> str | None:
        return None if reference is None else secrets.resolve_secret(reference, folder=folder)

    seed = AgentSeed(
        node=node, server=agent.server, offline=agent.offline, authority=resolve(agent.authority),
        enrolment=resolve(agent.enrolment), token=resolve(agent.token), window=agent.window,
        requests=tuple(agent.requests), attributes=agent.attributes, facts=tuple(agent.facts), format=FORMAT,
    )  # fmt: skip
    return record_to_json(seed)
