"""Kubernetes on the node: from the image's and the seed's settings to the files that its programs read."""
