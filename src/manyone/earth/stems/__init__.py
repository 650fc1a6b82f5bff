"""Stems: how the bands of a sensor become tokens."""
