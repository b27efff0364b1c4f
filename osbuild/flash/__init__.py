"""Writes images to cards, disks and files, and proves that they are there."""
