"""The Hydra application: `python -m search` trains one architecture, with `-m` it runs a study."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

__all__ = ["main"]

FULL_ERROR = "HYDRA_FULL_ERROR"


def main() -> None:
    """Run Hydra; end with one message for a user's error and with a trace for ours."""
    import hydra

    from search.app import task
    from search.config import config_folder, register
    from search.help import app_help, is_plain_help

    wants_trace = os.environ.get(FULL_ERROR) == "1"
    os.environ[FULL_ERROR] = "1"  # errors come out of Hydra as exceptions, to be explained here
    _refuse_secrets(sys.argv[1:])
    register()
    try:
        if is_plain_help(sys.argv[1:]):
            print(app_help([line for line in sys.argv[1:] if not line.startswith("-")], Path(config_folder())))
            return
        hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")(task)()
    except KeyboardInterrupt:
        print("\ninterrupted: what was finished is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if wants_trace or not _is_users(error):
            raise
        from search.hints import explain

        print(f"xvol-search: {explain(error)}", file=sys.stderr)
        sys.exit(1)


def _refuse_secrets(arguments: list[str]) -> None:
    """A password on the command line is in the process list and in the shell's history already: go no further with it."""
    from search.ledger.secrets import find_secret

    for argument in arguments:
        if find_secret(argument):
            print(
                f"xvol-search: {argument.split('=', 1)[0]} holds a password or key in plain text. Put it into an environment "
                "variable and write it as '${oc.env:NAME}', e.g. "
                "'hydra.sweeper.storage=postgresql://me:${oc.env:PGPASSWORD}@host/name'; W&B reads WANDB_API_KEY by itself",
                file=sys.stderr,
            )
            sys.exit(1)


def _is_users(error: BaseException) -> bool:
    """Whether the error was raised to tell the user something: by Hydra, by OmegaConf, or on purpose by our own code."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, HydraException | OmegaConfBaseException):
        return True
    if not isinstance(error, ValueError | RuntimeError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    here = Path(__file__).resolve().parents[1]
    ours = (here / "search", here / "xvol", here / "hydra_plugins")
    return bool(frames) and any(Path(frames[-1].filename).resolve().is_relative_to(folder) for folder in ours)


if __name__ == "__main__":
    main()
