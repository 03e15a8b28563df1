"""What a training starts from: the configuration of `search/trial/start.py`, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xvol.allowed import check_choice, check_number

STARTS = ("scratch", "shared", "fork", "path")
UNTRAINED = ("shared", "path")  # starts after which nothing needs to be trained
TRAINS = ("all", "blocks")
OF_STUDY = "study"  # a root that a study gives each of its trials


@dataclass
class StartConfig:
    """What a training starts from, and where a trunk ends.

    Attributes:
        kind: "scratch"; "shared": from the network of a trained plain trial, converted, by the whole recipe; "fork": from the
            whole state (weights, average, optimiser, place in schedule and data) that a plain trial, stopped at `stop_epoch`,
            left, so that what is left of its recipe is trained in the converted network. With gamma 0 either starts from the
            function that the plain network computes, which is asserted bit by bit. "path": with the weights that a supernet, a
            trained network whose `placement.at` leaves choices, has on the path of this network's placement.
        root: folder of that plain trial, or of the supernet's; of "shared" also a file of the plain network's weights, as
            `backbone.weights`. "study" in a design with roots (`hydra.sweeper.design.start`), which gives each trial its own. No part
            of the recipe.
        stop_epoch: a trunk: the training from scratch ends after that many of `train.epochs` epochs, and its state is kept for
            forks; null: it goes to its end.
        init_stream: the same seed draws other branches in each stream; 0 is the usual one.
        trains: of "shared": "all", or "blocks": only what the blocks have beside the plain network is trained. That is their branches
            and norms but for the host's convolution with its norm, and these too where the convolution has a kernel of another
            size. Everything else keeps its weights, and its norms their running statistics: they normalise by those. A plain
            network has nothing to train then, and is evaluated as it is.
        recalibrate: of "path": batches of training images, those of an epoch at most, from which the statistics of batch norms are
            computed anew: in a supernet they are of all paths.
    """

    kind: str = "scratch"
    root: str | None = None
    stop_epoch: int | None = None
    init_stream: int = 0
    trains: str = "all"
    recalibrate: int = 16

    def check(self, epochs: int) -> None:
        """Raise ValueError where a value is out of its range; `epochs` are those of the recipe."""
        check_choice("start.kind", self.kind, STARTS)
        check_number("start.init_stream", self.init_stream, low=0)
        check_choice("start.trains", self.trains, TRAINS)
        if self.trains != "all" and self.kind != "shared":
            raise ValueError(
                f"start.trains={self.trains} leaves a trained network as it is, and start.kind={self.kind} "
                "has none that is at its end: add start.kind=shared start.root=FOLDER, or leave it out"
            )
        if epochs == 0 and self.kind not in UNTRAINED:
            raise ValueError(
                f"train.epochs=0: at least 1 with start.kind={self.kind}, which has no trained network to evaluate as it is; 0 is of "
                f"start.kind={' and '.join(UNTRAINED)}, with start.root=FOLDER"
            )
        check_number("start.stop_epoch", self.stop_epoch, low=1, below=epochs, null="train to the end")
        if self.kind == "scratch" and self.root is not None:
            raise ValueError(
                f"start.root={self.root} is of no effect from scratch: add start.kind=shared, fork or path, or leave it out"
            )
        check_number("start.recalibrate", self.recalibrate, low=1)
        if self.kind != "path" and self.recalibrate != StartConfig.recalibrate:
            raise ValueError(
                f"start.recalibrate={self.recalibrate} is of start.kind=path, and here it is {self.kind}: leave it out, or, as one of "
                f"hydra.sweeper.final.overrides, put it back: start.recalibrate={StartConfig.recalibrate}"
            )
        if self.kind == "path" and self.root in (None, OF_STUDY):
            raise ValueError(
                f"start.kind=path with start.root={self.root}: give start.root=FOLDER of the trial that trained the supernet, a network "
                "with choices such as placement.at={stage3:none|conv+pssa}"
            )
        if self.kind != "scratch" and self.root is None:
            what = {
                "shared": "FOLDER of a plain trial, or start.root=FILE of weights",
                "fork": "FOLDER of a plain trial that was trained with start.stop_epoch",
            }[self.kind]
            raise ValueError(
                f"start.kind={self.kind} needs a trained plain network: give start.root={what}; a design with "
                "hydra.sweeper.design.start trains its roots itself"
            )
        if self.root not in (None, OF_STUDY) and not Path(str(self.root)).exists():
            raise ValueError(f"start.root={self.root}: there is no such folder or file")
        if self.kind != "scratch" and self.stop_epoch is not None:
            raise ValueError(
                f"start.stop_epoch={self.stop_epoch} is of a trunk, and start.kind={self.kind} goes on from one; leave it out"
            )
