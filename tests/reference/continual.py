"""Continual-learning rules written out plainly in numpy, one number at a time."""

from __future__ import annotations

import math

import numpy as np


def forward(weights: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A linear map: W x + b."""
    return weights @ x + bias


def gradient(weights: np.ndarray, bias: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the mean over outputs of (W x + b - y)^2."""
    error = 2 * (forward(weights, bias, x) - y) / len(y)
    return np.outer(error, x), error


def fisher(weights: np.ndarray, bias: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over samples of the squared gradient."""
    total_w, total_b = np.zeros_like(weights), np.zeros_like(bias)
    for x, y in zip(xs, ys):
        w, b = gradient(weights, bias, x, y)
        total_w += w**2
        total_b += b**2
    return total_w / len(xs), total_b / len(xs)


def sensitivity(weights: np.ndarray, bias: np.ndarray, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over samples of |d ||W x + b||^2 / d theta|."""
    total_w, total_b = np.zeros_like(weights), np.zeros_like(bias)
    for x in xs:
        out = forward(weights, bias, x)
        total_w += np.abs(np.outer(2 * out, x))
        total_b += np.abs(2 * out)
    return total_w / len(xs), total_b / len(xs)


def penalty(values: list[float], anchors: list[float], importance: list[float], strength: float) -> float:
    """(lambda / 2) sum_j F_j (theta_j - theta*_j)^2"""
    return strength / 2 * math.fsum(f * (v - a) ** 2 for v, a, f in zip(values, anchors, importance))


def packnet_share(values: list[float], owner: list[int], task: int, tasks: int) -> list[int]:
    """The owners (-1: free) after ``task`` has taken the largest floor(free / (tasks - task)) of what is free."""
    free = [place for place, who in enumerate(owner) if who == -1]
    taken = sorted(free, key=lambda place: -abs(values[place]))[: len(free) // (tasks - task)]
    return [task if place in taken else who for place, who in enumerate(owner)]


def adapted(base: np.ndarray, b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """W + B A of a tensor that is flattened behind its first axis."""
    found = base.copy()
    rows = found.reshape(len(base), -1)
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            rows[i, j] += sum(b[i, k] * a[k, j] for k in range(b.shape[1]))
    return found


def cloning_loss(layers: list, pairs: list, tasks: int) -> float:
    """Mean over (state, task, action) of the mean squared error of an MLP on the state and a one-hot task."""
    errors = []
    for state, task, action in pairs:
        x = np.concatenate([state, [1.0 if j == task else 0.0 for j in range(tasks)]])
        for weights, bias in layers[:-1]:
            x = np.maximum(weights @ x + bias, 0)
        weights, bias = layers[-1]
        out = np.tanh(weights @ x + bias)
        errors.append(np.mean((out - action) ** 2))
    return float(np.mean(errors))
