"""`make start` and its kin, as real processes in a tree of their own, on a good day and on bad ones."""

import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import local_index
import psutil
import pytest
from packaging.requirements import Requirement

from alignlab import commands, download

ROOT = Path(__file__).resolve().parents[1]
INSTALL = "from alignlab import commands; commands.environment(); print('ready')"
posix = pytest.mark.skipif(os.name != "posix", reason="signals and mounts of a POSIX system")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with the commands and a book of one page, and nothing installed."""
    root = tmp_path / "tree"
    (root / "src" / "alignlab").mkdir(parents=True)
    for name in ("__init__.py", "commands.py", "download.py"):
        shutil.copy(ROOT / "src" / "alignlab" / name, root / "src" / "alignlab")
    shutil.copy(ROOT / "Makefile", root)
    (root / "labs").mkdir()
    (root / "book").mkdir()
    (root / "book" / "intro.md").write_text("# A small book\n\nIts only page.\n")
    (root / "_config.yml").write_text(
        "title: Small\nonly_build_toc_files: true\nexclude_patterns: [.venv, _build, src]\n"
    )
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/intro\n")
    (root / "requirements.txt").write_text("fake-tool==1.0\n")
    return root


@pytest.fixture
def index(tmp_path: Path) -> Iterator[local_index.Index]:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    local_index.make_wheel(shelf, "fake-tool", {"fake_tool.py": b"VALUE = 1\n"})
    local_index.make_wheel(shelf, "fake-tool", {"fake_tool.py": b"VALUE = 2\n"}, version="2.0")
    with local_index.serve(shelf) as running:
        yield running


def run(tree: Path, code: str, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Runs code in the tree as its commands are run; it must never end in a traceback."""
    entry = "import sys; sys.path.insert(0, 'src'); from alignlab import commands\ntry:\n" + textwrap.indent(
        code, "    "
    )
    entry += "\nexcept commands.Stop as fault: sys.exit(str(fault))"
    command = [sys.executable, "-c", entry]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def one_sentence(text: str) -> bool:
    return len(text.strip().splitlines()) == 1 and text.strip().endswith(".")


# --- the Python that runs it


@pytest.mark.parametrize("version", [(3, 6), (3, 10), (3, 14)])
def test_a_python_that_does_not_fit_is_one_sentence(version: tuple[int, int], tree: Path):
    pretend = f"import sys, runpy; sys.version_info = {(*version, 0)}; sys.argv[1:] = ['start']; "
    pretend += "runpy.run_path('src/alignlab/commands.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", pretend], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 1
    assert one_sentence(done.stderr)
    assert "3.11, 3.12 or 3.13" in done.stderr
    assert f"this is {version[0]}.{version[1]}" in done.stderr
    assert not (tree / ".venv").exists()


def test_an_old_python_can_read_the_file_that_tells_it_so():
    source = (ROOT / "src" / "alignlab" / "commands.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 6))
    assert "from __future__ import annotations" not in source, "Python 3.6 stops at it"
    top = [n for n in ast.parse(source).body if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {(n.names[0].name if isinstance(n, ast.Import) else str(n.module)).split(".")[0] for n in top}
    assert names <= sys.stdlib_module_names


# --- installing


def test_requirements_are_installed_once_and_again_only_when_they_change(tree: Path, index: local_index.Index):
    first = run(tree, INSTALL, index.environment())
    assert first.stdout.splitlines()[-1] == "ready", first.stderr
    log = tree / ".venv" / "install.log"
    words = log.read_text()
    begin = time.monotonic()
    assert run(tree, INSTALL, index.environment()).stdout == "ready\n"
    assert time.monotonic() - begin < 5
    assert log.read_text() == words, "pip ran although nothing had changed"

    (tree / "requirements.txt").write_text("fake-tool==2.0\n")
    assert "Installing" in run(tree, INSTALL, index.environment()).stdout
    venv = tree / ".venv" / ("Scripts" if os.name == "nt" else "bin")
    code = "import fake_tool, alignlab; print(fake_tool.VALUE, alignlab.__file__)"
    told = subprocess.run([venv / "python", "-c", code], cwd=tree, capture_output=True, text=True).stdout.split()
    assert told == ["2", str(tree / "src" / "alignlab" / "__init__.py")]


def test_no_network_is_one_sentence_and_the_next_run_goes_on(tree: Path, index: local_index.Index):
    gone = {**index.environment(), "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    failed = run(tree, INSTALL, gone)
    assert failed.returncode == 1
    assert one_sentence(failed.stderr)
    assert "check the network" in failed.stderr
    assert not (tree / ".venv" / "alignlab.json").exists(), "a failed installation counts as done"
    kept = (tree / ".venv" / "pyvenv.cfg").stat().st_mtime_ns
    assert run(tree, INSTALL, index.environment()).stdout.endswith("ready\n")
    assert (tree / ".venv" / "pyvenv.cfg").stat().st_mtime_ns == kept, "the environment was made twice"


def test_a_package_that_does_not_exist_is_one_sentence(tree: Path, index: local_index.Index):
    (tree / "requirements.txt").write_text("fake-tool==3.0\n")
    failed = run(tree, INSTALL, index.environment())
    assert one_sentence(failed.stderr)
    assert "fake-tool==3.0" in failed.stderr


@posix
def test_an_environment_that_was_left_half_made_is_made_anew(tree: Path, index: local_index.Index):
    (tree / ".venv" / "bin").mkdir(parents=True)
    (tree / ".venv" / "bin" / "python").symlink_to("/nowhere/python3.11")
    done = run(tree, INSTALL, index.environment())
    assert "making it anew" in done.stdout
    assert done.stdout.endswith("ready\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_fills_up_while_installing_is_one_sentence(tree: Path, index: local_index.Index):
    subprocess.run([sys.executable, "-m", "venv", tree / ".venv"], check=True)
    (tree / ".venv" / "install.log").symlink_to("/dev/full")
    command = [sys.executable, "src/alignlab/commands.py", "lab"]
    done = subprocess.run(command, cwd=tree, env=index.environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert one_sentence(done.stderr)
    assert "The disk is full" in done.stderr


@posix
def test_too_small_a_disk_is_said_before_anything_is_installed(tree: Path, index: local_index.Index):
    small = tree.parent / "small"
    small.mkdir()
    # A disk of 64 MB, in a mount namespace of its own.
    mount = ["unshare", "--mount", "--map-root-user", "--user"] if os.geteuid() else ["unshare", "--mount"]
    script = (
        f"mount -t tmpfs -o size=64m none {small} && cp -r {tree}/. {small} && cd {small} && exec {sys.executable} "
    )
    script += "src/alignlab/commands.py start --no-browser; exit 99"
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("this system lets no process mount a disk of its own")
    command = [*mount, "sh", "-c", script]
    done = subprocess.run(command, env=index.environment(), capture_output=True, text=True, timeout=300)
    if done.returncode == 99:
        pytest.skip("this system lets no process mount a disk of its own")
    assert done.returncode == 1
    assert one_sentence(done.stderr)
    assert "The disk is full (0.0 GB are free" in done.stderr
    assert index.starts == []


# --- serving


def test_a_taken_port_gives_way_to_the_next_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "index.html").write_text("the book")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server, address = commands.serve(tmp_path, port)
        try:
            assert address != f"http://127.0.0.1:{port}/"
            assert fetch(address) == (200, "the book")
            assert f"Port {port} is taken" in capsys.readouterr().out
        finally:
            server.shutdown()
            server.server_close()


def test_the_book_is_served_to_this_machine_only(tmp_path: Path):
    server, _ = commands.serve(tmp_path, 20_000)
    try:
        assert server.server_address[0] == "127.0.0.1"
    finally:
        server.shutdown()
        server.server_close()


def test_ports_that_are_all_taken_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(commands, "_Server", refuse)
    with pytest.raises(commands.Stop, match=r"--port 9000") as caught:
        commands.serve(tmp_path, 8000)
    assert one_sentence(str(caught.value))


def fetch(address: str) -> tuple[int, str]:
    """Status and text of a page on this machine, past any proxy."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(address, timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def installed(tree: Path) -> dict[str, str]:
    """Gives the tree this very environment, as if installed, and a model; returns the variables to run it with."""
    venv = tree / ".venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([venv / "bin" / "python", "-c", ask], text=True).strip())
    here = subprocess.check_output([sys.executable, "-c", ask], text=True).strip()
    (site / "here.pth").write_text(f"{tree / 'src'}\n{here}\n")
    checksum = "import sys; sys.path.insert(0, 'src'); from alignlab import commands; "
    checksum += "print(commands._hash_files([commands.ROOT / 'requirements.txt'] * 2))"
    stamp = subprocess.check_output([sys.executable, "-c", checksum], cwd=tree, text=True).strip()
    (venv / "alignlab.json").write_text(json.dumps({"requirements.txt": stamp}))
    cache = tree / "cache"
    (cache / download.SMALL_FOLDER).mkdir(parents=True)
    (cache / download.SMALL_FOLDER / "model.safetensors").write_bytes(b"weights")
    download.seal(cache / download.SMALL_FOLDER)
    share = Path(sys.prefix) / "share" / "jupyter"
    more = {"JUPYTERLAB_DIR": str(share / "lab"), "JUPYTER_PATH": str(share), "ALIGNLAB_CACHE": str(cache)}
    own = {"JUPYTER_RUNTIME_DIR": str(tree / "runtime"), "JUPYTER_CONFIG_DIR": str(tree / "config")}
    return {**os.environ, **more, **own, "PYTHONUNBUFFERED": "1"}


def read_until(process: "subprocess.Popen[str]", sign: str) -> str:
    """What the process prints up to the line that holds the sign."""
    text = ""
    for line in process.stdout or ():
        text += line
        if sign in line:
            return text
    raise AssertionError(f"{sign!r} was never printed, but this was: {text}")


@posix
@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "terminated"])
def test_start_opens_the_book_and_the_labs_and_ends_both(tree: Path, ending: signal.Signals):
    environment = installed(tree)
    command = [sys.executable, "src/alignlab/commands.py", "start", "--no-browser"]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        command += ["--port", str(taken), "--lab-port", str(taken)]
        for again in (False, True):
            begin = time.monotonic()
            process = subprocess.Popen(
                command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            try:
                said = read_until(process, "Ctrl-C stops both")
                seconds = time.monotonic() - begin
                book, labs = re.findall(r"(?:Book|Labs)\s+(http://127\.0\.0\.1:\S+)", said)
                assert f"Port {taken} is taken: the book is on" in said
                assert f"Port {taken} is taken: JupyterLab is on" in said
                assert ("Building the book" in said) is not again
                assert "Its only page." in fetch(f"{book}book/intro.html")[1]
                assert fetch(labs)[0] == 200
                status, token = labs.replace("/lab?", "/api/status?"), labs.split("=")[1]
                assert fetch(status)[0] == 200
                assert fetch(status.replace(token, "wrong"))[0] == 403
                kernels = urllib.request.Request(labs.replace("/lab?", "/api/kernels?"), data=b"{}", method="POST")
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(kernels, timeout=20).close()
                children = psutil.Process(process.pid).children(recursive=True)
                assert any("ipykernel" in " ".join(child.cmdline()) for child in children)
            finally:
                process.send_signal(ending)
                rest = process.communicate(timeout=30)[0]
            assert process.returncode == 0, rest
            assert "Traceback" not in rest
            psutil.wait_procs(children, timeout=10)
            assert not [child for child in children if child.is_running()], "a process was left behind"
            for address in (book, labs):
                with pytest.raises(urllib.error.URLError):
                    fetch(address)
            if again:
                assert seconds < 30


@posix
@pytest.mark.slow
def test_start_without_network_says_so_and_still_opens_what_is_here(tree: Path):
    environment = {**installed(tree), "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    (tree / "cache" / download.SMALL_FOLDER / "model.safetensors").write_bytes(b"half")
    command = [
        sys.executable,
        "src/alignlab/commands.py",
        "start",
        "--no-browser",
        "--port",
        "20100",
        "--lab-port",
        "20200",
    ]
    process = subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said = read_until(process, "Ctrl-C stops both")
        assert "is incomplete or damaged" in said
        assert "check the network" in said
        assert "Going on without the model" in said
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.send_signal(signal.SIGINT)  # at once, before it has begun to wait
        rest = process.communicate(timeout=30)[0]
    assert "Traceback" not in said + rest
    assert process.returncode == 0, rest
    psutil.wait_procs(children, timeout=10)
    assert children
    assert not [child for child in children if child.is_running()], "a process was left behind"


@pytest.mark.slow
def test_a_book_that_does_not_build_is_one_sentence(tree: Path):
    environment = installed(tree)
    (tree / "book" / "intro.md").write_text("# A small book\n\n{ref}`nowhere`\n")
    command = [sys.executable, "src/alignlab/commands.py", "book"]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert one_sentence(done.stderr)
    assert "nowhere" in done.stderr
    (tree / "book" / "intro.md").write_text("# A small book\n")
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tree / "_build" / "html" / "index.html").exists()


# --- the lock and the Makefile


def listed(path: str) -> dict[str, tuple[Requirement, str]]:
    """The pins of a requirements file, with their comments, by name."""
    found = {}
    for line in (ROOT / path).read_text(encoding="utf-8").splitlines():
        pin, _, why = line.partition("  # ")
        if line and not line.startswith(("#", "-r")):
            requirement = Requirement(pin)
            found[requirement.name] = (requirement, why.strip())
    return found


def test_the_locks_hold_every_direct_dependency_in_its_range_with_what_it_is_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    reader, tester = listed("requirements.txt"), listed("tests/requirements.txt")
    extras = project["optional-dependencies"]
    for ranges, pins in ((project["dependencies"] + extras["book"], reader), (extras["test"], {**reader, **tester})):
        for wanted in map(Requirement, ranges):
            pin, why = pins[wanted.name]
            version = str(pin.specifier).removeprefix("==")
            assert wanted.specifier.contains(version), f"{pin} is not in {wanted}: run `make lock`"
            assert why, f"{pin} does not say what it is for"
    assert str(reader["torch"][0]) == "torch==2.13.0"


@pytest.mark.parametrize("path", ["requirements.txt", "tests/requirements.txt"])
def test_the_locks_are_exact_and_name_no_index_and_no_gpu_package(path: str):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert "://" not in text
    for requirement, _ in listed(path).values():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert not re.match(r"nvidia|cuda|triton", requirement.name), requirement


@posix
@pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")
def test_every_make_target_calls_the_command_of_its_name():
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY"))
    targets = phony.split(":")[1].split()
    assert {"start", "test", "lab", "book", "labs", "bench", "lint"} <= set(targets)
    for target in targets:
        done = subprocess.run(["make", "-n", target, "LAB=some"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert f"src/alignlab/commands.py {target}" in done.stdout
        assert ("--lab some" in done.stdout) is (target == "labs")


# --- the requirement that browser tests run


@pytest.mark.parametrize(
    ("body", "passes", "workers"),
    [
        ("@pytest.mark.browser\ndef test_page(): pass", True, 2),
        ("@pytest.mark.browser\ndef test_page(): pytest.skip('no Chromium')", False, 2),
        ("@pytest.mark.browser\ndef test_page(): pytest.skip('no Chromium')", False, 0),
        ("def test_other(): pass", False, 0),
        ("pytest.skip('no playwright', allow_module_level=True)", False, 0),
        ("def test_other(): pytest.skip('not here')\n@pytest.mark.browser\ndef test_page(): pass", True, 0),
    ],
)
def test_required_browser_tests_must_run(tmp_path: Path, body: str, passes: bool, workers: int):
    conftest = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    (tmp_path / "conftest.py").write_text(re.sub(r"^pytest_plugins.*$", "", conftest, flags=re.MULTILINE))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = browser\n")
    (tmp_path / "test_browser.py").write_text(f"import pytest\n{body}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--require-browser", "-n", str(workers)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) is passes, done.stdout + done.stderr
    assert ("browser tests are required" in done.stdout) is not passes
