"""What an ingest service answers, read within bounds, and what that means for the batch. Pure; any thread.

Place: between the bytes of `spyder.outbox.destinations.ingest` and the shipper, which acts on the verdict.
"""

import json
import re
import time
from collections.abc import Iterable
from email.utils import mktime_tz, parsedate_tz
from typing import Any, Final

import httptools

from spyder.outbox.destinations.delivery import DETAIL_CHARS, EXCERPT_CHARS, Delivery, Verdict, printable

MAX_BODY_BYTES: Final = 64 << 10
MAX_WIRE_BYTES: Final = 2 * MAX_BODY_BYTES
"""Of one answer in all: interim answers, headers, framing, body, trailers."""
MAX_RETRY_AFTER_S: Final = 3600.0
_MAX_DATE_CHARS: Final = 64  # an HTTP date has 29 (RFC 9110, section 5.6.7)
_SECRET_CHARS: Final = 6  # what is shorter stands in ordinary text too

_LATER: Final = frozenset({408, 409, 425, 429})
_OURS_TO_MEND: Final = {
    401: "the credentials are not accepted: see output.headers and output.headers_file",
    403: "it is not allowed to us: see output.headers, output.headers_file and output.mtls_cert",
    404: "there is no such path: see output.ingest",
    405: "it takes no POST there: see output.ingest",
    407: "a proxy wants credentials",
    410: "nothing is there any more: see output.ingest",
    421: "it does not answer for this name: see output.ingest",
    426: "it wants another protocol: see output.ingest",
    431: "our headers are too large: see output.headers and output.headers_file",
}
_TLS_BY_400: Final = (b"SSL certificate", b"HTTP request was sent to HTTPS port")
"""nginx answers a missing or bad client certificate, and plain HTTP, with status 400 and a page with these words."""


class BadAnswer(Exception):
    """What came is no HTTP answer."""


class AnswerReader:
    """Collects one final answer. Fed by the connection; the parser (llhttp) calls the `on_` methods.

    Header names are lower case; of repeated fields the first is kept.
    """

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._room_bytes = MAX_WIRE_BYTES
        self.status = 0
        """0 while no final header is there."""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        """The whole answer is there."""
        self.reusable = False
        """Another request may follow on the connection."""
        self.fault = ""
        """Why the answer will not be complete."""

    @property
    def untouched(self) -> bool:
        """Not a byte came."""
        return self._room_bytes == MAX_WIRE_BYTES

    @property
    def done(self) -> bool:
        """Nothing more need be read."""
        return self.complete or bool(self.fault)

    def feed(self, chunk: bytes) -> None:
        """Take what came; nothing means that the peer has closed. Raises `BadAnswer` where there is no status yet."""
        if not chunk:
            self._end()
            return
        self._room_bytes -= len(chunk)
        try:
            self._parser.feed_data(chunk)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.reusable = False
            self.cut(_explained(chunk, error))
        if self._room_bytes < 0 or len(self.body) > MAX_BODY_BYTES:
            self.cut(f"it is longer than {MAX_BODY_BYTES} bytes, which no ingest service's is")

    def cut(self, fault: str) -> None:
        """Take it that no more will come. Raises `BadAnswer` where there is no status yet."""
        if self.complete:
            return
        if not self.status:
            raise BadAnswer(fault)
        self.fault = fault

    def _end(self) -> None:
        # RFC 9112, section 6.3: an answer without a length ends with the connection
        if self.status and not {"content-length", "transfer-encoding"} & self.headers.keys():
            self.complete = True
        self.cut("the connection was closed in the middle of it" if self.status else "closed without an answer")

    def on_message_begin(self) -> None:
        """Begin an answer, an interim one perhaps."""
        if self.complete:
            self.reusable = False  # nobody asked for another

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field; a trailer is left."""
        if not self.status:
            self.headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        """Take the status, and forget the fields of an interim answer (RFC 9110, section 15.2)."""
        if self.complete:
            return
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
        else:
            self.headers.clear()

    def on_body(self, chunk: bytes) -> None:
        """Take a part of the body."""
        if not self.complete:
            self.body += chunk

    def on_message_complete(self) -> None:
        """End an answer."""
        if self.status and not self.complete:
            self.complete = True
            self.reusable = bool(self._parser.should_keep_alive())


def _explained(chunk: bytes, error: Exception) -> str:
    if chunk[:2] == b"\x15\x03":  # a TLS alert record (RFC 8446, section 5.1)
        return "the other side speaks TLS: output.ingest must begin with https://"
    if isinstance(error, httptools.HttpParserUpgrade):
        return "it switches protocols, unasked"
    return f"not HTTP: {error}"


def judge(
    answer: AnswerReader, *, batch_id: str, compressed: bool, secrets: Iterable[str] = (), now_s: float | None = None
) -> Delivery:
    """Say what an answer means for the batch (the table in `docs/ingest.md`).

    Args:
        answer: with its status; perhaps not complete.
        batch_id: the batch that was sent.
        compressed: whether it was sent with gzip.
        secrets: values of our own which an answer may repeat, and a log must not.
        now_s: seconds since the epoch, for a `Retry-After` that is a date.
    """
    verdict, words = _verdict(answer, batch_id, compressed=compressed)
    when = time.time() if now_s is None else now_s
    return Delivery(
        verdict=verdict,
        detail=printable(_masked(f"HTTP {answer.status}: {words}", secrets), DETAIL_CHARS),
        http_status=answer.status,
        retry_after_s=retry_after_s(answer.headers.get("retry-after", ""), when),
        excerpt=printable(_masked(answer.body[:MAX_BODY_BYTES].decode("utf-8", "replace"), secrets), EXCERPT_CHARS),
    )


def _verdict(answer: AnswerReader, batch_id: str, *, compressed: bool) -> tuple[Verdict, str]:
    status = answer.status
    if status < 300:
        doubt = _doubt(answer, batch_id)
        return (Verdict.TRY_LATER, f"but {doubt}") if doubt else (Verdict.DELIVERED, "it has the batch")
    if status < 400:
        where = answer.headers.get("location", "")
        return Verdict.HOLD, f"redirects are not followed; output.ingest must name the place itself ({where})"
    if status in _OURS_TO_MEND:
        return Verdict.HOLD, _OURS_TO_MEND[status]
    if status in _LATER or status >= 500:
        return Verdict.TRY_LATER, "it cannot take the batch now"
    if status == 413:
        return Verdict.TOO_LARGE, "the batch is too large for it"
    if status == 400 and any(words in answer.body for words in _TLS_BY_400):
        return Verdict.HOLD, "it wants TLS, or another client certificate: see output.ingest and output.mtls_cert"
    if status == 415 and compressed and "gzip" not in answer.headers.get("accept-encoding", "gzip").lower():
        return Verdict.HOLD, "it does not take gzip (RFC 9110, section 15.5.16): see output.compress"
    return Verdict.REFUSED, "it refuses the batch"


def _doubt(answer: AnswerReader, batch_id: str) -> str:
    """Return why a 2xx is not our receiver's word; "" where it is."""
    if not answer.complete:
        return f"the answer is not whole: {answer.fault}"
    media_type = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    begin = answer.body[:512].removeprefix(b"\xef\xbb\xbf").lstrip()[:9].lower()
    if media_type in ("text/html", "application/xhtml+xml") or begin.startswith((b"<!doctype", b"<html")):
        return "the answer is a web page: a portal or a proxy answered, no ingest service"
    named = _named_batch(answer.body)
    return f"the answer is about another batch: {named}" if named not in (None, batch_id) else ""


def _named_batch(body: bytes) -> Any:
    """Return the batch_id that a JSON answer names; None where it is no such answer."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found.get("batch_id") if isinstance(found, dict) else None


def _masked(text: str, secrets: Iterable[str]) -> str:
    for part in sorted({part for secret in secrets for part in secret.split()}, key=len, reverse=True):
        if len(part) >= _SECRET_CHARS:
            text = text.replace(part, "***")
    return text


def retry_after_s(value: str, now_s: float) -> float | None:
    """Return how long to wait by a `Retry-After` field (RFC 9110, section 10.2.3), 0 to 3600 s; None for nonsense."""
    value = value.strip()
    if re.fullmatch(r"\d+", value, re.ASCII):
        return min(float(value), MAX_RETRY_AFTER_S) if len(value) < 10 else MAX_RETRY_AFTER_S
    if len(value) > _MAX_DATE_CHARS:
        return None
    try:
        parts = parsedate_tz(value)
        moment = mktime_tz(parts) if parts else None
    except (ValueError, TypeError, IndexError, OverflowError):  # each of them, for one text or another
        return None
    return None if moment is None else min(max(0.0, moment - now_s), MAX_RETRY_AFTER_S)
