"""`xvol-export runs/<study>/final/0003-s1000 --out model.onnx`: a trial's network as one file, fused to deploy or as trained."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = """\
examples:
  xvol-export runs/digits/final/0003-s1000 --out model.onnx     for ONNX Runtime
  xvol-export runs/digits/final/0003-s1000 --out model.pt2      for torch.export.load, no timm or xvol needed
  xvol-export runs/digits/final/0003-s1000 --out model.pth      the state dict of the fused model, for xvol.fuse(model, size)
  xvol-export runs/digits/final/0003-s1000 --out model.pth --form train     the state dict as trained, to go on training

The trial must have kept its weights (checkpoint=final, the default: final and single trials; checkpoint=always).
Exit status: 0, or 2 where nothing was written.
"""
CONFIG = ".hydra/config.yaml"
FORMATS = (".onnx", ".pt2", ".pth")


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    command = argparse.ArgumentParser(
        prog="xvol-export",
        description="Rebuild a trial's network from its config, load its weights, fuse it, compare the logits, write it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("trial", help="folder of a trial, e.g. runs/digits/final/0003-s1000")
    command.add_argument("--out", required=True, metavar="FILE", help=f"file to write: {', '.join(FORMATS)}")
    command.add_argument(
        "--form",
        choices=("deploy", "train"),
        default="deploy",
        help="deploy (default): fused, one convolution and what depends on the input; train: as trained, with its norms",
    )
    command.add_argument(
        "--fixed-size", action="store_true", help="fix height and width; the default leaves N, H and W free"
    )
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(arguments)
    out = Path(options.out)
    try:
        if out.suffix not in FORMATS:
            raise ValueError(f"--out {out}: the suffix says the format, one of {', '.join(FORMATS)}")
        if not out.absolute().parent.is_dir():
            raise ValueError(f"--out {out}: the folder {out.parent} does not exist; make it first")
        _refuse_no_trial(Path(options.trial))
        from search.trial.deploy import export_trial  # torch: not for --help, nor to refuse what is wrong at once

        print(export_trial(Path(options.trial), out, form=options.form, fixed_size=options.fixed_size))
    except (ValueError, OSError) as error:
        message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
        print(f"xvol-export: {message}", file=sys.stderr)
        return 2
    return 0


def _refuse_no_trial(folder: Path) -> None:
    path = folder / CONFIG
    if not path.is_file():
        known = sorted(str(found.parents[1]) for found in folder.glob(f"*/*/{CONFIG}") if "workers" not in found.parts)
        hint = f"; below it are {', '.join(known[:4])}{', ...' if len(known) > 4 else ''}" if known else ""
        raise ValueError(f"{folder} is no folder of a trial: {path} is missing{hint}")


if __name__ == "__main__":
    sys.exit(main())
