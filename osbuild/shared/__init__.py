"""Code that host and device share. It imports only the standard library and nothing from the rest of the project."""
