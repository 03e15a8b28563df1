"""`xvol-plan experiment=paper/stage_placement`: what a study would train, how long it takes, what it can resolve."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from search.cli.planned import PlannedStudy
from search.command_line import explain, refuse_wrong_words
from search.config import config_folder, register
from xvol.allowed import check_number

EXAMPLES = """\
examples:
  xvol-plan experiment=paper/branch_ablation
  xvol-plan experiment=paper/stage_placement hydra.sweeper.design.control=params --sd 0.5
  xvol-plan design=factorial data=cifar10 placement=none,stage3 train.lr=0.1,0.3 --workers 8 --seconds 40

Overrides are those of `python -m search -m`. No accelerator is taken and nothing is written to runs/.
Exit status: 0; 1 where a cell is infeasible; 2 where the command is wrong.
"""


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    command = argparse.ArgumentParser(
        prog="xvol-plan", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument("overrides", nargs="*", help="as for `python -m search -m`")
    command.add_argument("-m", "--multirun", action="store_true", help="of no effect: a plan is always of a study")
    command.add_argument(
        "--config-dir", metavar="DIR", help="a further folder of config groups, as for `python -m search`"
    )
    command.add_argument("--sd", type=float, help="sd of a paired difference, in points; default: of earlier runs")
    command.add_argument("--alpha", type=float, default=0.05, help="error of the test (default 0.05)")
    command.add_argument("--power", type=float, default=0.8, help="chance to find a true difference (default 0.8)")
    command.add_argument(
        "--seconds", type=float, help="of one trial; default: earlier runs, else a few steps are trained"
    )
    command.add_argument("--workers", type=int, help="default: as many as the launcher would start")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan and return the exit status."""
    given = parser().parse_intermixed_args(arguments)
    try:
        for name in ("sd", "seconds", "workers"):
            if getattr(given, name) is not None:
                check_number(f"--{name}", getattr(given, name), above=0)
        for name in ("alpha", "power"):
            check_number(f"--{name}", getattr(given, name), above=0, below=1)
        if given.config_dir and not Path(given.config_dir).is_dir():
            raise ValueError(f"--config-dir {given.config_dir}: there is no such folder")
        refuse_wrong_words(given.overrides, config_folder())
        with _hydra():
            study = PlannedStudy(given)
            made = study.made()
            from search.cli.plan_text import Plan  # here, so that --help and refusals do not wait for pandas and SciPy

            return Plan(study, made).print()
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        print(f"xvol-plan: {explain(error)}", file=sys.stderr)
        return 2


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra on our config folder; whatever it stood on before comes back."""
    register()
    held = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
            yield
    finally:
        GlobalHydra.instance().hydra = held


if __name__ == "__main__":
    sys.exit(main())
