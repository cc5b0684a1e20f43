"""The benchmarks' statistics by hand, and that every part of them still runs."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module that compares, imported as run.py imports it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import measure

    yield measure
    sys.modules.pop("measure")


def test_the_ratio_is_the_median_of_the_turns_ratios(measure: ModuleType) -> None:
    """A burst of other work that slows one turn of both sides, or one side once, moves nothing."""
    calm = measure.Comparison("calm", [1.0, 1.0, 1.0], [3.0, 3.0, 3.0], 2.5, "")
    burst = measure.Comparison("burst", [1.0, 9.0, 1.0], [3.0, 27.0, 3.0], 2.5, "")
    once = measure.Comparison("once", [1.0, 1.0, 1.0], [3.0, 90.0, 3.0], 2.5, "")
    assert calm.ratio == burst.ratio == once.ratio == 3.0
    assert once.ratios == [3.0, 90.0, 3.0]  # while a ratio of means would be 32
    # Paired: the median of the ratios is 2, the ratio of the medians would be 4 / 3.
    assert measure.Comparison("paired", [1.0, 2.0, 9.0], [2.0, 4.0, 9.0], 2.5, "").ratio == 2.0


def test_the_ratio_says_how_many_times_as_fast_ours_is_and_meets_its_target_or_not(measure: ModuleType) -> None:
    faster, slower = ([1.0], [2.0]), ([2.0], [1.0])
    assert measure.Comparison("", *faster, 2.0, "").met
    assert not measure.Comparison("", *faster, 2.1, "").met
    assert measure.Comparison("", *slower, 0.5, "").ratio == 0.5
    assert "not met" in " ".join(measure.Comparison("", *slower, 1.0, "").row())
    assert not measure.Comparison("", *faster, 2.0, "other work", agree=False).met


def test_turns_that_do_not_pair_are_refused(measure: ModuleType) -> None:
    for ours, theirs in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="do not pair"):
            measure.Comparison("", ours, theirs, 1.0, "")


def test_the_two_sides_alternate_after_a_turn_to_warm_up(measure: ModuleType) -> None:
    calls: list[str] = []
    times = measure.alternate(lambda: calls.append("A"), lambda: calls.append("B"), turns=3)
    assert "".join(calls) == "AB" + "AB" + "BA" + "AB"  # who begins changes from turn to turn
    assert [len(side) for side in times] == [3, 3]


def test_the_machine_is_described_and_not_named(measure: ModuleType) -> None:
    import getpass
    import platform

    said = measure.machine()
    assert "threads" in said and "torch" in said
    for private in (platform.node(), f"{getpass.getuser()}@", sys.prefix, str(Path.home())):
        assert private not in said


def test_a_part_measured_alone_leaves_the_others_as_they_were(measure: ModuleType) -> None:
    parts = ["one", "two"]
    first = measure.document("", {"two": "| b |", "one": "| a |"}, parts)
    assert first.index("## one") < first.index("| a |") < first.index("## two") < first.index("| b |")
    again = measure.document(first, {"two": "| c |"}, parts)
    assert again == first.replace("| b |", "| c |")
    assert measure.document(again, {}, parts) == again


@pytest.mark.slow
def test_every_benchmark_runs_on_toy_sizes_and_writes_nothing() -> None:
    results = FOLDER / "RESULTS.md"
    before = results.read_bytes() if results.exists() else None
    command = [sys.executable, str(FOLDER / "run.py"), "--smoke"]
    ran = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    lines = [line for line in ran.stdout.splitlines() if line.startswith("|")]
    rows = [line for line in lines if not line.startswith(("| what ", "| ---"))]
    # two of the decoder and of BPE, four parts, DPO under three of trl's settings, five relatives, two agents
    names = "toy toy BPE BPE toy, beams, masks, nearest, DPO DPO DPO IPO KTO ORPO CPO SimPO DQN, actor-critic,"
    assert [row.split()[1] for row in rows] == names.split(), ran.stdout
    assert "greedy tokens identical" in rows[4]
    gaps = [re.search(r"loss curves within ([\d.]+)%", row) for row in rows[8:16]]
    assert all(gap and float(gap[1]) < 1 for gap in gaps), (
        ran.stdout
    )  # bfloat16 in trl's forward pass; not another loss
    assert (results.read_bytes() if results.exists() else None) == before
