"""Whether what trials return fits the directions that a study was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["check_objectives"]


def check_objectives(facts: Mapping[str, Any], directions: Sequence[str]) -> None:
    """Compare the facts of a checked trial with the study's directions.

    Args:
        facts: "objectives" is how many values a trial returns; "senses" maps each one's name to the direction in which
            it is better. Either may be missing.

    Raises:
        ValueError: their numbers differ, or an objective would be driven the wrong way.
    """
    expected = len(directions)
    if facts.get("objectives", expected) != expected:
        raise ValueError(
            f"objectives names {facts['objectives']} metric(s), hydra.sweeper.direction {expected}: give one direction for each"
        )
    for (name, sense), direction in zip((facts.get("senses") or {}).items(), directions, strict=False):
        if sense != direction:
            raise ValueError(
                f"hydra.sweeper.direction={direction} for the objective {name}: less would be lost with {sense}; "
                f"give hydra.sweeper.direction={sense}, or a list with one direction for each objective in their order"
            )
