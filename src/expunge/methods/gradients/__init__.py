"""How the two pulls combine."""
