"""How the suite is shared among its processes: the tables name what is there, and few processes have an engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from tests.groups import GROUPS, HERE, LONGEST_FIRST, ByGroup, group_of, needs_engine, rank_of

MODULES = sorted(f"tests/{path.relative_to(HERE)}" for path in HERE.rglob("test_*.py"))
WITH_ENGINE = [f"{module}::test" for module in MODULES if needs_engine([module])]
WITHOUT = [f"{module}::test" for module in MODULES if not needs_engine([module])]


@dataclass
class Process:
    """As much of a worker of xdist as its scheduler sees."""

    number: int
    given: list[int] = field(default_factory=list)
    shutting_down: bool = False

    @property
    def gateway(self) -> SimpleNamespace:
        return SimpleNamespace(id=f"gw{self.number}")

    def send_runtest_some(self, indices: list[int]) -> None:
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    def __hash__(self) -> int:
        return self.number


def shared(tests: list[str], count: int) -> list[set[str]]:
    """The groups that each of so many processes gets when all tests take as long."""
    options = SimpleNamespace(loadscopereorder=False)
    config: Any = SimpleNamespace(getvalue=lambda _name: ["popen"] * count, option=options)
    scheduler, processes = ByGroup(config, None), [Process(number) for number in range(count)]
    for process in processes:
        scheduler.add_node(process)
    for process in processes:
        scheduler.add_node_collection(process, tests)
    scheduler.schedule()
    done = [0] * count
    while any(len(process.given) > done[process.number] for process in processes):
        for process in processes:
            if len(process.given) > done[process.number]:
                scheduler.mark_test_complete(process, process.given[done[process.number]])
                done[process.number] += 1
    assert sorted(index for process in processes for index in process.given) == list(range(len(tests)))
    return [{group_of(tests[index]) for index in process.given} for process in processes]


@pytest.mark.parametrize("part", GROUPS)
def test_a_part_of_a_group_is_there(part: str) -> None:
    assert (HERE / part).exists()


@pytest.mark.parametrize("start", LONGEST_FIRST)
def test_what_begins_first_is_there(start: str) -> None:
    assert any(group_of(module).startswith(start) for module in MODULES)


def test_each_group_goes_to_one_process_and_only_some_have_an_engine() -> None:
    tests = sorted([*WITH_ENGINE, *WITHOUT * 4], key=rank_of)
    tests = [f"{test}{number}" for number, test in enumerate(tests)]
    given = shared(tests, 6)
    assert sum(map(len, given)) == len(set().union(*given)), "a group went to two processes"
    with_engine = {number for number, groups in enumerate(given) if groups & {group_of(test) for test in WITH_ENGINE}}
    assert len(with_engine) == 3


def test_who_has_nothing_else_to_do_starts_no_further_engine() -> None:
    given = shared([f"{test}{number}" for number, test in enumerate(WITH_ENGINE)], 6)
    assert [bool(groups) for groups in given].count(True) == 3


def test_what_takes_long_begins_first() -> None:
    ranks = [rank_of(module) for module in ("tests/runner/llm/test_llm.py", "tests/policy/test_properties.py")]
    assert ranks == [0, len(LONGEST_FIRST)]
