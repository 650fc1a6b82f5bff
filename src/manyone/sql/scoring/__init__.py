"""Scoring text-to-SQL as Spider and BIRD do: execution accuracy, test suites, exact match, valid efficiency."""
