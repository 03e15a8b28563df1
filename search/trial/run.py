"""One trial, read from top to bottom: build, ask the study, train, evaluate, fuse, measure, write down."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import os
import pickle
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

import xvol
from search.channel import Infeasible, InFlight, Pruned, Stopped, current
from search.config import Config, typed
from search.fingerprint import fingerprint_of, recipe_hash
from search.ledger.files import is_disk_full, write_atomic
from search.ledger.metric import LATENCIES, chosen_by, columns_on, metric_named
from search.ledger.record import Record
from search.ledger.result import Status, TrialResult
from search.ledger.secrets import mask
from search.ledger.study_files import run_in_words
from search.ledger.tracker import Tracker
from search.objectives import KNOWN_COSTS
from search.slot import at_work, clock, off_work
from search.tasks.base import Diverged, Scores, task_named
from search.trial.content import on_record
from search.trial.measure import check_devices, device_name, measure, slot_name, synchronize, usable_device
from search.trial.optim import check_average
from search.trial.peers import several
from search.trial.ranks import Group
from search.trial.refuse import check_ranks, check_values
from search.trial.reuse import drop_weights, read_on_test, take_over, tell_outdated
from search.trial.start import Root, forked, recalibrate, root_of, save_trunk, started
from search.trial.state import Saver, adopt, begin, discard, keep_samples, read_test, save_checkpoint
from search.trial.tracking import show, tracked
from search.trial.train import Epoch, Halted, Trainer, evaluate, formed, unformed
from search.trial.untrained import Untrained, facts_for_admission, prepare

log = logging.getLogger("xvol")
ERROR_FILE = "error.txt"
ENDS: dict[type[BaseException], Status] = {
    Pruned: "pruned",
    Infeasible: "infeasible",
    InFlight: "duplicate",
    Stopped: "interrupted",
}
_NO_MEMORY = re.compile("out of memory|can't allocate memory", re.I)  # accelerators; torch's CPU allocator


def run_trial(composed: DictConfig, folder: Path, overrides: Sequence[str] = ()) -> float | tuple[float, ...]:
    """Train and measure the architecture of `composed`, and write its record below `folder`.

    Args:
        overrides: what made the config out of its defaults; kept in the record for the reader.

    Returns:
        The values of `objectives`, a single one bare.

    Raises:
        Pruned: the study's pruner stopped the trial; recorded as "pruned".
        Infeasible: the study refused the network before it was trained; recorded as "infeasible".
        InFlight: another worker is training the same trial; recorded as "duplicate".
        Stopped: the study asked running trials to stop; recorded as "interrupted", with its state saved.
        Exception: whatever went wrong; recorded as "failed", with its reason, before it is raised again. A full disk is
            recorded as "interrupted", where that can still be written, and the saved state is kept.
    """
    return _Trial(composed, folder, overrides).run()


class _Trial:
    """A running trial: its config, its line to the study, and its record."""

    device: torch.device
    ranks: int
    made: Untrained
    root: Root | None = None
    interrupted: Path | None = None  # folder of the attempt whose state may be continued

    def __init__(self, composed: DictConfig, folder: Path, overrides: Sequence[str]) -> None:
        self.channel = channel = current()
        self.config = config = typed(composed)
        plain = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(plain, dict)
        self.plain = {str(name): value for name, value in plain.items()}
        self.folder = folder
        self.scores = columns_on("val", config.task)
        self.result = TrialResult(
            study=channel.study,
            trial=channel.number,
            phase=channel.phase,
            status="interrupted",  # what is true if nothing more can be written
            reason="not finished",
            is_baseline=channel.is_baseline,
            recipe_hash=recipe_hash(self.plain),
            task=config.task,
            seed=config.seed,
            backbone=config.backbone.name,
            start=config.start.kind,
            epochs_planned=config.last_epoch,
            attempt=channel.attempt,
            run_dir=str(folder.relative_to(channel.study_dir)) if channel.study_dir else folder.name,
            overrides=[mask(line) for line in overrides],
        )
        self.record = Record(folder, self.result, self.scores)
        self.tracker: Tracker | None = None

    def run(self) -> float | tuple[float, ...]:
        """Run, and record however it ends."""
        result = self.result
        try:
            self.prepare()
            if not (self.is_read_on_test() or self.is_taken_over()):
                self.train_and_measure()
            values = self.objectives()
            result.status, result.reason = "ok", None
            log.info("%s: %s%s", self.name, self.taken_over(), _summary(result))
            return values
        except BaseException as error:
            self.explain(error)
            raise
        finally:
            off_work()
            self.record.close()  # first: what W&B does, or a Ctrl-C while it uploads, cannot take the result away
            if result.status not in ("interrupted", "duplicate"):
                discard(self.folder)
            drop_weights(self.config, self.channel, result)
            if self.tracker is not None:
                self.tracker.finish(result)

    def explain(self, error: BaseException) -> None:
        """Write into the result why the trial ends without one."""
        result = self.result
        expected = next((status for kind, status in ENDS.items() if isinstance(error, kind)), None)
        if expected is not None:
            result.status, result.reason = expected, mask(str(error))
            return
        stopped = isinstance(error, KeyboardInterrupt | SystemExit) or is_disk_full(error)
        result.status = "interrupted" if stopped else "failed"  # what is interrupted keeps its saved state
        result.reason = _reason(error, self.config)
        with contextlib.suppress(OSError):  # on a full disk the reason matters more than the trace
            write_atomic(self.folder / ERROR_FILE, mask("".join(traceback.format_exception(error))))

    def end_by(self, error: BaseException) -> None:
        """Write the result down before the process ends by itself; called from any thread."""
        self.explain(error)
        self.record.close()

    @property
    def name(self) -> str:
        """The trial in the log."""
        result = self.result
        return f"{result.phase} {result.trial} [{result.arm}] seed {result.seed}"

    def prepare(self) -> None:
        """Load the data, build the network, and write down what is known before it is trained."""
        config, channel, result = self.config, self.channel, self.result
        self.interrupted = adopt(channel.resume_from, self.folder)
        check_values(config)
        self.root = root_of(config, channel.root)
        torch.set_num_threads(config.threads)
        self.device = usable_device(config.device)
        self.ranks = self.channel.ranks if config.ranks == "auto" else int(config.ranks)
        check_ranks(config, self.ranks)
        check_devices(self.device, self.ranks)
        result.provenance["ranks"] = self.ranks
        at_work(slot_name(self.device), functools.partial(synchronize, self.device))
        result.provenance["device"] = device_name(self.device)
        splits = ("train", "val", "test") if channel.phase == "final" else ("train", "val")
        self.made = prepare(config, self.device, splits, world=self.ranks)
        if self.root is not None:
            self.made = started(self.made, self.root)
            result.root, result.root_seed = self.place(self.root.place), self.root.seed
        self.describe()
        judged = channel.phase == "search" or not set(LATENCIES).isdisjoint(channel.costs)
        self.made.add_costs(result, channel.costs, self.device, judged=judged)

    def describe(self) -> None:
        """Write down what is trained and what it is made by, and tell it to the study."""
        architecture, loaders = self.made.architecture, self.made.loaders
        self.result.epochs_planned = self.made.epochs
        content, result = self.made.content, self.result
        result.arm, result.arch_hash = architecture.label, architecture.hash
        result.sites = architecture.sites
        result.branches = architecture.branches
        result.data_source = loaders.info.source
        result.classes, result.val_images = len(loaders.info.classes), loaders.val.samples
        result.metrics |= loaders.chance
        result.code_digest, result.data_digest = content.code_digest, content.data
        result.provenance |= {"commit": content.commit, "commits": dict(content.commits), "code": dict(content.code)}
        recipe = recipe_hash(self.plain, anywhere=True)
        result.fingerprint = fingerprint_of(
            architecture.hash, recipe, result.seed, result.epochs_planned, result.phase, content.digest
        )
        self.channel.note("arm", architecture.label)
        self.channel.note("arch_hash", architecture.hash)

    def is_read_on_test(self) -> bool:
        """Whether the network was trained at a look, and was read on the test data now."""
        if self.channel.trained_in is None or not read_on_test(self.made, self.device, self.record, self.channel):
            return False
        log.info("%s: trained at a look, read on test now", self.name)
        return True

    def is_taken_over(self) -> bool:
        """Ask the study whether to train; whether an earlier result stood in.

        Raises:
            Infeasible, InFlight: as the channel does.
        """
        result, channel = self.result, self.channel
        assert result.fingerprint is not None
        facts: dict[str, Any] = {"arch_hash": result.arch_hash, "arm": result.arm}
        facts |= facts_for_admission(result, (*KNOWN_COSTS, *channel.costs))
        earlier = channel.admit(result.fingerprint, facts)
        while earlier is not None and not take_over(earlier, self.record, self.config, channel):
            earlier = channel.unfit(earlier)
        if earlier is None:
            tell_outdated(channel, result)
            return False
        self.made.add_scores(result, self.config.measure.zero_cost)
        return True

    def train_and_measure(self) -> None:
        """Train; read the test data where they were asked for; measure what the trained network costs."""
        result, config, loaders = self.result, self.config, self.made.loaders
        self.tracker = tracked(self.made, self.channel, result, self.plain, self.folder, self.root, self.interrupted)
        result.wandb_id = self.tracker.run_id
        if config.start.kind == "path":
            recalibrate(self.made, self.device)
        self.made.add_scores(result, config.measure.zero_cost)
        trained, scored = self.train().outcome() if self.made.epochs else self.evaluated_as_it_is()
        scored.write(self.folder)
        network = unformed(trained, config.train, self.made.model)
        if loaders.test is not None:
            result.metrics |= read_test(network, self.made, self.device, self.folder)
            result.test_images = loaders.test.samples
        keep_samples(self.made, network, self.device, self.folder)
        show(self.tracker, self.made, network, result.epochs, self.folder)
        if self.device.type == "cuda":
            result.peak_memory_mb = torch.cuda.max_memory_allocated(self.device) / 2**20
        if result.sites:
            inputs, _ = next(iter(loaders.val))
            result.doses = xvol.doses(network, inputs)
            result.dose = xvol.geometric_mean(result.doses.values())
        if self.channel.keeps_weights or config.keeps_weights(result.phase):
            save_checkpoint(network, self.folder)
        timed = result.latency_ms is not None  # before training, since the study asked: that figure is what it judged
        wanted = replace(config.measure, latency_repeats=0) if timed else config.measure
        costs = measure(self.made.measured(network), self.made.input_size, wanted, config.seed)
        for name, value in costs.columns().items():
            setattr(result, name, value)
        result.latency_batch = config.measure.latency_batch

    def train(self) -> Trainer:
        """Train to the end, from the state that an interrupted attempt has left where it did."""
        config, made, result = self.config, self.made, self.result
        assert result.fingerprint is not None
        check_average(config.train, config.train.epochs * len(made.loaders.train))
        if config.train.compile:  # a compilation that is killed spoils the cache: not that of other studies
            cache = Path(self.channel.study_dir or self.folder) / "inductor"
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache.resolve()))

        before: list[dict[str, Any]] = []  # epochs that a trunk has trained

        def anew() -> Trainer:
            trainer = made.trainer(self.device, self.channel.stop_requested)
            if config.start.kind == "fork" and self.root is not None:
                before[:] = forked(trainer, made, self.root, self.device)
            return trainer

        if self.interrupted is None:
            trainer, past = anew(), None
        else:
            trainer, past = begin(anew, self.folder, result.fingerprint, on_record(result), self.device)
        result.train_seconds = 0.0
        if past is not None and self.interrupted is not None:
            result.resumed_from = self.place(self.interrupted)
            log.info("%s: goes on after %d of %d epochs", self.name, len(past), config.last_epoch)
        with self.together(trainer):
            self.train_epochs(trainer, past or before)
        return trainer

    def evaluated_as_it_is(self) -> tuple[nn.Module, Scores]:
        """The network that a trial without training starts from, and its evaluator. Scores are written down, the history stays empty."""
        start, recipe = clock(), self.config.train
        network = formed(copy.deepcopy(self.made.model), recipe, self.device)
        scored = self.made.evaluator("val", self.device)
        self.result.metrics |= evaluate(network, self.made.loaders.val, scored, recipe.amp_type)
        self.result.train_seconds = clock() - start
        log.info("%s: evaluated as it is %s", self.name, _score(self.result, chosen_by(self.config.task)))
        return network, scored

    @contextlib.contextmanager
    def together(self, trainer: Trainer) -> Iterator[None]:
        """A block in which the trial's other ranks train as `trainer` does."""
        if self.ranks == 1:
            yield
            return
        log.info("%s: %d ranks", self.name, self.ranks)
        payload = cloudpickle.dumps((self.plain, self.made.model, self.made.architecture))
        settle = functools.partial(synchronize, self.device)
        with several(
            train_along, payload, self.ranks, self.device, self.folder, settle, slot_name(self.device), self.end_by
        ) as group:
            trainer.join(group)
            yield

    def train_epochs(self, trainer: Trainer, history: list[dict[str, Any]]) -> None:
        """Train what is left, and write each epoch down; `history` holds those that were finished before."""
        result, config = self.result, self.config
        assert result.fingerprint is not None
        for row in history:
            self.take_down(Epoch(**row))
        saver = Saver(self.folder, result.fingerprint, on_record(result), config.train.state_every_seconds)
        try:
            for epoch in trainer.epochs():
                self.take_down(epoch)
                # of a study with -v alone: its terminal shows how each worker stands
                level = logging.INFO if self.channel.phase == "single" else logging.DEBUG
                log.log(level, "%s: %s", self.name, self.progress(epoch))
                self.obey_pruner(epoch, trainer)
                history.append(asdict(epoch))
                saver.after_epoch(trainer, history)
        except Halted as halt:
            where = f"epoch {halt.epoch}, step {halt.step}"
            if saver.save(trainer, history):
                raise Stopped(f"stopped; its state is saved at {where}") from None
            raise Stopped(f"stopped at {where}; its state could not be saved") from None
        if config.start.stop_epoch is not None:
            save_trunk(trainer, history, config, self.folder)

    def take_down(self, epoch: Epoch) -> None:
        """Write an epoch down, and report it to the study."""
        result, objective = self.result, self.config.objectives[0]
        self.record.epoch(epoch.row)
        assert self.tracker is not None
        self.tracker.log(epoch.row, step=epoch.epoch)
        result.metrics |= epoch.scores
        result.train_loss = epoch.train_loss
        if result.train_loss_first is None:
            result.train_loss_first = epoch.train_loss
        result.train_seconds = (result.train_seconds or 0.0) + epoch.seconds
        value = epoch.scores.get(objective)
        if value is not None:
            self.channel.report(epoch.epoch, value)

    def obey_pruner(self, epoch: Epoch, trainer: Trainer) -> None:
        """Stop where the pruner says so, but for objectives that no epoch changes, and at the end."""
        objective, epochs = self.config.objectives[0], self.config.last_epoch
        value = epoch.scores.get(objective)
        if value is not None and epoch.epoch < epochs and self.channel.should_prune():
            keep_samples(self.made, trainer.evaluated, self.device, self.folder)
            raise Pruned(f"pruned after epoch {epoch.epoch} of {epochs} at {objective} {value:.4g}")

    def taken_over(self) -> str:
        """What the line that ends a trial begins with where another has trained the same network."""
        source, study = self.result.reused_from, self.channel.study_dir
        return "" if source is None else f"nothing trained, taken over from {run_in_words(source, study)}: "

    def progress(self, epoch: Epoch) -> str:
        """The line of an epoch."""
        score = f"{_score(self.result, chosen_by(self.config.task))} " if epoch.scores else ""
        return f"epoch {epoch.epoch}/{self.config.last_epoch} {score}loss {epoch.train_loss:.3f} ({epoch.seconds:.1f}s)"

    def objectives(self) -> float | tuple[float, ...]:
        """The values that the study is told."""
        values = []
        for name in self.config.objectives:
            value = self.result.value(name)
            if value is None:
                hint = "the score is not finite for this network" if "." in name else "is measure.latency_repeats 0?"
                raise ValueError(f"objectives: {name} was not measured; {hint}")
            values.append(float(value))
        return values[0] if len(values) == 1 else tuple(values)

    def place(self, folder: Path) -> str:
        """`folder` relative to the study's, or absolute where it lies elsewhere."""
        root = Path(self.channel.study_dir).resolve() if self.channel.study_dir else None
        inside = root is not None and folder.resolve().is_relative_to(root)
        return folder.resolve().relative_to(root).as_posix() if inside and root else str(folder.resolve())


def train_along(payload: bytes, device: torch.device, rank: int, world: int, join: Callable[[], Group]) -> None:
    """What another rank of a trial than the first does: train as that one does, and nothing else."""
    plain, model, architecture = pickle.loads(payload)  # from the first rank's pipe
    config = typed(OmegaConf.create(plain))
    torch.set_num_threads(config.threads)
    task = task_named(config.task)
    loaders = task.data(config, ("train", "val"), device, rank, world)
    trainer = Untrained(config, task, loaders, model, architecture).trainer(device)
    group = join()
    if device.type == "cuda":  # a CPU's slot is rank 0's, for all
        at_work(slot_name(device), functools.partial(synchronize, device))
    trainer.join(group)
    with contextlib.suppress(Halted, Diverged):  # which rank 0 has met as well
        for _ in trainer.epochs():
            pass
    group.dismiss()


def _reason(error: BaseException, config: Config) -> str:
    text = f"{type(error).__name__}: {error}".strip().rstrip(":")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY.search(text):
        text = f"out of memory: {text.splitlines()[0]} ({_less_memory(config)})"
    if isinstance(error, KeyboardInterrupt):
        text = "interrupted"
    return mask(text)


def _less_memory(config: Config) -> str:
    """What to change where a trial did not fit; each of them for all arms alike."""
    batch = config.data.batch_size
    ways = [f"data.batch_size={batch // 2}"] if batch > 1 else []
    ways += [] if config.train.amp else ["train.amp=true"]
    advice = f"in every arm take {' or '.join(ways)}" if ways else "take a smaller network or data.image_size"
    return f"{advice}; train_memory_mb is what a step needs, and can be an objective or a constraint"


def _score(result: TrialResult, column: str) -> str:
    """E.g. "val 93.50%": a score in the log, a percentage as one."""
    metric, value = metric_named(column), result.metrics[column]
    if value is None:  # of pictures without an object
        return f"{metric.title} none"
    return f"{metric.split} {value:.2f}%" if metric.title.endswith("%") else f"{metric.title} {value:.4g}"


def _summary(result: TrialResult) -> str:
    """The line that ends a trial."""
    chosen = chosen_by(result.task)
    test = f"test{chosen.removeprefix('val')}"
    scores = [_score(result, column) for column in (chosen, test) if column in result.metrics]
    dose = "" if result.dose is None else f", dose {result.dose:.2g}"
    speed = "" if result.latency_ms is None else f", {result.latency_ms:.2f} ms (fused {result.latency_fused_ms:.2f})"
    return (
        f"{', '.join(scores)}, {result.params} params, {(result.macs or 0) / 1e6:.2f} M MACs{speed}{dose}, "
        f"fused logits differ by {result.fuse_error:.1e}"
    )
