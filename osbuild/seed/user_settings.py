"""Checks host name, locale, time servers and certificates of a user's own cloud-config like a profile's."""

import warnings
from collections.abc import Iterator
from pathlib import Path

from osbuild.config.checks import hosts
from osbuild.config.document import quote_text
from osbuild.config.profile import Profile
from osbuild.host import paths
from osbuild.seed.cloud_config import UserData
from osbuild.shared.seed.effective_keys import as_boolean

LOCALES = ("c", "posix", "c.utf8")  # those of every image
LOCALE_PACKAGES = ("locales", "locales-all")
TIME_CLIENTS = ("auto", "systemd-timesyncd")


def check(user_data: UserData, profile: Profile, folder: Path) -> None:
    """Raise `UsageError` for a setting that has no effect on a node. `folder` is the profile's."""
    config = user_data.config
    for key in ("hostname", "fqdn"):
        if isinstance(name := config.get(key), str):
            with user_data.located(key):
                # systemd accepts underscores, names of Kubernetes nodes have none.
                hosts.check_host_name(name if profile.kubernetes.role != "none" else name.replace("_", "x"), key)
    check_locale(user_data, profile, folder)
    check_time(user_data)
    password = config.get("ssh_pwauth")
    if isinstance(password, str) and password.lower() != "unchanged" and as_boolean(password) is None:
        hint = "write `true`, `false` or `unchanged`"
        raise user_data.error(f"found {quote_text(password)}, expected a boolean", hint, "ssh_pwauth")
    for key, certificate in certificates(user_data):
        if not is_certificate(certificate):
            hint = "paste the lines from BEGIN CERTIFICATE to END CERTIFICATE, below `- |`"
            raise user_data.error("this is not a certificate in PEM", hint, key)


def is_certificate(text: str) -> bool:
    """Return whether `text` is a certificate in PEM."""
    from cryptography import x509  # takes longer than all other checks, and few users have a certificate

    try:
        with warnings.catch_warnings(action="ignore"):  # about old certificates, which a node accepts
            x509.load_pem_x509_certificate(text.encode())
    except ValueError:
        return False
    return True


def check_locale(user_data: UserData, profile: Profile, folder: Path) -> None:
    """Raise `UsageError` for a locale that the image does not have."""
    locale = user_data.config.get("locale")
    if not isinstance(locale, str) or not locale or as_boolean(locale) is False:
        return
    has_others = profile.elements or any(name in LOCALE_PACKAGES for name in profile.packages)
    trees = [paths.overlay_path(name, folder) for name in profile.overlays]
    if locale.lower().replace("-", "") in LOCALES or has_others:
        return
    if not any((tree / "usr/lib/locale").is_dir() for tree in trees):
        hint = "write `C.UTF-8`, or add `packages+: [locales-all]` to the image"
        raise user_data.error(f"the image does not have the locale {quote_text(locale)}", hint, "locale")


def check_time(user_data: UserData) -> None:
    """Raise `UsageError` for a time server that is not a host, or another client."""
    settings = user_data.config.get("ntp")
    if not isinstance(settings, dict):
        return
    for kind in ("servers", "pools"):
        listed = settings.get(kind)
        for number, name in enumerate(listed if isinstance(listed, list) else []):
            key = f"ntp.{kind}[{number}]"
            with user_data.located(key):
                hosts.check_time_server(str(name), key)
    client = settings.get("ntp_client")
    if client is not None and client not in TIME_CLIENTS:
        message = f"the time client {quote_text(str(client))} has no effect: the image has systemd-timesyncd"
        raise user_data.error(message, "remove `ntp_client`", "ntp.ntp_client")


def certificates(user_data: UserData) -> Iterator[tuple[str, str]]:
    """Yield (key, text) of each certificate to trust."""
    for key in ("ca_certs", "ca-certs"):
        settings = user_data.config.get(key)
        listed = settings.get("trusted") if isinstance(settings, dict) else None
        for number, certificate in enumerate(listed if isinstance(listed, list) else []):
            if isinstance(certificate, str):
                yield f"{key}.trusted[{number}]", certificate
