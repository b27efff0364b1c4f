"""Steps of cloud-init on an immutable node. cloud.cfg names them: `[edge, always, STEP]`.

cloud-init's own modules stop at the first bad entry. These steps call the same functions once for each entry, so that
one bad file, user or command does not affect the others. Errors are logged, and `edge-agent seed` reports them.
"""

import base64
import copy
import grp
import logging
import os
import pwd
import re
import subprocess
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cloudinit import subp, temp_utils, util
from cloudinit.config import (
    cc_ca_certs,
    cc_mounts,
    cc_ntp,
    cc_runcmd,
    cc_set_hostname,
    cc_set_passwords,
    cc_ssh,
    cc_update_etc_hosts,
    cc_write_files,
)
from cloudinit.distros import ug_util
from cloudinit.settings import PER_ALWAYS

LOG = logging.getLogger("cloudinit.config.cc_edge")

meta = {"id": "cc_edge", "distros": ["all"], "frequency": PER_ALWAYS, "activate_by_schema_keys": []}

TIME_CLIENT = "systemd-timesyncd"
BOOTCMD_TIMEOUT = 60  # seconds; users and files are applied afterwards, and the boot waits
# The same ids as in osbuild.seed.users. They are derived from the name, because /home outlives the user database.
FIRST_ID, IDS = 1000, 50000

UNSUPPORTED = ("selinux_user", "snapuser")  # keys of a user that would prevent its creation
DONE = "/run/cloud-init/edge-done"

Config = dict[str, Any]


def handle(name: str, cfg: Config, cloud: Any, args: list[str]) -> None:
    """Run the step that cloud.cfg names."""
    STEPS[args[0]](cfg, cloud)


def attempt(what: str, action: Callable[..., object], *arguments: Any) -> bool:
    """Call `action`. If it fails, log an error that begins with `what`. Returns whether it succeeded."""
    try:
        action(*arguments)
    except Exception as error:
        LOG.error("%s: %s", what, reason(error))
        LOG.debug("%s", what, exc_info=True)
        return False
    return True


def reason(error: Exception) -> str:
    """An exception as one line. The arguments of a command may be secret, so only its output is shown."""
    if isinstance(error, subp.ProcessExecutionError):
        output = util.decode_binary(error.stderr or b"").strip()
        return " ".join(output.split()) if output not in ("", "-") else f"exit status {error.exit_code}"
    return " ".join(str(error).split()) or type(error).__name__


def entries(cfg: Config, key: str) -> list[Any]:
    """The list at `key`. Another type is logged as an error and treated as an empty list."""
    value = cfg.get(key) or []
    if isinstance(value, list):
        return value
    LOG.error("%s: expected a list", key)
    return []


def bootcmd(cfg: Config, cloud: Any) -> None:
    """Run `bootcmd` as one script, like cc_bootcmd, but with a time limit."""
    lines = commands(cfg, "bootcmd")
    if not lines:
        return

    def run() -> None:
        with temp_utils.ExtendedTemporaryFile(suffix=".sh") as script:
            script.write(util.encode_text(util.shellify(lines)))
            script.flush()
            command = ["timeout", "--kill-after=5", str(BOOTCMD_TIMEOUT), "/bin/sh", script.name]
            environment = {"INSTANCE_ID": str(cloud.get_instance_id())}
            code = subprocess.run(command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL).returncode
        if code == 124:
            raise RuntimeError(f"stopped after {BOOTCMD_TIMEOUT} s")
        if code:
            raise RuntimeError(f"its last command ended with {code}")

    attempt("bootcmd", run)


def commands(cfg: Config, key: str) -> list[Any]:
    """The commands of `bootcmd` or `runcmd`. Invalid entries are logged as errors, without quoting them."""
    valid = []
    for number, entry in enumerate(entries(cfg, key), 1):
        if isinstance(entry, str) or (
            isinstance(entry, list) and not any(isinstance(word, (dict, list)) for word in entry)
        ):
            valid.append(entry)
        elif entry is not None:
            LOG.error(
                "%s, entry %d: expected a text or a list of texts; a text with `: ` must be in quotes", key, number
            )
    return valid


def runcmd(cfg: Config, cloud: Any) -> None:
    """Write the script of `runcmd`, which runs after the network is up."""
    if lines := commands(cfg, "runcmd"):
        attempt("runcmd", cc_runcmd.handle, "runcmd", {"runcmd": lines}, cloud, [])


def files(cfg: Config, cloud: Any, *, deferred: bool = False) -> None:
    """Write each entry of `write_files` that has (or has not) `defer`."""
    for number, entry in enumerate(entries(cfg, "write_files"), 1):
        if not isinstance(entry, dict):
            if not deferred:
                LOG.error("write_files, entry %d: expected a mapping with `path`", number)
            continue
        if util.get_cfg_option_bool(entry, "defer", False) != deferred:
            continue
        if not isinstance(entry.get("path"), str) or not entry["path"]:
            LOG.error("write_files, entry %d: `path` is missing, or not a text", number)
            continue
        what = f"write_files, {entry['path']}"
        source = entry.get("source")
        if source and not str(source.get("uri") if isinstance(source, dict) else "").startswith(("file:", "/")):
            LOG.error("%s: `source` is not fetched: this runs before the network; use `content`", what)
            if entry.get("content") is None:
                continue
            entry = {key: value for key, value in entry.items() if key != "source"}
        owner = cloud.distro.default_owner
        if attempt(what, check_content, entry):
            attempt(what, cc_write_files.write_files, "write_files", [entry], owner)


def check_content(entry: Config) -> None:
    """Raise an exception if the content is not text or base64 is damaged. cloud-init would skip invalid characters."""
    content = entry.get("content")
    if content is not None and not isinstance(content, (str, bytes)):
        raise TypeError("`content` is not a text: put it in quotes")
    if cc_write_files.canonicalize_extraction(entry.get("encoding"))[0] == "application/base64":
        base64.b64decode(b"".join(util.encode_text(entry.get("content") or "").split()), validate=True)


def deferred_files(cfg: Config, cloud: Any) -> None:
    """Write the files that have to be written after the users are created."""
    files(cfg, cloud, deferred=True)


def users(cfg: Config, cloud: Any) -> None:
    """Create groups and users with ids that are derived from their names."""
    valid = without_invalid_users(cfg, cloud, LOG.error)
    accounts, groups = ug_util.normalize_users_groups(copy.deepcopy(valid), cloud.distro)
    default, _ = ug_util.extract_default(copy.deepcopy(accounts))
    numbers = {int(account["uid"]) for account in accounts.values() if str(account.get("uid", "")).isdecimal()}
    for group in groups:
        attempt(f"groups, {group}", make_group, group, numbers)
    for name, config in accounts.items():
        for group in named_groups(config):
            attempt(f"groups, {group}", make_group, group, numbers)
        attempt(f"users, {name}", make_user, cloud, name, config, (default, numbers))
    for group, members in groups.items():
        for member in members or ():
            attempt(f"groups, {group}", subp.subp, ["usermod", "--append", "--groups", group, str(member)])


def without_invalid_users(cfg: Config, cloud: Any, report: Callable[..., object] = LOG.debug) -> Config:
    """`cfg` without invalid entries of `users` and `groups`. Because of one, cloud-init would create no user at all."""
    valid = copy.deepcopy(cfg)
    try:
        ug_util.normalize_users_groups({"user": copy.deepcopy(cfg.get("user")), "users": []}, cloud.distro)
    except Exception as error:
        report("user: %s", reason(error))
        del valid["user"]
        cfg = {key: value for key, value in cfg.items() if key != "user"}
    others = {key: value for key, value in cfg.items() if key not in ("users", "groups")}
    for key in ("groups", "users"):
        if key not in cfg:
            continue
        listed = cfg[key] if isinstance(cfg[key], list) else [cfg[key]]
        accepted = []
        for number, entry in enumerate(listed, 1):
            try:
                candidate = entry if isinstance(entry, dict) and not isinstance(cfg[key], list) else [entry]
                ug_util.normalize_users_groups(copy.deepcopy({**others, key: candidate}), cloud.distro)
                accepted.append(entry)
            except Exception as error:
                report("%s, entry %d: %s", key, number, reason(error))
        if len(accepted) < len(listed):
            valid[key] = accepted
    return valid


def ssh(cfg: Config, cloud: Any) -> None:
    """Allow logins as the default user with a key of `ssh_authorized_keys`."""
    attempt("ssh_authorized_keys", cc_ssh.handle, "ssh", without_invalid_users(cfg, cloud), cloud, [])


def make_user(cloud: Any, name: str, config: Config, context: Any) -> None:
    """Create one user. `context` is the name of the default user, and the ids that other users request."""
    default, numbers = context
    for key in ("default", *UNSUPPORTED):
        config.pop(key, None)
    for key in ("passwd", "hashed_passwd"):  # useradd(8) would print it
        if re.search(r"[:\n]", str(config.get(key) or "")):
            raise ValueError(f"`{key}` is not the hash of a password: it contains `:` or a line break")
    if config.pop("ssh_redirect_user", False):
        if default is None:
            raise ValueError("`ssh_redirect_user` needs a default user")
        config.update(ssh_redirect_user=default, cloud_public_ssh_keys=cloud.get_public_ssh_keys() or [])
    if "uid" not in config and not config.get("system"):
        config["uid"] = free_id(name, numbers)
    existed = util.is_user(name)
    try:
        cloud.distro.create_user(name, **copy.deepcopy(config))
    except subp.ProcessExecutionError as error:
        if existed or not util.is_user(name) or Path(pwd.getpwnam(name).pw_dir).is_dir():
            raise
        subp.subp(["userdel", name])
        # The data partition may be full or read-only. A user without a home folder can still log in and repair it.
        LOG.error("users, %s: created without a home folder: %s", name, reason(error))
        cloud.distro.create_user(name, **{**config, "no_create_home": True})


def named_groups(config: Config) -> Iterable[str]:
    """The groups of a user."""
    value = config.get("groups") or []
    names = value.split(",") if isinstance(value, str) else list(value)
    return [str(name).strip() for name in names if str(name).strip()] if config.get("create_groups", True) else []


def make_group(name: str, numbers: set[int]) -> None:
    """Create a group with an id derived from its name, unless it exists."""
    if not util.is_group(name):
        subp.subp(["groupadd", "--gid", str(free_id(name, numbers)), name])


def free_id(name: str, numbers: set[int]) -> int:
    """A user or group id that is derived from `name` and neither in use nor in `numbers`."""
    used = {*numbers, *(user.pw_uid for user in pwd.getpwall()), *(group.gr_gid for group in grp.getgrall())}
    start = zlib.crc32(name.encode()) % IDS
    return next(candidate for step in range(IDS) if (candidate := FIRST_ID + (start + step) % IDS) not in used)


def hostname(cfg: Config, cloud: Any) -> None:
    """Set the host name, and add it to /etc/hosts if requested. cloud-init would reject a number as a name."""
    settings = dict(cfg)
    for key in ("hostname", "fqdn"):
        if isinstance(cfg.get(key), (int, float)):
            settings[key] = str(cfg[key])
    attempt("hostname", cc_set_hostname.handle, "set_hostname", settings, cloud, [])
    attempt("manage_etc_hosts", cc_update_etc_hosts.handle, "update_etc_hosts", settings, cloud, [])


def locale(cfg: Config, cloud: Any) -> None:
    """Set the locale if the image has it; locales cannot be generated on a read-only root file system."""
    name = cfg.get("locale")
    if not name or util.is_false(name):
        return
    available = {line.lower().replace("-", "") for line in subp.subp(["locale", "-a"]).stdout.split()}
    if str(name).lower().replace("-", "") not in available | {"c", "posix", "c.utf8"}:
        LOG.warning("locale: the image does not have %s", name)
        return
    for path in ("/etc/locale.conf", "/etc/default/locale"):
        util.write_file(path, f"LANG={name}\n", mode=0o644)


def ca_certs(cfg: Config, cloud: Any) -> None:
    """Trust each valid certificate. A damaged one in the common file could make programs fail that read this file."""
    for key in ("ca_certs", "ca-certs"):
        settings = cfg.get(key)
        if not settings:
            continue
        if not isinstance(settings, dict):
            LOG.error("%s: expected a mapping with `trusted`", key)
            continue
        trusted = settings.get("trusted") or []
        valid = []
        for number, certificate in enumerate(trusted if isinstance(trusted, list) else [trusted], 1):
            if attempt(f"{key}, certificate {number}", check_certificate, str(certificate)):
                valid.append(str(certificate))
        if not valid and not settings.get("remove_defaults") and not settings.get("remove-defaults"):
            continue
        removes = settings.get("remove_defaults") or settings.get("remove-defaults")
        if not removes and not any(Path("/etc/ca-certificates/update.d").glob("*")):
            attempt(key, trust_certificates, valid)
            continue
        module_config = {**{name: value for name, value in cfg.items() if name not in ("ca_certs", "ca-certs")}}
        module_config["ca_certs"] = {**settings, "trusted": valid}
        attempt(key, cc_ca_certs.handle, "ca_certs", module_config, cloud, [])


def trust_certificates(certificates: list[str], root: Path = Path("/")) -> None:
    """Make the files that cloud-init and update-ca-certificates(8) would make, without reading all other certificates.

    That takes 15 s on a slow processor, at every boot.
    """
    folder, local = root / "etc/ssl/certs", root / "usr/local/share/ca-certificates"
    bundle = folder / "ca-certificates.crt"
    trusted = bundle.read_text()
    local.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(certificates, 1):
        content = text.strip() + "\n"
        if content in trusted:  # of Debian, or of an earlier attempt at this boot
            continue
        name = f"cloud-init-ca-cert-{number}"
        (local / f"{name}.crt").write_text(content)
        replace_link(folder / f"{name}.pem", f"/usr/local/share/ca-certificates/{name}.crt")
        digest = subp.subp(["openssl", "x509", "-noout", "-subject_hash"], data=content).stdout.strip()
        rank = next(rank for rank in range(1000) if not (folder / f"{digest}.{rank}").exists())
        replace_link(folder / f"{digest}.{rank}", f"{name}.pem")
        trusted += content
    util.write_file(str(bundle), trusted, mode=0o644)


def replace_link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def check_certificate(text: str) -> None:
    """Raise an exception unless `text` is a certificate in PEM."""
    result = subprocess.run(
        ["openssl", "x509", "-noout"], input=text.encode(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if result.returncode != 0:
        raise ValueError("not a certificate in PEM")


def ntp(cfg: Config, cloud: Any) -> None:
    """Configure the time servers; `edge-agent seed` restarts systemd-timesyncd."""
    settings = cfg.get("ntp")
    if not settings:
        return
    if isinstance(settings, dict) and settings.get("ntp_client") not in (None, "auto", TIME_CLIENT):
        # cloud-init would install another client.
        LOG.warning("ntp: `ntp_client` and `config` have no effect: the image has %s", TIME_CLIENT)
        supported = {key: value for key, value in settings.items() if key not in ("ntp_client", "config")}
        cfg = {**cfg, "ntp": supported}
    attempt("ntp", without_services, cc_ntp, cfg, cloud)


def passwords(cfg: Config, cloud: Any) -> None:
    """Set passwords. Then warn if the seed has users but nobody can log in."""
    valid = without_unknown_users(without_invalid_users(cfg, cloud))
    attempt("password, chpasswd or ssh_pwauth", without_services, cc_set_passwords, valid, cloud)
    logins = [user.pw_name for user in pwd.getpwall() if FIRST_ID <= user.pw_uid < FIRST_ID + IDS + 10000]
    if logins and not any(can_log_in(name) for name in logins) and not has_password("root"):
        LOG.warning("nobody can log in: no user has a key or a password")


def without_unknown_users(cfg: Config) -> Config:
    """`cfg` without passwords of users that do not exist. Because of one, chpasswd(8) would change no password."""
    settings = cfg.get("chpasswd")
    if not isinstance(settings, dict):
        return cfg
    lines = settings.get("list") or []
    entries_by_key = {
        "users": settings.get("users") or [],
        "list": lines.splitlines() if isinstance(lines, str) else lines,
    }
    known: dict[str, list[Any]] = {"users": [], "list": []}
    for key, listed in entries_by_key.items():
        for number, entry in enumerate(listed if isinstance(listed, list) else [], 1):
            name, colon, _ = str(entry).partition(":")
            if isinstance(entry, dict):
                name, colon = str(entry.get("name")), ":"
            if colon and util.is_user(name):
                known[key].append(entry)
            else:
                LOG.error("chpasswd, %s, entry %d: there is no user %s", key, number, name if colon else "in it")
    rest = {key: value for key, value in cfg.items() if key != "password" or not any(entries_by_key.values())}
    return {**rest, "chpasswd": {**settings, **known}}


def can_log_in(name: str) -> bool:
    """Whether a user has an SSH key or a password."""
    return has_password(name) or bool(authorized_keys(name))


def has_password(name: str) -> bool:
    """Whether a user has a password for the console."""
    lines = [line.split(":") for line in util.load_text_file("/etc/shadow").splitlines()]
    password = next((line[1] for line in lines if line[0] == name), "!")
    return not password.startswith(("!", "*"))


def authorized_keys(name: str) -> list[str]:
    """The words in a user's file of authorized keys; cloud-init also writes an empty file."""
    path = Path(f"/etc/ssh/authorized_keys.d/{name}")
    return path.read_text(errors="replace").split() if path.exists() else []


def without_services(module: Any, cfg: Config, cloud: Any) -> None:
    """Run a module of cloud-init without its restart of a service, because nothing may wait for a service here."""
    before = cloud.distro.manage_service
    cloud.distro.manage_service = lambda *_, **__: ("", "")
    try:
        module.handle(module.meta["id"], cfg, cloud, [])
    finally:
        cloud.distro.manage_service = before


def mounts(cfg: Config, cloud: Any) -> None:
    """Mount each entry of `mounts`. Swap is an error, because the kubelet does not start with it."""
    default = ["", "", "auto", "defaults,nofail", "0", "2"]
    fields = entries(cfg, "mount_default_fields")
    default[: len(fields)] = [default[index] if field is None else str(field) for index, field in enumerate(fields[:6])]
    listed = entries(cfg, "mounts")
    if listed:  # udev may not have detected every disk yet
        attempt("mounts", subp.subp, ["udevadm", "settle", "--timeout=30"])
    for number, entry in enumerate(listed, 1):
        if not isinstance(entry, list) or not entry:
            LOG.error("mounts, entry %d: expected a list such as [/dev/vdb1, /srv/data]", number)
            continue
        if len(entry) > 1 and entry[1] is None:
            continue  # in cloud-init this removes a default mount, but there are none
        line = [default[index] if field is None else str(field) for index, field in enumerate(entry[:6])]
        line += default[len(line) :]
        attempt(f"mounts, {line[0]}", mount, line, cfg, cloud)


def mount(line: list[str], cfg: Config, cloud: Any) -> None:
    """Write one line to fstab and mount it. systemd mounts network file systems after the network is up."""
    device, folder, kind, given = line[:4]
    if "swap" in (device, kind):
        raise ValueError("swap is not used on a node")
    line[0] = fstab_device(device, cfg, cloud)
    # systemd must not wait for it or fail: a missing disk says nothing about the health of the image.
    options = [option for option in given.split(",") if option]
    remote = cc_mounts.is_network_device(device) or device.startswith("//") or "_netdev" in options
    needed = ["nofail", *(["_netdev"] if remote else [])]
    options += [option for option in needed if option not in options]
    line[3] = ",".join([*options, cc_mounts.MNT_COMMENT])
    if remote and kind != "auto" and not Path(f"/usr/sbin/mount.{kind}").exists():
        raise FileNotFoundError(f"the image has no mount.{kind}: add its package to the profile")
    util.ensure_dir(folder)
    util.write_file("/etc/fstab", "\t".join(line) + "\n", omode="ab", mode=0o644)
    if remote:
        return
    subp.subp(["mount", folder], timeout=60)
    if subprocess.run(["mountpoint", "--quiet", folder]).returncode:  # with `nofail`, mount(8) does not fail
        raise FileNotFoundError(f"there is no device {device}")


def fstab_device(name: str, cfg: Config, cloud: Any) -> str:
    """The first field of fstab for `name`. cloud-init resolves aliases and whole disks; other names are unchanged.

    Raises `FileNotFoundError` for the name of a device that does not exist.
    """
    aliases = cfg.get("device_aliases") or {}
    if device := cc_mounts.sanitize_devname(name, cloud.device_name_to_device, aliases=aliases):
        return str(device)
    plain = str(aliases.get(name, name))
    path = f"/dev/{plain}" if re.match(cc_mounts.DEVICE_NAME_FILTER, plain) else plain
    if cc_mounts.is_meta_device_name(plain) or (path.startswith("/dev/") and not Path(path).exists()):
        raise FileNotFoundError(f"there is no device {name}")
    return path


def done(cfg: Config, cloud: Any) -> None:
    """Record that all steps were run: cloud-init's own status is `finished` even if it ended before them."""
    Path(DONE).touch()


STEPS: dict[str, Callable[[Config, Any], None]] = {
    "bootcmd": bootcmd,
    "write_files": files,
    "ca_certs": ca_certs,
    "hostname": hostname,
    "locale": locale,
    "ntp": ntp,
    "users": users,
    "ssh": ssh,
    "passwords": passwords,
    "deferred_files": deferred_files,
    "mounts": mounts,
    "runcmd": runcmd,
    "done": done,
}
