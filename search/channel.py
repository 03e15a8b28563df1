"""How a study and what it runs talk: the study asks an `Application`, and a running trial reports through its `Channel`.

`study/` and `trial/` do not import each other. The sweeper is handed an application; a worker opens a channel around each
trial that it lets the application train, and the trial finds it with `current()`. Outside of a study `current()` is a
channel that keeps nothing and never prunes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from search.ledger.result import Phase

EXIT_HUNG = 75  # EX_TEMPFAIL: of a process that gave up on a trial that nothing could stop; a launcher starts another


class Pruned(Exception):
    """The study's pruner has stopped this trial. Its message says at which epoch and with which value."""


class Infeasible(Exception):
    """The study refuses this architecture before it is trained. Its message says which constraint it breaks."""


class InFlight(Exception):
    """The same run is being trained by another worker, of this study or another. Its message says where."""


class Stopped(Exception):
    """The trial has stopped because the study asked it to. Its message says from where it can be continued."""


class Broken(Stopped):
    """A process of the trial has died. Its message says which; this counts as one of the trial's tries."""


@dataclass
class Channel:
    """One trial's line to its study; this base class is the line of a trial outside of any study.

    Attributes:
        study: name of the study, "single" outside of one.
        number: number of the trial inside its study and phase.
        phase: only "final" may read test data; no config key can set it.
        is_baseline: True for the arm that differences are taken against.
        study_dir: folder of the study; None outside of one.
        attempt: how often this trial has been begun, this time included.
        resume_from: absolute folder of the interrupted attempt whose saved state may be continued.
        keeps_weights: whether the study needs the trained weights later, whatever the config's `checkpoint` says.
        is_root: whether other trials of the study start from this one's network.
        root: absolute path of the trial's folder, or of the file, that the study lets this one's training start from; None for none.
        trained_in: absolute folder of the trial whose network this one only reads on the test data; None to train.
        costs: names of cheap costs that the study wants measured before training: latency_ms, latency_fused_ms,
            train_memory_mb, zero_cost.NAME. Parameters and MACs are always there.
        ranks: how many GPUs the launcher gives a trial, each for a process of its own.
        notes: facts the trial has stated about itself, e.g. its architecture hash.
    """

    study: str = "single"
    number: int = 0
    phase: Phase = "single"
    is_baseline: bool = False
    study_dir: str | None = None
    attempt: int = 1
    resume_from: str | None = None
    keeps_weights: bool = False
    is_root: bool = False
    root: str | None = None
    trained_in: str | None = None
    costs: tuple[str, ...] = ()
    ranks: int = 1
    notes: dict[str, Any] = field(default_factory=dict)

    def report(self, step: int, value: float) -> None:
        """Tell the pruner the objective's value after epoch `step` (from 1)."""

    def should_prune(self) -> bool:
        """Whether the pruner wants this trial stopped now."""
        return False

    def note(self, name: str, value: Any) -> None:
        """State a JSON-able fact about this trial; a study stores it with the trial."""
        self.notes[name] = value

    def admit(self, fingerprint: str, facts: Mapping[str, Any]) -> str | None:
        """Say whether the network that was built is to be trained; asked once, before anything is trained.

        Args:
            fingerprint: equal for two trials of which one's result would be the other's.
            facts: "arch_hash", "arm", "params", "params_fused", "macs", "macs_fused" and the costs that were asked for.

        Returns:
            None to train, or the absolute path of an earlier `result.json` to take the result from.

        Raises:
            Infeasible: a constraint of the study is broken. InFlight: another worker is training the same.
        """
        return None

    def unfit(self, source: str) -> str | None:
        """Say that the result at `source`, from `admit`, cannot stand for this trial's; returns and raises as `admit`."""
        return None

    def outdated(self) -> str | None:
        """An earlier `result.json` of the same settings that cannot stand for this one: something else made it."""
        return None

    def stop_requested(self) -> bool:
        """Whether the study wants running trials to save their state and stop. Asked after each step: keep it cheap."""
        return False


class Application:
    """What a study asks of the program whose trials it runs; all but `train` may be left as it is here.

    An application stands in the place of Hydra's task function, so Hydra calls it with a trial's composed config. Workers
    are sent it: it must be picklable.

    Attributes:
        checks: whether `check` and `facts` tell anything; without them a study composes one config and starts.
        costs: names of what can be told of a trial before it is trained, for constraints; None: not known.
        scores: names of the zero-cost scores that `score` takes.
    """

    checks: bool = False
    costs: tuple[str, ...] | None = None
    scores: tuple[str, ...] = ()

    @staticmethod
    def of(task_function: Callable[[DictConfig], Any]) -> Application:
        """The application that Hydra hands over as its task function."""
        return task_function if isinstance(task_function, Application) else _TaskFunction(task_function)

    def __call__(self, config: DictConfig) -> Any:
        """Train, as Hydra asks for it."""
        return self.train(config)

    def train(self, config: DictConfig) -> float | tuple[float, ...]:
        """Run one trial in the folder that Hydra gave it; return its objectives, a single one bare."""
        raise NotImplementedError

    def preloads(self, config: DictConfig) -> Sequence[str]:
        """Modules that trials need, of a study's config: the local launcher imports them once for all its workers.

        Importing them must start no thread, and no accelerator.
        """
        return ()

    def check_values(self, config: DictConfig) -> None:
        """Raise ValueError for what is wrong with a config on the face of it, at once."""

    def check(self, config: DictConfig) -> dict[str, Any]:
        """Facts of a config that can run, its network built; raises ValueError for one that cannot.

        Returns:
            "arch_hash", "arm", the number of "objectives", and their "senses" by name, "maximize" or "minimize"; nothing
            where the application does not know.
        """
        return {}

    def refuse_moot(self, keys: Sequence[str], configs: Sequence[DictConfig]) -> None:
        """Raise ValueError for a swept key that changes nothing that is trained, in any of the configs."""

    def default_of(self, key: str, config: DictConfig) -> Any:
        """What a key stands for that a config leaves out; None where that is not known."""
        return None

    def facts(self, config: DictConfig) -> dict[str, Any]:
        """Cost and sites of the network of a config, for the controls of a design."""
        raise ValueError("this application tells nothing of the networks that it trains")

    def score(self, config: DictConfig, names: Sequence[str]) -> dict[str, float]:
        """Zero-cost scores of the untrained network of a config, by name, of those in `scores`."""
        raise ValueError("this application offers no scores; leave hydra.sweeper.warm_start.score null")


class _TaskFunction(Application):
    """A bare Hydra task function, of which nothing is known but that it trains."""

    def __init__(self, train: Callable[[DictConfig], Any]) -> None:
        self._train = train

    def train(self, config: DictConfig) -> Any:
        return self._train(config)


_current: ContextVar[Channel | None] = ContextVar("search_channel", default=None)


def current() -> Channel:
    """The channel of the trial that runs in this context."""
    return _current.get() or Channel()


@contextlib.contextmanager
def opened(channel: Channel) -> Iterator[Channel]:
    """Make `channel` the current one for the length of a `with` block."""
    token = _current.set(channel)
    try:
        yield channel
    finally:
        _current.reset(token)
