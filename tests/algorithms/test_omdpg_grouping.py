"""Groups of agents: what is meant by each setting, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phalanx.algorithms.common.grouping import Grouping, resolve_groups
from phalanx.configs.errors import UserError
from tests.algorithms.helpers import SPEC

TEAM = replace(
    SPEC,
    n_agents=5,
    agent_names=tuple("abcde"),
    obs_dims=(4,) * 5,
    action_dims=(4,) * 5,
    group_ids=(0, 2, 0, 2, 2),
    group_names=("ant", "bee", "cat"),
)


@pytest.mark.parametrize(
    ("setting", "groups"),
    [
        ("spec", [[0, 2], [1, 3, 4]]),  # nobody is in group 1
        ("none", [[0], [1], [2], [3], [4]]),
        ("all", [[0, 1, 2, 3, 4]]),
        ([[4, 1], [0], [3, 2]], [[1, 4], [0], [2, 3]]),
    ],
)
def test_each_setting_gives_its_groups(setting: Grouping, groups: list[list[int]]) -> None:
    assert resolve_groups(TEAM, setting, 0) == groups


def test_without_groups_the_environment_has_one() -> None:
    assert resolve_groups(replace(TEAM, group_ids=()), "spec") == [[0, 1, 2, 3, 4]]


@given(
    ids=st.lists(st.integers(0, 3), min_size=3, max_size=9).filter(lambda ids: 1 < len(set(ids)) < len(ids)),
    seed=st.integers(0, 2**32),
)
def test_random_groups_have_the_environments_sizes_but_other_members(ids: list[int], seed: int) -> None:
    team = replace(TEAM, n_agents=len(ids), group_ids=tuple(ids))
    ours, drawn = resolve_groups(team, "spec"), resolve_groups(team, "random", seed)
    assert [len(group) for group in drawn] == [len(group) for group in ours]
    assert sorted(agent for group in drawn for agent in group) == list(range(len(ids)))
    assert {tuple(group) for group in drawn} != {tuple(group) for group in ours}
    assert drawn == resolve_groups(team, "random", seed)


def test_other_seeds_draw_other_groups() -> None:
    assert len({str(resolve_groups(TEAM, "random", seed)) for seed in range(20)}) > 3


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ([[0, 1], [2, 3]], "leaves out agent 4:"),
        ([[0, 1]], "leaves out agents 2, 3, 4:"),
        ([[0, 1, 2], [2, 3, 4, 3]], "names agents 2, 3 more than once:"),
        ([[0, 1, 2, 3, 4, 7], [-1]], "names agents -1, 7:"),
        ([[0, 1, 2, 3, 4], []], "has an empty group:"),
        ([], "leaves out agents 0, 1, 2, 3, 4:"),
    ],
)
def test_wrong_groups_are_refused(setting: Grouping, words: str) -> None:
    with pytest.raises(UserError) as error:
        resolve_groups(TEAM, setting)
    for word in ("algorithm.groups=[", words, "every agent of nowhere, 0 to 4", "[[0,1],[2,3,4]]", "spec, none, all"):
        assert word in str(error.value), error.value


@pytest.mark.parametrize(("ids", "word"), [((), "one group"), ((0, 1, 2, 3, 4), "groups of one agent each")])
def test_random_groups_need_something_to_draw(ids: tuple[int, ...], word: str) -> None:
    with pytest.raises(UserError, match=f"algorithm.groups=random .* nowhere has {word}, .*give the groups"):
        resolve_groups(replace(TEAM, group_ids=ids), "random")
