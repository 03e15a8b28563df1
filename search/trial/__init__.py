"""One trial: build, train, evaluate, fuse, measure, record.

What needs torch is loaded with the first of these names that is used, so that `--help`, refusals and plans stay fast.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.trial.check import check_network, check_trial, network_facts, score, sites_of
    from search.trial.forecast import costs_of, device_kind, judged_costs, measured_seconds
    from search.trial.run import run_trial

_NAMES = {
    "check": ("check_network", "check_trial", "network_facts", "score", "sites_of"),
    "forecast": ("costs_of", "device_kind", "judged_costs", "measured_seconds"),
    "run": ("run_trial",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "check_network",
    "check_trial",
    "costs_of",
    "device_kind",
    "judged_costs",
    "measured_seconds",
    "network_facts",
    "run_trial",
    "score",
    "sites_of",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve_name(f"search.trial.{_MODULES[name]}:{name}")
