"""The terminal: control characters in data, names and answers of servers are shown, never obeyed."""

import re
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

# Control characters, line breaks that are none, changes of direction, and halves of characters.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with a � for all that would clear a terminal, colour it, name it or turn its direction around."""
    return _OBEYED.sub("�", text)


def make_console(*, stderr: bool = False) -> Console:
    """A console that prints what it is given: no markup, no names of emoji, and only its own control characters."""
    return _Console(stderr=stderr, markup=False, emoji=False)


class _Console(Console):
    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's; every text comes through here."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))
