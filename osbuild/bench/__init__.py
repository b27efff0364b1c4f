"""`make bench`: how long builds and boots take, how large an image is, how much memory a node uses, what updates
cost."""
