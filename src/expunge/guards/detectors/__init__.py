"""Which prompts are in scope: a calibrated score, higher = in scope."""
