"""What drives the loop, and from which model it starts."""
