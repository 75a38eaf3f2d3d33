"""The report's figures on outcomes written down by hand, and the command line as a whole."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.replay.__main__ import main
from benchmarks.replay.outcomes import Claimed, Outcome, Setting
from benchmarks.replay.synthetic import KINDS, synthetic
from benchmarks.replay.tables import bootstrap, calibration, clopper_pearson, comparison
from fold_search.search.exporting.curves import load_curves, write_curves
from tests.architecture.rooms import REPOSITORY


def outcome(set_name: str, *, speedup: float = 1.0, lost: bool = False, claims: tuple[Claimed, ...] = ()) -> Outcome:
    return Outcome(
        rule="rule",
        setting=Setting(set_name=set_name, folds=5, order="random", workers=1, seed=0),
        share=0.5,
        speedup=speedup,
        censored=lost,
        lost=lost,
        validation_regret=0.01,
        test_regret=float("nan"),
        claims=claims,
    )


def test_intervals_are_the_published_ones():
    """Clopper and Pearson's interval of 2 of 20; a share of 0 or 1 has its end there."""
    assert clopper_pearson(2, 20) == pytest.approx((0.0123, 0.3170), abs=1e-4)
    assert clopper_pearson(0, 10)[0] == 0.0
    assert clopper_pearson(10, 10)[1] == 1.0
    mean, low, high = bootstrap(np.array([1.0, 2.0, 3.0]))
    assert (mean, low, high) == (2.0, 1.0, 3.0)


def test_sets_count_alike_and_speed_ups_multiply():
    """The geometric mean over sets of 2, 2 and 8 is 4 whatever the number of studies in each."""
    outcomes = [outcome("a", speedup=2.0), outcome("a", speedup=2.0), outcome("b", speedup=8.0, lost=True)]
    [line] = [line for line in comparison(outcomes).splitlines() if line.startswith("| rule | 0.5")]
    assert "| 4.00 (2.00 to 8.00) | 33.3% (0.8% to 90.6%) | 1.00 (1.00 to 1.00) | - | 3 |" in line


def test_stated_chances_stand_beside_what_was_observed():
    """Ended trials by their stated chance; audited ones apart; trials without a chance nowhere."""
    claims = (
        Claimed(chance=0.02, best=False, kind="stopped"),
        Claimed(chance=0.02, best=True, kind="left"),
        Claimed(chance=0.2, best=False, kind="stopped"),
        Claimed(chance=None, best=True, kind="stopped"),
        Claimed(chance=0.1, best=True, kind="audited"),
    )
    text = calibration([outcome("a", claims=claims)])
    assert "rule: 0.2 of the ended trials expected to be the best, 1 were" in text
    assert "| 0.01 to 0.03 | 2 | 0.0 | 1 | 50.00%" in text
    assert "| 0.1 to 0.3 | 1 | 0.2 | 0 | 0.00%" in text
    assert "1 audited: 0.1 expected to be the best, 1 were" in text


@pytest.mark.parametrize("kind", KINDS)
def test_synthetic_curves_are_curves(kind: str, tmp_path: Path):
    """They pass the loader's checks, and the same seed gives the same."""
    curves = synthetic(kind=kind, num_trials=12, num_folds=3, num_epochs=4, seed=1)  # type: ignore[arg-type]
    write_curves(curves, tmp_path / "s.npz")
    loaded = load_curves(tmp_path / "s.npz")
    assert np.array_equal(
        loaded.standing, synthetic(kind=kind, num_trials=12, num_folds=3, num_epochs=4, seed=1).standing
    )  # type: ignore[arg-type]
    assert (np.diff(loaded.standing, axis=2) >= 0).all()


def replay_command(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.replay", *map(str, words)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_the_command_prints_a_table_for_each_setting(tmp_path: Path):
    """K = 3 is taken from the set of 4 folds, K = 9 from none; a rule is a line."""
    write_curves(synthetic(num_trials=8, num_folds=4, num_epochs=3), tmp_path / "some-4.npz")
    result = replay_command(tmp_path, "--rules", "none", "median", "--folds", 3, 4, 9, "--studies", 2)
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if line.startswith("#")] == [
        "### K = 3, random order, 1 worker",
        "### K = 4, random order, 1 worker",
    ]
    assert result.stdout.count("| median |") == 2


def test_the_command_refuses_what_is_no_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """No or damaged curves, an unknown rule and more trials than there are end with one line and exit code 2."""

    def refused(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["replay", *map(str, words)])
        with pytest.raises(SystemExit, match="2"):
            main()
        return capsys.readouterr().err.splitlines()[-1]

    assert "no curves in" in refused(tmp_path)
    (tmp_path / "odd-3.npz").write_text("no")
    assert "odd-3.npz" in refused(tmp_path)
    assert "nothing" in refused("--synthetic", 1, "--rules", "nothing")
    (tmp_path / "odd-3.npz").unlink()
    write_curves(synthetic(num_trials=8, num_folds=3, num_epochs=3), tmp_path / "some-3.npz")
    assert "--trials: found 9, expected at most the 8 that are recorded" in refused(tmp_path, "--trials", 9)
