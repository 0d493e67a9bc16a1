"""Damage to bytes: what a bad disk, a cut download or a hand with a hex editor does to a file."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

_TELLING = (
    b"\0",
    b"\xff",
    b"\x80",
    b"\x7f",
    b"\xff" * 9 + b"\x01",
    b"\x0a",
    b"\x12",
    b"\x3a",
    b"\x4a",
    b"../",
)
"""Bytes that mean something to a protobuf parser: limits of varints, tags of common fields; and a path."""

Places = list[tuple[int, int]]
"""Spans worth damaging: where the structure is. Within weights most changes make just another number."""


def places(content: bytes, opaque: list[bytes]) -> Places:
    """The spans of ``content`` outside long runs that are opaque (weights), with their first bytes."""
    spans, start = [], 0
    for run in opaque:
        at = content.find(run, start)
        if len(run) < 64 or at < 0:
            continue
        spans.append((start, at + 8))
        start = at + len(run)
    return [*spans, (start, len(content))]


def _position(rng: Random, content: bytearray, where: Places) -> int:
    if rng.random() < 0.1:
        return rng.randrange(len(content))
    low, high = rng.choice(where)
    return min(rng.randrange(low, max(low + 1, high)), len(content) - 1)


def _flip(rng: Random, content: bytearray, at: int) -> None:
    content[at] ^= 1 << rng.randrange(8)


def _set(rng: Random, content: bytearray, at: int) -> None:
    content[at] = rng.randrange(256)


def _run(rng: Random, content: bytearray, at: int) -> None:
    length = rng.choice((2, 4, 8, 64))
    content[at : at + length] = bytes(rng.randrange(256) for _ in range(length))


def _cut(rng: Random, content: bytearray, at: int) -> None:
    del content[at : at + rng.choice((1, 1, 2, 8, 100))]


def _truncate(rng: Random, content: bytearray, at: int) -> None:
    del content[at:]


def _insert(rng: Random, content: bytearray, at: int) -> None:
    content[at:at] = rng.choice(_TELLING)


def _repeat(rng: Random, content: bytearray, at: int) -> None:
    length = rng.choice((1, 8, 40, 300))
    content[at:at] = content[at : at + length]


def _move(rng: Random, content: bytearray, at: int) -> None:
    length = rng.choice((4, 32, 200))
    piece = content[at : at + length]
    del content[at : at + length]
    to = rng.randrange(len(content) + 1)
    content[to:to] = piece


_KINDS: tuple[Callable[[Random, bytearray, int], None], ...] = (
    _flip, _flip, _set, _run, _cut, _truncate, _insert, _repeat, _move,
)  # fmt: skip


def damaged(rng: Random, content: bytes, where: Places, other: bytes) -> bytes:
    """One to four injuries, or the head of this file on the tail of another; never empty."""
    made = bytearray(content)
    if rng.random() < 0.05:
        return bytes(made[: rng.randrange(1, len(made))] + other[rng.randrange(len(other)) :])
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_KINDS)(rng, made, _position(rng, made, where))
        if not made:
            made = bytearray(b"\0")
    return bytes(made)
