"""Policies: one policy from the offline data of many tasks (decision transformers with a mask per task)."""
