"""In which coordinates the weights move."""
