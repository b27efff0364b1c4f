"""Configures Kubernetes on the node: writes the files of its programs from the settings of image and seed."""
