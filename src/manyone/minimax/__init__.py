"""Minimax: many clients, one saddle point (local and decentralised stochastic gradient descent ascent), and its stability."""
