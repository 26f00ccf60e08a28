"""What happens to a prompt that is in scope."""
