from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from advise_ray.video.random_split import deal

videos = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=80)


@given(videos, st.integers(2, 5))
def test_groups_stay_whole_whatever_the_order(drawn: list[tuple[str, int]], num_parts: int) -> None:
    classes, groups = [name for name, _ in drawn], [str(group) for _, group in drawn]
    parts = deal(classes, groups, [1 / num_parts] * num_parts)
    assert len({*zip(groups, parts, strict=True)}) == len(set(groups))
    backwards = deal(classes[::-1], groups[::-1], [1 / num_parts] * num_parts)
    assert backwards[::-1] == parts


def test_each_class_is_in_each_part_by_its_share() -> None:
    classes = ["often"] * 80 + ["rare"] * 8
    parts = deal(classes, [str(number) for number in range(88)], [0.25, 0.25, 0.5])
    assert Counter(zip(classes, parts, strict=True)) == {
        **{("often", part): count for part, count in enumerate((20, 20, 40))},
        **{("rare", part): count for part, count in enumerate((2, 2, 4))},
    }
    few = [name for name in "abcdefgh" for _ in range(5)]  # what is over in a class does not always go to the first
    assert Counter(deal(few, [str(number) for number in range(40)], [0.25] * 4)) == dict.fromkeys(range(4), 10)
    assert set(deal(classes, ["one group"] * 88, [0.5, 0.5])) == {0}
    assert 1 not in deal(classes, [str(number) for number in range(88)], [0.5, 0.0, 0.5])
