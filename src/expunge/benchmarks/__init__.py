"""Data, metrics and protocol of one benchmark each. They see a LanguageModel, never a method."""
