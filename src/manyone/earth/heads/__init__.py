"""Heads: what turns the maps of a frozen encoder into one prediction a pixel."""
