"""Builds, boots and updates immutable A/B edge OS images with Kubernetes inside."""

__version__ = "0.1.0"
