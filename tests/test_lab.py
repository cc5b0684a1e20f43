"""The lab's face: what a reader sees, what survives a kill, what is reported and what is claimed."""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from alignlab import checkpoint, display, lab, palette, sketch

TRAINING = """
import hashlib, json, os, random, signal, sys
import numpy as np, torch
from alignlab import compute, lab

torch.set_num_threads(1)
compute.seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.3), torch.nn.ReLU(), torch.nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
inputs, targets = torch.randn(64, 8), torch.randn(64, 1)
order = list(range(64))
seen = {"examples": 0}
noise = np.random.default_rng(1)

run = lab.Lab("ch00_kill")
curve = run.curve("loss", lines=("loss", "noise"))
state = run.checkpoint(
    "training",
    {"model": model, "optimizer": optimizer, "schedule": schedule, "order": order, "seen": seen, "noise": noise},
    fingerprint={"lr": 0.01},
    every=7,
)
die_at, die_in_save = int(os.environ.get("DIE_AT", "-1")), int(os.environ.get("DIE_IN_SAVE", "-1"))
replace, saves = os.replace, []

def replace_or_die(source, target):
    saves.append(target)
    if len(saves) == die_in_save:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = replace_or_die
first = None
for step in run.progress(40, "training", checkpoint=None if os.environ.get("BARE") else state, curve=curve):
    first = step if first is None else first
    if step % 8 == 0:
        random.shuffle(order)
    rows = order[step % 8 * 8 :][:8]
    drift = noise.normal() + np.random.normal()
    loss = torch.nn.functional.mse_loss(model(inputs[rows]), targets[rows])
    optimizer.zero_grad()
    loss.backward()
    if step == die_at:
        os.kill(os.getpid(), signal.SIGKILL)
    optimizer.step()
    schedule.step()
    seen["examples"] += len(rows)
    curve.add("loss", step, loss)
    curve.add("noise", step, drift)

end = {
    "weights": {name: value.tolist() for name, value in model.state_dict().items()},
    "moments": [value.tolist() for entry in optimizer.state_dict()["state"].values() for value in entry.values()],
    "rate": schedule.get_last_lr(), "order": order, "seen": seen, "curve": curve.state_dict(),
    "next": [random.random(), np.random.random(), torch.rand(1).item(), noise.random()],
}
print("END", json.dumps({"first": first, "end": end}))
"""


def train(folder: Path, **environment: Any) -> tuple[int, str, dict[str, Any]]:
    """Run the training script: exit code, what it said, and its end."""
    script = folder / "training.py"
    script.write_text(TRAINING)
    env = os.environ | {"ALIGNLAB_CACHE": str(folder), **{key: str(value) for key, value in environment.items()}}
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=300)
    said, _, end = done.stdout.partition("END ")
    assert end or done.returncode == -signal.SIGKILL, done.stderr
    return done.returncode, said, json.loads(end) if end else {}


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("*"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train(tmp_path_factory.mktemp("uninterrupted"))[2]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> lab.Lab:
    monkeypatch.setenv("ALIGNLAB_CACHE", str(tmp_path))
    monkeypatch.setenv("ALIGNLAB_PROFILE", "full")
    return lab.Lab("ch03_sample")


# --- a state that survives ---


def test_killed_in_a_step_and_run_again_it_ends_bit_for_bit_like_an_uninterrupted_run(
    uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    code, _, _ = train(tmp_path, DIE_AT=17)
    assert code == -signal.SIGKILL
    assert saved(tmp_path) == ["ch00_kill-training-full.pt"]
    _, said, again = train(tmp_path)
    assert "Goes on after step 14 of 40" in said
    assert again["first"] == 14
    assert uninterrupted["first"] == 0
    assert again["end"] == uninterrupted["end"]
    assert saved(tmp_path) == []


def test_killed_while_saving_it_goes_on_from_the_save_before(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    code, _, _ = train(tmp_path, DIE_IN_SAVE=3)
    assert code == -signal.SIGKILL
    assert len(saved(tmp_path)) == 2  # the state, and the unfinished one beside it
    _, _, again = train(tmp_path)
    assert again["first"] == 14
    assert again["end"] == uninterrupted["end"]
    assert saved(tmp_path) == []


def test_saving_does_not_change_what_is_computed(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    assert train(tmp_path, BARE=1)[2]["end"] == uninterrupted["end"]


def small_state(run: lab.Lab, **more: Any) -> tuple[torch.nn.Linear, lab.Checkpoint]:
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 64)
    return model, run.checkpoint("small", {"model": model, **more}, {"beta": 0.1})


def test_another_fingerprint_starts_afresh_and_names_what_changed(run: lab.Lab) -> None:
    model, state = small_state(run)
    state.save(3)
    with torch.no_grad():
        model.weight.fill_(7)
    other = run.checkpoint("small", {"model": model}, {"beta": 0.2, "pairs": 8})
    assert other.resume() == (
        0,
        "The saved state is of another run (beta 0.1, now 0.2; pairs none, now 8); starting afresh.",
    )
    assert bool((model.weight == 7).all())
    assert state.resume() == (3, "")
    assert not bool((model.weight == 7).all())


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda content: content[: len(content) // 2], "checksum"),
        (lambda content: content[:9000] + bytes([content[9000] ^ 1]) + content[9001:], "checksum"),
        (lambda content: b"", "not a checkpoint"),
        (lambda content: b"\x80\x02.", "not a checkpoint"),
    ],
    ids=["cut in half", "one bit flipped", "empty", "another file"],
)
def test_a_damaged_file_starts_afresh_says_so_and_changes_nothing(run: lab.Lab, damage: Any, why: str) -> None:
    model, state = small_state(run)
    state.save(3)
    state.path.write_bytes(damage(state.path.read_bytes()))
    with torch.no_grad():
        model.weight.fill_(7)
    torch.manual_seed(5)
    step, said = state.resume()
    assert (step, why in said, "damaged" in said) == (0, True, True)
    assert bool((model.weight == 7).all())
    assert torch.initial_seed() == 5


def test_a_state_that_does_not_fit_starts_afresh_and_changes_nothing(run: lab.Lab) -> None:
    small_state(run)[1].save(3)
    other = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 2))
    log = [1.0]
    before = {name: value.clone() for name, value in other.state_dict().items()}
    step, said = run.checkpoint("small", {"model": other}, {"beta": 0.1}).resume()
    assert step == 0
    assert "does not fit" in said
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())
    wider, state = torch.nn.Linear(64, 65), None
    state = run.checkpoint("small", {"log": log, "model": wider}, {"beta": 0.1})
    assert "does not fit" in state.resume()[1]
    assert log == [1.0]


def test_a_saved_file_that_would_run_code_is_not_run(run: lab.Lab, tmp_path: Path) -> None:
    import hashlib
    import io

    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "exploded"),)

    _, state = small_state(run)
    state.save(1)
    buffer = io.BytesIO()
    torch.save({"step": 1, "fingerprint": state.fingerprint, "random": Bomb(), "state": {}}, buffer)
    body = buffer.getvalue()
    state.path.write_bytes(checkpoint._MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    assert "damaged" in state.resume()[1]
    assert not (tmp_path / "exploded").exists()


def test_every_kind_of_holder_is_put_back_in_place(run: lab.Lab) -> None:
    tensor, array, log, notes = torch.zeros(3), np.zeros(3), [1.0], {"a": 1}
    generator, numpy_generator, python_generator = torch.Generator(), np.random.default_rng(0), random.Random(0)
    holders = {
        "tensor": tensor,
        "array": array,
        "log": log,
        "notes": notes,
        "generator": generator,
        "numpy": numpy_generator,
        "python": python_generator,
        "adapter": lab.Adapter(lambda: notes["a"], lambda a: notes.update(b=a)),
    }
    state = run.checkpoint("kinds", holders)
    state.save(1)
    draws = [torch.rand(1, generator=generator).item(), numpy_generator.random(), python_generator.random()]
    tensor += 1
    array += 1
    log.append(np.float32(2))
    notes.update(a=5, c=6)
    assert state.resume() == (1, "")
    assert (tensor.tolist(), array.tolist(), log, notes) == ([0, 0, 0], [0, 0, 0], [1.0], {"a": 1, "b": 1})
    assert draws == [torch.rand(1, generator=generator).item(), numpy_generator.random(), python_generator.random()]


def test_what_cannot_be_put_back_is_refused_before_any_work(run: lab.Lab) -> None:
    with pytest.raises(TypeError, match="'step' back: a int cannot be changed in place"):
        run.checkpoint("x", {"step": 3})
    with pytest.raises(TypeError, match=r"history\['run'\] is a Lab"):
        run.checkpoint("x", {"history": {"run": run}})
    with pytest.raises(ValueError, match="every is 0"):
        run.checkpoint("x", {}, every=0)
    with pytest.raises(TypeError, match="cannot be resumed"):
        run.progress(iter([1]), "training", checkpoint=run.checkpoint("x", {}))


def test_trainable_keeps_the_adapter_and_not_the_model(run: lab.Lab) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.Linear(300, 2))
    model[0].requires_grad_(False)
    state = run.checkpoint("lora", {"adapter": lab.trainable(model)})
    state.save(1)
    assert state.path.stat().st_size < 40_000 < model[0].weight.numel()
    kept = model[1].weight.detach().clone()
    with torch.no_grad():
        model[1].weight.zero_()
    state.resume()
    assert torch.equal(model[1].weight, kept)
    assert model[1].weight.requires_grad


def test_a_disk_that_refuses_costs_no_work_and_is_said_once(
    run: lab.Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    state = run.checkpoint("full", {"log": []}, every=1)
    assert list(run.progress(5, "training", checkpoint=state)) == [0, 1, 2, 3, 4]
    said = capsys.readouterr().out
    assert said.count("goes on without saving") == 1
    assert "training: 5 steps" in said


def test_an_error_in_the_loop_keeps_the_last_state_and_finish_ends_for_good(run: lab.Lab) -> None:
    log: list[int] = []

    def loop(fail_at: int) -> None:
        state = run.checkpoint("error", {"log": log}, every=2)
        for step in run.progress(9, "training", checkpoint=state):
            if step == fail_at:
                raise RuntimeError("out of memory")
            log.append(step)

    with pytest.raises(RuntimeError):
        loop(fail_at=5)
    log.append(99)
    loop(fail_at=-1)
    assert log == list(range(9))
    state = run.checkpoint("error", {"log": log}, every=2)
    progress = run.progress(9, "training", checkpoint=state)
    seen = []
    for step in progress:
        seen.append(step)
        if step == 4:
            progress.finish()
    assert seen == [0, 1, 2, 3, 4]
    assert not state.path.exists()


def test_random_numbers_are_those_that_would_have_come() -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.random()), torch.rand(1).item()]

    torch.manual_seed(1)
    with checkpoint.same_random_numbers_after():
        inside = draw()
    assert draw() == inside


# --- interrupts ---


def test_an_interrupt_ends_the_loop_saves_and_leaves_the_script_running(tmp_path: Path) -> None:
    script = """
    import time
    from alignlab import lab
    run = lab.Lab("ch00_interrupt")
    log = []
    state = run.checkpoint("loop", {"log": log}, every=1000)
    for step in run.progress(1000, "training", checkpoint=state):
        print("step", step, flush=True)
        time.sleep(0.2)
        log.append(step)
    run.claim("all steps were run", len(log) == 1000)
    print("after", log == list(range(step + 1)), state.path.exists())
    """
    env = os.environ | {"ALIGNLAB_CACHE": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if line.startswith("step 1"):
                break
        process.send_signal(signal.SIGINT)
        rest, errors = process.stdout.read(), process.stderr.read()
    assert re.search(r"training: stopped after step \d+ of 1000, state saved; run this again to go on", rest)
    assert "after True True" in rest
    assert (process.returncode, errors) == (0, "")


def test_a_second_interrupt_is_raised_and_does_not_save_a_step_cut_in_half(run: lab.Lab) -> None:
    log: list[str] = []
    handler = signal.getsignal(signal.SIGINT)
    state = run.checkpoint("twice", {"log": log}, every=1000)

    def loop() -> None:
        for _ in run.progress(5, "training", checkpoint=state):
            log.append("begun")
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert not state.path.exists()
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_interrupt_in_an_inner_loop_ends_the_outer_loop_too(run: lab.Lab) -> None:
    steps = []
    handler = signal.getsignal(signal.SIGINT)
    for outer in run.progress(5, "outer"):
        for inner in run.progress(5, "inner"):
            steps.append((outer, inner))
            if (outer, inner) == (1, 2):
                signal.raise_signal(signal.SIGINT)
    assert steps == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1), (1, 2)]
    assert signal.getsignal(signal.SIGINT) is handler


# --- in a notebook ---

CELLS = [
    "from alignlab import lab\nimport time, torch\nrun = lab.Lab('ch00_notebook')\nlog = []",
    "curve = run.curve('Loss', 'step', 'loss (nats)', lines=('policy', 'fixed'))\n"
    "state = run.checkpoint('loop', {'log': log}, every=5)\n"
    "for step in run.progress(30, 'training', checkpoint=state, curve=curve):\n"
    "    time.sleep(0.03)\n    log.append(step)\n    curve.add('policy', step, torch.tensor(1 / (step + 1)))\n"
    "curve.show()",
    "run.table([('Who are you?', 'I am SmolLM.', 'I am Lumen.')], ('prompt', 'before', 'after'), mark='Lumen')",
    "import plotly.express as px\nrun.figure(px.line(x=[1.0, 2.0], y=[3.0, 4.0], title='Two points'))",
    "before, after = 0.25, torch.tensor(0.75)\nrun.result('before', before, format='.0%')\n"
    "run.result('after', after, text='three quarters')\nrun.claim('it rises', after > before)\nrun.finish()",
]


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNLAB_CACHE", str(folder))
        patch.setenv("ALIGNLAB_PROFILE", "full")
        NotebookClient(
            notebook, timeout=300, startup_timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()
    return notebook


def test_a_training_cell_leaves_one_line_and_one_figure_and_no_widget(executed: Any) -> None:
    line, figure = executed.cells[1].outputs
    assert line.data["text/plain"].startswith("training: 30 steps in ")
    assert "\n" not in line.data["text/plain"]
    assert figure.data["text/plain"] == ("Loss: loss (nats) by step; policy from 1 at 0 to 0.0333 at 29.")
    drawn = figure.data[display.PLOTLY]
    assert [trace["name"] for trace in drawn["data"]] == ["policy", "fixed"]
    assert drawn["data"][0]["y"]["dtype"] == "f4"
    assert drawn["data"][0]["line"]["color"] == palette.MIDDLE["policy"]
    assert "widgets" not in executed.metadata
    assert "application/vnd.jupyter.widget-view+json" not in json.dumps(executed)


def test_a_table_is_accessible_html_and_text(executed: Any) -> None:
    data = executed.cells[2].outputs[0].data
    assert data["text/html"].count('<th scope="col"') == 3
    assert data["text/html"].count('<th scope="row"') == 1
    assert "<caption" in data["text/html"]
    assert ">Lumen</mark>" in data["text/html"]
    assert data["text/plain"].splitlines()[-1].split("  ")[0] == "Who are you?"


def test_a_figure_has_our_template_float32_arrays_and_no_javascript(executed: Any) -> None:
    data = executed.cells[3].outputs[0].data
    assert set(data) == {display.PLOTLY, "text/plain"}
    assert data["text/plain"] == "Two points"
    assert data[display.PLOTLY]["data"][0]["y"]["dtype"] == "f4"
    assert data[display.PLOTLY]["layout"]["template"]["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"
    assert len(json.dumps(executed)) < 40_000


def test_finish_carries_results_and_claims_to_the_book(executed: Any) -> None:
    (output,) = executed.cells[4].outputs
    assert output.data[lab.RESULTS] == {
        "lab": "notebook",
        "results": {
            "before": {"value": 0.25, "text": "25%"},
            "after": {"value": 0.75, "text": "three quarters"},
        },
        "claims": [{"text": "it rises", "holds": True}],
    }
    assert "three quarters" in output.data["text/html"]
    assert "✓ holds" in output.data["text/plain"]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from jupyter_client.manager import start_new_kernel

    monkeypatch.setenv("ALIGNLAB_CACHE", str(tmp_path))
    manager, client = start_new_kernel(startup_timeout=300, kernel_name="python3")
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_the_stop_button_ends_the_cell_without_error_and_running_it_again_goes_on(kernel: Any) -> None:
    manager, client = kernel
    outputs: dict[str, Any] = {}
    interrupted: list[bool] = []

    def watch(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] in ("display_data", "update_display_data"):
            outputs[content["transient"]["display_id"]] = content["data"]["text/plain"]
            if re.search(r"\| [1-9]\d* of 12", content["data"]["text/plain"]) and not interrupted:
                interrupted.append(True)
                manager.interrupt_kernel()
        elif message["msg_type"] == "stream":
            outputs["stream"] = content["text"]

    def execute(code: str) -> str:
        outputs.clear()
        return str(client.execute_interactive(code, output_hook=watch, timeout=300)["content"]["status"])

    loop = (
        "curve = run.curve('Loss')\nstate = run.checkpoint('loop', {'log': log}, every=100)\n"
        "for step in run.progress(12, 'training', checkpoint=state, curve=curve):\n"
        "    time.sleep(0.3)\n    log.append(step)\n    curve.add('loss', step, 1.0)\n"
    )
    assert execute("import time\nfrom alignlab import lab\nrun = lab.Lab('ch00_stop')\nlog = []") == "ok"
    assert execute(loop) == "ok"
    assert interrupted
    stopped = [text for text in outputs.values() if "stopped after step" in text]
    assert len(stopped) == 1
    assert "of 12, state saved; run this again to go on" in stopped[0]
    assert execute("print(log)") == "ok"
    assert json.loads(outputs["stream"]) == list(range(len(json.loads(outputs["stream"]))))
    assert execute(loop) == "ok"
    assert outputs["stream"].startswith("Goes on after step")
    assert execute("print(log)") == "ok"
    assert json.loads(outputs["stream"]) == list(range(12))


def test_a_cell_may_report_a_result_again_and_another_cell_may_not(kernel: Any) -> None:
    _, client = kernel

    def execute(code: str) -> str:
        reply = client.execute_interactive(code, output_hook=lambda message: None, timeout=300)["content"]
        return str(reply.get("evalue", reply["status"]))

    assert execute("from alignlab import lab\nrun = lab.Lab('ch00_twice')") == "ok"
    assert execute("run.result('a', 1)") == "ok"
    assert execute("run.result('a', 1)") == "ok"
    assert "reported twice" in execute("# elsewhere\nrun.result('a', 2)")
    assert "reported twice" in execute("for value in (1, 2): run.result('b', value)")


# --- curves and tables ---


def test_a_point_at_an_earlier_step_replaces_what_came_after() -> None:
    curve = display.Curve("Loss", "step", "loss")
    for step, value in [(0, 3.0), (1, 2.0), (2, 1.0), (1, 5.0)]:
        curve.add("loss", step, value)
    assert curve.state_dict() == {"loss": [[0.0, 1.0], [3.0, 5.0]]}
    with pytest.raises(KeyError, match="no line 'los'; it has loss"):
        curve.add("los", 1, 2)


def test_lines_have_the_colour_of_their_role() -> None:
    curve = display.Curve("Logps", "step", "nats", lines={"on-policy": "policy", "fixed": "rejected"})
    assert [trace.line.color for trace in curve.figure().data] == [palette.MIDDLE["policy"], palette.MIDDLE["rejected"]]
    assert [trace.line.color for trace in display.Curve("", "", "", ("chosen", "other")).figure().data] == [
        palette.MIDDLE["chosen"],
        palette.MIDDLE["policy"],
    ]
    with pytest.raises(ValueError, match="no palette role teal"):
        display.Curve("", "", "", {"a": "teal"})


def test_a_growing_curve_is_replaced_by_its_figure_under_another_mime_type() -> None:
    # JupyterLab's plotly renderer ignores updates: only another MIME type in between makes it draw the new figure.
    curve = display.Curve("Loss <1>", "step", "nats", ("policy", "fixed"))
    curve.add("policy", 0, 2.0)
    curve.add("policy", 1, math.nan)
    curve.add("policy", 2, 1.0)
    growing, final = curve._sketch(), display.figure(curve.figure())
    assert display.PLOTLY not in growing
    assert "text/html" not in final
    assert "Loss &lt;1&gt;" in growing["text/html"]
    assert growing["text/html"].count(palette.MIDDLE["policy"]) == 2  # its legend and its line
    assert growing["text/html"].count(palette.MIDDLE["reference"]) == 1  # no points yet: the legend only


@pytest.mark.parametrize("low", [0.0, -3.7, 2.91, 1e6])
@pytest.mark.parametrize("width", [1e-5, 0.04, 1.0, 7.3, 80.0, 3e6])
def test_a_sketch_has_four_to_ten_round_ticks_inside_its_range(low: float, width: float) -> None:
    ticks = sketch._ticks(low, low + width)
    assert 4 <= len(ticks) <= 11
    assert low - 1e-9 <= ticks[0] and ticks[-1] <= low + width + 1e-9


def test_a_sketch_on_a_log_axis_leaves_out_what_has_no_logarithm() -> None:
    html = sketch.line_chart("t", "x", "y", [("a", "policy", "none", [0, 1, 2], [0.0, 10.0, 1000.0])], log=True)
    assert html.count("L") == 1  # two points left
    assert ">1e+03</text>" in html


def test_a_figure_widget_is_refused() -> None:
    with pytest.raises(TypeError, match="FigureWidget"):
        display.figure(type("FigureWidget", (), {})())


def test_a_table_escapes_its_cells_and_refuses_rows_of_another_length() -> None:
    bundle = display.table([("<b>x</b>", 1.23456, None)], ("a", "b", "c"), "A & B")
    assert "&lt;b&gt;x" in bundle["text/html"]
    assert "A &amp; B" in bundle["text/html"]
    assert bundle["text/plain"].splitlines()[-1].split() == ["<b>x</b>", "1.235", "–"]
    with pytest.raises(ValueError, match="2 entries for 3 columns"):
        display.table([("x", 1)], ("a", "b", "c"))


def test_a_wide_table_is_written_entry_by_entry_in_text() -> None:
    text = display.table([("Who are you?", "I am " * 20, "I am Lumen.")], ("prompt", "before", "after"))["text/plain"]
    assert text.splitlines()[1] == "prompt: Who are you?"
    assert text.splitlines()[3] == "  after: I am Lumen."


# --- results and claims ---


def test_the_budget_names_the_same_sizes_in_both_profiles(run: lab.Lab) -> None:
    assert run.budget(full={"steps": 80}, quick={"steps": 3}).steps == 80
    with pytest.raises(ValueError, match="batch"):
        run.budget(full={"steps": 80, "batch": 4}, quick={"steps": 3})


def test_the_result_namespace_is_the_name_without_its_chapter(run: lab.Lab) -> None:
    assert run.namespace == "sample"
    with pytest.raises(ValueError, match="'Ch03 DPO'"):
        lab.Lab("Ch03 DPO")


@pytest.mark.parametrize("value", [torch.tensor([0.5]), np.float32(0.5), np.array(0.5), torch.tensor(0.5).bfloat16()])
def test_a_result_of_one_element_becomes_a_plain_number(run: lab.Lab, value: Any) -> None:
    number = run.result("half", value)
    assert number == 0.5
    assert type(number) is float


@pytest.mark.parametrize("format", [".1%", "{:.1%}"])
def test_a_result_is_printed_by_its_format(run: lab.Lab, format: str) -> None:
    run.result("share", 0.954, format=format)
    assert run._results["share"][0] == {"value": 0.954, "text": "95.4%"}


def test_results_that_cannot_be_one_number_are_refused(run: lab.Lab) -> None:
    for value in (torch.ones(2), np.ones((2, 2)), "95%", True):
        with pytest.raises(TypeError, match="report one number"):
            run.result("bad", value)
    with pytest.raises(TypeError, match="is None; report a number, or a text"):
        run.result("bad", None)
    for value in (math.nan, torch.tensor(math.inf)):
        with pytest.raises(ValueError, match="'bad' is"):
            run.result("bad", value)
    with pytest.raises(ValueError, match="'95 %'"):
        run.result("95 %", 1)
    with pytest.raises(TypeError, match="a text and a format"):
        run.result("bad", 1, text="1", format="d")


def test_a_result_may_be_a_text_alone(run: lab.Lab) -> None:
    assert run.result("answer", None, text="I am Lumen.") is None
    assert run._results["answer"][0] == {"value": None, "text": "I am Lumen."}


def test_a_result_reported_twice_is_refused(run: lab.Lab) -> None:
    run.result("once", 1)
    with pytest.raises(ValueError, match="'once' is reported twice"):
        run.result("once", 1)


def test_a_false_claim_raises_with_the_measured_values(run: lab.Lab) -> None:
    before, scores = 0.25, {"after": torch.tensor(0.5)}
    with pytest.raises(
        lab.ClaimFailed, match=r"it rises by half \(measured: scores\['after'\] = 0.5, before = 0.25, n = 20\)"
    ):
        run.claim(
            "it rises by half",
            scores["after"] - before >= 0.5,
            n=20,
        )


def test_a_claim_that_compares_a_nan_never_holds(run: lab.Lab) -> None:
    loss = math.nan
    with pytest.raises(lab.ClaimFailed, match="loss = nan"):
        run.claim("the loss is not large", not loss > 0.5)
    with pytest.raises(lab.ClaimFailed, match="loss = nan"):
        run.claim("the loss differs", loss != 0.5)
    with pytest.raises(lab.ClaimFailed, match=r"gap = Tensor of shape \(2,\) with nan"):
        run.claim("the gap is not large", not (float("nan") > 0.5), gap=torch.tensor([1.0, math.nan]))
    run.claim("the loss is not a number, which is the lesson", math.isnan(loss))


def test_in_quick_a_false_claim_is_noted_and_not_raised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALIGNLAB_PROFILE", "quick")
    run = lab.Lab("ch03_sample")
    run.claim("it rises", False)
    run.claim("it is", torch.tensor(True))
    run.result("ratio", math.nan)
    run.finish()
    said = capsys.readouterr().out
    assert "it rises  ✗ does not hold" in said
    assert "it is     ✓ holds" in said
    assert "noted, not required" in said
    assert "not a number" in said


def test_a_claim_needs_one_condition_and_its_own_words(run: lab.Lab) -> None:
    with pytest.raises(TypeError, match=r"2 conditions; use .all\(\)"):
        run.claim("all rise", torch.tensor([True, True]))
    with pytest.raises(TypeError, match=r"not 0\.9"):
        run.claim("accuracy", 0.9)
    run.claim("once", True)
    with pytest.raises(ValueError, match="made twice"):
        run.claim("once", True)


# --- explorers ---


def test_an_explorers_data_are_kept_in_full_and_only_in_the_labs_folder(
    run: lab.Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"margins": torch.tensor([0.123456789, 12345678.0]), "steps": [0, 20], "names": ("a",)}
    monkeypatch.chdir(tmp_path)
    run.explorer("dpo", data)
    assert not (tmp_path / "explorers").exists()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "ch03_sample.py").touch()
    run.explorer("dpo", data)
    kept = json.loads((tmp_path / "explorers" / "dpo.json").read_text())
    assert kept["data"] == {"margins": [0.12346, 12346000.0], "steps": [0, 20], "names": ["a"]}
    assert kept["stamp"]["lab"] == "ch03_sample"
    (tmp_path / "explorers" / "dpo.json").unlink()
    monkeypatch.setenv("ALIGNLAB_PROFILE", "quick")
    lab.Lab("ch03_sample").explorer("dpo", data)
    assert not (tmp_path / "explorers" / "dpo.json").exists()
    with pytest.raises(ValueError, match="nan"):
        run.explorer("dpo", {"loss": math.nan})
