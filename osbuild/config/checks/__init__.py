"""Checks that a schema can't express: values that are well formed but wrong on a device."""
