"""What no schema can say: values that are well formed and still wrong on a device."""
