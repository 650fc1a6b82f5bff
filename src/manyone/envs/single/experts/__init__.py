"""Experts that come with the package: policies of one training run a body, from the first steps to the best."""
