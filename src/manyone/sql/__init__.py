"""Text-to-SQL: a small language model that answers questions about a database, distilled from a large one."""
