"""What each of several processes does: some distillation steps, sharded or not; rank 0 writes what came of them."""

import json
import sys
from pathlib import Path

import torch
from tests.sql.conftest import ASKED, SQL

from manyone.engine.fabric import gather, is_writer, make_fabric, rank
from manyone.sql.collate import encode
from manyone.sql.divergences import Divergence
from manyone.sql.generation import Decoding
from manyone.sql.imperfect import Imperfection
from manyone.sql.language_model import LanguageModel
from manyone.sql.learner import DistilLearner, Objective, Optimisation
from manyone.sql.models import Size, new_decoder
from manyone.sql.parallel import Parallel
from manyone.sql.sources import Imperfect, Mixture, StudentOutputs
from manyone.sql.tokens import padding, rewriting_tokens, train_tokenizer


def learner(kind):
    """The same in every process."""
    tokenizer = train_tokenizer([*SQL, *ASKED] * 3, 300)
    gold = [encode(tokenizer, f"{q}\n", sql, max_input=24, max_output=60) for q, sql in zip(ASKED, SQL)]
    student, teacher = (LanguageModel(new_decoder(Size(2, width, 2), len(tokenizer), seed=width, special=tokenizer))
                        for width in (32, 48))  # fmt: skip
    tokens, pad = rewriting_tokens(tokenizer), padding(tokenizer)
    imperfect = Imperfect(student, gold, Imperfection(0.4, passes=0), tokens, pad, 0)
    own = StudentOutputs(student, gold, Decoding(tokens.end, pad, 10, True), 0)
    parallel = Parallel(kind)
    parallel.shard(student)
    return DistilLearner(student, gold, Mixture(imperfect, own, 0.4, 0), Objective(Divergence("rkl"), mle=0.5),
                         Optimisation(6, lr=5e-3, clip=1.0, batch_size=4), teacher=teacher, pad=pad,
                         validation=gold[:2], parallel=parallel)  # fmt: skip


def go(kind):
    """Metrics of some steps, the state in between, the weights after it."""
    first = learner(kind)
    lines = [first.step() for _ in range(3)]
    state = first.state_dict()
    second = learner(kind)
    second.load_state_dict(state)
    lines += [second.step() for _ in range(3)]
    lines.append(second.evaluate())
    whole = second.whole_model() if is_writer() else None
    return lines, None if whole is None else {n: p.detach().clone() for n, p in whole.named_parameters()}


if __name__ == "__main__":
    make_fabric("cpu")
    for kind in sys.argv[2].split(","):
        lines, weights = go(kind)
        assert len({json.dumps(lines) for lines in gather(lines)}) == 1, "all processes say the same"
        if rank() == 0:
            torch.save({"lines": lines, "weights": weights}, Path(sys.argv[1]) / f"{kind}.pt")
