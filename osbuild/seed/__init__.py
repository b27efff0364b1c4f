"""The seed: first-boot config of one node, in cloud-init's NoCloud format."""
