"""The live view: what it shows of a study in a real database, and that it fits the terminal."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from io import StringIO
from multiprocessing import get_context
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from fold_search.objectives.jobs import EpochScore
from fold_search.objectives.stages import TRAINING, Stage
from fold_search.search.racing.live import live_race
from fold_search.search.racing.work_left import epochs_left
from fold_search.search.reporting.lines import what_next
from fold_search.search.reporting.panel import Happened, View, Working, render_panel
from fold_search.search.reporting.summary import summarise
from fold_search.search.reporting.times import time_left
from fold_search.search.running import progress as showing
from fold_search.search.running.live_view import LiveView
from fold_search.search.running.progress import Progress
from fold_search.search.running.worker_process import tell
from fold_search.search.study.config import config_from_record
from fold_search.storage.records import FoldRunState, TrialState
from tests.search.test_report import LookedAtStudy

REASON = "0.1% chance to beat 0.9000 of trial 0, the best one"


@pytest.fixture
def study(sqlite_url: str) -> LookedAtStudy:
    """One trial is complete, one stopped, one in its second epoch, one paused and one waits."""
    study = LookedAtStudy(sqlite_url, budget={"trials": 8})
    study.add_trial(0.8)
    go_on(study)
    return study


def go_on(study: LookedAtStudy) -> None:
    """Train trial 2, stop trial 1 and pause trial 3 in the epochs of their first folds; trial 4 waits."""
    train(study, 1, state=FoldRunState.STOPPED)
    train(study, 2)
    train(study, 3, state=FoldRunState.PAUSED)
    study.ledger.add_trial(4, {"learning_rate": 0.5})


def train(study: LookedAtStudy, number: int, *, state: FoldRunState | None = None) -> None:
    """A trial whose first fold has one epoch."""
    ledger = study.ledger
    ledger.add_trial(number, {"learning_rate": 0.02, "loss": "focal"})
    claim = ledger.claim_run(f"worker-{number}", trial=number, fold=0, lease_seconds=60)
    metrics = {"train_loss": 1.0, "val_loss": 1.0}
    score = EpochScore(epoch=1, score=0.71, standing=0.71, metrics=metrics, seconds=0.1)
    ledger.record_epoch(claim, score, checkpoint=None)
    if state is FoldRunState.STOPPED:
        ledger.stop_trial(claim, reason=REASON, chance=0.001)
        ledger.finish_trial(number, TrialState.STOPPED, estimate=0.625)
    elif state is FoldRunState.PAUSED:
        ledger.finish_fold(claim, state, reason="another trial is worth more for the same training time")


def shown(study: LookedAtStudy, doing: Mapping[str, Stage | None], *, width: int = 100, height: int = 24) -> str:
    """The panel of a study in whose run everything happened."""
    race = live_race(study.ledger, config_from_record(study.ledger.study().config))
    view = LiveView(ledger=study.ledger, race=race)
    for event in study.ledger.events():
        view.followed.follow(event)
    page = Console(file=StringIO(), width=width, height=height, color_system=None)
    events = [Happened(at="12:00:00", words=f"trial {number} stopped: {REASON}") for number in range(9)]
    page.print(render_panel(view.collect(doing, events), width=width, height=height))
    return page.file.getvalue()


def test_the_panel_names_what_is_trained_and_how_good_it_is(study: LookedAtStudy):
    """Worker, trial, fold, epoch, steps, last score and params; the best trial first, then what is running."""
    text = shown(study, {"worker-2": Stage(what=TRAINING, done=12, total=48)})
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0].startswith("study ")
    assert lines[0].endswith("2 of 8 trials ended")
    [worker] = [line for line in lines if line.startswith("worker 1")]
    assert "trial 2, fold 0, epoch 2 of 10" in worker
    assert "12/48 steps" in worker
    assert worker.endswith("0.7100")
    assert lines[lines.index(worker) + 1].split() == ["learning_rate=0.02", "loss=focal"]
    board = next(place for place, line in enumerate(lines) if line.split()[:2] == ["trial", "score"])
    trials = [line.split()[0] for line in lines[board + 1 : board + 6]]
    assert trials[0] == "0"
    assert set(trials[1:3]) == {"2", "3"}
    assert trials[3:] == ["4", "1"]
    assert {"complete", "running", "paused", "waiting", "stopped"} <= set(text.split())


def test_stops_and_pauses_are_shown_with_their_reasons(sqlite_url: str):
    """On a terminal, in words, the latest last; epochs and beginnings are none of the news."""
    study = LookedAtStudy(sqlite_url, budget={"trials": 8})
    study.add_trial(0.8)
    terminal = Console(file=StringIO(), width=120, height=40, force_terminal=True, color_system=None)
    with Progress(study.ledger, terminal):
        go_on(study)
    text = " ".join(terminal.file.getvalue().split())
    assert f"trial 1 stopped: macro_f1 about 0.6250 ({REASON})" in text
    assert text.index("trial 1 stopped") < text.index("trial 3 fold 0 paused: another trial is worth more")
    assert "train_loss" not in text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 24), (40, 12), (80, 10), (200, 60)])
@pytest.mark.parametrize("num_workers", [1, 2, 16])
def test_the_panel_fits_the_terminal(study: LookedAtStudy, width: int, height: int, num_workers: int):
    """It leaves the last line to the cursor, and no line is longer than the terminal is wide."""
    doing = {f"worker-{number}": Stage(what=TRAINING, done=number, total=48) for number in range(2, 2 + num_workers)}
    lines = shown(study, doing, width=width, height=height).splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= width


def test_a_worker_elsewhere_is_shown_by_what_the_ledger_says(study: LookedAtStudy):
    """It tells this run nothing of its steps."""
    assert "elsewhere  trial 2, fold 0, epoch 2 of 10  score 0.7100" in shown(study, {})


def test_what_is_said_of_a_fold_run_that_has_ended_is_not_shown(study: LookedAtStudy):
    """The ledger knows sooner than the worker says so."""
    lines = shown(study, {"new": Stage(what=TRAINING, done=12, total=48)}).splitlines()
    assert "worker 1  waiting for work" in [line.strip() for line in lines]


def test_a_preparation_is_named_with_its_share(study: LookedAtStudy):
    stage = Stage(what="embedding rows", done=40, total=100, purpose="enn")
    assert "embedding rows for enn 40%" in shown(study, {"new": stage}, width=80)


def test_colours_say_nothing_that_words_do_not(study: LookedAtStudy):
    """A terminal without colour shows the same characters as one with them."""
    view = View(
        summary=summarise(study.ledger),
        elapsed="1m00s",
        left="12 to 25 min",
        workers=[Working(name="worker 1", stage=Stage(what="starting"))],
        leaders=[],
        events=[Happened(at="12:00:00", words="trial 1 stopped", style="dim")],
    )
    pages = []
    for colours in (None, "truecolor"):
        console = Console(file=StringIO(), width=80, height=24, force_terminal=True, color_system=colours)
        console.print(render_panel(view, width=80, height=24))
        pages.append(Text.from_ansi(console.file.getvalue()).plain)
    without, with_colours = (page.replace("━", " ").replace("╸", " ").replace("╺", " ") for page in pages)
    assert without.split() == with_colours.split()
    assert "time left 12 to 25 min" in without


def test_a_pipe_gets_the_steps_of_a_preparation_as_lines(sqlite_url: str, monkeypatch: pytest.MonkeyPatch):
    """Each kind once, one that takes long every ten seconds, and an epoch that takes long once a minute."""
    doing: dict[str, Stage | None] = {}
    study, printed = LookedAtStudy(sqlite_url), Console(file=StringIO(), width=200)
    with Progress(study.ledger, printed, doing=lambda: doing) as progress:
        train(study, 2)
        for seconds, stage in (
            (0, Stage(what="loading torch")),
            (1, Stage(what="loading torch")),
            (2, Stage(what="embedding rows", done=1, total=100)),
            (13, Stage(what="embedding rows", done=40, total=100)),
            (14, Stage(what=TRAINING, done=1, total=48)),
            (50, Stage(what=TRAINING, done=20, total=48)),
            (75, Stage(what=TRAINING, done=30, total=48)),
            (76, Stage(what="scoring")),
            (77, Stage(what=TRAINING, done=1, total=48)),
            (78, None),
        ):
            monkeypatch.setattr(showing.time, "monotonic", lambda seconds=seconds: 1000.0 + seconds)
            doing["worker-2"] = stage
            progress.update(now=True)
    lines = [line.split(maxsplit=1)[1] for line in printed.file.getvalue().splitlines()]
    assert [line for line in lines if line.startswith("worker")] == [
        "worker 1: loading torch",
        "worker 1: embedding rows 1%",
        "worker 1: embedding rows 40%",
        "worker 1: trial 2 fold 0 epoch 2: step 30 of 48",
    ]


def test_a_pipe_is_told_once_a_minute_how_far_the_study_is(study: LookedAtStudy, monkeypatch: pytest.MonkeyPatch):
    """What stands at the top of the panel."""
    printed, began = Console(file=StringIO(), width=200), time.monotonic()
    with Progress(study.ledger, printed) as progress:
        for seconds in (1, 59, 61, 100, 125):
            monkeypatch.setattr(showing.time, "monotonic", lambda seconds=seconds: began + seconds)
            progress.update(now=True)
    lines = [line.split(maxsplit=1)[1] for line in printed.file.getvalue().splitlines()]
    begin = "2 of 8 trials ended; best macro_f1: 0.8000 ± 0.2500 over 2 folds (trial 0); elapsed "
    assert [line.startswith(begin) and "time left " in line for line in lines] == [True, True], lines


def test_a_worker_whose_run_does_not_listen_is_not_held_up():
    """The pipe is full, and later nobody is at its other end: it goes on all the same, and hears of neither."""
    context = get_context("spawn")
    heard, told = context.Pipe(duplex=False)
    process = context.Process(target=tell_often, args=(told,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert str(heard.recv()) == "training 25%"  # what fitted in is whole
    heard.close()


def tell_often(told) -> None:
    """Say more than a pipe holds, which is 64 kB."""
    import threading

    from fold_search.objectives import stages
    from fold_search.search.running import worker_process

    worker_process.TELL_SECONDS = 0.0
    with stages.stage(TRAINING, total=4) as advance:
        advance(1)
        threading.Thread(target=tell, args=(told,), daemon=True).start()
        time.sleep(1.0)


def test_the_first_line_comes_before_torch_and_pydantic(tmp_path: Path):
    """On a terminal as in a pipe: a study file is read with heavy modules, and that is said first."""
    program = (
        "import sys\n"
        "from fold_search.search.cli import app\n"
        "class Stop(Exception): pass\n"
        "def find_spec(name, *_):\n"
        "    if name in ('torch', 'pydantic', 'sqlalchemy', 'sklearn'): raise SystemExit(77)\n"
        "sys.meta_path.insert(0, type('Watch', (), {'find_spec': staticmethod(find_spec)}))\n"
        "app(['run', '--study', 's', '--config', 'study.yaml'])\n"
    )
    leader, follower = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", program], stdout=follower, stderr=follower, cwd=tmp_path)
    os.close(follower)
    said = b""
    while select.select([leader], [], [], 60)[0]:
        try:
            part = os.read(leader, 1024)
        except OSError:
            break
        said += part
    os.close(leader)
    assert process.wait(60) == 77
    assert b"reading study.yaml" in said


def test_the_end_of_a_run_names_the_commands_that_come_next():
    """With the database where it is not the usual one."""
    assert what_next("a b", url="sqlite:///studies/search.db")[1].split("  #")[0].strip() == (
        "search export --study 'a b' --out model"
    )
    assert all("--storage sqlite:///other.db" in line for line in what_next("s", url="sqlite:///other.db")[1:])


def test_the_time_left_is_known_within_the_first_epoch(study: LookedAtStudy, monkeypatch: pytest.MonkeyPatch):
    """By its steps: two workers had a quarter of an epoch each after 100 s, so that one takes 200 s."""
    race = live_race(study.ledger, config_from_record(study.ledger.study().config))
    view, now = LiveView(ledger=study.ledger, race=race, began=0.0), time.time()
    left = []
    for seconds, done in ((0, 0), (1, 1), (101, 25)):
        monkeypatch.setattr(showing.time, "time", lambda seconds=seconds: now + seconds)
        doing = {name: Stage(what=TRAINING, done=done, total=100) for name in ("one", "two")}
        left.append(view.collect(doing, []).left)
    low, high = epochs_left(
        race.scores.matrix(), settings=race.settings, trials_left=race.trials_left(race.scores.matrix()), num_epochs=10
    )
    assert left[0] == left[1] == time_left(low * 0.1 / 2, high * 0.1 / 2)  # by earlier runs' epochs of 0.1 s
    assert left[2] == time_left((low - 0.5) * 200, (high - 0.5) * 200)
