"""BibTeX of what a study used: the operator's paper, its data set, optimiser and packages; references.bib has works that are known."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from search.report.render.latex import latex

XVOLUTION = "chen2021xvolution"
DATA = {"cifar10": "krizhevsky2009cifar", "fashion_mnist": "xiao2017fashion", "digits": "alpaydin1998digits"}
DATA_TITLES = {"cifar10": "CIFAR-10", "fashion_mnist": "Fashion-MNIST", "digits": "the digits of scikit-learn"}
OPTIMISERS = {
    "sgd": "sutskever2013momentum",
    "adam": "kingma2015adam",
    "adamw": "loshchilov2019adamw",
    "lamb": "you2020lamb",
    "muon": "jordan2024muon",
    "muon_float32": "jordan2024muon",
}
PACKAGES = {
    "torch": "paszke2019pytorch",
    "timm": "wightman2019timm",
    "optuna": "akiba2019optuna",
    "hydra-core": "yadan2019hydra",
    "wandb": "biewald2020wandb",
    "numpy": "harris2020numpy",
    "scipy": "virtanen2020scipy",
    "pandas": "mckinney2010pandas",
    "statsmodels": "seabold2010statsmodels",
}


def bibtex(keys: Sequence[str], versions: Mapping[str, str]) -> str:
    """Return entries, each once; `versions` has those of packages, by key."""
    known = Path(__file__).with_name("references.bib").read_text(encoding="ascii")
    entries = {re.split(r"[{,]", entry)[1]: entry.strip() for entry in known.split("\n\n")}
    chosen = []
    for key in dict.fromkeys(keys):
        note = f",\n  note = {{Version {latex(versions[key])}}}" if key in versions else ""
        chosen.append(f"{entries[key].removesuffix('}').rstrip()}{note}\n}}\n")
    return "\n".join(chosen)
