"""The publisher's threads: nobody waits for a tracker, nothing is lost, and the user hears of an outage once."""

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from time import monotonic, sleep

import pytest

from fold_search.storage.database import connect
from fold_search.storage.ledger import Ledger
from fold_search.storage.publishing import Publisher, publish_pending
from fold_search.storage.records import Event, StudyRecord
from fold_search.storage.trackers.contract import Tracker, TrackerUnavailable, one_line, without_secrets
from tests.trackers.scripted import SECRET, run_trial


class ListTracker:
    """Keeps the sequences it is given; can be switched off, and made to hang."""

    notice = ""

    def __init__(self, name: str = "list", sequences: list[int] | None = None) -> None:
        self.name = name
        self.sequences = [] if sequences is None else sequences
        self.failure: Exception | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.is_closed = False

    def publish(self, study: StudyRecord, events: Sequence[Event]) -> None:
        self.may_answer.wait()
        if self.failure:
            raise self.failure
        self.sequences += [event.sequence for event in events]

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def warnings() -> list[str]:
    """What the user is told."""
    return []


def start(ledger: Ledger, warnings: list[str], *trackers: Tracker, owner: str = "a") -> Publisher:
    publisher = Publisher(ledger, trackers, owner=owner, warn=warnings.append)
    publisher.start()
    return publisher


def wait_for(condition) -> None:
    deadline = monotonic() + 20
    while not condition():
        assert monotonic() < deadline
        sleep(0.02)


def num_events(ledger: Ledger) -> int:
    return len(ledger.events(after=0, limit=100_000))


def test_publishing_moves_the_cursor_behind_the_events(ledger: Ledger):
    """In order, at most `limit` at a time, and 0 when nothing is left."""
    run_trial(ledger, 0)
    tracker, total = ListTracker(), num_events(ledger)
    assert [publish_pending(ledger, tracker, limit=total - 1) for _ in range(3)] == [total - 1, 1, 0]
    assert tracker.sequences == list(range(1, total + 1))
    assert ledger.cursor("list") == total


def test_a_tracker_that_takes_nothing_keeps_its_cursor(ledger: Ledger):
    """The events are there for the next attempt."""
    tracker = ListTracker()
    tracker.failure = TrackerUnavailable("gone")
    with pytest.raises(TrackerUnavailable):
        publish_pending(ledger, tracker)
    assert ledger.cursor("list") == 0


def test_events_are_published_while_the_study_runs_and_the_rest_at_its_end(ledger: Ledger, warnings):
    """`drain` leaves nothing behind and lets go of the tracker."""
    tracker = ListTracker()
    publisher = start(ledger, warnings, tracker)
    run_trial(ledger, 0)
    wait_for(lambda: len(tracker.sequences) == num_events(ledger))
    run_trial(ledger, 1)
    assert publisher.drain(timeout_seconds=20) == {"list": 0}
    assert tracker.sequences == list(range(1, num_events(ledger) + 1))
    assert (tracker.is_closed, warnings) == (True, [])


def test_a_hanging_tracker_holds_up_neither_the_study_nor_another_tracker(ledger: Ledger, warnings):
    """Writing goes on, the other tracker has everything, and the end comes after the time that was given."""
    hanging, healthy = ListTracker("hanging"), ListTracker("healthy")
    hanging.may_answer.clear()
    publisher = start(ledger, warnings, hanging, healthy)
    run_trial(ledger, 0)
    left = publisher.drain(timeout_seconds=1.5)
    assert left == {"hanging": num_events(ledger), "healthy": 0}
    hanging.may_answer.set()


def test_an_outage_and_its_end_are_told_once(ledger: Ledger, warnings, monkeypatch):
    """However many attempts fail in between; afterwards nothing is missing."""
    monkeypatch.setattr("fold_search.storage.publishing.INTERVAL_SECONDS", 0.02)
    tracker = ListTracker()
    tracker.failure = TrackerUnavailable("http://host: Connection refused")
    publisher = start(ledger, warnings, tracker)
    wait_for(lambda: warnings)
    sleep(0.3)
    tracker.failure = None
    wait_for(lambda: tracker.sequences)
    assert publisher.drain(timeout_seconds=20) == {"list": 0}
    assert len(warnings) == 2
    assert "list: results cannot be published: http://host: Connection refused" in warnings[0]
    assert "list: results are published again" in warnings[1]


def test_an_outage_of_the_study_s_own_database_is_no_tracker_s(ledger: Ledger, sqlite_url: str, warnings, monkeypatch):
    """Somebody holds its lock for longer than writers wait: the line names the file, and does not blame the tracker."""
    monkeypatch.setattr("fold_search.storage.publishing.INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr("fold_search.storage.database.BUSY_SECONDS", 0.05)
    engine, file = connect(sqlite_url), sqlite_url.removeprefix("sqlite:///")
    tracker = ListTracker()
    with closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        publisher = start(Ledger(engine, ledger.study_id), warnings, tracker)
        wait_for(lambda: warnings)
        holder.execute("ROLLBACK")
    assert publisher.drain(timeout_seconds=20) == {"list": 0}
    said = "list: results cannot be published, because the study's own database does not answer: "
    assert warnings[0].startswith(f"{said}{file}: database is locked")
    assert "list: results are published again" in warnings[1]
    engine.dispose()


def test_an_unexpected_error_in_a_tracker_ends_nothing(ledger: Ledger, warnings, monkeypatch):
    """It is an outage like any other, told with its reason."""
    monkeypatch.setattr("fold_search.storage.publishing.INTERVAL_SECONDS", 0.02)
    tracker = ListTracker()
    tracker.failure = KeyError("surprise")
    publisher = start(ledger, warnings, tracker)
    wait_for(lambda: warnings)
    tracker.failure = None
    assert publisher.drain(timeout_seconds=20) == {"list": 0}
    assert "surprise" in warnings[0]


def test_at_the_end_a_dead_tracker_is_not_waited_for(ledger: Ledger, warnings):
    """One more attempt, then the number of events it lacks."""
    tracker = ListTracker()
    tracker.failure = TrackerUnavailable("gone")
    publisher = start(ledger, warnings, tracker)
    # For longer than a test may take.
    assert publisher.drain(timeout_seconds=3600) == {"list": num_events(ledger)}


def test_two_publishers_take_turns(ledger: Ledger, warnings):
    """Each event reaches the tracker once and in order, whoever brings it."""
    sequences: list[int] = []
    publishers = [start(ledger, warnings, ListTracker(sequences=sequences), owner=owner) for owner in ("a", "b")]
    for number in range(4):
        run_trial(ledger, number)
    assert [publisher.drain(timeout_seconds=30) for publisher in publishers] == [{"list": 0}] * 2
    assert sequences == list(range(1, num_events(ledger) + 1))


def test_a_publisher_that_died_is_replaced_when_its_lease_is_over(ledger: Ledger, warnings):
    """Nothing has to be cleaned up by hand."""
    assert ledger.acquire_role("publish to list", "dead", lease_seconds=1.5)
    publisher = start(ledger, warnings, ListTracker())
    assert publisher.drain(timeout_seconds=20) == {"list": 0}


def test_a_rebuild_publishes_from_the_first_event(ledger: Ledger, warnings):
    """Also through a publisher that runs in another process."""
    run_trial(ledger, 0)
    running = ListTracker()
    publisher = start(ledger, warnings, running)
    wait_for(lambda: len(running.sequences) == num_events(ledger))
    Publisher(ledger, [ListTracker()], owner="b", warn=warnings.append).rebuild()
    wait_for(lambda: running.sequences == 2 * list(range(1, num_events(ledger) + 1)))
    assert publisher.drain(timeout_seconds=20) == {"list": 0}


def test_a_rebuild_asked_for_while_events_are_published_is_not_forgotten(ledger: Ledger):
    """The publisher that was at work does not move the cursor on."""

    class Rebuilt(ListTracker):
        def publish(self, study: StudyRecord, events: Sequence[Event]) -> None:
            ledger.set_cursor(self.name, 0)

    run_trial(ledger, 0)
    publish_pending(ledger, ListTracker(), limit=3)
    assert publish_pending(ledger, Rebuilt(), limit=2) == 2
    assert ledger.cursor("list") == 0


def test_a_tracker_s_notice_is_told_at_the_start(ledger: Ledger, warnings):
    """Once, with the tracker's name."""
    tracker = ListTracker()
    tracker.notice = "recording offline"
    start(ledger, warnings, tracker).drain(timeout_seconds=20)
    assert warnings == ["list: recording offline"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"no answer from http://ann:{SECRET}@host:5000/api", "no answer from http://***@host:5000/api"),
        (
            f"postgresql+psycopg://ann:{SECRET}@with@at@db/x and http://free/@here",
            "postgresql+psycopg://***@db/x and http://free/@here",
        ),
        ("mail ann@example.org", "mail ann@example.org"),
    ],
)
def test_passwords_in_urls_are_hidden(text: str, expected: str):
    """Wherever in a text they are; other @ stay."""
    assert without_secrets(text) == expected


def test_an_error_is_told_in_one_line():
    """What the operating system said when it said something, else the first line that says something."""
    refused = RuntimeError("long story")
    refused.__cause__ = ConnectionRefusedError(111, "Connection refused")
    assert one_line(refused) == "Connection refused"
    assert one_line(RuntimeError("\n\x1b[95m\n----Banner----\nProject not found.\nmore")) == "Project not found."
    assert one_line(KeyError()) == "KeyError"
