"""Which teacher a distillation has."""

from __future__ import annotations

from manyone.behavior.recipes.teaching import stage_name


def test_any_name_of_a_data_set_is_one_folder():
    assert stage_name("gym:Hopper-v5") == "teacher-gym-Hopper-v5"
    names = ["../../x", "a/b", "a-b", "a b", "gym:Ant-v5?keys=a/b", "Tür", "..", "a%2Fb"]
    found = {stage_name(name) for name in names}
    assert len(found) == len(names)
    assert not any("/" in name or "?" in name for name in found)
