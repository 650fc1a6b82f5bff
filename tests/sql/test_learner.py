"""The loss of every method: plain formulation, invariances, forward passes, exact resume."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from tests.reference import kid as plain

from manyone.errors import ManyoneError
from manyone.sql.collate import Example, pack
from manyone.sql.divergences import Divergence
from manyone.sql.generation import Decoding
from manyone.sql.imperfect import Imperfection
from manyone.sql.learner import DistilLearner, Objective, Optimisation
from manyone.sql.loss import Totals
from manyone.sql.sources import Adaptive, Fixed, Imperfect, Mixture, Prepared, StudentOutputs

RKL = Objective(Divergence("rkl"))


@pytest.fixture
def make(student, teacher, gold, tokens, pad):
    """Learners that begin alike, by the name of their source."""
    start = student.model.state_dict()

    def sources(model, name, how):
        fixed = Fixed(gold, pad, model.device)
        own = StudentOutputs(model, gold, Decoding(tokens.end, pad, 12, True), 0)
        return {
            "gold": lambda: fixed,
            "student": lambda: own,
            "mixture": lambda: Mixture(fixed, own, 0.5, 0),
            "imperfect": lambda: Imperfect(model, gold, how, tokens, pad, 0),
            "following": lambda: Imperfect(model, gold, how, tokens, pad, 0, changed_share=0.1),
            "adaptive": lambda: Adaptive(fixed, own, 8, 0, capacity=10),
        }[name]()

    def learner(name="gold", objective=RKL, how=Imperfection(0.3, pick="sample"), steps=8, **more):  # noqa: B008
        model = copy.copy(student)
        model.model = copy.deepcopy(student.model)
        model.backbone, model.head = model.model.base_model, model.model.get_output_embeddings()
        model.passes = type(student.passes)()
        model.model.load_state_dict(start)
        optimisation = Optimisation(steps, lr=1e-2, warmup=0.25, clip=1.0, batch_size=4)
        optimisation = replace(optimisation, **{k: more.pop(k) for k in ("batch_size", "micro_batch") if k in more})
        return DistilLearner(model, gold, sources(model, name, how), objective, optimisation, teacher=teacher, pad=pad,
                             validation=gold[:2], **more)  # fmt: skip

    return learner


def gradients(learner, prepared, clean=None, totals=None):
    distil, hard = totals or (Totals(float(prepared.distil.sum()), len(prepared.batch)),
                              Totals(float(prepared.batch.out.sum()), len(prepared.batch)))  # fmt: skip
    learner.student.model.zero_grad()
    kd, ce = learner.losses(prepared, clean, distil, hard)
    (kd + ce).backward()
    return float(kd + ce), {n: p.grad.clone() for n, p in learner.trainable.items()}


def prepared_of(batch, labels=None):
    return Prepared(batch, batch.ids if labels is None else labels, batch.out, {})


def close(one, other, atol=1e-6):
    assert one[0] == pytest.approx(other[0], abs=atol)
    for name in one[1]:
        assert torch.allclose(one[1][name], other[1][name], atol=atol, rtol=1e-4), name


@pytest.mark.parametrize("name", ["fkl", "rkl", "jsd", "tvd", "skew-fkl", None])
@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_the_loss_is_the_plain_one(make, gold, pad, name, reduction):
    objective = Objective(None if name is None else Divergence(name), mle=0.7, reduction=reduction)
    learner = make(objective=objective)
    found = gradients(learner, prepared_of(pack(gold, pad)))[0]
    student, teacher = (plain.as_function(m.model) for m in (learner.student, learner.teacher))
    assert found == pytest.approx(plain.loss(student, teacher, gold, name, 0.7, reduction), abs=1e-4)


def test_a_whole_kid_step_is_the_plain_one(make, gold, pad, tokens):
    """Masks, predictions, divergence on the imperfect sequence, hard labels of gold in the same pass."""
    learner = make("imperfect", how=Imperfection(0.4), batch_size=6)
    student, teacher = (plain.as_function(m.model) for m in (learner.student, learner.teacher))
    prepared = learner.source.prepare(range(6), 0)
    rows = [(e.prompt, prepared.batch.ids[i, len(e.prompt) :][: len(e.output)].tolist()) for i, e in enumerate(gold)]
    assert any(list(e.output) != row[1] for e, row in zip(gold, rows))
    wanted = plain.loss(student, teacher, rows, "rkl", gold=[e.output for e in gold])
    assert learner.step()["loss"] == pytest.approx(wanted, abs=1e-4)


def test_the_loss_knows_neither_padding_nor_order_nor_side(make, gold, pad):
    learner = make()
    whole = gradients(learner, prepared_of(pack(gold, pad)))
    close(whole, gradients(learner, prepared_of(pack(gold, pad, "left"))))
    close(whole, gradients(learner, prepared_of(pack(gold[::-1], pad))))
    longer = pack([*gold, Example(gold[0].prompt, gold[1].output * 2)], pad).rows(slice(0, len(gold)))
    close(whole, gradients(learner, prepared_of(longer)))


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_accumulation_is_normalised_by_the_whole_batch(make, reduction):
    objective = replace(RKL, reduction=reduction)
    found = []
    for micro in (None, 1, 4):
        learner = make("imperfect", objective, batch_size=6, micro_batch=micro)
        metrics = learner.step()
        found.append((metrics["loss"], {n: p.detach() for n, p in learner.trainable.items()}, metrics))
    for other in found[1:]:
        close((found[0][0], {n: p.grad for n, p in found[0][1].items() if p.grad is not None}),
              (other[0], {n: p.grad for n, p in other[1].items() if p.grad is not None}))  # fmt: skip
        assert found[0][2]["grad_norm"] == pytest.approx(other[2]["grad_norm"], rel=1e-5)


def test_chunked_and_full_logits_agree(make, gold, pad):
    """Output positions alone, at once or in chunks that are computed again, and all positions of the whole model."""
    learner = make()
    prepared = prepared_of(pack(gold, pad))
    at_once = gradients(learner, prepared)
    learner.objective = replace(RKL, budget=4 * learner.student.vocabulary * 7)  # seven positions a chunk
    close(at_once, gradients(learner, prepared))
    batch = prepared.batch
    learner.student.model.zero_grad()
    logits, target = (m.model(input_ids=batch.ids, attention_mask=batch.mask.long()).logits[:, :-1]
                      for m in (learner.student, learner.teacher))  # fmt: skip
    where = batch.out[:, 1:]
    labels = batch.ids[:, 1:].masked_fill(~where, -100)
    loss = (Divergence("rkl")(logits, target) * where).sum() / where.sum()
    loss = loss + torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
    loss.backward()
    close(at_once, (float(loss), {n: p.grad for n, p in learner.trainable.items()}))


@pytest.mark.parametrize(("name", "mle"), [("fkl", 1.0), ("rkl", 0.7), ("jsd", 0.0)])
def test_liger_computes_the_same(make, gold, pad, name, mle):
    pytest.importorskip("liger_kernel.chunked_loss")
    learner = make(objective=Objective(Divergence(name, beta=0.3), mle=mle))
    prepared = prepared_of(pack(gold, pad))
    own = gradients(learner, prepared)
    learner.objective = replace(learner.objective, kernel="liger")
    close(own, gradients(learner, prepared))


def test_without_imperfection_kid_is_rkd_to_the_bit(make, gold, pad):
    rkd, kid = make("gold"), make("imperfect", how=Imperfection(0.0))
    for _ in range(3):
        one, other = rkd.step(), kid.step()
        assert one["loss"] == other["loss"]
    assert all(torch.equal(rkd.trainable[n], kid.trainable[n]) for n in rkd.trainable)


def test_one_hot_teachers_make_fkd_fine_tuning(make, gold, pad):
    """A teacher that knows gold, and no hard labels, is fine-tuning."""
    learner = make(objective=Objective(Divergence("fkl"), mle=0.0))
    batch = pack(gold, pad)
    sure = torch.nn.functional.one_hot(batch.targets, learner.student.vocabulary).float() * 1e4
    learner.teacher.logits = lambda states: sure
    taught = gradients(learner, prepared_of(batch))
    close(taught, gradients(make(objective=Objective(None)), prepared_of(batch)))


def test_hard_labels_on_clean_gold_are_the_same_where_nothing_changed(make):
    shared = make("imperfect", how=Imperfection(0.0)).step()["loss"]
    clean = make("imperfect", replace(RKL, mle_on="clean"), how=Imperfection(0.0)).step()["loss"]
    assert shared == pytest.approx(clean, abs=1e-6)


@pytest.mark.parametrize(("source", "objective", "own", "gradless", "decoding"), [
    ("gold", RKL, 1, 0, False),
    ("gold", Objective(None), 1, 0, False),
    ("imperfect", RKL, 1, 1, False),
    ("imperfect", replace(RKL, mle_on="clean"), 2, 1, False),
    ("student", replace(RKL, mle=0.0), 1, 0, True),
])  # fmt: skip
def test_a_step_costs_no_more_forward_passes_than_it_must(make, source, objective, own, gradless, decoding):
    learner = make(source, objective)
    calls = []
    learner.student.backbone.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    taught = []
    hook = learner.teacher.backbone.register_forward_hook(lambda *_: taught.append(torch.is_grad_enabled()))
    learner.step()
    hook.remove()
    assert calls.count(True) == own
    assert (calls.count(False) > gradless) if decoding else (calls.count(False) == gradless)
    assert taught == [False] * (objective.divergence is not None)


def test_places_after_the_first_change_alone(student, gold, tokens, pad):
    source = Imperfect(student, gold, Imperfection(0.3), tokens, pad, 0, places="after-change")
    prepared = source.prepare(range(6), 0)
    for row in range(6):
        changed = (prepared.batch.ids[row] != prepared.labels[row]).nonzero()[:, 0]
        counted = prepared.distil[row].nonzero()[:, 0]
        if len(changed):
            assert counted.tolist() == [t for t in prepared.batch.out[row].nonzero()[:, 0].tolist() if t > changed[0]]
        else:
            assert not len(counted)


@pytest.mark.parametrize("source", ["gold", "student", "mixture", "imperfect", "following", "adaptive"])
def test_a_resumed_run_is_the_uninterrupted_one(make, source):
    """Masks, samples and buffers included: losses and weights are the same to the bit."""
    objective = RKL if source in ("imperfect", "following") else replace(RKL, mle=0.0)
    through, cut = make(source, objective), make(source, objective)
    if source == "adaptive":
        for learner in (through, cut):
            learner.source.threshold = 0.9  # as after some bad validations
    for learner in (through, cut):
        for _ in range(3):
            learner.step()
    state = copy.deepcopy(cut.state_dict())
    resumed = make(source, objective)
    resumed.load_state_dict(state)
    for _ in range(3):
        assert through.step() == resumed.step()
    assert all(torch.equal(through.trainable[n], resumed.trainable[n]) for n in through.trainable)


def test_adaptive_data_follow_the_validation_loss(make):
    learner = make("adaptive", replace(RKL, mle=0.0))
    source = learner.source
    seen = []
    for loss in (2.0, 2.05, 2.2, 2.25, 2.31):
        source.validated(loss)
        seen.append(round(source.threshold, 1))
    assert seen == [0, 0, 0.1, 0.1, 0.2]
    source.threshold = 1.0
    kinds = [learner.step() for _ in range(8)]
    assert any(k.get("generated") for k in kinds)
    assert any(k.get("replayed") for k in kinds)
    assert len(source.buffer) == min(10, 4 * sum("generated" in k for k in kinds))


def test_the_mask_ratio_follows_the_rewriting_error(make):
    source = make("following").source
    assert source.ratio == 0.3
    source.observe({"masked": 10.0, "changed": 5.0})
    assert source.ratio == pytest.approx(0.2)
    source.observe({"masked": 0.0, "changed": 0.0})
    assert source.ratio == pytest.approx(0.2)


def test_the_rate_warms_up_and_falls_to_nothing():
    how = Optimisation(100, lr=1.0, warmup=0.1)
    rates = [how.rate(k) for k in range(100)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
    assert rates[-1] < 1e-3
    assert Optimisation(10, lr=1.0, warmup=0.0, schedule="constant").rate(9) == 1.0


def test_training_learns(make):
    learner = make("imperfect", steps=60)
    before = learner.evaluate()["val_loss"]
    losses = [learner.step()["loss"] for _ in range(60)]
    assert learner.evaluate()["val_loss"] < 0.5 * before
    assert losses[-1] < losses[0]


def test_what_cannot_be_learned_from_is_refused(student, gold, pad):
    fixed = Fixed(gold, pad, student.device)
    with pytest.raises(ManyoneError, match="needs a teacher"):
        DistilLearner(student, gold, fixed, RKL, Optimisation(1), pad=pad)
    with pytest.raises(ManyoneError, match="nothing to learn"):
        DistilLearner(student, gold, fixed, Objective(None, mle=0.0), Optimisation(1), pad=pad)
