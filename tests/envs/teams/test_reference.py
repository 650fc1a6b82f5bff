"""The batched team environments step by step against plain single episodes."""

import numpy as np
import pytest
import torch
from tests.reference.team_envs import ReferenceGrid, ReferenceTraffic

from manyone.envs.teams.make import make_team
from manyone.envs.teams.traffic import routes_of
from manyone.randomness import generator_for

torch.set_num_threads(1)


def grid(task, size, predators, vision, limit, **more):
    settings = {"size": size, "predators": predators, "vision": vision, "limit": limit, **more}
    return task, settings, lambda slot, seed: ReferenceGrid(task, slot, seed, **settings)


def traffic(level, cars, vision, limit, arrival):
    task, settings = f"traffic-junction-{level}", {"cars": cars, "vision": vision, "limit": limit, "arrival": arrival}
    return task, settings, lambda slot, seed: ReferenceTraffic(task, slot, seed, routes_of(level), **settings)


@pytest.mark.parametrize(
    ("case", "steps", "brake"),
    [
        (grid("predator-prey", 5, 3, 1, 60), 1250, None),
        (grid("predator-prey", 3, 2, 2, 9), 250, None),
        (grid("predator-prey", 4, 3, 0, 30, reward="cooperative"), 250, None),
        (grid("predator-prey", 4, 3, 1, 30, reward="competitive"), 250, None),
        (grid("predator-prey-blind", 3, 4, 1, 40, blind=2), 400, None),
        (grid("predator-capture-prey", 3, 2, 1, 60, captors=2), 400, None),
        (grid("predator-capture-prey", 3, 1, 0, 30, captors=1, reward="cooperative"), 250, None),
        (traffic("easy", 5, 0, 20, 0.3), 400, 0.3),
        (traffic("medium", 4, 1, 40, 0.2), 100, 0.2),
        (traffic("hard", 12, 0, 80, 0.05), 120, 0.1),
        (traffic("medium", 6, 0, 17, 1.0), 60, 0.1),
    ],
    ids=lambda case: case[0] if isinstance(case, tuple) else None,
)
def test_the_batched_environment_equals_the_scalar_one_step_by_step(case, steps, brake):
    task, settings, build = case
    batch, seed = 8, 11
    env = make_team(task, batch, **settings)
    plain = [build(slot, seed) for slot in range(batch)]
    observation = env.reset(seed)
    generator = generator_for("actions", task)
    ended = {"terminated": 0, "truncated": 0}
    for _ in range(steps):
        assert np.array_equal(observation.observations.numpy(), np.array([p.observations() for p in plain], np.float32))
        assert observation.alive.tolist() == [p.alive() for p in plain]
        shape = (batch, env.spec.agents)
        if brake is None:
            actions = torch.randint(0, env.spec.actions, shape, generator=generator)
        else:
            actions = (torch.rand(shape, generator=generator) < brake).long()
        step = env.step(actions)
        terminations, truncations = step.terminated.tolist(), step.truncated.tolist()
        for b, one in enumerate(plain):
            rewards, terminated, truncated, success, measures = one.step(actions[b].tolist())
            assert np.allclose(step.rewards[b].numpy(), rewards, rtol=1e-6, atol=1e-7)
            assert (terminations[b], truncations[b]) == (terminated, truncated)
            if terminated or truncated:
                assert bool(step.success[b]) == success
                assert {name: int(value[b]) for name, value in step.measures.items()} == measures
                assert step.final is not None
                assert np.array_equal(step.final.observations[b].numpy(), np.array(one.observations(), np.float32))
                assert step.final.alive[b].tolist() == one.alive()
                ended["terminated" if terminated else "truncated"] += 1
                one.restart()
        if not bool(step.done.any()):
            assert step.final is None
        observation = step.observation
    assert ended["truncated"] > 0
    if settings.get("reward", "mixed") == "mixed" and brake is None:
        assert ended["terminated"] > 0
