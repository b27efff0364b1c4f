"""The node's network: network-config of its seed, rendered by netplan for systemd-networkd."""
