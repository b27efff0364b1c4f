"""Kubernetes as a component of an image: a file tree for either distribution."""
