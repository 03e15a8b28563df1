"""The Hydra application: `python -m search` trains one architecture, with `-m` it runs a study."""

from __future__ import annotations

import os
import sys

import hydra

from search.app import application, check_single
from search.command_line import app_help, explain, is_plain_help, is_users, refuse_wrong_words
from search.config import config_folder, register

__all__ = ["main"]

FULL_ERROR = "HYDRA_FULL_ERROR"


def main() -> None:
    """Run Hydra; end with one message for a user's error and with a trace for ours."""
    wants_trace = os.environ.get(FULL_ERROR) == "1"
    os.environ[FULL_ERROR] = "1"  # errors come out of Hydra as exceptions, to be explained here
    register()
    # -v is Hydra's hydra.verbose for our own lines
    sys.argv[1:] = ["hydra.verbose=[xvol]" if word == "-v" else word for word in sys.argv[1:]]
    try:
        refuse_wrong_words(sys.argv[1:], config_folder())
        if is_plain_help(sys.argv[1:]):
            print(app_help([line for line in sys.argv[1:] if not line.startswith("-")], config_folder()))
            return
        check_single(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")(application)()
    except KeyboardInterrupt:
        print("\ninterrupted: what was finished is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if wants_trace or not is_users(error):
            raise
        print(f"xvol-search: {explain(error)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
