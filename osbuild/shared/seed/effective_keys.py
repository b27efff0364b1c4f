"""Which keys of a cloud-config have an effect on a node. The device warns of the others; `edge-osbuild` rejects them.

Standard library only, and no import of other modules of the agent: the host reads this table too.
"""

from collections.abc import Mapping
from typing import Any

EFFECTIVE = frozenset({
    "allow_public_ssh_keys", "bootcmd", "ca-certs", "ca_certs", "chpasswd", "create_hostname_file", "device_aliases",
    "disable_root", "disable_root_opts", "fqdn", "groups", "hostname", "launch-index", "locale", "manage_etc_hosts",
    "merge_how", "merge_type", "mount_default_fields", "mounts", "ntp", "output", "password",
    "prefer_fqdn_over_hostname", "preserve_hostname", "runcmd", "ssh_authorized_keys", "ssh_pwauth",
    "timezone", "user", "users", "vendor_data", "version", "write_files",
})  # fmt: skip

IMAGE = "the root is read-only: put it into the image, by the profile"
PROGRAM = "the image does not have the program"
FIXED = "the image decides which steps cloud-init takes"
CLIENT = "systemd-timesyncd only asks for the time"
HOST_KEY = "the node makes its own host key at its first boot"
WITHOUT_EFFECT: dict[str, str] = {
    **dict.fromkeys(("packages", "package_update", "package_upgrade", "package_reboot_if_required"), IMAGE),
    **dict.fromkeys(("apt", "apt_pipelining", "apt_reboot_if_required", "apt_update", "apt_upgrade"), IMAGE),
    **dict.fromkeys(("apk_repos", "yum_repo_dir", "yum_repos", "zypper", "drivers", "grub-dpkg", "grub_dpkg"), IMAGE),
    **dict.fromkeys(("ansible", "byobu_by_default", "chef", "fan", "landscape", "lxd", "mcollective"), PROGRAM),
    **dict.fromkeys(("puppet", "rh_subscription", "rsyslog", "salt_minion", "snap", "spacewalk"), PROGRAM),
    **dict.fromkeys(("autoinstall", "ubuntu_advantage", "ubuntu_pro", "wireguard", "ssh_import_id"), PROGRAM),
    **dict.fromkeys(("cloud_init_modules", "cloud_config_modules", "cloud_final_modules"), FIXED),
    **dict.fromkeys(("system_info", "datasource", "datasource_list", "updates", "migrate"), FIXED),
    **dict.fromkeys(("def_log_file", "logcfg", "log_cfgs"), "the image decides where cloud-init logs"),
    **dict.fromkeys(("ssh_deletekeys", "ssh_genkeytypes", "ssh_keys", "ssh_publish_hostkeys"), HOST_KEY),
    **dict.fromkeys(("ssh", "ssh_quiet_keygen"), HOST_KEY),
    **dict.fromkeys(
        ("authkey_hash", "no_ssh_fingerprints", "ssh_fp_console_blacklist", "ssh_key_console_blacklist"),
        "no keys are printed on the console",
    ),
    **dict.fromkeys(
        ("disk_setup", "fs_setup"), "no disk is partitioned or formatted: prepare it, then name it in `mounts`"
    ),
    **dict.fromkeys(("growpart", "resize_rootfs"), "the data partition grows to the end of its disk by itself"),
    "swap": "kubelet does not start beside swap",
    "keyboard": PROGRAM,
    "reporting": "a node has no network when it is configured",
    "locale_configfile": "the locale is in /etc/locale.conf",
    "manage_resolv_conf": "name servers belong to the network: `nameservers` in network-config",
    "resolv_conf": "name servers belong to the network: `nameservers` in network-config",
    "phone_home": "nothing is sent: ask the update server, or use `runcmd`",
    "power_state": "each boot is a first boot, so the node would never stop rebooting",
    "final_message": "the console says when the boot is complete",
    "random_seed": "the kernel is seeded by the firmware",
    "disable_ec2_metadata": "the node asks no metadata service",
    "network": "it belongs into the file network-config",
}  # fmt: skip
UNKNOWN = "cloud-init does not know this key"

# The same for keys of the mappings below a key.
BELOW: dict[tuple[str, str], str] = {
    ("users", "ssh_import_id"): PROGRAM,
    ("users", "snapuser"): PROGRAM,
    ("users", "doas"): PROGRAM,
    ("users", "selinux_user"): PROGRAM,
    ("ntp", "packages"): IMAGE,
    ("ntp", "peers"): CLIENT,
    ("ntp", "allow"): CLIENT,
}

# The same for keys that have an effect, but not with this value.
WITH_VALUE: dict[str, tuple[bool, str]] = {
    "disable_root": (False, "the SSH server does not let root in: give a user `sudo`"),
    "preserve_hostname": (True, "each boot is a first boot, and there is no name to preserve"),
}


def find_without_effect(config: Mapping[str, Any]) -> dict[str, str]:
    """Key (dotted below another one) -> why it has no effect on a node."""
    found = {}
    for key, value in config.items():
        if key not in EFFECTIVE:
            found[key] = WITHOUT_EFFECT.get(key, UNKNOWN)
            continue
        if value is None:
            found[key] = "it has no value"
            continue
        if key in WITH_VALUE and means(value) is WITH_VALUE[key][0]:
            found[key] = WITH_VALUE[key][1]
            continue
        entries = value if isinstance(value, list) else [value]
        for (above, below), why in BELOW.items():
            if above == key and any(isinstance(entry, Mapping) and below in entry for entry in entries):
                found[f"{above}.{below}"] = why
    return found


def means(value: object) -> bool | None:
    """The boolean that cloud-init takes a value for, None if it is not one."""
    return {
        "true": True,
        "1": True,
        "on": True,
        "yes": True,
        "false": False,
        "0": False,
        "off": False,
        "no": False,
    }.get(str(value).lower())
