"""What is in an image or a bundle, and what an update would change."""
