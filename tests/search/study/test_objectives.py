"""Directions are never assumed."""

import pytest

from search.study.objectives import check_objectives


def test_an_objective_is_not_driven_the_wrong_way() -> None:
    check_objectives(
        {"objectives": 2, "senses": {"val_top1": "maximize", "macs": "minimize"}}, ["maximize", "minimize"]
    )
    with pytest.raises(ValueError, match=r"give hydra\.sweeper\.direction=minimize"):
        check_objectives({"objectives": 1, "senses": {"val_loss": "minimize"}}, ["maximize"])


def test_each_objective_has_a_direction() -> None:
    with pytest.raises(ValueError, match=r"names 2 metric\(s\), hydra.sweeper.direction 1"):
        check_objectives({"objectives": 2}, ["maximize"])


def test_an_application_without_facts_is_taken_at_its_word() -> None:
    check_objectives({}, ["minimize"])
