"""The stub resolver: asks for several record types of a name at once and tells the answers apart.

Deciding is here and has no sockets: which server is asked next, when a question is over, what a reply means. The
sockets are `spyder.net.dns.exchange`, the bytes `spyder.net.dns.wire`. Thread-safe; each call blocks its own worker.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from spyder.model.outcomes import Status
from spyder.net.dns import wire
from spyder.net.dns.exchange import NameServer
from spyder.net.dns.wire import Answer, Question

_CHOKED_ON_EDNS: Final = frozenset({"rcode 1", "rcode 4", "rcode 16"})
"""FORMERR and NOTIMP (RFC 6891, section 7), and BADVERS of the confused."""


class Exchanger(Protocol):
    """What moves the messages; see `spyder.net.dns.exchange.Exchange`."""

    servers: tuple[NameServer, ...]

    def ask(
        self, server: NameServer, questions: Sequence[bytes], *, timeout_s: float, edns: bool = True
    ) -> list[bytes | OSError | None]:
        """Send questions at once, and wait once for the replies."""
        ...

    def ask_tcp(
        self, server: NameServer, question: bytes, *, remaining_s: Callable[[], float], edns: bool = True
    ) -> bytes:
        """Ask one question over TCP."""
        ...


@dataclass(slots=True)
class _Open:
    """A question without an answer yet."""

    index: int
    question: Question
    name: bytes
    last: Answer


class Resolver:
    """Resolves names through the servers of an exchange.

    A question goes to one server; what it does not answer in `try_timeout_s`, or answers with a failure, goes to
    the next, at most `1 + retries` times. A truncated reply is asked again over TCP.
    """

    def __init__(
        self,
        exchange: Exchanger,
        *,
        try_timeout_s: float,
        retries: int,
        case_randomization: bool = True,
        random_bits: Callable[[int], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exchange = exchange
        self._try_timeout_s = try_timeout_s
        self._tries = 1 + retries
        self._mix_case = case_randomization
        self._random_bits = random_bits
        self._clock = clock

    def resolve(self, questions: Sequence[Question], *, deadline: float) -> list[Answer]:
        """Ask all questions at once and return their answers in the same order. Never raises for what DNS says.

        `deadline` is a moment of the monotonic clock; what has no answer by then is a `timeout`.
        """
        answers: list[Answer] = [Answer(question, Status.TIMEOUT) for question in questions]
        open_questions = [
            _Open(index, question, wire.encode_name(question.name), answers[index])
            for index, question in enumerate(questions)
        ]
        servers = self._exchange.servers
        edns = True
        for attempt in range(self._tries):
            remaining_s = deadline - self._clock()
            if not open_questions or remaining_s <= 0:
                break
            server = servers[attempt % len(servers)]
            # a server that folds case never repeats a mixed question: the last try asks in lower case
            mixed = self._mix_case and (attempt == 0 or attempt + 1 < self._tries)
            asked = [self._question_wire(each, mixed) for each in open_questions]
            replies = self._exchange.ask(server, asked, timeout_s=min(self._try_timeout_s, remaining_s), edns=edns)
            left = []
            for each, question_wire, reply in zip(open_questions, asked, replies, strict=True):
                answer = self._judge(each.question, question_wire, reply, server, deadline, edns=edns)
                if _is_final(answer, last_server=attempt + 1 >= len(servers)):
                    answers[each.index] = answer
                else:
                    if answer.status is not Status.TIMEOUT or each.last.status is Status.TIMEOUT:
                        each.last = answer  # what a server said tells more than silence after it
                    left.append(each)
            edns = edns and not any(each.last.detail in _CHOKED_ON_EDNS for each in left)
            open_questions = left
        for each in open_questions:
            answers[each.index] = each.last
        return answers

    def _question_wire(self, each: _Open, mixed: bool) -> bytes:
        name = wire.mix_case(each.name, self._random_bits(8 * len(each.name))) if mixed else each.name
        return wire.encode_question(name, each.question.rdtype)

    def _judge(
        self,
        question: Question,
        question_wire: bytes,
        reply: bytes | OSError | None,
        server: NameServer,
        deadline: float,
        *,
        edns: bool,
    ) -> Answer:
        if reply is None:
            return Answer(question, Status.TIMEOUT, server=str(server))
        if isinstance(reply, OSError):
            return Answer(question, Status.TIMEOUT, server=str(server), detail=reply.strerror or str(reply))
        try:
            if wire.is_truncated(reply):
                end = min(deadline, self._clock() + self._try_timeout_s)
                reply = self._exchange.ask_tcp(
                    server, question_wire, remaining_s=lambda: end - self._clock(), edns=edns
                )
            return wire.read_answer(reply, question, question_wire, server=str(server))
        except wire.BadMessage as error:
            return Answer(question, Status.SERVFAIL, server=str(server), detail=str(error))
        except OSError as error:
            return Answer(question, Status.TIMEOUT, server=str(server), detail=f"over TCP: {error}")


def _is_final(answer: Answer, *, last_server: bool) -> bool:
    """Tell whether no other server need be asked: only failures are asked again.

    A server that says SERVFAIL or REFUSED has answered; with every server asked once, the answer stands. Silence
    and nonsense are worth all tries.
    """
    if answer.status in (Status.SERVFAIL, Status.REFUSED):
        return last_server and answer.detail in ("rcode 2", "rcode 5")
    return answer.status is not Status.TIMEOUT


def system_name_servers() -> tuple[NameServer, ...]:
    """Return the servers of /etc/resolv.conf, or the one on this machine where it names none."""
    import dns.exception
    import dns.resolver  # 0.25 s of CPU, and only needed where the settings name no server

    try:
        configured = dns.resolver.Resolver().nameservers
    except dns.exception.DNSException:
        configured = []
    addresses = [each if isinstance(each, str) else each.answer_nameserver() for each in configured]
    return tuple(NameServer(address) for address in addresses) or (NameServer("127.0.0.1"),)
