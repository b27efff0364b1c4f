"""The cluster's data and this node's place in its cluster, across updates of the image."""
