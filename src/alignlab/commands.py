"""What `make start`, `make test` and the other commands do, for people who have Python 3.11-3.13 and nothing else.

Standard library only: this file runs before anything is installed, on any Python 3 (so it can say that it is the wrong
one). Every failure that a reader can meet is one sentence that says what to do.
"""

import argparse
import contextlib
import errno
import functools
import hashlib
import http.server
import json
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
import webbrowser
from pathlib import Path
from typing import Iterator  # noqa: UP035 (an older Python must be able to read this file)

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
BUILD = ROOT / "_build"
PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
STAMP = VENV / "alignlab.json"
SUPPORTED = ((3, 11), (3, 13))
SPACE = 3.0  # GB that a first installation needs

# Run as a file, Python puts the package's own folder first on the path; what is wanted is its parent.
if sys.path and Path(sys.path[0] or ".").resolve() == ROOT / "src" / "alignlab":
    sys.path[0] = str(ROOT / "src")


class Stop(Exception):
    """Ends a command with one sentence on standard error."""


def say(text: str) -> None:
    print(text, flush=True)


# --- the environment ---------------------------------------------------------------------------------------------


def check_python() -> None:
    version = sys.version_info[:2]
    if not SUPPORTED[0] <= version <= SUPPORTED[1]:
        raise Stop(
            f"AlignLab needs Python 3.11, 3.12 or 3.13 and this is {version[0]}.{version[1]}: install one of them and "
            "run `make start PYTHON=python3.12` (or whichever you have)."
        )
    if sys.platform == "darwin" and (
        platform.machine() == "x86_64" or int(platform.mac_ver()[0].split(".")[0] or 14) < 14
    ):
        raise Stop("PyTorch is made for macOS 14 or newer on Apple silicon: use that, Linux, Windows or Colab.")


def environment(requirements: str = "requirements.txt") -> None:
    """Makes .venv and installs the requirements, if that has not been done for this very file."""
    check_python()
    wanted = _hash_files([ROOT / "requirements.txt", ROOT / requirements])
    readers = _hash_files([ROOT / "requirements.txt"] * 2)  # what the stamp of the readers' own list is
    stamp = _read_json(STAMP)
    if stamp.get(requirements) == wanted and _venv_version():
        return
    _make_venv()
    free = shutil.disk_usage(ROOT).free / 1e9
    need = SPACE if not stamp else 0.5
    if free < need:
        raise _disk_full(f"{free:.1f} GB are free and about {need:.1f} GB are needed")
    say(f"Installing what {requirements} lists into .venv; the first time this takes a minute or two.")
    # A current pip first: an older one does not pick up a download that breaks off.
    pip = re.findall(r"^pip==\S+", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    if pip:
        _pip_install(pip)
    _pip_install(["-r", str(ROOT / requirements)])
    # The library itself is used where it stands, so an edit counts at once and nothing needs building.
    site = _ask("import sysconfig; print(sysconfig.get_path('purelib'))")
    (Path(site) / "alignlab.pth").write_text(str(ROOT / "src") + "\n", encoding="utf-8")
    stamp.update({requirements: wanted, "requirements.txt": readers})
    STAMP.write_text(json.dumps(stamp), encoding="utf-8")


def _make_venv() -> None:
    version = _venv_version()
    if version and not SUPPORTED[0] <= version <= SUPPORTED[1]:
        raise Stop(f"{VENV} was made by Python {version[0]}.{version[1]}: remove that folder and run the same again.")
    if version and _run([str(PYTHON), "-m", "pip", "--version"]).returncode == 0:
        return
    if VENV.exists():
        say(f"{VENV} does not work (an interrupted start, or a Python that is gone): making it anew.")
    done = _run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    if done.returncode:
        if "No space left" in done.stdout:
            raise _disk_full(f"no room for {VENV}")
        raise Stop(
            f"This Python ({sys.executable}) can't make a virtual environment: install its venv package (on Debian and "
            f"Ubuntu `sudo apt install python3.{sys.version_info[1]}-venv`) and run the same again."
        )


def _venv_version() -> "tuple[int, int] | None":
    """The version of .venv's Python, None where there is none or it does not run."""
    try:
        major, minor = _ask("import sys; print(*sys.version_info[:2])").split()
        return int(major), int(minor)
    except (OSError, ValueError):
        return None


def _pip_install(arguments: "list[str]") -> None:
    """Runs pip in .venv with a line of progress; its full words go to .venv/install.log."""
    command = [str(PYTHON), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", *arguments]
    lines = []
    live = sys.stdout.isatty()
    pip = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    with open(VENV / "install.log", "a", encoding="utf-8") as log:
        for line in pip.stdout or ():
            log.write(line)
            lines.append(line)
            step = re.match(r"\s*(Collecting \S+|Downloading \S+ \(.*?\)|Installing collected packages)", line)
            if live and step:
                print(f"\r  {step.group(1)[:76]:<76}", end="", flush=True)
    if live:
        print(f"\r  {'':<76}\r", end="", flush=True)
    if pip.wait():
        from alignlab import download

        said = "".join(lines)
        if re.search(r"No space left|Errno 28|not enough space", said):
            raise _disk_full("the installation ran out of room")
        if download.unreachable(said):
            raise Stop(
                "The package index can't be reached, or lacks a package: check the network (and the index, proxy and "
                "certificate in `pip config list`) and run the same again; what is installed so far is kept."
            )
        last = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["pip gave no reason"]
        raise Stop(f"The installation failed ({last[-1].strip()[:300]}); pip's full words are in .venv/install.log.")


def _disk_full(why: str) -> Stop:
    return Stop(f"The disk is full ({why}): make room on the disk of {ROOT} and run the same again; nothing is lost.")


# --- the model ----------------------------------------------------------------------------------------------------


def model() -> bool:
    """Sees that the default model is in the user's cache and whole; False (and a sentence) where it can't be."""
    from alignlab import download

    folder = download.cache_dir() / download.SMALL_FOLDER
    if download.intact(folder):
        if not (folder / download.SEAL).exists():
            download.seal(folder)
        return True
    if folder.exists():
        say(f"The model in {folder} is incomplete or damaged: making it anew.")
    if subprocess.call([str(PYTHON), "-m", "alignlab.download"]) == 0:
        shutil.rmtree(folder, ignore_errors=True)
        say("Unpacking the model (about 20 seconds, once).")
        done = _run([str(PYTHON), "-c", "from alignlab import models; models.load('small')"])
        if done.returncode == 0 and download.intact(folder):
            download.seal(folder)
            return True
        full = "No space left" in done.stdout
        reason = "the disk is full: make room" if full else "".join(done.stdout.strip().splitlines()[-1:])[:300]
        say(f"The model could not be unpacked ({reason}).")
    say("Going on without the model: a lab fetches it when it first needs it.")
    return False


# --- the book -----------------------------------------------------------------------------------------------------


def build_book(strict: bool) -> Path:
    """Builds the book from the committed notebooks if anything it is made of has changed; returns its folder."""
    html = BUILD / "html"
    stamp = BUILD / "book.json"
    inputs = [ROOT / "_config.yml", ROOT / "_toc.yml", ROOT / "requirements.txt", ROOT / ".git" / "config"]
    for folder in ("book", "labs", "src"):
        inputs += [p for p in sorted((ROOT / folder).rglob("*")) if p.is_file() and not _scratch(p)]
    now = {"inputs": _hash_files(inputs), "repository": os.environ.get("GITHUB_REPOSITORY", "")}
    if not strict and (html / "index.html").exists() and _read_json(stamp) == now:
        return html
    say("Building the book (under a minute).")
    BUILD.mkdir(exist_ok=True)
    if stamp.exists():
        stamp.unlink()
    command = [str(PYTHON), "-c", "from jupyter_book.cli.main import main; main()", "build", str(ROOT), "--quiet"]
    done = _run(command + (["-W", "-n", "--keep-going"] if strict else []))
    (BUILD / "book.log").write_text(done.stdout, encoding="utf-8")
    if done.returncode:
        if "No space left" in done.stdout:
            raise _disk_full("no room for the built book")
        if strict:
            print(done.stdout)
        faults = [line for line in done.stdout.splitlines() if re.search(r"WARNING|ERROR|Error:", line)]
        shown = "; ".join(faults[-2:] or done.stdout.splitlines()[-1:])[:500]
        raise Stop(f"The book does not build ({shown}); all messages are in _build/book.log.")
    stamp.write_text(json.dumps(now), encoding="utf-8")
    return html


def _scratch(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    return any(part.startswith(".") or part == "__pycache__" for part in parts)


class _Pages(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line of log per request, and never a stale page."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    allow_reuse_address = sys.platform != "win32"  # there it would share a port that another program holds


def serve(folder: Path, first: int) -> "tuple[_Server, str]":
    """Serves the folder on this machine alone, at `first` or the next free port, in a thread of its own."""
    handler = functools.partial(_Pages, directory=str(folder))
    for port in range(first, first + 100):
        try:
            server = _Server(("127.0.0.1", port), handler)
            break
        except OSError:
            continue
    else:
        raise _no_port(first)
    if port != first:
        say(f"Port {first} is taken: the book is on {port}.")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{port}/"


def _no_port(first: int) -> Stop:
    return Stop(
        f"All ports from {first} to {first + 99} are taken: choose others with --port or --lab-port, for example "
        '`make start ARGS="--port 9000 --lab-port 9100"`.'
    )


# --- JupyterLab ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def jupyter(first: int) -> "Iterator[tuple[subprocess.Popen[bytes], str]]":
    """JupyterLab on labs/, on this machine alone, from when it answers until the block is left, however it is left."""
    port = _free_port(first)
    if port != first:
        say(f"Port {first} is taken: JupyterLab is on {port}.")
    token = secrets.token_hex(16)
    settings = {"ip": "127.0.0.1", "port": port, "port_retries": 0, "root_dir": ROOT / "labs"}
    command = [str(PYTHON), "-m", "jupyterlab", "--no-browser"]
    command += [f"--ServerApp.{name}={value}" for name, value in settings.items()]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    BUILD.mkdir(exist_ok=True)
    process = None
    try:
        with open(BUILD / "jupyter.log", "wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, JUPYTER_TOKEN=token),
                # A group of its own: Ctrl-C reaches this process only, which then ends JupyterLab and its kernels.
                start_new_session=True,
                creationflags=0x200 if sys.platform == "win32" else 0,
            )
        _wait_for(process, f"http://127.0.0.1:{port}/api")
        try:
            yield process, f"http://127.0.0.1:{port}/lab?token={token}"
        except KeyboardInterrupt:
            say("\nStopping.")
    finally:
        if process:
            stop(process)


def _free_port(first: int) -> int:
    for port in range(first, first + 100):
        with socket.socket() as probe:
            if sys.platform != "win32":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise _no_port(first)


def _wait_for(process: "subprocess.Popen[bytes]", address: str) -> None:
    """Returns when the address answers; loopback is asked directly, whatever proxy is set."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + 90
    while time.monotonic() < until and process.poll() is None:
        try:
            direct.open(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise Stop("JupyterLab did not start; its words are in _build/jupyter.log.")


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends JupyterLab: asks (it then ends its kernels), waits ten seconds, then insists; no second Ctrl-C cuts in."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
            if process.poll() is None:
                process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
    finally:
        signal.signal(signal.SIGINT, before)


def _show(*urls: str) -> None:
    if sys.platform not in ("win32", "darwin") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    for url in urls:
        webbrowser.open(url)


def _until_stopped(process: "subprocess.Popen[bytes]") -> None:
    """Waits for Ctrl-C (which `jupyter` takes), or for JupyterLab to be shut down from its own menu."""
    while process.poll() is None:
        time.sleep(0.5)
    say("JupyterLab has ended (its last words are in _build/jupyter.log).")


# --- the commands -------------------------------------------------------------------------------------------------


def start(options: argparse.Namespace) -> int:
    """Everything, from a clone to the open book and JupyterLab."""
    environment()
    model()
    pages = None
    try:
        pages = build_book(strict=False)
    except Stop as fault:
        print(fault, file=sys.stderr)
    book = serve(pages, options.port)[1] if pages else ""
    with jupyter(options.lab_port) as (process, url):
        say(f"\n  Book  {book or 'not built, see above'}\n  Labs  {url}\n\nCtrl-C stops both.")
        if not options.no_browser:
            _show(*filter(None, (url, book)))
        _until_stopped(process)
    return 0


def lab(options: argparse.Namespace) -> int:
    """JupyterLab on labs/."""
    environment()
    with jupyter(options.lab_port) as (process, url):
        say(f"\n  Labs  {url}\n\nCtrl-C stops it.")
        if not options.no_browser:
            _show(url)
        _until_stopped(process)
    return 0


def book(options: argparse.Namespace) -> int:
    """Builds the book, warnings counting as errors."""
    environment()
    say(f"The book is in {build_book(strict=True) / 'index.html'}.")
    return 0


def labs(options: argparse.Namespace) -> int:
    """Executes the labs whose notebooks are stale, or the one named."""
    environment()
    which = [options.lab] if options.lab else []
    return subprocess.call([str(PYTHON), "-m", "alignlab.notebooks", "execute", *which], cwd=ROOT)


def test(options: argparse.Namespace) -> int:
    """The whole test suite, on two processes."""
    environment("tests/requirements.txt")
    workers = str(min(2, os.cpu_count() or 1))
    command = [str(PYTHON), "-m", "pytest", "-n", workers, "--dist", "loadfile", *options.rest]
    return subprocess.call(command, cwd=ROOT)


def bench(options: argparse.Namespace) -> int:
    """The benchmarks, as a table with ratios."""
    environment("tests/requirements.txt")
    return subprocess.call([str(PYTHON), str(ROOT / "benchmarks" / "run.py"), *options.rest], cwd=ROOT)


def lint(options: argparse.Namespace) -> int:
    """ruff and mypy."""
    environment("tests/requirements.txt")
    return max(
        subprocess.call([str(PYTHON), "-m", *words], cwd=ROOT)
        for words in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])
    )


def lock(options: argparse.Namespace) -> int:
    """Writes the two requirements files anew from pyproject.toml (pins stay; --upgrade renews them)."""
    environment("tests/requirements.txt")
    return subprocess.call([str(PYTHON), str(ROOT / ".ci" / "lock.py"), *options.rest], cwd=ROOT)


def main(arguments: "list[str] | None" = None) -> int:
    """Runs one command; a failure that a reader can meet is one sentence, never a traceback."""
    for name in ("SIGTERM", "SIGHUP"):  # what ends a terminal ends this as Ctrl-C does, its children included
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    try:
        check_python()
        options, rest = _parser().parse_known_args(arguments)
        if rest and options.action not in (test, bench, lock):
            raise Stop(f"{options.command} does not know {rest[0]}: `commands.py {options.command} --help` lists all.")
        options.rest = rest
        return int(options.action(options))
    except Stop as fault:
        print(fault, file=sys.stderr)
        return 1
    except OSError as fault:
        if fault.errno == errno.ENOSPC:
            print(_disk_full(f"writing {fault.filename or 'a file'} failed"), file=sys.stderr)
            return 1
        raise
    except KeyboardInterrupt:
        print("\nStopped; what is done is kept, and the same command goes on from here.", file=sys.stderr)
        return 130


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="commands.py", description="The commands of AlignLab.")
    add = parser.add_subparsers(dest="command", required=True, metavar="command")
    for action in (start, lab, book, labs, test, bench, lint, lock):
        sub = add.add_parser(action.__name__, help=action.__doc__, description=action.__doc__)
        sub.set_defaults(action=action)
        if action in (start, lab):
            sub.add_argument("--lab-port", type=int, default=8888, help="first port to try for JupyterLab")
            sub.add_argument("--no-browser", action="store_true", default="CI" in os.environ, help="open none")
        if action is start:
            sub.add_argument("--port", type=int, default=8000, help="first port to try for the book")
        if action is labs:
            sub.add_argument("--lab", help="execute this one, stale or not")
    return parser


# --- small things -------------------------------------------------------------------------------------------------


def _run(command: "list[str]") -> "subprocess.CompletedProcess[str]":
    """Runs a command without input; both its outputs are in the result's `stdout`."""
    return subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _ask(code: str) -> str:
    """What .venv's Python prints for a line of code."""
    return subprocess.run(
        [str(PYTHON), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout.strip()


def _read_json(path: Path) -> "dict[str, str]":
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _hash_files(paths: "list[Path]") -> str:
    """One checksum of the files' names and contents; a file that is missing counts as such."""
    total = hashlib.sha256()
    for path in paths:
        content = path.read_bytes() if path.exists() else b"missing"
        total.update(f"{path.relative_to(ROOT).as_posix()} {len(content)} ".encode())
        total.update(content)
    return total.hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
