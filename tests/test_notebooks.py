"""Facts about the labs' files: twins, stamps, what may be committed, and how a lab is executed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from alignlab import colab, notebooks, outputs
from alignlab.kernel import CellFailed, collapse
from alignlab.notebooks import Lab, check, code_sha256, compose, execute, stale, sync

ROOT = Path(__file__).resolve().parent.parent
LABS = notebooks.labs(ROOT / "labs")
MOST_SECONDS, MOST_MEMORY_MB = 300, 4000

SOURCE = """\
# %% [markdown]
# # A lab for the tests
#
# It makes a list.

# %%
import os
import sys

print("\\x1b[31m10%\\x1b[0m\\r50%\\r100%")
print(sys.prefix, object())
assert os.environ["ALIGNLAB_PROFILE"] == "full"
assert os.environ.get("EXPECTED_PYTHON", sys.executable) == sys.executable

# %%
numbers = [1, 2, 3]
numbers

# %% tags=["hide-input"]
from IPython.display import display

results = {"lab": "trial", "results": {"total": {"value": sum(numbers), "text": "6"}}, "claims": []}
display({"application/vnd.alignlab.results+json": results, "text/plain": "results"}, raw=True)
display({"application/vnd.alignlab.explorer+json": {"name": "dial", "data": numbers}, "text/plain": "-"}, raw=True)
"""


def written(folder: Path, source: str = SOURCE) -> Lab:
    lab = Lab(folder / "labs", "ch00_trial")
    lab.source.parent.mkdir(parents=True)
    lab.source.write_text(source, "utf-8")
    return lab


def read(lab: Lab) -> NotebookNode:
    return nbformat.read(lab.notebook, as_version=4)


def edit(lab: Lab, change: Callable[[NotebookNode], object]) -> None:
    notebook = read(lab)
    change(notebook)
    nbformat.write(notebook, lab.notebook)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


@pytest.fixture(scope="module")
def executed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("executed")
    lab = written(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPECTED_PYTHON", sys.executable)
        execute(lab)
    data = {"stamp": {"lab": lab.name}, "data": [1, 2, 3]}
    (lab.folder / "explorers").mkdir()
    (lab.folder / "explorers" / "dial.json").write_text(json.dumps(data), "utf-8")
    return folder


@pytest.fixture
def executed(executed_once: Path, tmp_path: Path) -> Lab:
    """A lab as it is committed: executed, stamped, in order."""
    shutil.copytree(executed_once, tmp_path / "checkout")
    return Lab(tmp_path / "checkout" / "labs", "ch00_trial")


# ---- the labs of this repository


def test_there_are_labs() -> None:
    assert LABS


def test_every_notebook_has_a_source() -> None:
    assert {path.stem for path in (ROOT / "labs").glob("*.ipynb")} == {lab.name for lab in LABS}


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_committed_lab_is_in_order(lab: Lab) -> None:
    assert check(lab) == []


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_committed_lab_keeps_to_its_time(lab: Lab) -> None:
    assert read(lab).metadata["alignlab"]["seconds"] <= MOST_SECONDS


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_committed_lab_keeps_to_its_memory(lab: Lab) -> None:
    assert read(lab).metadata["alignlab"]["peak_memory_mb"] < MOST_MEMORY_MB


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_all_claims_of_a_committed_lab_hold(lab: Lab) -> None:
    found = notebooks.results(read(lab))
    assert found["claims"]
    assert [claim["text"] for claim in found["claims"] if not claim["holds"]] == []


# ---- what check() says of a lab in order, and of one that is not


def test_executed_lab_is_in_order(executed: Lab) -> None:
    assert check(executed) == []
    assert not stale(executed)


def _first_code(notebook: NotebookNode) -> NotebookNode:
    return next(cell for cell in notebook.cells if "numbers = " in cell.source)


def _put(output: dict[str, object]) -> Callable[[Lab], None]:
    return lambda lab: edit(lab, lambda nb: _first_code(nb).outputs.append(nbformat.from_dict(output)))


def _restamp(**stamp: object) -> Callable[[Lab], None]:
    return lambda lab: edit(lab, lambda nb: nb.metadata.alignlab.update(stamp))


def _text(text: str) -> dict[str, object]:
    return {"output_type": "stream", "name": "stdout", "text": text}


WRONG: dict[str, tuple[Callable[[Lab], object], str]] = {
    "code changed in the source": (lambda lab: replace(lab.source, "[1, 2, 3]", "[1, 2, 4]"), "another source"),
    "code changed in the notebook": (lambda lab: replace(lab.notebook, "[1, 2, 3]", "[1, 2, 4]"), "another source"),
    "code changed in both": (
        lambda lab: (replace(lab.source, "[1, 2, 3]", "[1, 2, 4]"), sync(lab)),
        "the code has changed since",
    ),
    "code cell moved": (
        lambda lab: edit(lab, lambda nb: nb.cells.append(nb.cells.pop(2))),
        "the code has changed since",
    ),
    "markdown changed in the source": (
        lambda lab: replace(lab.source, "makes a list", "is fun"),
        r"cell 1 .*\(markdown\)",
    ),
    "markdown changed in the notebook": (
        lambda lab: replace(lab.notebook, "makes a list", "is fun"),
        r"cell 1 .*\(markdown\)",
    ),
    "cell removed": (lambda lab: edit(lab, lambda nb: nb.cells.pop(0)), "the source has 5 cells, the notebook 4"),
    "tags changed": (lambda lab: replace(lab.notebook, '"hide-input"', '"hide-output"'), "another metadata"),
    "set-up cell edited": (
        lambda lab: (replace(lab.source, "a minute or two", "soon"), replace(lab.notebook, "a minute or two", "soon")),
        "not the set-up cell",
    ),
    "no title": (lambda lab: (replace(lab.source, "# # A lab", "# A lab"), sync(lab)), "starts with the title"),
    "not executed": (lambda lab: (lab.notebook.unlink(), sync(lab)), "no stamp"),
    "no notebook": (lambda lab: lab.notebook.unlink(), "does not exist"),
    "half a notebook": (lambda lab: lab.notebook.write_text(lab.notebook.read_text("utf-8")[:900]), "is no notebook"),
    "no stamp": (lambda lab: edit(lab, lambda nb: nb.metadata.pop("alignlab")), "no stamp"),
    "stamp without its versions": (
        lambda lab: edit(lab, lambda nb: nb.metadata.alignlab.pop("versions")),
        "stamp lacks versions",
    ),
    "stamp of a quick run": (_restamp(profile="quick"), "from the profile 'quick'"),
    "stamp of a GPU": (_restamp(device="cuda"), "run on 'cuda'"),
    "a number edited in the outputs": (
        lambda lab: edit(lab, lambda nb: _first_code(nb).outputs[0].data.update({"text/plain": "[1, 2, 99]"})),
        "not those of the stamped run",
    ),
    "too large": (_put(_text("a long line\n" * 90_000)), "more than 1,000,000"),
    "an error": (_put({"output_type": "error", "ename": "ValueError", "evalue": "x", "traceback": []}), "is an error"),
    "a path": (_put(_text("saved in /home/ada/lab/x.png\n")), "path of one machine"),
    "a Windows path": (_put(_text("saved in C:\\Users\\ada\\x.png\n")), "path of one machine"),
    "a path of this checkout": (
        lambda lab: _put(_text(f"saved in {lab.folder.resolve().parent}/x.png\n"))(lab),
        "path of one machine",
    ),
    "escape codes": (_put(_text("\x1b[31mred\x1b[0m\n")), "control codes"),
    "a redrawn bar": (_put(_text("10%\r20%\r")), "control codes"),
    "a widget": (
        _put({"output_type": "display_data", "metadata": {}, "data": {outputs.WIDGET_VIEW: {"model_id": "1"}}}),
        "is a widget",
    ),
    "widget state": (lambda lab: edit(lab, lambda nb: nb.metadata.update({"widgets": {}})), "widget state"),
    "other metadata": (lambda lab: edit(lab, lambda nb: nb.metadata.kernelspec.update(name="mine")), "metadata"),
    "other explorer data": (
        lambda lab: replace(lab.folder / "explorers" / "dial.json", "[1, 2, 3]", "[1, 2, 4]"),
        "explorers/dial.json",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_check_rejects(executed: Lab, wrong: str) -> None:
    change, says = WRONG[wrong]
    change(executed)
    problems = check(executed)
    assert [problem for problem in problems if re.search(says, problem)], problems


def test_web_addresses_and_relative_paths_are_no_machine_paths(executed: Lab) -> None:
    notebook = read(executed)
    harmless = "https://example.org/home/x labs/tmp/y.png ~/data </var> 1/2 and/or ./opt/z x:\\text"
    notebook.cells[2].outputs.append(nbformat.from_dict(_text(harmless)))
    assert list(outputs.problems(notebook, executed.folder.parent)) == []


def test_an_explorer_s_data_may_hold_any_token_and_the_rest_of_its_output_may_not(executed: Lab) -> None:
    notebook = read(executed)
    data = {outputs.EXPLORER_MIME: {"name": "dial", "data": {"token": "\r\r\n"}}, "text/plain": "a figure"}
    shown = nbformat.from_dict({"output_type": "display_data", "metadata": {}, "data": data})
    notebook.cells[2].outputs.append(shown)
    assert list(outputs.problems(notebook, executed.folder.parent)) == []
    shown.data["text/plain"] = "10%\r20%"
    assert [one for one in outputs.problems(notebook, executed.folder.parent) if "control codes" in one]


def test_check_command_fails_for_a_notebook_without_source(executed: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--labs", str(executed.folder), "check"]
    assert notebooks.main(command) == 0
    shutil.copy(executed.notebook, executed.folder / "ch00_other.ipynb")
    assert notebooks.main(command) == 1
    assert "no source/ch00_other.py" in capsys.readouterr().out


def test_check_command_fails_where_there_are_no_labs(tmp_path: Path) -> None:
    (tmp_path / "labs" / "source").mkdir(parents=True)
    assert notebooks.main(["--labs", str(tmp_path / "labs"), "check"]) == 1


# ---- twins


def test_sync_puts_the_set_up_cell_second_and_changes_nothing_the_second_time(tmp_path: Path) -> None:
    lab = written(tmp_path)
    assert sync(lab)
    assert compose(lab).cells[1].source == colab.CELL
    assert [cell.source for cell in compose(lab).cells].count(colab.CELL) == 1
    assert lab.source.read_text("utf-8").startswith(SOURCE.split("# %%\n")[0])
    before = lab.source.stat().st_mtime_ns, lab.notebook.stat().st_mtime_ns
    assert not sync(lab)
    assert (lab.source.stat().st_mtime_ns, lab.notebook.stat().st_mtime_ns) == before


def test_sync_brings_an_old_set_up_cell_up_to_date_without_making_the_lab_stale(executed: Lab) -> None:
    for path in (executed.source, executed.notebook):
        replace(path, "a minute or two", "soon")
    assert sync(executed)
    assert check(executed) == []


def test_sync_keeps_the_outputs_of_unchanged_cells_alone(executed: Lab) -> None:
    before = read(executed)
    replace(executed.source, "[1, 2, 3]", "[1, 2, 4]")
    replace(executed.source, "makes a list", "is fun")
    assert sync(executed)
    after = read(executed)
    assert "is fun" in after.cells[0].source
    assert [bool(cell.get("outputs")) for cell in after.cells] == [False, False, True, False, True]
    assert after.cells[2].outputs == before.cells[2].outputs
    assert after.metadata.alignlab == before.metadata.alignlab
    assert stale(executed)


def test_edited_text_makes_no_lab_stale(executed: Lab) -> None:
    replace(executed.source, "makes a list", "is fun")
    sync(executed)
    assert not stale(executed)
    assert check(executed) == []


def test_cell_ids_depend_on_the_text_of_the_cell_alone(tmp_path: Path) -> None:
    lab = written(tmp_path, SOURCE + "\n# %%\nnumbers = [1, 2, 3]\nnumbers\n")
    first, second = compose(lab), compose(lab)
    assert first == second
    assert len({cell.id for cell in first.cells}) == len(first.cells)
    replace(lab.source, "It makes a list.", "It makes one.")
    changed = [old.id != new.id for old, new in zip(first.cells, compose(lab).cells, strict=True)]
    assert changed == [True, False, False, False, False, False]


def test_code_hash_tells_cells_apart_and_leaves_the_set_up_cell_out(tmp_path: Path) -> None:
    one = compose(written(tmp_path / "one", "# %% [markdown]\n# # A\n\n# %%\na = 1\nb = 2\n"))
    two = compose(written(tmp_path / "two", "# %% [markdown]\n# # A\n\n# %%\na = 1\n\n# %%\nb = 2\n"))
    assert code_sha256(one) != code_sha256(two)
    before = code_sha256(one)
    one.cells[1].source = colab.stamped("git+https://example.org/x")
    assert code_sha256(one) == before


def test_colab_is_asked_for_a_gpu_where_the_source_asks(tmp_path: Path) -> None:
    header = "# ---\n# jupyter:\n#   accelerator: GPU\n# ---\n\n"
    assert compose(written(tmp_path / "with", header + SOURCE)).metadata.accelerator == "GPU"
    assert "accelerator" not in compose(written(tmp_path / "without")).metadata


# ---- execution


def test_stamp_says_what_was_run_and_what_it_took(executed: Lab) -> None:
    stamp = read(executed).metadata.alignlab
    assert stamp.code_sha256 == code_sha256(compose(executed))
    assert (stamp.profile, stamp.device) == ("full", "cpu")
    assert {"python", "torch", "transformers", "trl", "peft", "numpy", "alignlab"} <= stamp.versions.keys()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", stamp.executed)


def test_run_measures_seconds_and_peak_memory_of_the_kernel_and_its_children(tmp_path: Path) -> None:
    hold = "import time; block = bytearray(250_000_000); time.sleep(0.6)"
    lab = written(
        tmp_path,
        "# %% [markdown]\n# # Memory\n\n# %%\nimport subprocess\nimport sys\n\n"
        f"child = subprocess.Popen([sys.executable, '-c', {hold!r}])\n{hold}\nchild.wait()\ndel block\n",
    )
    stamp = execute(lab, profile="quick", output=tmp_path / "out").metadata.alignlab
    assert stamp.seconds >= 0.6
    assert 500 < stamp.peak_memory_mb < 900


def test_outputs_are_the_same_on_every_machine(executed: Lab) -> None:
    cell = read(executed).cells[2]
    assert [output.text for output in cell.outputs] == ["100%\n.venv <object object at 0x...>\n"]
    assert all("execution" not in cell.metadata for cell in read(executed).cells)


def test_results_are_read_from_the_executed_notebook(executed: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert notebooks.main(["--labs", str(executed.folder), "results", "trial"]) == 0
    assert json.loads(capsys.readouterr().out)["results"]["total"] == {"value": 6, "text": "6"}
    with pytest.raises(KeyError, match=r"run\.finish"):
        notebooks.results(compose(executed))


def test_failed_cell_leaves_the_committed_notebook_and_keeps_what_ran(executed: Lab) -> None:
    before = executed.notebook.read_bytes()
    replace(executed.source, "[1, 2, 3]\n", "[1, 2, 3]\nprint('so far')\nnumbers.index(4)\n")
    with pytest.raises(CellFailed) as failure:
        execute(executed)
    told = str(failure.value)
    assert "cell 4 of 5" in told and "numbers.index(4)" in told and "ValueError: 4 is not in list" in told
    assert "\x1b" not in told
    assert executed.notebook.read_bytes() == before
    kept = nbformat.read(executed.folder.parent / "_build/failed/ch00_trial.failed.ipynb", as_version=4)
    assert kept.cells[3].outputs[0].text == "so far\n"
    assert stale(executed)


def test_killed_kernel_leaves_the_committed_notebook(executed: Lab) -> None:
    before = executed.notebook.read_bytes()
    replace(executed.source, "[1, 2, 3]\n", "[1, 2, 3]\nos._exit(9)\n")
    with pytest.raises(CellFailed, match=r"(?s)cell 4 of 5.*kernel died"):
        execute(executed)
    assert executed.notebook.read_bytes() == before


def test_only_stale_labs_are_executed_unless_named(executed: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(notebooks, "execute", lambda lab, **_: ran.append(lab.name) or read(lab))
    command = ["--labs", str(executed.folder), "execute"]
    assert notebooks.main(command) == 0 and ran == []
    assert notebooks.main([*command, "trial"]) == 0 and ran == ["ch00_trial"]
    assert notebooks.main([*command, "--all"]) == 0 and len(ran) == 2
    replace(executed.source, "[1, 2, 3]", "[1, 2, 4]")
    assert notebooks.main(command) == 0 and len(ran) == 3


def test_quick_run_over_the_committed_notebook_is_refused_before_it_runs(executed: Lab) -> None:
    before = executed.notebook.read_bytes()
    with pytest.raises(ValueError, match="--output"):
        execute(executed, profile="quick")
    assert executed.notebook.read_bytes() == before


def test_run_on_a_gpu_is_refused_for_the_committed_notebook(executed: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("alignlab.compute.device", lambda: torch.device("cuda"))
    with pytest.raises(ValueError, match="not on cuda"):
        execute(executed)


def test_run_begins_its_training_loops_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNLAB_CHECKPOINTS", str(tmp_path / "left"))
    code = "import os\n\nassert os.listdir(os.environ['ALIGNLAB_CHECKPOINTS']) == []\n"
    lab = written(tmp_path, f"# %% [markdown]\n# # A\n\n# %%\n{code}")
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "old.pt").touch()
    execute(lab, profile="quick", output=tmp_path / "out")


def test_unknown_lab_is_one_sentence(executed: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert notebooks.main(["--labs", str(executed.folder), "execute", "nonesuch"]) == 2
    assert capsys.readouterr().err == "there is no lab 'nonesuch'; the labs are: ch00_trial\n"


def test_interrupt_ends_the_kernel_and_leaves_the_notebook(executed: Lab) -> None:
    if os.name == "nt":
        pytest.skip("Windows has no SIGINT to send to one process")
    before = executed.notebook.read_bytes()
    replace(executed.source, "[1, 2, 3]\n", "[1, 2, 3]\nprint('waiting', os.getpid())\nimport time; time.sleep(300)\n")
    command = [sys.executable, "-m", "alignlab.notebooks", "--labs", str(executed.folder), "execute"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell that starts the tests in the background has them ignore SIGINT, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr
    for line in process.stderr:
        if line.startswith("[ 3/5]"):
            break
    process.send_signal(2)
    told = process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert "ch00_trial: stopped" in told and "Traceback" not in told
    assert executed.notebook.read_bytes() == before


# ---- outputs


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("0%\r50%\r100%\ndone\n", "100%\ndone\n"),
        ("0%\r100%\r\nnext\r\n", "100%\nnext\n"),
        ("a\x1b[A\r\x1b[Kb\n", "b\n"),
        ("working\r       \r", "working"),
        ("two\nlines\n", "two\nlines\n"),
    ],
)
def test_stream_is_kept_as_a_terminal_shows_it_last(raw: str, shown: str) -> None:
    assert collapse(raw) == shown


def test_widgets_go_and_their_other_faces_stay(executed: Lab) -> None:
    notebook = read(executed)
    dial = {
        outputs.WIDGET_VIEW: {"model_id": "1"},
        notebooks.EXPLORER: {"name": "dial", "data": []},
        "text/plain": "dial",
    }
    bar = {outputs.WIDGET_VIEW: {"model_id": "2"}, "text/plain": "FloatProgress()"}
    shown = [nbformat.from_dict({"output_type": "display_data", "metadata": {}, "data": data}) for data in (dial, bar)]
    notebook.cells[2].outputs = shown
    clean = outputs.scrub(notebook, executed.folder.parent).cells[2].outputs
    assert [set(output.data) for output in clean] == [{notebooks.EXPLORER, "text/plain"}]


def test_pieces_of_one_stream_become_one_and_others_stay_in_their_place(executed: Lab) -> None:
    notebook = read(executed)
    figure = {"output_type": "display_data", "metadata": {}, "data": {"text/plain": "figure"}}
    error = {"output_type": "stream", "name": "stderr", "text": "late"}
    said = [_text("a"), _text("b\n"), figure, _text("c\n"), error]
    notebook.cells[2].outputs = [nbformat.from_dict(output) for output in said]
    clean = outputs.scrub(notebook, executed.folder.parent).cells[2].outputs
    assert [output.get("text") for output in clean] == ["ab\n", None, "c\n", "late"]
