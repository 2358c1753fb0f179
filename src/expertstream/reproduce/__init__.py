"""The paper's evaluation, figure by figure: ``expertstream reproduce fig9``.

A study is one file in ``studies/`` with a ``STUDY``; the command line finds it. For example ``studies/passes.py``::

    def points(setting: Setting) -> list[Point]:  # plain JSON values, the same for the same setting
        return with_strategies(layer_points(setting, tokens=setting.tokens), ["ep", "fse-dp-paired"])


    def table(rows: Sequence[Row]) -> list[Row]:  # what the figure shows
        by_strategy = cells(rows, "strategy").items()
        return [{"strategy": s, "passes": max(r["passes"] for r in mine)} for (s,), mine in by_strategy]


    STUDY = Study("passes", "Passes over the tokens", "beyond the paper", points, layer_row, table, draw, claims)

``measure`` (here ``layers.layer_row``, one simulated layer) must be a function of a module that depends on its point
alone, and may live in the same file: its rows are kept under a hash of the point and of all sources that decide them.
``draw`` and ``claims`` see the table alone, as it is written to NAME.csv. ``means`` has confidence intervals,
``drawing`` panels and colours. A test on a tiny setting: ``tests/unit/test_reproduce_studies.py`` runs every study.
"""

from expertstream.reproduce.registry import all_studies, chosen_studies
from expertstream.reproduce.run import Outcome, reproduce
from expertstream.reproduce.study import Claim, Setting, Study

__all__ = ["Claim", "Outcome", "Setting", "Study", "all_studies", "chosen_studies", "reproduce"]
