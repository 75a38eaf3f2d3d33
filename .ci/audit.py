"""What pip-audit found, as an exit code: known vulnerabilities fail; where nobody could be asked, that is said."""

import json
import sys
from typing import Any


def verdict(report: dict[str, Any] | None) -> tuple[int, list[str]]:
    """Return the exit code and what to print of pip-audit's JSON report; None: it could not ask the database."""
    if report is None:
        return 0, ["warning: not audited: the database of advisories cannot be reached; run `make audit` online"]
    packages = report["dependencies"]
    found = [
        f"error: {package['name']} {package['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions'])}"
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped:
        found.append(f"warning: not audited: {len(skipped)} of {len(packages)} packages; first {skipped[0]}")
    flawed = any(line.startswith("error") for line in found)
    if len(packages) > len(skipped) and not flawed:
        found.append(f"{len(packages) - len(skipped)} packages without known vulnerabilities")
    return int(flawed), found


def main() -> int:
    """Read the report from standard input."""
    try:
        report = json.load(sys.stdin)
    except ValueError:
        report = None
    code, lines = verdict(report)
    sys.stdout.write("\n".join(lines) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
