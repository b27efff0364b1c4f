"""The cluster data of this node and its membership in the cluster, across updates of the image."""
