"""Publishing: the notebooks that Colab opens, the cell that installs AlignLab there, and the workflows."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from alignlab import colab, kernel, notebooks
from alignlab.kernel import CellFailed
from alignlab.notebooks import Lab

ROOT = Path(__file__).resolve().parent.parent
LABS = notebooks.labs(ROOT / "labs")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
COLAB_LAB = "ch03_dpo_identity"  # the lab that the fresh environment runs
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ADDRESS = f"https://github.com/example-owner/example-repo/archive/{COMMIT}.zip"

SMALL = """\
# %% [markdown]
# # A lab for the tests

# %%
import alignlab
import numpy
import torch

print(alignlab.__version__)
"""


@pytest.fixture
def trial(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path / "labs", "ch00_small")
    lab.source.parent.mkdir(parents=True)
    lab.source.write_text(SMALL, "utf-8")
    notebooks.sync(lab)
    return lab


# ---- stamping


def test_there_are_labs() -> None:
    assert LABS
    assert COLAB_LAB in {lab.name for lab in LABS}


def test_stamping_changes_the_set_up_cells_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "labs", tmp_path / "checkout" / "labs")
    monkeypatch.setenv("GITHUB_REPOSITORY", "example-owner/example-repo")
    monkeypatch.setenv("GITHUB_SHA", COMMIT)
    monkeypatch.delenv("GITHUB_SERVER_URL", raising=False)
    copies = tmp_path / "colab" / "labs"
    assert notebooks.main(["--labs", str(tmp_path / "checkout" / "labs"), "stamp", "--output", str(copies)]) == 0
    assert {path.stem for path in copies.iterdir()} == {lab.name for lab in LABS}
    for lab in LABS:
        original = json.loads(lab.notebook.read_text("utf-8"))
        copy = json.loads((copies / lab.notebook.name).read_text("utf-8"))
        assert "".join(copy["cells"][1]["source"]).count(ADDRESS) == 1
        assert "example-owner" not in lab.notebook.read_text("utf-8")
        copy["cells"][1]["source"] = original["cells"][1]["source"]
        assert copy == original
        assert (tmp_path / "checkout" / "labs" / lab.notebook.name).read_bytes() == lab.notebook.read_bytes()


def test_stamped_cell_installs_from_the_address_unless_the_environment_names_another() -> None:
    found = [node for node in ast.walk(ast.parse(colab.stamped(ADDRESS))) if isinstance(node, ast.BoolOp)]
    assert [ast.unparse(node) for node in found] == [f"os.environ.get('ALIGNLAB_SOURCE') or {ADDRESS!r}"]


@pytest.mark.parametrize("address", ["", "a b", 'x"; import os', "x\\y", "x\ny", "{source}"])
def test_address_that_would_break_the_cell_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="source to install from"):
        colab.stamped(address)


@pytest.mark.parametrize("repository", ["", "owner", "a/b/c", 'a/b"', "a/b c"])
def test_stamping_without_a_repository_says_what_to_do(repository: str) -> None:
    with pytest.raises(ValueError, match="--source"):
        colab.repository({"GITHUB_REPOSITORY": repository})


def test_stamping_refuses_a_notebook_with_another_set_up_cell(trial: Lab, tmp_path: Path) -> None:
    text = trial.notebook.read_text("utf-8")
    trial.notebook.write_text(text.replace("a minute or two", "soon"), "utf-8")
    with pytest.raises(ValueError, match="set-up cell"):
        notebooks.publish(trial, ADDRESS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- a fresh environment


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has everything that is installed here, except alignlab."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    packages = folder / "env" / "packages"  # below the prefix: dill pickles what lies elsewhere by value
    packages.mkdir()
    for site in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(site).iterdir():
            if "alignlab" not in entry.name.lower() and entry.suffix != ".pth" and entry.name != "__pycache__":
                try:
                    (packages / entry.name).symlink_to(entry, target_is_directory=entry.is_dir())
                except OSError:
                    pytest.skip("this system makes no symbolic links for this user")
    own = Path(inside(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    (own / "packages.pth").write_text(f"{packages}\n", "utf-8")
    assert inside(
        python, "import importlib.util as u; print(u.find_spec('alignlab'), u.find_spec('torch') is not None)"
    ) == ("None True")
    return python


def environment(**values: str) -> dict[str, str]:
    """The environment of a notebook that knows nothing of this checkout."""
    hidden = ("ALIGNLAB_SOURCE", "PYTHONPATH", "VIRTUAL_ENV")
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    return {**kept, "PYTHONNOUSERSITE": "1", "ALIGNLAB_PROFILE": "quick", **values}


def inside(python: Path, code: str) -> str:
    command = [str(python), "-c", code]
    return subprocess.run(
        command, env=environment(), cwd=python.parent, check=True, capture_output=True, text=True
    ).stdout.strip()


def run_alone(notebook: Path, folder: Path, python: Path, **values: str) -> Any:
    """Run only the notebook file, in an empty folder, in a kernel of `python`; returns the executed notebook."""
    folder.mkdir()
    shutil.copy(notebook, folder)
    executed = nbformat.read(folder / notebook.name, as_version=4)
    kernel.run(executed, cwd=folder, env=environment(**values), python=str(python))
    return executed


@pytest.mark.slow
def test_lab_says_in_one_sentence_what_to_do_where_there_is_no_source(trial: Lab, bare: Path, tmp_path: Path) -> None:
    with pytest.raises(CellFailed, match=r"(?s)cell 2 of 3.*SystemExit: AlignLab is not installed here\. Set the env"):
        run_alone(trial.notebook, tmp_path / "empty", bare)


@pytest.mark.slow
def test_lab_says_what_pip_said_where_the_source_cannot_be_installed(trial: Lab, bare: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.zip"
    with pytest.raises(CellFailed, match=r"(?s)pip could not install AlignLab from .*missing\.zip. It said:"):
        run_alone(trial.notebook, tmp_path / "empty", bare, ALIGNLAB_SOURCE=str(missing))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ch00_small", COLAB_LAB])
def test_lab_installs_alignlab_in_a_fresh_environment_and_runs(
    name: str, trial: Lab, bare: Path, tmp_path: Path
) -> None:
    lab = trial if name == trial.name else Lab(ROOT / "labs", name)
    if inside(bare, "import importlib.util as u; print(u.find_spec('alignlab'))") != "None":
        subprocess.run([bare, "-m", "pip", "uninstall", "--yes", "alignlab"], check=True, env=environment())
    copy = notebooks.publish(lab, "https://example.invalid/nothing.zip", tmp_path / "colab")
    executed = run_alone(copy, tmp_path / "empty", bare, ALIGNLAB_SOURCE=str(ROOT))
    said = "".join(output.get("text", "") for output in executed.cells[1].outputs)
    assert said.endswith("AlignLab is installed.\n")
    own = Path(inside(bare, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    assert (own / "alignlab" / "notebooks.py").is_file()
    assert not (own / "torch").exists() and not (own / "numpy").exists(), "what was installed is kept as it was"
    if lab is not trial:
        assert notebooks.results(executed)["results"]


# ---- workflows


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text("utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def test_there_are_workflows() -> None:
    assert {path.name for path in WORKFLOWS} == {"publish.yml", "test.yml"}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_uses_official_actions_pinned_to_a_commit(workflow: Path) -> None:
    used = re.findall(r"uses: *(.*)", workflow.read_text("utf-8"))
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_may_write_only_where_it_publishes(workflow: Path) -> None:
    config = yaml.safe_load(workflow.read_text("utf-8"))
    assert config["permissions"] in ({}, {"contents": "read"})
    writes = {
        (name, scope)
        for name, job in config["jobs"].items()
        for scope, level in job.get("permissions", {}).items()
        if level == "write"
    }
    publishes = {("book", "pages"), ("book", "id-token"), ("notebooks", "contents")}
    assert writes == (publishes if workflow.name == "publish.yml" else set())


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_names_no_repository_and_puts_no_expression_into_a_script(workflow: Path) -> None:
    assert not re.search(r"github\.(com|io)/|@users\.noreply", workflow.read_text("utf-8"))
    assert not [step["run"] for step in steps(workflow) if "${{" in step.get("run", "")]


def test_smoke_tests_exist() -> None:
    commands = [
        step["run"] for step in steps(ROOT / ".github/workflows/test.yml") if "pytest -m" in step.get("run", "")
    ]
    named = re.findall(r"tests/\S+\.py", " ".join(commands))
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.skipif(sys.platform == "win32", reason="the workflow's script is for bash")
def test_publish_workflow_pushes_the_stamped_notebooks_alone_to_a_branch(tmp_path: Path) -> None:
    script = next(s["run"] for s in steps(ROOT / ".github/workflows/publish.yml") if "git push" in s.get("run", ""))
    (tmp_path / "colab" / "labs").mkdir(parents=True)
    notebook = tmp_path / "colab" / "labs" / "ch00_small.ipynb"
    values = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
        "GITHUB_WORKSPACE": str(tmp_path / "checkout"),
        "GITHUB_SHA": COMMIT,
        "RUNNER_TEMP": str(tmp_path),
        "HOME": str(tmp_path),
    }

    def git(*words: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"]
        command = ["git", *identity, *words]
        return subprocess.run(command, cwd=tmp_path, env=values, check=True, capture_output=True, text=True).stdout

    git("init", "--bare", "origin.git")
    git("clone", "origin.git", "checkout")
    (tmp_path / "checkout" / ".gitignore").write_text("*.ipynb\n")
    (tmp_path / "checkout" / "README.md").write_text("a book\n")
    git("-C", "checkout", "add", "README.md", ".gitignore")
    git("-C", "checkout", "commit", "-m", "first")
    git("-C", "checkout", "push", "origin", "HEAD:main")
    for content in ("one", "two"):
        notebook.write_text(content)
        subprocess.run(
            ["bash", "-e", "-c", script], cwd=tmp_path / "checkout", env=values, check=True, capture_output=True
        )
        assert git("-C", "origin.git", "ls-tree", "-r", "--name-only", "colab").split() == ["labs/ch00_small.ipynb"]
        assert git("-C", "origin.git", "show", "colab:labs/ch00_small.ipynb") == content
    assert git("-C", "origin.git", "rev-list", "--count", "colab").strip() == "1"
    assert git("-C", "checkout", "status", "--porcelain") == ""
    assert COMMIT in git("-C", "origin.git", "log", "-1", "--format=%s", "colab")
