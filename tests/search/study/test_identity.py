"""Two commands are one study where nothing differs that changes what it finds."""

import optuna
import pytest

from search.study.identity import claim_identity, flatten

CONFIG = {"train": {"lr": 0.1, "epochs": 2}, "tracker": {"mode": "offline"}, "device": "cpu", "seed": 0}


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1, 2]}) == {"a.b": 1, "a.c": {}, "d": [1, 2]}


def test_where_it_runs_and_who_watches_makes_no_difference() -> None:
    study = optuna.create_study(study_name="s")
    claim_identity(study, "runs/s", CONFIG, {"direction": ["maximize"]})
    changed = {**CONFIG, "tracker": {"mode": "disabled"}, "device": "cuda"}
    claim_identity(study, "runs/s", changed, {"direction": ["maximize"]})


def test_what_differs_is_named() -> None:
    study = optuna.create_study(study_name="s")
    claim_identity(study, "runs/s", CONFIG, {"direction": ["maximize"]})
    study.tell(study.ask(), 1.0)
    changed = {**CONFIG, "train": {"lr": 0.2, "epochs": 2}, "more": 1}
    with pytest.raises(ValueError, match=r"runs/s holds another study: 3 setting") as caught:
        claim_identity(study, "runs/s", changed, {"direction": ["minimize"]})
    message = str(caught.value)
    assert "train.lr: there 0.1, now 0.2" in message
    assert "more: there (absent), now 1" in message
    assert "hydra.sweeper.direction: there ['maximize'], now ['minimize']" in message
    assert "hydra.sweeper.study_name=s_2" in message


def test_settings_may_change_while_nothing_was_trained() -> None:
    study = optuna.create_study(study_name="s")
    claim_identity(study, "runs/s", CONFIG, {})
    assert claim_identity(study, "runs/s", {**CONFIG, "train": {"lr": 0.2}}, {}) is None
    study.tell(study.ask(), 1.0)
    with pytest.raises(ValueError, match=r"train\.lr: there 0\.2"):
        claim_identity(study, "runs/s", CONFIG, {})


def test_new_parameters_and_choices_are_growth_and_their_old_values_known() -> None:
    study = optuna.create_study(study_name="s")
    claim_identity(study, "runs/s", CONFIG, {"params": {"train.lr": "a"}})
    study.tell(study.ask(), 1.0)
    assert claim_identity(study, "runs/s", CONFIG, {"params": {"train.lr": "ab", "train.epochs": "c"}}) == {
        "train.epochs": 2,
        "train.lr": 0.1,
    }
    with pytest.raises(ValueError, match=r"params\.train\.lr: there a, now \(absent\)"):
        claim_identity(study, "runs/s", CONFIG, {"params": {"train.epochs": "c"}})


def test_a_study_of_another_program_is_refused() -> None:
    study = optuna.create_study(study_name="s")
    study.tell(study.ask(), 1.0)
    with pytest.raises(ValueError, match="another program"):
        claim_identity(study, "runs/s", CONFIG, {})


def test_secrets_are_not_stored() -> None:
    study = optuna.create_study(study_name="s")
    claim_identity(study, "runs/s", {"api_key": "hunter2hunter2"}, {})
    assert "hunter2hunter2" not in str(study.user_attrs)
