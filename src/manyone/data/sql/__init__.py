"""Databases, their schemas, and pairs of a question and the SQL that answers it."""
