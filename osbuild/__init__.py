"""Builds, boots and updates immutable A/B edge OS images with Kubernetes inside."""
