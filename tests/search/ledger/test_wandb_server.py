"""What a server that does not answer costs the processes of a study."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import search.ledger.wandb_server as module
from search.ledger.wandb_server import ANSWERED_SECONDS, RETRY_SECONDS, Away, Server


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    monotonic = time


def wait_in_vain(server: Server, clock: Clock) -> None:
    with server.asked() as seconds:
        clock.now += seconds
        raise TimeoutError


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1), st.booleans()), max_size=40), st.floats(4, 300))
def test_it_costs_no_more_than_the_patience(asks: list[tuple[float, float, bool]], patience: float) -> None:
    clock, waited = Clock(), 0.0
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", clock)
        for passes, share, answers in asks:
            clock.now += passes
            try:
                with Server(Path(folder), patience).asked() as seconds:  # a process of its own each time
                    begun = clock.now
                    clock.now += share * seconds
                    if not answers:
                        waited += clock.now - begun
                        raise TimeoutError
            except (Away, TimeoutError):
                pass
    assert waited <= patience + 0.05 * len(asks)  # the file rounds to tenths


def test_it_is_asked_again_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    with pytest.raises(TimeoutError):
        wait_in_vain(Server(tmp_path, 30), clock)
    clock.now += RETRY_SECONDS - 1
    with pytest.raises(Away), Server(tmp_path, 30).asked():
        pass
    clock.now += 1
    with Server(tmp_path, 30).asked() as less:
        assert less == 30 / 4
    with Server(tmp_path, 30).asked():  # it has answered
        pass


def test_one_asks_while_nothing_is_known_and_all_do_afterwards(tmp_path: Path) -> None:
    inside, most, together = [0], [0], threading.Barrier(3, timeout=60)

    def ask(wait: bool) -> None:
        with Server(tmp_path, 30).asked():
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            if wait:
                together.wait()  # broken unless all three are here at once
            time.sleep(0.05)
            inside[0] -= 1

    assert ANSWERED_SECONDS > 60
    for wait, expected in ((False, 1), (True, 3)):
        threads = [threading.Thread(target=ask, args=(wait,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if not wait:
            assert most[0] == expected


def test_a_torn_file_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    for text in ('{"spent": 3', "[]", '{"spent": "x"}'):
        (tmp_path / "wandb" / "server.json").write_text(text)
        assert Server(tmp_path, 30).seconds_left() == 15
