"""Kubernetes as a component of an image, from either distribution."""
