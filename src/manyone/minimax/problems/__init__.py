"""The problems: AUC maximisation, GANs, agnostic learning, games, constraints, and a user's own modules."""
