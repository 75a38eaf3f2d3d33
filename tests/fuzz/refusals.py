"""What every refusal promises, whatever was damaged."""

from pathlib import Path


def check_refusal(error: Exception, file: Path | None = None) -> None:
    """It is one line, which names the file if one was given."""
    assert len(str(error).splitlines()) == 1
    assert file is None or str(file) in str(error)
