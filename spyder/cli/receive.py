"""`spyderctl receive`: the reference ingest service, for users who have none yet."""

import signal
import sys
from pathlib import Path

import click

from spyder.cli.exit_status import ExitStatus

_STOP_S = 5.0
_STOPS = (signal.SIGINT, signal.SIGTERM)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.option("--listen", metavar="ADDR:PORT", required=True, help="Where to listen; port 0 is any that is free.")
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where to keep batches."
)
@click.option("--tls-cert", type=_FILE, metavar="FILE", help="Certificate and chain (PEM): serve HTTPS.")
@click.option("--tls-key", type=_FILE, metavar="FILE", help="Its key (PEM), where it is not in the same file.")
@click.option("--client-ca", type=_FILE, metavar="FILE", help="Authorities (PEM) of which clients need a certificate.")
@click.option(
    "--max-bytes",
    type=click.IntRange(1024, 1 << 30),
    default=16 << 20,
    show_default=True,
    help="Largest batch, unpacked; a larger one is answered with 413.",
)
def receive(
    listen: str,
    directory: Path,
    tls_cert: Path | None,
    tls_key: Path | None,
    client_ca: Path | None,
    max_bytes: int,
) -> None:
    """Take batches over HTTP and keep each once, as JSON lines in a directory, until Ctrl-C.

    Checks every batch against the schema, drops one that is there already, and answers when it is on disk. Point
    output.ingest at the address that is printed. Its promises: docs/ingest.md.
    """
    from spyder.outbox.batch_log import Busy
    from spyder.outbox.receiver import Receiver, server_context

    address = _address(listen)
    if tls_cert is None and (tls_key or client_ca):
        raise click.UsageError("--tls-key and --client-ca need --tls-cert")
    try:
        context = server_context(tls_cert, tls_key, client_ca) if tls_cert else None
        receiver = Receiver(address, directory, context=context, max_bytes=max_bytes, on_event=_say)
    except (OSError, Busy) as error:
        _say(f"cannot start: {error}")
        sys.exit(ExitStatus.BAD_SETTINGS)
    # blocked before there are threads, which inherit it, and then waited for: no handler runs between two steps
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    receiver.start()
    click.echo(f"listening on {receiver.url}; {receiver.known} batches are in {directory}")
    signal.sigwait(_STOPS)
    receiver.stop()
    sys.exit(ExitStatus.DONE if receiver.join(_STOP_S) else ExitStatus.WORK_REMAINS)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16):
        raise click.BadParameter(f"{text!r} is not ADDR:PORT", param_hint="--listen")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)  # noqa: S104 - asked for by :PORT
