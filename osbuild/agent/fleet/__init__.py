"""Follows an update server: asks what to do (DDI), has it done, and reports the verdict after the reboot."""
