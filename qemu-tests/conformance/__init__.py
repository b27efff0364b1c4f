"""`make conformance`: Kubernetes' own conformance tests against a node of an image of this project."""
