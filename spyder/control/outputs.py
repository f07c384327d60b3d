"""Where the settings say that batches go: one home for the daemon and for `spyderctl replay-spool`.

Called once, before any thread that sends is started.
"""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from spyder.outbox.destinations import Destination, Timeouts, destination_of
from spyder.settings import Output

_PORTS = {"http": 80, "https": 443}


def ingest_of(output: Output) -> str:
    """Return `output.ingest`, or where it is empty the directory `batches` beside the spool."""
    return output.ingest or f"file:{Path(output.spool_dir).absolute().parent / 'batches'}"


def build_destination(
    output: Output, *, to: str | None = None, on_warning: Callable[[str], None] = lambda _text: None
) -> Destination:
    """Return the destination of the settings, or `to`, which is written as `output.ingest` is.

    Headers and client certificate are for the place that the settings name: no other is shown them. Relative paths
    are relative to the working directory.

    Raises:
        ConfigurationError: it cannot be made of these settings.
    """
    ingest = to or ingest_of(output)
    known = to is None or _origin(to) == _origin(output.ingest)
    if not known and ingest.startswith(("https:", "http:")) and (output.headers or output.headers_file):
        on_warning("output.headers and output.headers_file are for output.ingest, and are not sent elsewhere")
    return destination_of(
        ingest,
        base=Path.cwd(),
        headers=output.headers if known else {},
        headers_file=_path(output.headers_file) if known else None,
        mtls_cert=_path(output.mtls_cert) if known else None,
        mtls_key=_path(output.mtls_key) if known else None,
        mtls_ca=_path(output.mtls_ca) if known or ingest.startswith("https:") else None,
        compress=output.compress,
        timeouts=Timeouts(connect_s=output.connect_timeout, wait_s=output.timeout),
        file_max_bytes=output.file_max_bytes,
        form=output.format,
        on_warning=on_warning,
    )


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    """Return scheme, host and port (RFC 6454); None for what has none, or is no URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None
