"""The seed of this node in cloud-init's NoCloud format: chosen, checked, applied by cloud-init, stored, reported."""
