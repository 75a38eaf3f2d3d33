"""What a study was expected to take, kept from `search init` or `search plan` until the study begins."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fold_search.search.study.config import StudyConfig, fingerprint
from fold_search.storage.files import whole_file


def keep_forecast(config: StudyConfig, forecast: Mapping[str, Any]) -> None:
    """Keep a forecast, JSON, for the study of this file; raises OSError."""
    path = _file(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as beside:
        beside.write_text(json.dumps(forecast), encoding="utf-8")


def read_forecast(config: StudyConfig) -> dict[str, Any] | None:
    """Return the forecast that was kept for the study of this file; None if there is none."""
    try:
        found = json.loads(_file(config).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _file(config: StudyConfig) -> Path:
    # The fingerprint leaves out where the data is. The name is one that `search clean` knows.
    key = hashlib.sha256(f"{fingerprint(config)} {config.data.path}".encode()).hexdigest()
    return Path(config.storage.cache) / f"forecast-{key[:32]}"
