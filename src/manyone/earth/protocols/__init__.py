"""What is done with the features of an encoder: one file a protocol; ``probe`` runs them by name."""
