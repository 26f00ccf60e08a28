"""A guarded model behind an OpenAI-compatible address: keys, limits, streams, a console, and the ledger's requests enforced."""
