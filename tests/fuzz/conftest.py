"""How long to fuzz: the same few hundred inputs in every run, or FUZZ_EXAMPLES new ones (`make fuzz`)."""

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))

settings.register_profile(
    "fuzz",
    max_examples=EXAMPLES or 150,
    derandomize=not EXAMPLES,
    deadline=60_000,  # milliseconds of one input: never a hang
    database=None,
    suppress_health_check=list(HealthCheck),
)
