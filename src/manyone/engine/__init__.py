"""Runs whatever steps: the loop, run folders, checkpoints, metrics, progress, devices and ranks. Knows no method."""
