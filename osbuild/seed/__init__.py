"""The seed: the configuration of one node in cloud-init's NoCloud format."""
