"""The pocket world: invented people, what is said about them, and a tokenizer for it. One seed, the same bytes."""
