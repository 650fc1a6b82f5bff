"""The fast learner against the plain formulation, and the invariants of masked training."""

from __future__ import annotations

import pytest
import torch
from tests.reference import harmodt

from manyone.errors import ManyoneError
from manyone.policies.harmodt.learner import PolicyLearner
from manyone.policies.harmodt.steps import clip_factor, one_mask, point_gradients, task_gradients
from manyone.policies.harmodt.variants import METHODS, build_model
from manyone.policies.masks import TaskMasks, maskable_shapes
from manyone.policies.tasks import PolicyData

SHAPE = {"width": 8, "layers": 2, "heads": 2, "max_timestep": 20}


def make(tasks, method="harmodt", count=3, *, dtype=torch.float64, dropout=0.0, seed=0, data=None, **options):
    data = data or PolicyData(tasks(count), context=3, prompt=2, dtype=dtype)
    seeds = [seed] if isinstance(seed, int) else seed
    models = [build_model(method, data, seed=s, dropout=dropout, **SHAPE) for s in seeds]
    defaults = {"steps": 12, "lr": 3e-3, "weight_decay": 0.1, "warmup": 2, "batch_size": 3, "mask_every": 4,
                "eta_min": 3, "eta_max": 9}  # fmt: skip
    return PolicyLearner(models, data, method=method, seed=seed, **(defaults | options))


def sample(steps, m, b):
    return {k: v[m, b] for k, v in steps.items()}


def reference_loss(learner, batch, m, task):
    b = range(learner.losses.batch_size)
    prompts = [sample(batch.prompt, m, j) if learner.model.prompt else None for j in b]
    windows = [sample(batch.steps, m, j) for j in b]
    token = task if learner.model.id_tokens else None
    return lambda w: harmodt.batch_loss(w, windows, prompts, SHAPE["layers"], SHAPE["heads"], token)


def float_masks(learner, member=0):
    masks = learner.masks[member]
    return [{n: m.double() for n, m in masks.unpack(i).items()} for i in range(len(masks))]


def parameters(learner, member=0):
    return {n: p.detach().clone() for n, p in learner.models[member].named_parameters()}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("prompt-dt", {}),
        ("id-token", {}),
        ("harmodt", {}),
        ("harmodt-m", {"moment_policy": "freeze_masked"}),
        ("harmodt", {"mask_scope": "blocks", "clip": 0.05}),
        ("harmodt", {"assignment": [0, 1, 0]}),
        ("harmodt", {"mask_batches": 2}),
    ],
)
def test_training_agrees_with_the_plain_formulation(tasks, method, options):
    small = PolicyData(tasks(3), context=2, prompt=1, dtype=torch.float64)
    learner = make(tasks, method, data=small, mask_every=3, **options)
    data, theta = learner.data, parameters(learner)
    masks = float_masks(learner) if learner.masks else [{}] * 3
    names = learner.point.layout.first
    adam = harmodt.Adam(theta, 3e-3, 0.1, freeze=options.get("moment_policy") == "freeze_masked")
    for t in range(6):
        adam.lr = 3e-3 * min(1, (t + 1) / 2)
        task = t % 3
        batch = data.batch([task], t, 0, batch_size=3)
        mask = masks[learner.assignment[task]]
        loss, theta = harmodt.inner_step(theta, mask, reference_loss(learner, batch, 0, task), adam, learner.clip)
        metrics = learner.step()
        assert metrics["loss"] == pytest.approx(float(loss), abs=1e-10)
        if learner.masks and (t + 1) % 3 == 0:
            assert metrics["swaps"] == harmodt.swaps(t + 1, 12, 3, 9) > 0
            gradients = []
            for i in range(3):
                draws = []
                for number in range(options.get("mask_batches", 1)):
                    b = data.batch([i], t + 1, 0, batch_size=3, purpose=f"score {number}")
                    _, g = harmodt.dense_gradient(theta, masks[learner.assignment[i]], reference_loss(learner, b, 0, i))
                    draws.append(harmodt.clipped(g, learner.clip))
                gradients.append({n: sum(draw[n] for draw in draws) / len(draws) for n in draws[0]})
            kind = "magnitude" if method == "harmodt-m" else "fisher"
            if "assignment" in options:
                pair = {n: (gradients[0][n] + gradients[2][n]) / 2 for n in names}
                # the mean over groups weighted by their sizes is the mean over tasks
                masks = harmodt.exchange([masks[0], masks[1], masks[0]], [pair, gradients[1], pair], theta, names,
                                         int(metrics["swaps"]), kind)[:2]  # fmt: skip
            else:
                masks = harmodt.exchange(masks, gradients, theta, names, int(metrics["swaps"]), kind)
            for mine, plain in zip(float_masks(learner), masks):
                assert all(torch.equal(mine[n], plain[n]) for n in names), "the masks differ"
        for name, value in parameters(learner).items():
            torch.testing.assert_close(value, theta[name], atol=1e-10, rtol=0, msg=f"step {t}: {name}")


@pytest.mark.parametrize("rule", ["corrected", "random"])
def test_masks_stay_after_their_share_of_the_steps_and_the_schedule_goes_over_it(tasks, rule):
    regime = {"swap_schedule": "decay", "mask_until": 0.5, "ranking": "quota", "ema_decay": 0.9, "eta_min": 0}
    learner = make(tasks, update=rule, mask_every=2, **regime)
    for t in range(1, 13):
        before, metrics = learner.masks[0].bits.clone(), learner.step()
        k = harmodt.decaying_swaps(t, 12, 0.5, 0, 9) if t % 2 == 0 else 0
        assert metrics.get("swaps", 0) == k
        flipped = sum(byte.bit_count() for byte in (before ^ learner.masks[0].bits).flatten().tolist())
        assert flipped == 2 * k * len(learner.masks[0])
    assert k == 0 < harmodt.decaying_swaps(2, 12, 0.5, 0, 9)
    for value in (0, 1.5):
        with pytest.raises(ManyoneError, match="mask_until"):
            make(tasks, mask_until=value)


def test_several_tasks_a_step_are_the_accumulated_gradient(tasks):
    learner = make(tasks, tasks_per_step=3, mask_every=100)
    theta, masks = parameters(learner), float_masks(learner)
    adam = harmodt.Adam(theta, 0, 0.1)
    for t in range(3):
        adam.lr = 3e-3 * min(1, (t + 1) / 2)
        batch = learner.data.batch([0, 1, 2], t, 0, batch_size=3)
        each = [harmodt.dense_gradient(theta, masks[i], reference_loss(learner, batch, i, i))[1] for i in range(3)]
        dense = {n: sum(g[n] for g in each) / 3 for n in theta}
        factor = next(iter(harmodt.clipped(dense, learner.clip).values())) / next(iter(dense.values()))
        gradient = {n: sum(g[n] * m[n] if n in m else g[n] for g, m in zip(each, masks)) / 3 for n in theta}
        gradient = {n: g * factor.reshape(-1)[0] for n, g in gradient.items()}
        union = {n: torch.stack([m[n] for m in masks]).amax(0) for n in masks[0]}
        theta = adam.step(theta, gradient, union)
        learner.step()
        for name, value in parameters(learner).items():
            torch.testing.assert_close(value, theta[name], atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", ["mt-dt", "harmodt", "pcgrad", "cagrad", "gradnorm"])
def test_a_network_in_a_stack_of_seeds_trains_as_it_does_alone(tasks, method):
    data = PolicyData(tasks(3), context=3, prompt=2, dtype=torch.float64)
    together = make(tasks, method, data=data, seed=[4, 7], dropout=0.1)
    alone = [make(tasks, method, data=data, seed=s, dropout=0.1) for s in (4, 7)]
    for _ in range(9):
        losses = [one.step()["loss"] for one in alone]
        assert together.step()["loss"] == pytest.approx(sum(losses) / 2, abs=1e-10)
    for number, one in enumerate(alone):
        for name, value in parameters(one).items():
            torch.testing.assert_close(parameters(together, number)[name], value, atol=1e-10, rtol=0)
        if one.masks:
            assert torch.equal(together.masks[number].bits, one.masks[0].bits)


def test_stacked_tasks_and_stacked_seeds_together(tasks):
    data = PolicyData(tasks(3), context=3, prompt=2, dtype=torch.float64)
    together = make(tasks, data=data, seed=[1, 2], dropout=0.1, tasks_per_step=2)
    alone = make(tasks, data=data, seed=2, dropout=0.1, tasks_per_step=2)
    for _ in range(8):
        together.step()
        alone.step()
    for name, value in parameters(alone).items():
        torch.testing.assert_close(parameters(together, 1)[name], value, atol=1e-10, rtol=0)


def test_with_all_masks_one_training_is_plain_prompt_dt_bit_for_bit(tasks):
    data = PolicyData(tasks(3), context=3, prompt=2)
    dense = make(tasks, "prompt-dt", data=data, dropout=0.1)
    ones = TaskMasks.ones(maskable_shapes(dense.model), 3)
    masked = make(tasks, "harmodt", data=data, dropout=0.1, masks=ones, eta_max=50)
    for _ in range(8):
        assert dense.step()["loss"] == masked.step()["loss"]
    assert all(torch.equal(parameters(masked)[n], v) for n, v in parameters(dense).items())


def test_no_swaps_leaves_harmodt_at_its_random_masks(tasks):
    updated = make(tasks, "harmodt", eta_min=0, eta_max=0, dropout=0.1)
    frozen = make(tasks, "harmodt-r", dropout=0.1)
    before = updated.masks[0].bits.clone()
    for _ in range(8):
        assert updated.step()["loss"] == frozen.step()["loss"]
    assert torch.equal(updated.masks[0].bits, before)


@pytest.mark.parametrize("method", ["harmodt", "harmodt-m", "random-swap", "harmodt-official", "shared-init"])
def test_the_number_of_ones_stays_constant_over_updates(tasks, method):
    learner = make(tasks, method)
    before, bits = learner.masks[0].active(), learner.masks[0].bits.clone()
    for _ in range(8):
        learner.step()
    assert torch.equal(learner.masks[0].active(), before)
    assert not torch.equal(learner.masks[0].bits, bits), "an update changed nothing"


@pytest.mark.parametrize("options", [{}, {"moment_policy": "freeze_masked"}, {"tasks_per_step": 2}])
def test_a_step_does_not_move_masked_entries_despite_momentum_and_decay(tasks, options):
    learner = make(tasks, mask_every=100, **options)
    learner.step()
    for t in range(1, 6):
        before = learner.point.theta.clone()
        group = [(t * learner.tasks_per_step + j) % 3 for j in range(learner.tasks_per_step)]
        frozen = ~learner.point.masks_of(group).any(1)
        learner.step()
        after = learner.point.theta
        assert bool(frozen.any())
        assert torch.equal(after[frozen], before[frozen])
        assert bool((after[~frozen] != before[~frozen]).float().mean() > 0.99)


def test_disjoint_masks_leave_the_other_task_alone(tasks):
    learner = make(tasks, "harmodt-r", count=2)
    half = torch.arange(learner.point.layout.maskable) % 2 == 0
    learner.masks[0].set(0, half)
    learner.masks[0].set(1, ~half)
    learner.regroup([0, 1], learner.masks)
    batch = learner.data.batch([0], 5, batch_size=4)
    at = learner.point
    keep = at.w.detach().clone()

    def outputs():
        weights = parameters(learner) | {n: parameters(learner)[n] * m for n, m in learner.masks[0].unpack(0).items()}
        return learner.model.run(weights, batch.steps, batch.prompt)

    before = outputs()
    for _ in range(3):
        direction = one_mask(at, learner.losses, [1], learner.iteration, learner.clip)
        at.move(learner.optimiser, direction.gradient, 1e-2, direction.mask)
        at.w.data[:, at.layout.maskable :] = keep[:, at.layout.maskable :]  # the dense part frozen
    assert torch.equal(outputs(), before)
    assert not torch.equal(at.theta, keep[:, : at.layout.maskable])


def test_gradient_on_theta_is_the_dense_gradient_times_the_mask_and_masked_entries_do_not_matter(tasks):
    learner = make(tasks)
    batch, masks = learner.data.batch([1], 0, batch_size=3), learner.masks[0].unpack(1)
    theta = {n: p.requires_grad_() for n, p in parameters(learner).items()}
    loss = learner.losses(theta | {n: theta[n] * m for n, m in masks.items()}, batch).sum()
    through = torch.autograd.grad(loss, [theta[n] for n in masks])
    point = point_gradients(learner.point, learner.losses, [1], batch)[0][0, 0, : learner.point.layout.maskable]
    for value, name in zip(through, masks):
        torch.testing.assert_close(value, learner.masks[0].named(point)[name] * masks[name], atol=1e-12, rtol=0)
    before = learner.losses({n: (theta[n] * masks[n] if n in masks else theta[n]) for n in theta}, batch)
    with torch.no_grad():
        for name, mask in masks.items():
            theta[name][~mask] += 1e3
    after = learner.losses({n: (theta[n] * masks[n] if n in masks else theta[n]) for n in theta}, batch)
    assert torch.equal(before, after)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "harmodt-f"])
def test_every_method_trains_and_resumes_exactly(tasks, method):
    data = PolicyData(tasks(3), context=3, prompt=2)
    learner = make(tasks, method, data=data, dropout=0.1, mask_every=3, lr=1e-2, ema_decay=0.3)
    first = [learner.step()["loss"] for _ in range(5)]
    other = make(tasks, method, data=data, dropout=0.1, mask_every=3, lr=1e-2, ema_decay=0.3)
    state = learner.state_dict()
    saved = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
    saved["optimiser"] = {k: v.clone() for k, v in state["optimiser"].items()}
    saved["masks"] = [b.clone() for b in state["masks"]]
    rest = [learner.step()["loss"] for _ in range(7)]
    other.load_state_dict(saved)
    assert [other.step()["loss"] for _ in range(7)] == rest
    assert all(torch.equal(parameters(other)[n], v) for n, v in parameters(learner).items())
    assert all(0 < loss < 5 for loss in first + rest)


def test_groups_of_their_own_are_harmodt_and_one_dense_group_is_prompt_dt(tasks):
    data = PolicyData(tasks(3), context=3, prompt=2)
    plain = make(tasks, data=data)
    grouped = make(tasks, data=data, assignment=[0, 1, 2])
    assert [plain.step()["loss"] for _ in range(8)] == [grouped.step()["loss"] for _ in range(8)]
    dense = make(tasks, "prompt-dt", data=data)
    one = make(tasks, data=data, assignment=[0, 0, 0], sparsity=0.0)
    assert [dense.step()["loss"] for _ in range(8)] == [one.step()["loss"] for _ in range(8)]


def test_the_programs_quirk_freezes_dense_entries_that_a_mask_covers(tasks):
    learner = make(tasks, "harmodt-official", freeze_unmasked=True, mask_scope="blocks", sparsity=0.5)
    covered = learner.masks[0].unpack(0)["embed.state.weight"]
    assert not bool(covered.all())
    before = parameters(learner)["embed.state.weight"]
    learner.step()
    after = parameters(learner)["embed.state.weight"]
    assert torch.equal(after[~covered], before[~covered])
    assert bool((after[covered] != before[covered]).all())
    for _ in range(7):
        learner.step()


def test_fisher_by_samples_is_the_mean_of_squared_sample_gradients(tasks):
    learner = make(tasks)
    squares = task_gradients(learner.point, learner.losses, [0, 2], 0, squares=True)
    batch = learner.data.batch([0, 2], 0, 0, batch_size=3, purpose="score 0")
    masks = float_masks(learner)
    for place, task in enumerate((0, 2)):
        total = 0
        for j in range(3):
            prompt = [sample(batch.prompt, place, j)]
            window = [sample(batch.steps, place, j)]
            _, g = harmodt.dense_gradient(
                parameters(learner), masks[task], lambda w, a=window, b=prompt: harmodt.batch_loss(w, a, b, 2, 2)
            )
            total = total + torch.cat([g[n].reshape(-1) for n in learner.point.layout.first]) ** 2 / 3
        torch.testing.assert_close(squares[0, place], total, atol=1e-12, rtol=0)
    make(tasks, fisher_samples=True, ema_decay=0.5, ranking="quota", mask_every=1).step()
    make(tasks, ranking="z-score", mask_every=1).step()


def test_last_and_best_success_are_both_reported(tasks):
    values = iter([{"success": 0.2}, {"success": 0.9}, {"success": 0.4}])
    learner = make(tasks, evaluate=lambda _: next(values))
    assert [learner.evaluate()["success_best"] for _ in range(3)] == [0.2, 0.9, 0.9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "nothing"}, "method 'nothing' is unknown"),
        ({"lr": 0}, "lr = 0: must be above 0"),
        ({"eta_min": 5, "eta_max": 2}, "eta_min = 5"),
        ({"tasks_per_step": 4}, r"tasks_per_step = 4: must be 1\.\.3"),
        ({"assignment": [0, 1]}, "must give each of the 3 tasks a mask"),
        ({"update": "wild"}, "update 'wild'"),
        ({"mask_scope": "heads"}, "mask_scope 'heads'"),
        ({"swap_schedule": "up"}, "swap schedule 'up'"),
        ({"moment_policy": "none"}, "moment_policy 'none'"),
    ],
)
def test_wrong_options_say_what_is_allowed(tasks, options, message):
    data = PolicyData(tasks(3), context=3, prompt=2)
    model = build_model("harmodt", data, **SHAPE)
    with pytest.raises(ManyoneError, match=message):
        PolicyLearner(model, data, **({"steps": 5} | options))


def test_a_network_that_does_not_fit_the_data_is_refused(tasks):
    data = PolicyData(tasks(3), context=3, prompt=2)
    other = PolicyData(tasks(3, states=7), context=3, prompt=2)
    with pytest.raises(ManyoneError, match="states and actions of width 5 and 2, the data have 7 and 2"):
        PolicyLearner(build_model("harmodt", data, **SHAPE), other, steps=5)
    longer = PolicyData(tasks(3), context=4, prompt=2)
    with pytest.raises(ManyoneError, match="same context and prompt"):
        PolicyLearner(build_model("harmodt", data, **SHAPE), longer, steps=5)


def test_a_gradient_shorter_than_the_clip_keeps_its_length():
    assert clip_factor(torch.tensor([0.01, 0.0]), 0.25).tolist() == [1.0]
    assert clip_factor(torch.tensor([3.0, 4.0]), 0.25).item() == pytest.approx(0.05)


def test_the_tasks_of_a_step_drop_different_entries(tasks):
    learner = make(tasks, dropout=0.5, tasks_per_step=2)
    noise = learner.losses.dropout([0, 0], 3)
    noise.start(64)
    first, second = noise.drop(torch.ones(2, 64))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("options", [{"mask_scope": "all"}, {"freeze_unmasked": True}])
def test_masks_over_tensors_that_the_loss_does_not_use_train_stacked_too(tasks, options):
    learner = make(tasks, tasks_per_step=2, **options)
    assert all(0 < learner.step()["loss"] < 5 for _ in range(5))
