"""Prompts and outputs as ids: boundaries, truncation, masks by length."""

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.sql.collate import IGNORE, Example, OutputCollator, encode, encode_prompt, pack


def test_prompt_and_output_are_tokenised_apart(tokenizer):
    found = encode(tokenizer, "names ", "SELECT name", max_input=50)
    assert found.prompt == encode_prompt(tokenizer, "names ", 50), "as at inference"
    assert found.prompt[0] == tokenizer.bos_token_id
    assert found.output[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(list(found.output[:-1])) == "SELECT name"


def test_long_prompts_are_cut_on_the_left_and_outputs_lose_their_end(tokenizer):
    whole = encode_prompt(tokenizer, "database schema : singer | how many singers are there\n", 100)
    cut = encode_prompt(tokenizer, "database schema : singer | how many singers are there\n", 10)
    assert cut == (tokenizer.bos_token_id, *whole[-9:])
    short = encode(tokenizer, "q", "SELECT name FROM singer WHERE age > 30", max_output=5)
    assert len(short.output) == 5
    assert tokenizer.eos_token_id not in short.output, "the model must not learn to stop here"
    with pytest.raises(ManyoneError, match="at least 2"):
        encode_prompt(tokenizer, "q", 1)


@pytest.mark.parametrize("side", ["left", "right"])
def test_masks_go_by_length_not_by_id(side):
    end = 2
    batch = pack([Example((5, 2), (7, 2)), Example((5,), (7, 8, 9, 2))], pad=end, side=side)
    assert batch.mask.sum(1).tolist() == [4, 5]
    assert batch.out.sum(1).tolist() == batch.lengths.tolist() == [2, 4]
    assert batch.targets.tolist() == [7, 2, 7, 8, 9, 2], "the end token counts, though padding looks the same"
    assert batch.ids[0][batch.mask[0]].tolist() == [5, 2, 7, 2]
    assert batch.positions[0][batch.mask[0]].tolist() == [0, 1, 2, 3]
    predicting = batch.ids[batch.predicting].tolist()
    assert predicting == [2, 7, 5, 7, 8, 9], "each one before its token, the last prompt token first"


def test_an_example_without_prompt_is_refused():
    with pytest.raises(ManyoneError, match="without a prompt"):
        pack([Example((), (7, 2))], 0)


def test_the_collator_labels_outputs_alone():
    rows = [{"prompt": [5, 6], "output": [7, 2]}, {"prompt": [5], "output": [7]}]
    found = OutputCollator(pad=0)(rows)
    assert found["labels"].tolist() == [[IGNORE, IGNORE, 7, 2], [IGNORE, 7, IGNORE, IGNORE]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert found["input_ids"].dtype == torch.int64
