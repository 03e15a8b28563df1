from __future__ import annotations

import threading

import pytest

from search.channel import Channel, current, opened


def test_outside_of_a_study_nothing_is_kept_and_nothing_is_pruned() -> None:
    channel = current()
    assert (channel.study, channel.number, channel.phase, channel.study_dir) == ("single", 0, "single", None)
    channel.report(1, 50.0)
    channel.note("arch_hash", "abc")
    assert not channel.should_prune()
    assert channel.admit("0123456789", {"params": 10}) is None
    assert not channel.stop_requested()
    assert (channel.attempt, channel.resume_from, channel.costs) == (1, None, ())
    assert current().notes == {}


def test_a_trial_finds_the_channel_that_was_opened_around_it() -> None:
    outer, inner = Channel(study="demo", phase="search"), Channel(study="demo", phase="final")
    with opened(outer) as given:
        assert given is outer is current()
        with opened(inner):
            assert current() is inner
        assert current() is outer
    assert current().phase == "single"


def test_a_channel_is_closed_when_its_trial_fails() -> None:
    with pytest.raises(RuntimeError, match="no luck"), opened(Channel(study="demo")):
        raise RuntimeError("no luck")
    assert current().study == "single"


def test_a_channel_belongs_to_its_thread() -> None:
    found: list[str] = []
    with opened(Channel(study="demo")):
        thread = threading.Thread(target=lambda: found.append(current().study))
        thread.start()
        thread.join()
    assert found == ["single"]


def test_notes_are_each_trials_own() -> None:
    first, second = Channel(), Channel()
    first.note("arm", "plain")
    assert (first.notes, second.notes) == ({"arm": "plain"}, {})
