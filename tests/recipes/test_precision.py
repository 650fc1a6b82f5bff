"""No recipe takes a device or a precision that it does not obey."""

import inspect
import re

import pytest

from manyone.cli.options import parse_options
from manyone.engine import devices
from manyone.errors import ManyoneError
from manyone.merging.recipes import run_static
from manyone.merging.static.methods import METHODS, find_rule
from manyone.recipes.table import RECIPES, options_class

MERGED = ("adamerging", "concrete", "wemoe", "e-wemoe")
DISTILLED = ("kid", "sft", "seqkd", "fkd", "rkd", "f-distill", "imitkd", "gkd", "distillm")
OBEYED = {
    **dict.fromkeys(MERGED, ("16-mixed", "bf16-mixed", "64-true")),
    **dict.fromkeys(("local-sgda", "local-dsgda", "stability"), ("32-true", "64-true")),
    "obd-theory": ("64-true",),
    **dict.fromkeys(DISTILLED, ("bf16-mixed", "64-true")),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_precision_is_obeyed_or_refused(recipe):
    for precision in ("16-mixed", "bf16-mixed", "64-true"):
        if precision in OBEYED.get(recipe, ()):
            words = ["--precision", precision, *(["--suite", "mini6"] if recipe in MERGED else [])]
            assert parse_options(options_class(recipe), recipe, words).precision == precision
        else:
            with pytest.raises(ManyoneError, match="precision"):
                parse_options(options_class(recipe), recipe, ["--precision", precision])


@pytest.mark.parametrize("method", METHODS)
def test_a_static_merge_takes_a_device_where_its_rule_does(method):
    cls = options_class(method)
    assert cls.on_device == ("device" in inspect.signature(find_rule(method)).parameters)
    if not cls.on_device:
        with pytest.raises(ManyoneError, match=re.escape(f"auto or cpu: {method} merges on the CPU")):
            run_static.run(cls(device="cuda"), None, None)


def test_apples_gpu_is_refused_where_numbers_are_double(monkeypatch):
    monkeypatch.setattr(devices.torch.backends.mps, "is_available", lambda: True)
    assert devices.device_of("mps").type == "mps"
    with pytest.raises(ManyoneError, match="double precision"):
        devices.device_of("mps", double=True)
