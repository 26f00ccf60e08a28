"""Models: loading them safely, log-probabilities, scoring, generation, and the reference cache."""
