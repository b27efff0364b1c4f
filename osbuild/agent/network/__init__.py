"""The network of the node: network-config of the seed, rendered by netplan for systemd-networkd."""
