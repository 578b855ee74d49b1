"""The verbs. The command line only translates to these; each returns plain values.

quickstart                    a synthetic world, six tasks, a report: the whole library in minutes
check  prepare  learn         from a recipe to a store, and to a model that learned all its tasks
compare                       every method, encoder, seed and order on one recipe
search                        as many settings tried with every method, the best told
evaluate  recommend           what a model folder can say
recommend_all  embed          the same of all users of a log, as a file
probe                         what frozen user vectors of models tell, side by side
show  report  list_  doctor   what stands in a folder, what exists, what this machine has
"""

from __future__ import annotations

from perdure.api.asking import embed, evaluate, recommend, recommend_all
from perdure.api.beginning import quickstart
from perdure.api.comparing import Comparison, compare
from perdure.api.learning import Check, Run, Store, check, learn, prepare
from perdure.api.machine import doctor, list_
from perdure.api.probing import Probe, probe
from perdure.api.reporting import report
from perdure.api.searching import Search, Try, search
from perdure.api.showing import show

__all__ = [
    "Check",
    "Comparison",
    "Probe",
    "Run",
    "Search",
    "Store",
    "Try",
    "check",
    "compare",
    "doctor",
    "embed",
    "evaluate",
    "learn",
    "list_",
    "prepare",
    "probe",
    "quickstart",
    "recommend",
    "recommend_all",
    "report",
    "search",
    "show",
]
