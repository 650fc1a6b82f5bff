"""Zero-shot classes and retrieval (property 15), the latter on a matrix made by hand."""

import numpy as np
import pytest
import torch

from manyone.earth.protocols.zero_shot import class_embeddings, retrieval, zero_shot, zero_shot_logits
from manyone.errors import ManyoneError


def encode(texts):
    """An embedding of its own for every text, of any length."""
    return torch.stack(
        [torch.randn(16, generator=torch.Generator().manual_seed(sum(t.encode()))) * len(t) for t in texts]
    )


def test_logits_ignore_the_length_of_images():
    images, classes = (
        torch.randn(9, 16, generator=torch.Generator().manual_seed(0)),
        class_embeddings(["a", "b"], encode),
    )
    plain = zero_shot_logits(images, classes)
    assert torch.allclose(zero_shot_logits(images * torch.linspace(0.1, 40, 9)[:, None], classes), plain, atol=1e-4)
    assert (plain.abs() <= 100).all()


def test_templates():
    names = ["annual_crop", "forest", "{river}"]
    one, two = (
        class_embeddings(names, encode, ["a photo of {c}."]),
        class_embeddings(names, encode, ["a photo of {c}."] * 2),
    )
    assert torch.allclose(one, two, atol=1e-12)
    assert torch.allclose(class_embeddings(names, encode).norm(dim=1), torch.ones(3, dtype=torch.float64))
    seen = []
    class_embeddings(names, lambda texts: (seen.extend(texts), encode(texts))[1], ["an image of {c}."])
    assert seen == ["an image of annual crop.", "an image of forest.", "an image of {river}."]
    with pytest.raises(ManyoneError, match=r"has no \{c\} for"):
        class_embeddings(names, encode, ["a photo"])


def test_order_of_classes():
    images = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    classes = class_embeddings(list("abcd"), encode)
    order = torch.tensor([2, 0, 3, 1])
    truth = zero_shot_logits(images, classes).argmax(1).numpy()
    plain, moved = zero_shot(images, truth, classes), zero_shot(images, truth, classes[order])
    assert (order.numpy()[moved.predictions] == plain.predictions).all()
    assert plain.values["accuracy"] == plain.values["macro_f1"] == 1
    with pytest.raises(ManyoneError, match="number them from 0"):
        zero_shot(images, truth + 1, classes)


def test_retrieval_by_hand():
    similarity = torch.tensor([[0.9, 0.1, 0.8, 0.2], [0.3, 0.7, 0.95, 0.1], [0.5, 0.6, 0.4, 0.3]])
    owner = np.array([0, 0, 1, 2])  # image 0 has two texts
    found = retrieval(similarity, owner, at=(1, 2, 4))
    # images: 0 finds text 0 first; 1 finds text 2 first; 2's text 3 is last of four
    assert found["image_to_text_r@1"] == pytest.approx(2 / 3)
    assert found["image_to_text_r@2"] == pytest.approx(2 / 3)
    assert found["image_to_text_r@4"] == 1
    # texts: 0 first, 1 (0.1) third behind 0.7 and 0.6, 2 first, 3 first
    assert found["text_to_image_r@1"] == pytest.approx(3 / 4)
    assert found["text_to_image_r@2"] == pytest.approx(3 / 4)
    assert found["mean_recall"] == pytest.approx(np.mean([2 / 3, 2 / 3, 1, 3 / 4, 3 / 4, 1]))
    with pytest.raises(ManyoneError, match="give each text an image"):
        retrieval(similarity, np.array([0, 1, 2]))


def test_one_embedding_for_everything_finds_nothing():
    found = retrieval(torch.ones(20, 20), np.arange(20))
    assert found["image_to_text_r@1"] == found["text_to_image_r@10"] == 0
