"""`file:DIR`: batches appended to JSON lines, each synced before it counts as delivered.

Place: the last step of the path; called by the shipper's threads, and by `spyderctl replay-spool` at the same time.
"""

from collections.abc import Callable
from pathlib import Path

from spyder.outbox.batch_log import NO_ROOM, BatchLog, Busy, as_line
from spyder.outbox.destinations.delivery import ConfigurationError, Delivery, Verdict, delivery
from spyder.outbox.payload import BadPayload

REMEMBERED_FILES = 2
"""A batch comes twice when we die between its line and its end in the spool: it is in the newest file, or by a change
of files just then in the one before."""


class FileDestination:
    """Appends batches to `batches-TIME.jsonl` in a directory. Thread-safe."""

    def __init__(self, directory: Path, *, max_file_bytes: int, open_log: Callable[..., BatchLog] = BatchLog) -> None:
        """Make the directory and mend what a crash left. Raises `ConfigurationError` where it can never be used."""
        self._path = directory
        self._log = open_log(directory, max_file_bytes=max_file_bytes, remembered_files=REMEMBERED_FILES)
        try:
            self._log.open()
        except Busy:
            pass
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise ConfigurationError(f"output.ingest: file:{directory}: {error}") from None

    def send(self, batch_id: str, payload: bytes) -> Delivery:
        """See `Destination.send`."""
        try:
            new = self._log.append(batch_id, as_line(batch_id, payload))
        except BadPayload as error:
            return delivery(Verdict.REFUSED, str(error))
        except Busy as busy:
            return delivery(Verdict.TRY_LATER, f"{self._path}: {busy}")
        except OSError as error:
            return delivery(Verdict.TRY_LATER if error.errno in NO_ROOM else Verdict.HOLD, f"{self._path}: {error}")
        return delivery(Verdict.DELIVERED, f"in {self._path}" if new else f"was in {self._path} already")

    def close(self) -> None:
        """See `Destination.close`. Nothing is held between two sendings."""
