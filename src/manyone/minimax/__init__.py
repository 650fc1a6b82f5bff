"""Minimax: many clients, one saddle point (local and decentralised gradient descent ascent), and its stability."""
