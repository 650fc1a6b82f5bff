"""Builders of environments: Meta-World, MuJoCo locomotion families, any Gymnasium id."""
