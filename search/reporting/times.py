"""Times in words, the same everywhere: 45s, 3m20s, 12m, 1h05m, and what is as the study file reads it."""


def duration(seconds: float) -> str:
    """A time that has passed, to the second below an hour: 45s, 3m20s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def in_words(seconds: float) -> str:
    """A time as `--time` reads it: 45s, 1m29s, 30m, 1h30m; from ten minutes on in whole minutes."""
    whole = max(1, round(seconds))
    if whole < 600:
        minutes, rest = divmod(whole, 60)
        return f"{rest}s" if not minutes else f"{minutes}m{rest:02d}s" if rest else f"{minutes}m"
    minutes = round(whole / 60)
    hours, rest = divmod(minutes, 60)
    return f"{minutes}m" if not hours else f"{hours}h{rest:02d}m" if rest else f"{hours}h"


def roughly(seconds: float) -> str:
    """A time that is foreseen, in whole minutes, or in seconds below 100 of them: 45s, 5m, 1h30m."""
    return f"{max(1, round(seconds))}s" if seconds < 100 else in_words(60 * round(seconds / 60))


def short(seconds: float) -> str:
    """A time with tenths of a second where it is below ten."""
    return f"{seconds:.1f}s" if seconds < 10 else roughly(seconds)


def between(low: float, high: float) -> str:
    """A range of times: 12m to 25m, or one time if both read the same."""
    least, most = roughly(low), roughly(high)
    return least if least == most else f"{least} to {most}"


def time_left(low: float, high: float, *, limit: float | None = None) -> str:
    """A range of seconds in words: 12m to 25m. In `limit` seconds the time is over, which may be before."""
    if limit is not None and limit <= low:
        return f"at most {duration(max(limit, 0.0))} (time limit)"
    ended = " (time limit)" if limit is not None and limit < high else ""
    high = high if limit is None else min(high, limit)
    return f"a few seconds{ended}" if high < 10 else f"{between(low, high)}{ended}"
