"""Files are written whole, and what killed processes left behind goes away."""

import os
import time
from pathlib import Path

from astroclip_train.files import remove_abandoned


def test_what_a_killed_writer_left_is_removed_a_day_later(tmp_path: Path) -> None:
    names = [
        ".stars-1.0123abcd.tmp.h5",
        ".stars-1.4567abcd.tmp.h5",
        ".stars-10.0123abcd.tmp.h5",
        "stars-1.h5",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"half a store")
    for name in (names[0], names[2], names[3]):
        os.utime(tmp_path / name, (time.time() - 90_000,) * 2)
    remove_abandoned(tmp_path / "stars-1.h5")
    assert {p.name for p in tmp_path.iterdir()} == set(names[1:])
