"""Scores and their uncertainty."""

from manyone.evaluation.intervals import (
    Interval,
    bootstrap_interval,
    interquartile_mean,
    paired_difference,
    t_interval,
    wilson_interval,
)

__all__ = ["Interval", "bootstrap_interval", "interquartile_mean", "paired_difference", "t_interval", "wilson_interval"]
