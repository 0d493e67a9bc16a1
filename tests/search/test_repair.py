"""Finding the layers to blame: by halving, with a known damage per layer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hasten.search.repair import rank, shortest


@given(st.integers(2, 200), st.data())
def test_few_culprits_are_found_in_few_applications(count: int, data: st.DataObject) -> None:
    names = [f"layer{i}" for i in range(count)]
    culprits = data.draw(st.sets(st.sampled_from(names), min_size=1, max_size=min(3, count)))
    made = 0

    def damage(group: frozenset[str]) -> float:
        nonlocal made
        made += 1
        return float(len(group & culprits)) + 1e-6 * len(group)

    # Each culprit costs at most two applications a level of halving, and there are ceil(log2 count) levels.
    levels = (count - 1).bit_length()
    ranked = rank(names, damage, runs=1 + 2 * levels * len(culprits))
    assert culprits == {name for name, d in ranked if d > 0.5}
    assert made <= 1 + 2 * levels * len(culprits)


def test_ranking_is_worst_first() -> None:
    worth = {"a": 0.1, "b": 3.0, "c": 0.5, "d": 2.0}
    ranked = rank(list(worth), lambda group: sum(worth[n] for n in group), runs=100)
    assert [name for name, _ in ranked] == ["b", "d", "c", "a"]


@given(st.integers(1, 50), st.integers(1, 60))
def test_shortest_is_the_smallest_count_that_suffices(length: int, enough: int) -> None:
    found = shortest([str(i) for i in range(length)], lambda k: 0.0 if k >= enough else 1.0, allowed=0.5)
    assert found == min(enough, length)
