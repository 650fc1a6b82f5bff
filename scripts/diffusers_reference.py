"""Writes tests/fixtures/diffusers.json: what the schedulers of diffusers give where ours should give the same.

The library is no dependency (docs/dependencies.md says why); the tests compare with these numbers. To write them anew,
in an environment of its own::

    pip install diffusers torch && python scripts/diffusers_reference.py

A "network" of one line stands for a denoiser, so that a whole chain is a function of the schedule, the sampler and the
numbers that are stored beside it. diffusers counts steps from 0, so its step t is our t + 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

FILE = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "diffusers.json"
PREDICTIONS = {"noise": "epsilon", "data": "sample", "velocity": "v_prediction"}
BETAS: dict[str, dict[str, Any]] = {
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "linear": {"beta_schedule": "linear"},
    "vp": {},
}
LINEAR = (1e-4, 0.02)  # at 1,000 steps
FEW = {
    "cosine": (5, 10),
    "linear": (25, 25),
    "vp": (5, 10),
}  # the linear schedule has no 5 steps: beta would be above 1


def network(x: Tensor, n: int, total: int) -> Tensor:
    """What stands for a denoiser at our step n."""
    return 0.4 * torch.tanh(1.5 * x + n / total) - 0.2 * x


def betas(name: str, steps: int) -> dict[str, Any]:
    """The keywords of a scheduler for our schedule ``name``."""
    words = dict(BETAS[name])
    if name == "linear":
        words |= {"beta_start": LINEAR[0] * 1000 / steps, "beta_end": LINEAR[1] * 1000 / steps}
    if name == "vp":
        n = torch.arange(1, steps + 1, dtype=torch.float64)
        words["trained_betas"] = (1 - torch.exp(-0.1 / steps - 9.9 * (2 * n - 1) / (2 * steps**2))).tolist()
    return words


def chain(case: dict[str, Any], start: Tensor, draws: Tensor) -> tuple[list[int], Tensor]:
    """Our numbers of the steps taken, and what comes out."""
    words = betas(case["schedule"], case["total"]) | {
        "num_train_timesteps": case["total"],
        "prediction_type": PREDICTIONS[case["prediction"]],
        "timestep_spacing": case["spacing"],
    }
    clip = {"clip_sample": case["clip"] is not None, "clip_sample_range": case["clip"] or 1.0}
    if case["sampler"] == "ddpm":
        scheduler = diffusers.DDPMScheduler(**words, **clip, variance_type="fixed_small")
    elif case["sampler"] == "ddim":
        scheduler = diffusers.DDIMScheduler(**words, **clip, set_alpha_to_one=True, steps_offset=0)
    else:
        scheduler = diffusers.DPMSolverMultistepScheduler(
            **words, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", final_sigmas_type="zero"
        )
    scheduler.set_timesteps(case["steps"])
    x = start
    for k, t in enumerate(scheduler.timesteps.tolist()):
        output = network(x, t + 1, case["total"])
        if case["sampler"] == "ddim":
            noise = draws[k] if case["eta"] > 0 else None
            x = scheduler.step(output, t, x, eta=case["eta"], variance_noise=noise).prev_sample
        elif case["sampler"] == "ddpm":
            x = with_noise(scheduler, output, t, x, draws[k])
        else:
            x = scheduler.step(output, t, x).prev_sample
    return [t + 1 for t in scheduler.timesteps.tolist()], x


def with_noise(scheduler: Any, output: Tensor, t: int, x: Tensor, noise: Tensor) -> Tensor:
    """A DDPM step with noise of our own: the library draws it itself."""
    module = sys.modules[type(scheduler).__module__]
    drawn, module.randn_tensor = module.randn_tensor, lambda *_, **__: noise
    try:
        return scheduler.step(output, t, x).prev_sample
    finally:
        module.randn_tensor = drawn


def cases() -> list[dict[str, Any]]:
    """Settings of the chains."""
    found = []
    for schedule, (total, steps) in ((s, c) for s in BETAS for c in ((FEW[s][1],) * 2, (200, 10), (200, 20))):
        for sampler, eta in (("ddpm", 0.0), ("ddim", 0.0), ("ddim", 1.0), ("dpm-solver++", 0.0)):
            for prediction in PREDICTIONS:
                clip = None if sampler == "dpm-solver++" else 1.5
                spacing = "leading" if (sampler, prediction) == ("ddim", "data") else "trailing"
                found.append({"schedule": schedule, "total": total, "steps": steps, "sampler": sampler, "eta": eta,
                              "prediction": prediction, "clip": clip, "spacing": spacing})  # fmt: skip
    return found


def main(path: Path) -> None:
    """Writes the file."""
    draw = torch.Generator().manual_seed(0)
    start, draws = torch.randn(2, 3, generator=draw), torch.randn(25, 2, 3, generator=draw)
    x0, noise = torch.randn(2, 3, generator=draw), torch.randn(2, 3, generator=draw)
    schedules, chains = [], []
    for name, total in ((s, t) for s in BETAS for t in (FEW[s][0], 200, 1000)):
        scheduler = diffusers.DDPMScheduler(num_train_timesteps=total, **betas(name, total))
        t = torch.tensor([total // 3, total - 1])
        schedules.append(
            {"schedule": name, "total": total, "n": (t + 1).tolist(), "alpha_bar": scheduler.alphas_cumprod[t].tolist(),
             "noisy": scheduler.add_noise(x0, noise, t).tolist(),
             "velocity": scheduler.get_velocity(x0, noise, t).tolist()}
        )  # fmt: skip
    for case in cases():
        path_taken, x = chain(case, start, draws)
        chains.append(case | {"n": path_taken, "x": x.tolist()})
    whole = {"diffusers": diffusers.__version__, "start": start.tolist(), "draws": draws.tolist(), "x0": x0.tolist(),
             "noise": noise.tolist(), "schedules": schedules, "chains": chains}  # fmt: skip
    text = json.dumps(rounded(whole)).replace('{"schedule"', '\n{"schedule"')
    path.write_text(text + "\n")
    print(f"{path}: {path.stat().st_size} bytes, {len(chains)} chains, diffusers {diffusers.__version__}")


def rounded(value: Any) -> Any:
    """Numbers to seven digits."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)
