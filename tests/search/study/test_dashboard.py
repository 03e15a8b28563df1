"""A study in optuna-dashboard: opened on the loopback interface over the study's own journal."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from optuna_dashboard import wsgi

from search.ledger.study_files import JOURNAL
from search.space.parameters import Space
from search.study.queue import Budget
from search.study.spec import StudySpec, name_metrics, open_queue
from search.study.trials import FOLDER, SKIPPED

Get = Callable[[str], Any]


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def get(tmp_path: Path) -> Iterator[Get]:
    """What the dashboard's API answers on a study of four trials: trained, taken over, waiting for another, failed."""
    spec = StudySpec(
        study_name="s",
        optuna_name="s",
        study_dir=str(tmp_path),
        phase="search",
        space=Space((), ()),
        directions=("maximize", "minimize"),
        sampler=None,
        pruner=None,
        budget=Budget(4),
        stop_file=str(tmp_path / "stop"),
    )
    queue = open_queue(spec)
    name_metrics(queue.study, ["val_top1", "macs"])
    name_metrics(queue.study, ["never", "again"])
    trials = [queue.claim("worker.lock") for _ in range(4)]
    trained, copied, waiting, failed = (each for each in trials if each is not None)
    for trial in (trained, copied):
        trial.set_user_attr("arm", "stage3: conv+pssa")
        trial.set_user_attr(FOLDER, f"trials/000{trial.number}-s0")
    copied.set_user_attr(SKIPPED, "reused")
    for trial in (trained, copied):
        queue.study.tell(trial, [61.0, 2000.0])
    queue.put_back(waiting, ["fingerprint", "s/trials/0000-s0"])
    queue.study.tell(failed, state=TrialState.FAIL)
    app = wsgi(JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL))))
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def ask(path: str) -> Any:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}", timeout=60) as answer:
                return json.load(answer)

        yield ask
        server.shutdown()
        thread.join()


def test_the_dashboard_shows_what_a_study_is(get: Get) -> None:
    (study,) = get("/api/studies")["study_summaries"]
    assert study["study_name"] == "s"
    detail = get(f"/api/studies/{study['study_id']}")
    assert detail["objective_names"] == ["val_top1", "macs"]
    assert [trial["state"] for trial in detail["trials"]] == ["Complete", "Complete", "Waiting", "Fail"]
    facts = {each["key"]: each["value"] for each in detail["trials"][1]["user_attrs"]}
    assert (facts["arm"], facts[FOLDER], facts[SKIPPED]) == ("stage3: conv+pssa", "trials/0001-s0", "reused")
    assert detail["directions"] == ["maximize", "minimize"]
