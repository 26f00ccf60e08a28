"""Ways to get the knowledge back, one a file. They see a LanguageModel and what its capabilities allow."""
