"""What is pushed on the forget side."""
