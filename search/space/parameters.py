"""From Hydra's override grammar to search parameters, and from a sampled value back to an override.

The grammar is the one of Hydra's official Optuna sweeper: `choice`, `range`, `interval`, `int(...)`, `float(...)`,
`tag(log, ...)`, `shuffle`, `sort` and the comma form `key=a,b,c`. One deliberate difference: `range(0, 4)` excludes
its end for every sampler, as Hydra documents it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
)
from hydra.errors import HydraException, OverrideParseException

from xvol.allowed import meant

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str | None
MAX_GRID = 100_000


@dataclass(frozen=True)
class Parameter:
    """One thing that may vary, by its config key as in an override, with its `+` or `++` where given.

    There are choices, where there are `texts`: each, and how it is written in an override. Or else the numbers from `low` to `high`,
    both integers or both floats, `step` apart (None: all floats between), over the logarithm where `log` says so.
    """

    key: str
    texts: tuple[tuple[Value, str], ...] = ()
    low: int | float = 0
    high: int | float = 0
    step: int | float | None = None
    log: bool = False

    @property
    def name(self) -> str:
        """The parameter's stable name in the study: its config key without `+`."""
        return self.key.lstrip("+")

    @cached_property
    def distribution(self) -> BaseDistribution:
        """What Optuna samples."""
        # here: `--help` and refusals read a space, and Optuna takes longer to load than they take
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.texts:
            return CategoricalDistribution([choice for choice, _ in self.texts])
        if isinstance(self.low, int):
            return IntDistribution(self.low, int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def override(self, value: Value) -> str:
        """The override that sets `value`, which must come from the distribution."""
        for choice, text in self.texts:
            if choice == value and type(choice) is type(value):
                return f"{self.key}={text}"
        return f"{self.key}={value}"

    def levels(self) -> list[Value] | None:
        """All values in order where they can be counted, else None."""
        if self.texts:
            return [choice for choice, _ in self.texts]
        if self.log or self.step is None:
            return None
        if isinstance(self.low, int):
            return list(range(self.low, int(self.high) + 1, int(self.step)))
        step, low = Decimal(str(self.step)), Decimal(str(self.low))
        return [float(low + step * i) for i in range(int((Decimal(str(self.high)) - low) / step) + 1)]

    def ends(self) -> list[Value]:
        """All values in order, or the two ends where they cannot be counted."""
        return self.levels() or list(dict.fromkeys((self.low, self.high)))


@dataclass(frozen=True)
class Space:
    """The parameters of a study, and the overrides that every trial shares."""

    parameters: tuple[Parameter, ...]
    fixed: tuple[str, ...]

    def overrides(self, values: Mapping[str, Value]) -> list[str]:
        """All overrides of the trial that was given `values` (by parameter name)."""
        return [*self.fixed, *(p.override(values[p.name]) for p in self.parameters)]

    def size(self) -> int | None:
        """How many points there are, or None where they cannot be counted."""
        levels = [parameter.levels() for parameter in self.parameters]
        if not levels or any(each is None for each in levels):
            return None
        return math.prod(len(each) for each in levels if each is not None)

    def variations(self) -> list[dict[str, Value]]:
        """The first point, and each other level (of what cannot be counted: the ends) of one parameter at a time."""
        first = {parameter.name: parameter.ends()[0] for parameter in self.parameters}
        return [first, *({**first, p.name: value} for p in self.parameters for value in p.ends()[1:])]

    def grid(self) -> list[dict[str, Value]]:
        """Every point, in the order of nested loops over the parameters; ValueError where they cannot be counted, or are too many."""
        levels = []
        for parameter in self.parameters:
            each = parameter.levels()
            if each is None:
                raise ValueError(
                    f"sampler grid: {parameter.name} is an interval, whose values cannot be counted; "
                    "give it choice(...) or range(...), or take another sampler"
                )
            levels.append(each)
        if math.prod(map(len, levels)) > MAX_GRID:
            raise ValueError(f"sampler grid: more than {MAX_GRID} points; take another sampler")
        names = [parameter.name for parameter in self.parameters]
        return [dict(zip(names, point, strict=True)) for point in itertools.product(*levels)]


def parse_space(arguments: Sequence[str], params: Mapping[str, Any], config_loader: Any = None) -> Space:
    """Split overrides into search parameters and fixed overrides; ValueError where one cannot be read or searched.

    Args:
        arguments: overrides from the command line; they go before those of `params`.
        params: `hydra.sweeper.params`: config key -> text in the override grammar.
        config_loader: Hydra's, so that group names are known to the parser.
    """
    texts = [f"{key}={_text(key, value)}" for key, value in params.items()]
    try:
        overrides = OverridesParser.create(config_loader=config_loader).parse_overrides([*texts, *arguments])
    except OverrideParseException as error:
        raise ValueError(f"cannot read the search space: {error.override}: {error}") from None
    except HydraException as error:
        raise ValueError(f"cannot read the search space: {error}") from None
    last = {
        override.key_or_group + (f"@{override.package}" if override.package else ""): override for override in overrides
    }
    parameters, fixed = [], []
    for override in last.values():
        if override.is_sweep_override():
            parameters.append(_parameter(override))
        else:
            fixed.append(override.input_line or "")
    return Space(tuple(parameters), tuple(fixed))


def _text(key: str, value: Any) -> str:
    if isinstance(value, Mapping) or (isinstance(value, list | tuple) and not value):
        raise ValueError(
            f"hydra.sweeper.params.{key} takes text in the override grammar such as 'choice(a, b)' or 'interval(0, 1)', "
            f"or a list of choices, got {value}"
        )
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        items = [_item_text(item) for item in value]
        return ",".join(items) if len(items) > 1 else f"choice({items[0]})"  # choice() does not take null
    return str(value)


def _item_text(value: Any, inside: bool = False) -> str:
    """How a value of a list or a choice is written in an override; `inside` a list or a mapping, where more signs are quoted."""
    if value is None:
        return "null"
    if isinstance(value, QuotedString):
        return str(value.with_quotes())
    if isinstance(value, list | tuple):
        return f"[{','.join(_item_text(each, inside=True) for each in value)}]"
    if isinstance(value, Mapping):
        pairs = (f"{_item_text(key, inside=True)}:{_item_text(each, inside=True)}" for key, each in value.items())
        return f"{{{','.join(pairs)}}}"
    if isinstance(value, str):
        return _quoted(value) if inside and set(value) & set("\\()[]{}:=, \t") else _string_text(value)
    return str(value)


def _string_text(value: str) -> str:
    """`value` bare where Hydra reads this string back, else quoted: '1' is not 1."""
    try:
        parsed = OverridesParser.create().parse_override(f"x={value}")
        if not parsed.is_sweep_override() and isinstance(parsed.value(), str) and parsed.value() == value:
            return value
    except HydraException:
        pass
    return _quoted(value)


def _quoted(value: str) -> str:
    return str(QuotedString(value, Quote.single).with_quotes())


def _parameter(override: Override) -> Parameter:
    for tag in set(getattr(override.value(), "tags", ())) - {"log"}:  # as the official sweeper, which takes any tag
        if meant(tag, ["log"]):
            raise ValueError(f"{override.input_line}: tag({tag}) changes nothing; did you mean tag(log, ...)?")
    if override.is_choice_sweep():
        return _choice(override)
    if override.is_range_sweep():
        return _range(override)
    if override.is_interval_sweep():
        return _interval(override)
    raise ValueError(
        f"{override.input_line}: this sweep cannot be searched; allowed are choice(...), range(...), interval(...), "
        "int(interval(...)), tag(log, interval(...)) and a,b,c"
    )


def _choice(override: Override) -> Parameter:
    sweep = override.value()
    if not isinstance(sweep, ChoiceSweep):
        raise ValueError(f"{override.input_line}: glob(...) is not searched; write the names out in choice(...)")
    texts: dict[tuple[type, Value], str] = {}
    for item in sweep.list:  # as written: `shuffle` must not give another order in each process
        value: Any
        if isinstance(item, QuotedString):
            item = item.text
        value, text = item, _item_text(item)
        if not isinstance(value, bool | int | float | str | None):
            value = text  # lists and dictionaries are searched under the text that writes them
        texts.setdefault((type(value), value), text)
    if "log" in sweep.tags:
        raise ValueError(f"{override.input_line}: tag(log) goes with interval(...) or range(...), not with choice(...)")
    return Parameter(override.get_key_element(), tuple((value, text) for (_, value), text in texts.items()))


def _range(override: Override) -> Parameter:
    sweep = override.value()
    assert isinstance(sweep, RangeSweep)
    key, values = override.get_key_element(), _range_values(sweep, override.input_line)
    if not values:
        raise ValueError(f"{override.input_line}: the range is empty")
    if sweep.shuffle:  # the order of a shuffled range is its own: levels, not a line
        return Parameter(key, tuple((value, str(value)) for value in values))
    log, low, high = "log" in sweep.tags, min(values), max(values)
    step = abs(sweep.step)
    if log and low <= 0:
        raise ValueError(f"{override.input_line}: a logarithmic range begins above 0, got {low}")
    if all(isinstance(value, int) for value in values):
        if log and step != 1:
            raise ValueError(f"{override.input_line}: Optuna's logarithmic integers take step 1, got {step}")
        return Parameter(key, low=int(low), high=int(high), step=int(step), log=log)
    if log:
        raise ValueError(
            f"{override.input_line}: a logarithmic range of floats has no step; write tag(log, interval(...))"
        )
    return Parameter(key, low=float(low), high=float(high), step=float(step))


def _range_values(sweep: RangeSweep, line: str | None) -> list[int | float]:
    """The values in exact decimals: Hydra adds up floats, and so may reach the end that it excludes."""
    start, stop, step = (Decimal(str(number)) for number in (sweep.start, sweep.stop, sweep.step))
    if step == 0:
        raise ValueError(f"{line}: the step of a range is not 0")
    whole, rest = divmod(stop - start, step)
    values = [start + step * i for i in range(int(whole) + (rest != 0) if (stop - start) / step > 0 else 0)]
    exact = all(isinstance(number, int) for number in (sweep.start, sweep.stop, sweep.step))
    return [int(value) if exact else float(value) for value in values]


def _interval(override: Override) -> Parameter:
    sweep = override.value()
    assert isinstance(sweep, IntervalSweep)
    key, log = override.get_key_element(), "log" in sweep.tags
    if sweep.start is None or sweep.end is None or not sweep.start <= sweep.end:
        raise ValueError(f"{override.input_line}: an interval takes its lower end first")
    if not (math.isfinite(sweep.start) and math.isfinite(sweep.end)):
        raise ValueError(f"{override.input_line}: an interval has two finite ends")
    if log and sweep.start <= 0:
        raise ValueError(f"{override.input_line}: a logarithmic interval begins above 0, got {sweep.start}")
    if isinstance(sweep.start, int) and isinstance(sweep.end, int):
        return Parameter(key, low=int(sweep.start), high=int(sweep.end), step=1, log=log)
    return Parameter(key, low=float(sweep.start), high=float(sweep.end), log=log)
