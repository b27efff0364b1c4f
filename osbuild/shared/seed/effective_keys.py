"""The keys of a cloud-config that have an effect on a node. The device warns about others, the host rejects them."""

from collections.abc import Mapping
from typing import Any

EFFECTIVE = frozenset({
    "allow_public_ssh_keys", "bootcmd", "ca-certs", "ca_certs", "chpasswd", "create_hostname_file", "device_aliases",
    "disable_root", "disable_root_opts", "fqdn", "groups", "hostname", "launch-index", "locale", "manage_etc_hosts",
    "merge_how", "merge_type", "mount_default_fields", "mounts", "ntp", "output", "password",
    "prefer_fqdn_over_hostname", "preserve_hostname", "runcmd", "ssh_authorized_keys", "ssh_pwauth",
    "timezone", "user", "users", "vendor_data", "version", "write_files",
})  # fmt: skip

IMAGE = "the root file system is read-only; add it to the image with the profile"
PROGRAM = "the image does not contain the program"
FIXED = "the image defines the steps of cloud-init"
CLIENT = "systemd-timesyncd is only a client"
HOST_KEY = "the node creates its host key at the first boot"
WITHOUT_EFFECT: dict[str, str] = {
    **dict.fromkeys(("packages", "package_update", "package_upgrade", "package_reboot_if_required"), IMAGE),
    **dict.fromkeys(("apt", "apt_pipelining", "apt_reboot_if_required", "apt_update", "apt_upgrade"), IMAGE),
    **dict.fromkeys(("apk_repos", "yum_repo_dir", "yum_repos", "zypper", "drivers", "grub-dpkg", "grub_dpkg"), IMAGE),
    **dict.fromkeys(("ansible", "byobu_by_default", "chef", "fan", "landscape", "lxd", "mcollective"), PROGRAM),
    **dict.fromkeys(("puppet", "rh_subscription", "rsyslog", "salt_minion", "snap", "spacewalk"), PROGRAM),
    **dict.fromkeys(("autoinstall", "ubuntu_advantage", "ubuntu_pro", "wireguard", "ssh_import_id"), PROGRAM),
    **dict.fromkeys(("cloud_init_modules", "cloud_config_modules", "cloud_final_modules"), FIXED),
    **dict.fromkeys(("system_info", "datasource", "datasource_list", "updates", "migrate"), FIXED),
    **dict.fromkeys(("def_log_file", "logcfg", "log_cfgs"), "the image defines the log files of cloud-init"),
    **dict.fromkeys(("ssh_deletekeys", "ssh_genkeytypes", "ssh_keys", "ssh_publish_hostkeys"), HOST_KEY),
    **dict.fromkeys(("ssh", "ssh_quiet_keygen"), HOST_KEY),
    **dict.fromkeys(
        ("authkey_hash", "no_ssh_fingerprints", "ssh_fp_console_blacklist", "ssh_key_console_blacklist"),
        "keys are not printed on the console",
    ),
    **dict.fromkeys(
        ("disk_setup", "fs_setup"), "disks are not formatted; format the disk in advance and add it to `mounts`"
    ),
    **dict.fromkeys(("growpart", "resize_rootfs"), "the data partition grows to the end of the disk automatically"),
    "swap": "the kubelet does not start if swap is enabled",
    "keyboard": PROGRAM,
    "reporting": "the network is not available when cloud-init runs",
    "locale_configfile": "the locale is in /etc/locale.conf",
    "manage_resolv_conf": "write name servers into network-config, key `nameservers`",
    "resolv_conf": "write name servers into network-config, key `nameservers`",
    "phone_home": "the node sends no message; use `runcmd`",
    "power_state": "each boot is a first boot for cloud-init, so the node would reboot forever",
    "final_message": "the edge agent reports on the console when the boot is complete",
    "random_seed": "the kernel is seeded by the firmware",
    "disable_ec2_metadata": "the node uses no metadata service",
    "network": "write it into the file network-config",
}  # fmt: skip
UNKNOWN = "cloud-init does not know this key"

# The same for keys of nested mappings: (key, nested key) -> reason.
BELOW: dict[tuple[str, str], str] = {
    ("users", "ssh_import_id"): PROGRAM,
    ("users", "snapuser"): PROGRAM,
    ("users", "doas"): PROGRAM,
    ("users", "selinux_user"): PROGRAM,
    ("ntp", "packages"): IMAGE,
    ("ntp", "peers"): CLIENT,
    ("ntp", "allow"): CLIENT,
}

# Keys that have no effect with one value: key -> (value, reason).
WITH_VALUE: dict[str, tuple[bool, str]] = {
    "disable_root": (False, "the SSH server rejects logins as root; give a user `sudo`"),
    "preserve_hostname": (True, "each boot is a first boot for cloud-init, so there is no host name to preserve"),
}


def find_without_effect(config: Mapping[str, Any]) -> dict[str, str]:
    """Key, or KEY.NESTED, -> the reason why it has no effect on a node."""
    reasons = {}
    for key, value in config.items():
        if key not in EFFECTIVE:
            reasons[key] = WITHOUT_EFFECT.get(key, UNKNOWN)
            continue
        if value is None:
            reasons[key] = "it has no value"
            continue
        if key in WITH_VALUE and as_boolean(value) is WITH_VALUE[key][0]:
            reasons[key] = WITH_VALUE[key][1]
            continue
        entries = value if isinstance(value, list) else [value]
        for (outer, nested), reason in BELOW.items():
            if outer == key and any(isinstance(entry, Mapping) and nested in entry for entry in entries):
                reasons[f"{outer}.{nested}"] = reason
    return reasons


def as_boolean(value: object) -> bool | None:
    """The boolean that cloud-init reads from a value; None if the value is not a boolean."""
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
