"""Checks the Kubernetes version of a profile, so that errors are found before a build."""

from collections.abc import Callable

from osbuild.config import upstream_versions
from osbuild.config.document import quote_text
from osbuild.config.profile import KubernetesSettings
from osbuild.host.architecture import Architecture
from osbuild.shared.errors import Error

Where = Callable[..., str]


def check_version(settings: KubernetesSettings, where: Where) -> None:
    """Raise `Error` if the version cannot be built, or if a sha256 has no version or architecture."""
    if settings.distribution == "upstream":
        _buildable(settings.version, where("kubernetes.version"))
        if settings.sha256:
            message = "found `kubernetes.sha256` with the distribution upstream, whose modules are checked by go.sum"
            hint = "remove it; where it is inherited, write `sha256: null`"
            raise Error(message, where=where("kubernetes.sha256", "kubernetes.distribution"), hint=hint)
    for name in settings.sha256:
        if name not in tuple(Architecture):
            suggestion = next(
                (
                    architecture
                    for architecture in Architecture
                    if name in (architecture.to_debian(), architecture.to_go(), architecture.to_qemu())
                ),
                None,
            )
            hint = f"did you mean `{suggestion}`?" if suggestion else f"write one of {', '.join(Architecture)}"
            message = f"found the architecture {quote_text(name)} in `kubernetes.sha256`"
            raise Error(message, where=where(f"kubernetes.sha256.{name}"), hint=hint)
    if settings.sha256 and settings.version is None:
        message = "found `kubernetes.sha256` without `kubernetes.version`, whose release it belongs to"
        hint = "write the release, such as `version: v1.35.0+k3s1`"
        raise Error(message, where=where("kubernetes.sha256"), hint=hint)


def _buildable(version: str | None, where: str) -> None:
    known = [release.version for release in upstream_versions.list_releases()]
    if version is not None and version not in known:
        message = f"found `{version}`, which the distribution upstream cannot build"
        raise Error(message, where=where, hint=f"write one of {', '.join(known)}, or `version: null` for the newest")
