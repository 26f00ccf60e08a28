"""Training methods: one value of one axis per file."""
