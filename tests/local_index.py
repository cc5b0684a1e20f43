"""A package index on this machine that can be told to fail: for the tests of fetching and installing."""

import base64
import hashlib
import http.server
import os
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alignlab.download import Wheel


def make_wheel(folder: Path, name: str, files: dict[str, bytes], version: str = "1.0") -> Path:
    """A wheel without compression, which pip installs."""
    plain = name.replace("-", "_")
    info = f"{plain}-{version}.dist-info"
    members = dict(files)
    members[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    members[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    members[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*members, f"{info}/RECORD"]).encode()
    path = folder / f"{plain}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as bundle:
        for member, content in members.items():
            bundle.writestr(member, content)
    return path


def describe(path: Path, member: str) -> Wheel:
    """The pins of a wheel that `make_wheel` made."""
    name, version = path.name.split("-")[:2]
    content = path.read_bytes()
    inside = zipfile.ZipFile(path).read(member)
    return Wheel(
        name=name.replace("_", "-"),
        version=version,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        member=member,
        member_sha256=hashlib.sha256(inside).hexdigest(),
    )


class Index:
    """What the index holds, how it is to behave, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[str] = []  # one for each wheel request to come: "break", "stall", "damage"
        self.password = ""
        self.starts: list[int] = []  # first byte of each wheel request that was answered
        self.sent = 0  # bytes of wheels
        self.stalled = threading.Event()
        self.port = 0

    def environment(self) -> dict[str, str]:
        """The environment in which pip knows this index and no other."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        login = f"reader:{self.password}@" if self.password else ""
        settings = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"http://{login}127.0.0.1:{self.port}/simple",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_RETRIES": "0",
        }
        return {**clean, **settings, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@contextmanager
def serve(folder: Path) -> Iterator[Index]:
    """An index of the wheels in `folder`, with ranges and with metadata beside each wheel."""
    index = Index(folder)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def reply(self, content: bytes, code: int = 200, **headers: str) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            wanted = "Basic " + base64.b64encode(f"reader:{index.password}".encode()).decode()
            if index.password and self.headers.get("Authorization") != wanted:
                self.reply(b"", 401, WWW_Authenticate='Basic realm="index"')
                return
            path = self.path.strip("/").split("/")
            if path[0] == "simple":
                wheels = [w for w in index.folder.glob("*.whl") if w.name.split("-")[0].replace("_", "-") == path[1]]
                links = "".join(
                    f'<a href="/files/{w.name}" data-dist-info-metadata="true" data-core-metadata="true">{w.name}</a>'
                    for w in wheels
                )
                self.reply(
                    f"<html><body>{links}</body></html>".encode(), 200 if wheels else 404, Content_Type="text/html"
                )
            elif path[-1].endswith(".metadata"):
                with zipfile.ZipFile(index.folder / path[-1].removesuffix(".metadata")) as bundle:
                    name = next(n for n in bundle.namelist() if n.endswith("/METADATA"))
                    self.reply(bundle.read(name))
            else:
                self.wheel(index.folder / path[-1])

        def wheel(self, path: Path) -> None:
            content = path.read_bytes()
            asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            first = int(asked.group(1)) if asked else 0
            fault = index.faults.pop(0) if index.faults else ""
            index.starts.append(first)
            body = content[first:]
            if fault == "damage":
                body = bytes(byte ^ 1 for byte in body)
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(body)))
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if fault in ("break", "stall"):
                body = body[: len(body) // 2]
            self.wfile.write(body)
            self.wfile.flush()
            index.sent += len(body)
            if fault == "stall":
                index.stalled.wait(60)
            if fault:
                self.close_connection = True

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    index.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield index
    finally:
        index.stalled.set()
        server.shutdown()
        server.server_close()
