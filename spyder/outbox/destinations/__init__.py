"""Where batches go: an ingest service, files, or standard output, behind one small interface.

Place: after the spool. The shipper holds a batch, gives it to a destination, and acts on the verdict.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from spyder import __version__
from spyder.outbox.destinations.delivery import ConfigurationError, Delivery, Destination, Verdict
from spyder.outbox.destinations.files import FileDestination
from spyder.outbox.destinations.headers import HeadersFile
from spyder.outbox.destinations.ingest import Endpoint, IngestDestination, Timeouts, tls_context
from spyder.outbox.destinations.stdout import StdoutDestination

__all__ = ["ConfigurationError", "Delivery", "Destination", "Timeouts", "Verdict", "destination_of"]

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


def destination_of(
    ingest: str,
    *,
    base: Path,
    user_agent: str = f"spyder/{__version__}",
    headers: Mapping[str, str] = _NO_HEADERS,
    headers_file: Path | None = None,
    mtls_cert: Path | None = None,
    mtls_key: Path | None = None,
    mtls_ca: Path | None = None,
    compress: bool = False,
    timeouts: Timeouts | None = None,
    file_max_bytes: int = 100 << 20,
    form: str = "json",
    stdout_fd: int = 1,
    on_warning: Callable[[str], None] = lambda _text: None,
) -> Destination:
    """Return the destination that `output.ingest` names: `https://…`, `http://…`, `file:DIR` or `stdout:`.

    No connection is made. What the kind has no use for is not looked at, but for client certificates and authorities
    that an `http://` URL would leave unused.

    Args:
        ingest: as in the settings; not empty.
        base: what a relative DIR is relative to.
        user_agent: of every request, unless the headers have another.
        headers: further fields of every request.
        headers_file: a file of more, which go before; read anew when it changes.
        mtls_cert: our certificate and what is sent with it (PEM).
        mtls_key: its key (PEM, not encrypted).
        mtls_ca: the authorities to check the service against (PEM); None for the system's.
        compress: whether requests are sent with gzip.
        timeouts: of every request; None for the defaults.
        file_max_bytes: where `file:` goes on to its next file.
        form: what `stdout:` prints: json, jsonl or csv.
        stdout_fd: where it prints it.
        on_warning: told, in one line for people, what does not hinder but should be known. Called by any thread.

    Raises:
        ConfigurationError: it cannot be made of these settings.
    """
    if ingest == "stdout:":
        return StdoutDestination(fd=stdout_fd, form=form)
    if ingest.startswith("file:"):
        return FileDestination(base / _directory(ingest), max_file_bytes=file_max_bytes)
    if not ingest.startswith(("https://", "http://")):
        raise ConfigurationError("output.ingest: neither https://…, http://…, file:DIR nor stdout:")
    endpoint = Endpoint.parse(ingest)
    if not endpoint.tls:
        _refuse_unused(mtls_cert=mtls_cert, mtls_key=mtls_key, mtls_ca=mtls_ca)
        if not endpoint.is_loopback:
            on_warning(f"output.ingest: {endpoint.authority} is sent batches and headers in the clear, by http://")
    return IngestDestination(
        endpoint,
        user_agent=user_agent,
        headers=headers,
        headers_file=HeadersFile(headers_file, on_warning) if headers_file else None,
        context=tls_context(mtls_cert, mtls_key, mtls_ca) if endpoint.tls else None,
        compress=compress,
        timeouts=timeouts or Timeouts(),
    )


def _directory(ingest: str) -> str:
    directory = ingest.removeprefix("file:")
    if directory.startswith("//") and not directory.startswith("///"):
        raise ConfigurationError("output.ingest: file: names a directory of this machine: file:DIR or file:///DIR")
    if not directory or "\0" in directory:
        raise ConfigurationError("output.ingest: file: needs the name of a directory")
    return "/" + directory.lstrip("/") if directory.startswith("/") else directory


def _refuse_unused(**paths: Path | None) -> None:
    for name, path in paths.items():
        if path is not None:
            raise ConfigurationError(f"output.{name} is for https://, and output.ingest is http://")
