"""Guards: a detector that says which prompts are in scope, and an action for those. The weights are left alone."""
