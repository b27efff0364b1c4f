"""The management API: what people and scripts ask and order."""
