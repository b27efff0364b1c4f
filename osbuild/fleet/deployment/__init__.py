"""The update server as a service of systemd, and as a container image."""
