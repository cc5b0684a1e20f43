"""Explorers in a real JupyterLab: a kernel shows them, the browser runs them, and they answer to a hand."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[1]
SHOWN = ("decoding", "retrieval_space", "tiny_live")
"""A figure of sliders, one of words and buttons, and one that computes a model."""
CELL = """import json
from pathlib import Path
from IPython.display import display
from alignlab import explorers
for name in {names!r}:
    display(explorers.show(name, json.loads(Path({folder!r}, name + ".json").read_text(encoding="utf-8"))["data"]))"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab with one notebook, which shows the explorers with the labs' own data."""
    if not shutil.which("jupyter-lab", path=os.fspath(Path(sys.executable).parent)):
        pytest.skip("JupyterLab is not installed")
    code = CELL.format(names=SHOWN, folder=os.fspath(ROOT / "labs" / "explorers"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "figures.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "ServerApp.root_dir": tmp_path,
        "IdentityProvider.token": "t",
        "ServerApp.allow_root": True,
        "ip": "127.0.0.1",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}"]
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": os.fspath(tmp_path / "config")}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in settings.items())],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api?token=t", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
                time.sleep(0.25)
        yield f"{address}/lab/tree/figures.ipynb?token=t"
    finally:
        server.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
        server.send_signal(signal.SIGTERM)
        server.wait(30)


@pytest.mark.browser
@pytest.mark.slow
def test_explorers_live_in_a_real_jupyterlab(lab: str, browser: "Browser") -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 2200})
    faults: list[str] = []
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    page.goto(lab)
    page.wait_for_selector(".jp-Notebook .cm-content", timeout=90_000)
    page.get_by_text("| Idle").wait_for(timeout=90_000)  # the kernel
    page.click(".jp-Cell .cm-content")
    page.keyboard.press("Control+Enter")
    for name in SHOWN:
        element = page.locator(f"alignlab-{name}").first
        element.wait_for(state="visible", timeout=90_000)
        box = element.bounding_box()
        assert box and box["height"] > 300 and box["width"] > 500
    data = json.loads((ROOT / "labs" / "explorers" / "retrieval_space.json").read_text(encoding="utf-8"))["data"]
    slider = page.locator("alignlab-retrieval_space input[type=range]").first
    slider.evaluate("e => { e.value = 3; e.dispatchEvent(new Event('input')); }")
    assert page.locator("alignlab-retrieval_space .asked").inner_text() == data["queries"][3]["text"]
    live = page.locator("alignlab-tiny_live")
    live.scroll_into_view_if_needed()
    live.get_by_text("one thread, this page").wait_for(timeout=60_000)  # it has loaded its weights and spoken
    assert faults == []
    page.close()
