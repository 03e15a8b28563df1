"""Keys that change nothing of what is trained, told without torch: a sweep over them would compare copies of one network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from search.config import Config

__all__ = ["refuse_moot"]

_PLAIN = "none"
_OF_THE_STUDY = ("experiment", "sampler", "pruner", "space", "design", "tracker")
_BESIDE = ("tracker.", "checkpoint", "data.root", "data.download", "objectives", "train.state_every_seconds")


def refuse_moot(keys: Iterable[str], configs: Sequence[Config], swept: bool) -> None:
    """Raise ValueError for a key that is of no effect in any of the configs.

    Args:
        keys: config keys as in overrides, e.g. "branch.options.pssa.rank" or the group "branch".
        configs: what is trained; of a sweep, each value of each key in one of them at least.
        swept: whether values of the keys are compared.
    """
    for key in keys:
        why = _moot(key, configs) or (_beside(key) if swept else None)
        if why:
            raise ValueError(f"{key} has no effect: {why}")


def _beside(key: str) -> str | None:
    if key in _OF_THE_STUDY:
        return "it is of the study, and a trial cannot choose it; give it one value"
    found = key.startswith(_BESIDE) and "it changes nothing that is trained or measured; give it one value"
    return found or None


def _moot(key: str, configs: Sequence[Config]) -> str | None:
    parts = key.split(".")
    if parts[0] == "branch":
        if not any(map(_places, configs)):
            return "no block is placed; choose where, e.g. placement=stage3"
        used = sorted({name for config in configs for name in _named(config)})  # placed or not: elsewhere they may be
        if parts[1:2] == ["options"] and len(parts) > 2 and parts[2] not in used:
            return (
                f"branch.use has no {parts[2]}, but {', '.join(used)}; give options of those, or add it to branch.use"
            )
    if key == "train.warmup" and all(config.train.schedule == "constant" for config in configs):
        return "train.schedule=constant has no warm-up"
    if key == "train.ema_warmup" and all(config.train.ema_decay is None for config in configs):
        return "train.ema_decay=null takes no average"
    return None


def _places(config: Config) -> bool:
    return config.placement.policy not in (_PLAIN, "plain") or any(
        use != _PLAIN for use in config.placement.at.values()
    )


def _named(config: Config) -> set[str]:
    names = {n.strip() for use in (config.branch.use, *config.placement.at.values()) for n in str(use).split("+")}
    return names - {_PLAIN}
