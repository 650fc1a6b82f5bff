import numpy as np
import pytest

from manyone.randomness import BatchOrder, counter_words, philox4x32, seed_for


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    assert tuple(int(word) for word in philox4x32(counter, key)) == expected


def test_words_of_an_entry_depend_on_its_key_counters_stream_and_position_alone():
    key = seed_for(3, "test")
    slots, episodes = np.arange(7), np.arange(7) * 3
    whole = counter_words(key, (slots, episodes, 0), 10)
    assert whole.shape == (7, 10)
    assert np.array_equal(counter_words(key, (slots[[5, 2]], episodes[[5, 2]], 0), 10), whole[[5, 2]])
    assert np.array_equal(counter_words(key, (slots, episodes, 0), 3), whole[:, :3])
    assert np.array_equal(counter_words(key, (slots[:, None], episodes[None], 0), 10)[range(7), range(7)], whole)
    for other in (
        counter_words(key + 1, (slots, episodes, 0), 10),
        counter_words(key, (slots, episodes, 1), 10),
        counter_words(key, (slots, episodes + 1, 0), 10),
        counter_words(key, (slots, episodes, 0), 10, stream=1),
    ):
        assert not (other == whole).any()


@pytest.mark.parametrize(("counters", "count", "stream"), [((0, 0), 4, 0), ((0, 0, 0), 0, 0), ((0, 0, 0), 4, 256)])
def test_impossible_requests_are_refused(counters, count, stream):
    with pytest.raises(ValueError, match="needs 3"):
        counter_words(1, counters, count, stream)


def test_a_stream_is_the_high_byte_of_the_block_counter():
    key = seed_for(3, "test")
    words = counter_words(key, (7, 8, 9), 8, stream=5)
    for block in (0, 1):
        expected = philox4x32((7, 8, 9, (5 << 24) | block), (key & 0xFFFFFFFF, key >> 32))
        assert words[4 * block : 4 * block + 4].tolist() == [int(word) for word in expected]


def test_names_of_other_types_are_other_streams():
    assert seed_for(1) != seed_for("1")
    assert len({seed_for(1, "2"), seed_for("1", 2), seed_for("1", "2"), seed_for(1, 2), seed_for("1\x1f2")}) == 5


def test_every_epoch_has_an_order_of_its_own():
    order = BatchOrder(20, 5, 0, "adapt")
    first, second = (np.concatenate([order.batch(4 * epoch + k).numpy() for k in range(4)]) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(20))
    assert not np.array_equal(first, second)
    assert np.array_equal(order.batch(5), BatchOrder(20, 5, 0, "adapt").batch(5))
