"""The seed of this node (cloud-init's NoCloud format): found, checked, applied by cloud-init, stored and reported."""
