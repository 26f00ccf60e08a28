"""From files to token batches: requests, tokenisation, batching, and the built-in world."""
