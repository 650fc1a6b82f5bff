"""``manyone run obd-theory``: what the theorems of Offline Behavior Distillation say, measured on finite MDPs.

    manyone run obd-theory                              # 1000 random MDPs under 10 discounts, and two tight cases
    manyone run obd-theory --states 40 --actions 8 --teacher random

The run folder gets ``model/theory.json`` (a summary of every discount, the tight cases and their rates) and
``figures.json``, which ``manyone report`` draws.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from manyone.behavior.recipes.options import TheoryOptions
from manyone.behavior.theory.figures import WEIGHTS, figures_of
from manyone.behavior.theory.laboratory import BOUNDS, CASES, Setting, TheoryLaboratory, rates, tight_rows
from manyone.claims.figure import save_figures
from manyone.engine.fabric import is_writer
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.recipes.options import Split
from manyone.recipes.running import percent, print_table, restore

Build = Callable[[TheoryOptions], TheoryLaboratory]


def laboratory(o: TheoryOptions) -> TheoryLaboratory:
    """What the options describe."""
    return TheoryLaboratory(
        Setting(o.states, o.actions, tuple(sorted(o.gammas)), o.pairs, o.teacher, o.mistakes, o.seed)
    )


def run(options: TheoryOptions, build: Build, folder: RunFolder) -> None:
    """Measures all pairs, prints the tables and writes the figures."""
    learner = build(options)
    final = train(
        learner, folder, steps=learner.total_steps, checkpoint_every=options.checkpoint_every, loggers=options.logger
    )
    if is_writer():
        save_figures(folder.path / "figures.json", figures_of(learner))
    _print(learner, final)


def plan(options: TheoryOptions, build: Build, folder: RunFolder) -> list[str]:
    """How many MDPs of which size."""
    return [
        f"{options.pairs:,} random MDPs of {options.states} states and {options.actions} actions under "
        f"{len(options.gammas)} discounts, and the tight cases {' and '.join(CASES)}"
    ]


def evaluate(options: TheoryOptions, build: Build, folder: RunFolder, split: Split) -> Mapping[str, float]:
    """The worst of the discounts that the run has measured; there are no splits."""
    learner = build(options)
    restore(learner, folder)
    return learner.evaluate()


def _print(learner: TheoryLaboratory, final: Mapping[str, float]) -> None:
    print_table(
        ("γ", "Thm 2 off", "d_π*", "gap", "Thm 1 d_π*", "Thm 1 d_π", "Cor. 1", "less least"),
        ([f"{row['gamma']:g}", f"{row['identity_residual']:.0e}", f"{row['misplaced_residual']:.0e}",
          f"{row['gap']:.3g}", *_shares(row)] for row in learner.rows()),
    )  # fmt: skip
    print("Thm 2 off: largest residual; d_π*: median residual with the teacher's states, in parts of the\n"
          "largest return; gap: median; then the largest gap in parts of each bound (less least: with the\n"
          "least value of each state taken off q)\n")  # fmt: skip
    columns = ("tight case", "γ", "gap", "Thm 1 d_π*", "Thm 1 d_π", "Cor. 1")
    print_table(columns, [cells for name in CASES for cells in _tight(name, learner.setting)])
    for name in CASES:
        found = rates(learner.setting)
        if found:
            print(f"{name}: 1/(1 - γ) to the power {found[f'{name}_rate_per_pbc']:.2f} is gap / E D_TV, to the power "
                  f"{found[f'{name}_rate_per_av_pbc']:.2f} gap / E Σ q|π* - π|")  # fmt: skip
    if final["violations"]:
        print(f"{final['violations']:.0f} pairs beyond a bound: rounding, or a fault", file=sys.stderr)
    failed = [f"{percent(final[f'{name}_fails'])} % with {words}" for name, words in WEIGHTS.items()]
    print(f"rewards less their mean, so that values are negative: Corollary 1 fails for up to\n{', '.join(failed)}")


def _shares(row: Mapping[str, float]) -> list[str]:
    return [f"{percent(row[f'{name}_share'])} %" for name in BOUNDS]


def _tight(name: str, setting: Setting) -> Sequence[Sequence[str]]:
    columns = ("gap", "theorem_1_teacher", "theorem_1_student", "corollary_1")
    return [[name, f"{row['gamma']:g}", *(f"{row[c]:.4g}" for c in columns)] for row in tight_rows(name, setting)]
