"""Writes images to SD cards, disks and files, and verifies them."""
