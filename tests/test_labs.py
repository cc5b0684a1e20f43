"""Every lab runs from top to bottom, with its exercises untouched, in the `quick` profile."""

from pathlib import Path

import nbformat
import pytest

from alignlab import notebooks
from alignlab.notebooks import Lab

ROOT = Path(__file__).resolve().parent.parent
LABS = notebooks.labs(ROOT / "labs")
MOST_SECONDS, MOST_MEMORY_MB = 120, 4000  # about 20 seconds each on two quiet cores


def files() -> dict[Path, bytes]:
    """What a run could write in the checkout: notebooks, sources and the explorers' data."""
    return {path: path.read_bytes() for path in (ROOT / "labs").rglob("*") if path.is_file()}


def test_there_are_labs() -> None:
    assert LABS


@pytest.mark.slow
@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_lab_runs_in_quick_and_leaves_the_checkout_alone(lab: Lab, tmp_path: Path) -> None:
    before = files()
    executed = notebooks.execute(lab, profile="quick", output=tmp_path)
    stamp = executed.metadata["alignlab"]
    assert stamp["profile"] == "quick"
    assert stamp["seconds"] < MOST_SECONDS
    assert stamp["peak_memory_mb"] < MOST_MEMORY_MB
    committed = notebooks.results(nbformat.read(lab.notebook, as_version=4))
    quick = notebooks.results(executed)
    assert quick["results"].keys() == committed["results"].keys(), "both profiles report the same results"
    assert [claim["text"] for claim in quick["claims"]] == [claim["text"] for claim in committed["claims"]]
    assert files() == before
