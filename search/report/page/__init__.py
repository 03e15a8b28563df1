"""One page a study: the verdict, the table, plots, and where each number comes from; a file that needs nothing else."""

from __future__ import annotations

import logging
from pathlib import Path
from pkgutil import resolve_name

from search.ledger.secrets import mask

log = logging.getLogger(__name__)


def page_at_the_end(study_dir: Path) -> Path | None:
    """Write `tables/report.html` of a study that has just ended; what goes wrong is logged, and fails nothing.

    What draws is loaded here: a matplotlib that cannot be imported must not fail a study either.
    """
    try:
        return Path(resolve_name(f"{__name__}.write:write_page")(study_dir))
    except Exception as error:
        log.warning("no page was written: %s: %s", type(error).__name__, mask(" ".join(str(error).split())))
        return None
