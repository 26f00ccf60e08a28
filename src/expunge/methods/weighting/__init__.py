"""Which forget tokens count."""
