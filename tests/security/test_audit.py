"""`make audit`: what is known of the locked packages, and a bill of materials of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.rooms import REPOSITORY

FLAW = {"id": "PYSEC-1", "fix_versions": ["2"], "aliases": [], "description": ""}
CLEAN = {"name": "clean", "version": "1", "vulns": []}
FLAWED = {"name": "flawed", "version": "1", "vulns": [FLAW]}
SKIPPED = {"name": "skipped", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "code", "expected"),
    [
        ([CLEAN], 0, "1 packages without known vulnerabilities"),
        ([CLEAN, FLAWED], 1, "error: flawed 1: PYSEC-1, fixed in 2"),
        ([CLEAN, SKIPPED], 0, "warning: not audited: 1 of 2 packages; first skipped"),
        ([FLAWED, SKIPPED], 1, "error: flawed 1: PYSEC-1"),
        (None, 0, "warning: not audited: the database of advisories cannot be reached"),
    ],
)
def test_vulnerabilities_fail_and_silence_is_said(packages: list | None, code: int, expected: str):
    """A machine without the database does not fail, and does not say that all is well."""
    report = "" if packages is None else json.dumps({"dependencies": packages})
    command = [sys.executable, REPOSITORY / ".ci" / "audit.py"]
    result = subprocess.run(command, input=report, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (code, "")
    assert expected in result.stdout


@pytest.mark.slow
def test_the_bill_of_materials_is_complete_and_the_same_each_time(tmp_path: Path):
    """CycloneDX, valid by its schema, with every package of the lock."""
    bills = []
    for number in range(2):
        command = [
            Path(sys.executable).with_name("cyclonedx-py"),
            "requirements",
            "--output-reproducible",
            "--validate",
        ]
        out = tmp_path / f"{number}.json"
        options = ["--sv", "1.6", "--pyproject", "pyproject.toml", "--of", "JSON", "-o", out, "requirements.lock"]
        subprocess.run([*command, *options], cwd=REPOSITORY, check=True, capture_output=True)
        bills.append(out.read_bytes())
    assert bills[0] == bills[1]
    lock = (REPOSITORY / "requirements.lock").read_text().splitlines()
    locked = {tuple(line.split("==")) for line in lock if "==" in line and not line.startswith("#")}
    listed = {(part["name"], part["version"]) for part in json.loads(bills[0])["components"] if "version" in part}
    assert locked == listed
