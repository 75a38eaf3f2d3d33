"""What is fuzzed with: valid files, damaged in their bytes or in one of their values."""

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

# What breaks programs: no numbers, huge ones, other types, names of other things, text that is not.
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 1e308, 1e-308, -0.0, float("nan"), float("inf")]),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", " ", "\0", "../..", "/dev/zero", "~", "%s", "{0}", "null", "[red]", "\ud800", "x" * 5000]),
    st.just([]),
    st.just({}),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*path, key)
        yield from places(part, (*path, key))


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """Return the value with one to three of what is inside it replaced, removed or added."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        paths = list(places(value))
        if not paths:
            break
        *parents, key = draw(st.sampled_from(paths))
        section = value
        for parent in parents:
            section = section[parent]
        match draw(st.sampled_from(["replace", "replace", "remove", "add"])):
            case "replace":
                section[key] = draw(ODD)
            case "remove":
                del section[key]
            case "add" if isinstance(section, dict):
                section[draw(st.text(max_size=10))] = draw(ODD)
    return value


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Return the bytes with some overwritten, put in, taken out or cut off."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(changed)))
        end = draw(st.integers(start, min(len(changed), start + 8)))
        changed[start:end] = draw(st.binary(max_size=8) | st.sampled_from([b'"', b"\0", b"\n", b"\r", b"[" * 3000]))
    if draw(st.integers(0, 4)) == 0:
        del changed[draw(st.integers(0, len(changed))) :]
    return bytes(changed)
