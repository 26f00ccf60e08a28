"""Closed forms that change weights without a loop."""
