"""The command line and Python have the same defaults, where the same thing has a default in both."""

import inspect

import pytest

from manyone import behavior, merging, minimax
from manyone.merging.static.methods import METHODS, find_rule
from manyone.recipes.options import defaults
from manyone.recipes.table import options_class

ASKED = {"device", "progress", "seed", "threads", "out"}
"""What the command line asks of the machine, or says itself."""
BOTH = [
    *((find_rule(method), method) for method in METHODS),
    *((getattr(merging, method.replace("-", "_")), method) for method in METHODS),
    (merging.WeightEnsemblingMoE.adapt, "wemoe"),
    (merging.WeightEnsemblingMoE, "wemoe"),
    (merging.AdaMerging, "adamerging"),
    (merging.ConcreteMerging, "concrete"),
    (merging.AdaptationLearner, "adamerging"),
    (merging.SurgeryLearner, "surgery"),
    (merging.SurgeryV2, "surgery-v2"),
    (behavior.distil, "obd"),
    (behavior.DistilLearner, "obd"),
    (behavior.clone, "bc"),
    (behavior.CloningLearner, "bc"),
    (minimax.DistributedSGDA, "local-sgda"),
]


PUBLISHED = [(behavior.CalQLTeacher, "calql"), (behavior.IQLTeacher, "iql"), (behavior.TD3BCTeacher, "td3bc")]
"""In Python as published; the command line's laptop preset takes smaller networks and larger steps."""


@pytest.mark.parametrize(
    ("function", "recipe", "preset"),
    [*((*one, None) for one in BOTH), *((*one, "paper") for one in PUBLISHED)],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_python_and_the_command_line_agree(function, recipe, preset):
    known = defaults(options_class(recipe), {} if preset is None else {"preset": preset})
    given = {p.name: p.default for p in inspect.signature(function).parameters.values()}
    for name in (given.keys() & known.keys()) - ASKED:
        here, there = given[name], known[name]
        if here is inspect.Parameter.empty or here is None or there is None:
            continue  # asked for, or left to what the other side works out
        assert here == there or (here,) == there, f"{name}: {here} in Python, {there} on the command line"
