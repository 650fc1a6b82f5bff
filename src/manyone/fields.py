"""The fields, by name: the one list that the floors below them know. Each is the package ``manyone.<field>``."""

FIELDS = ("merging", "policies", "minimax", "teams", "behavior", "sql", "earth")
"""In the order of the reports' chapters."""
