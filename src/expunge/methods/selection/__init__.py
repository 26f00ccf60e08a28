"""Which parameters move."""
