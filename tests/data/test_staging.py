"""Copies of stores on the node's disk: checked, made once, seen whole or not at all."""

import threading
import time
from pathlib import Path

import pytest

from astroclip_train.data import staging
from astroclip_train.data.staging import stage
from astroclip_train.errors import DataError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shared" / "pairs.h5"
    path.parent.mkdir()
    path.write_bytes(bytes(range(256)) * 4096)
    return path


def test_a_copy_is_made_once_and_again_when_the_original_changes(file: Path, tmp_path: Path) -> None:
    (copy,) = stage([file], tmp_path / "local")
    assert copy.read_bytes() == file.read_bytes()
    assert copy.suffix == ".h5"
    before = copy.stat().st_mtime_ns
    assert stage([file], tmp_path / "local") == [copy]
    assert copy.stat().st_mtime_ns == before
    file.write_bytes(b"other")
    (newer,) = stage([file], tmp_path / "local")
    assert newer != copy
    assert newer.read_bytes() == b"other"


def test_variables_are_those_of_the_node(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "node"))
    (copy,) = stage([file], "$TMPDIR")
    assert copy.is_relative_to(tmp_path / "node")
    monkeypatch.delenv("TMPDIR")
    with pytest.raises(DataError, match=r"data\.stage_to=\$TMPDIR names a variable that is not set"):
        stage([file], "$TMPDIR")


def test_other_ranks_wait_for_the_whole_file(file: Path, tmp_path: Path) -> None:
    found: list[Path] = []
    waiting = threading.Thread(target=lambda: found.extend(stage([file], tmp_path / "local", local_rank=1)))
    waiting.start()
    time.sleep(0.2)
    assert not found
    stage([file], tmp_path / "local", local_rank=0)
    waiting.join(timeout=10)
    assert found[0].read_bytes() == file.read_bytes()


def test_a_dead_copier_is_told(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "PATIENCE", 0.1)
    monkeypatch.setattr(staging, "POLL", 0.05)
    with pytest.raises(DataError, match="local rank 0 of this node did not copy"):
        stage([file], tmp_path / "local", local_rank=1)


def test_a_file_that_grows_while_it_is_copied_is_refused(file: Path, tmp_path: Path) -> None:
    size = file.stat().st_size
    target = tmp_path / "copy"
    with pytest.raises(DataError, match=r"the copy of .* differs"):
        staging._copy(file, target, size - 1)


def test_too_little_room_is_one_sentence(file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="GB free: give another folder"):
        staging._make_room(tmp_path / "local", file, 10**18)
