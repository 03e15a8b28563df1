"""Which errors tell the user something, and how they reach one who runs our sweeper, launcher or task in an own application."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import CompactHydraException, HydraException
from omegaconf.errors import OmegaConfBaseException

_HERE = Path(__file__).resolve().parents[1]
_OURS = (_HERE / "search", _HERE / "xvol", _HERE / "hydra_plugins")


class RefusedError(CompactHydraException, ValueError):
    """What a user asked for is refused: Hydra shows its message alone, without frames."""


def is_users(error: BaseException) -> bool:
    """Whether the error tells the user something: raised by Hydra, OmegaConf, or on purpose by our own code; or a file that
    cannot be read or written."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return True
    if isinstance(error, OSError):
        return error.filename is not None
    if not isinstance(error, ValueError | RuntimeError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and any(Path(frames[-1].filename).resolve().is_relative_to(folder) for folder in _OURS)


@contextmanager
def told_compactly() -> Iterator[None]:
    """Raise what tells the user something as an exception that Hydra shows in one message; let all else through.

    Raises:
        RefusedError: in the place of such an error, which is its cause.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, CompactHydraException) or not is_users(error):
            raise
        raise RefusedError(str(error)) from error
