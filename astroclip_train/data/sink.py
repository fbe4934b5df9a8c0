"""The file that a store is written through: HDF5 never sees a failed write, on which it would crash when closing."""

import io
from pathlib import Path
from typing import Any

__all__ = ["Sink"]


class Sink(io.RawIOBase):
    """A binary file whose first failed write (a full disk) is kept in `error` while later ones are dropped.

    HDF5 2.0 ends the process with a segmentation fault when it closes a file of which a write failed. The owner
    calls `check` after each step instead.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 - closed by close()
        self.error: OSError | None = None

    def check(self) -> None:
        """Raises the first failure (OSError)."""
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        """Writes all bytes, or none after a failure; always claims to have written them."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self.error is None:
                done += self._file.write(view[done:])
        except OSError as error:
            self.error = error
        return len(view)

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer, with zeros behind the end of the file."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            count = self._file.readinto(view[done:])
            if not count:
                view[done:] = bytes(len(view) - done)  # what was dropped, or not yet written
                break
            done += count
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Sets the size of the file."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The position."""
        return self._file.tell()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()
