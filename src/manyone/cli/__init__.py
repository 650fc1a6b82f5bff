"""Parses words, nothing else: each verb hands over to the recipes."""
