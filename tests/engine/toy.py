"""A small learner for the tests: linear regression with Adam, and noise from every global random generator."""

import os
import random
import signal
import time

import numpy as np
import safetensors.torch
import torch

from manyone.randomness import BatchOrder, generator_for


class Regression:
    """y = Xw + noise; ``loss_at`` replaces the loss of single steps, ``signal_at`` sends this process a signal."""

    def __init__(self, lr=0.05, pause=0.0, loss_at=None, signal_at=None, fabric=None):
        self.x = torch.randn(64, 5, generator=generator_for(0, "x"))
        self.y = self.x @ torch.arange(5.0)
        self.model = torch.nn.Linear(5, 1)
        torch.nn.init.zeros_(self.model.weight)
        torch.nn.init.zeros_(self.model.bias)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=lr)
        self.forward = self.model
        self.backward = torch.Tensor.backward
        if fabric is not None:
            self.forward, self.optimiser = fabric.setup(self.model, self.optimiser)
            self.backward = fabric.backward
        self.order = BatchOrder(64, 8, 0, "toy")
        self.count = 0
        self.pause, self.loss_at, self.signal_at = pause, loss_at or {}, signal_at
        self.evaluations = 0

    def step(self):
        time.sleep(self.pause)
        rows = self.order.batch(self.count)
        self.count += 1
        noise = torch.randn(8) + float(np.random.randn()) + random.gauss(0, 1)
        loss = (self.forward(self.x[rows]).squeeze(1) - self.y[rows] - 0.1 * noise).square().mean()
        self.optimiser.zero_grad()
        self.backward(loss)
        self.optimiser.step()
        if self.signal_at == self.count:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": self.loss_at.get(self.count, loss.item()), "time": {"step": time.perf_counter()}}

    def evaluate(self):
        self.evaluations += 1
        with torch.no_grad():
            return {"error": (self.model(self.x).squeeze(1) - self.y).abs().mean().item(), "draw": random.random()}

    def state_dict(self):
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "count": self.count}

    def load_state_dict(self, state):
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.count = state["count"]

    def export(self, folder):
        safetensors.torch.save_file(self.model.state_dict(), folder / "model.safetensors")


def seed_all(seed=0):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
