"""`make bench`: the duration of builds and boots, the size of an image, the memory of a node, and the cost of
updates."""
