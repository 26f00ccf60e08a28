"""Definitions of numbers: pure functions of arrays and text, one metric a file, each with a version."""
