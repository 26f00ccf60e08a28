"""What a training method is shown: the data axis."""
