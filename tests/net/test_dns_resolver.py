"""Deciding what is asked, of whom, and when a question is over: by a fake exchanger, then against a real server."""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import dns.resolver
import pytest

from spyder.model.outcomes import Status
from spyder.net.dns import resolver, wire
from spyder.net.dns.exchange import Exchange, NameServer
from spyder.net.dns.resolver import Resolver
from spyder.net.dns.wire import Answer, Question, RdataType
from spyder.runtime.randomness import Randomness
from tests.net.name_server import QR, TC, Query, Script, ScriptedNameServer, TcpScript, address, answer_in_turn, record
from tests.net.name_server import silence as no_answer

HOST = Question("www.example.com", RdataType.A)
PATIENCE_S = 5.0
"""Longer than anything here takes: a test that meets it has failed."""
FIRST, SECOND, THIRD = (NameServer(f"192.0.2.{n}") for n in (1, 2, 3))

# --- without sockets --------------------------------------------------------------------------------------------------

Reply = bytes | OSError | None
"""What an exchanger returns for one question."""


class Clock:
    """Seconds that pass when the exchanger says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@dataclass
class Asked:
    """One call of an exchanger."""

    server: NameServer
    queries: list[Query]
    timeout_s: float
    edns: bool
    over_tcp: bool = False


@dataclass
class FakeExchange:
    """Answers by a script, keeps what it was asked, and lets time pass as a wait would."""

    script: Callable[[Asked, Query], Reply]
    servers: tuple[NameServer, ...] = (FIRST,)
    clock: Clock = field(default_factory=Clock)
    asked: list[Asked] = field(default_factory=list)
    tcp: Callable[[Query], bytes] | None = None

    def ask(
        self, server: NameServer, questions: Sequence[bytes], *, timeout_s: float, edns: bool = True
    ) -> list[Reply]:
        """Answer over UDP; silence takes all the time there is."""
        queries = [Query(wire.encode_query(7, question, edns=edns), ("192.0.2.99", 53)) for question in questions]
        self.asked.append(Asked(server, queries, timeout_s, edns))
        replies = [self.script(self.asked[-1], query) for query in queries]
        if None in replies:
            self.clock.now_s += timeout_s
        return replies

    def ask_tcp(
        self, server: NameServer, question: bytes, *, remaining_s: Callable[[], float], edns: bool = True
    ) -> bytes:
        """Answer over TCP; without a script for it, use up the time."""
        query = Query(wire.encode_query(7, question, edns=edns), ("192.0.2.99", 53), over_tcp=True)
        self.asked.append(Asked(server, [query], remaining_s(), edns, over_tcp=True))
        if self.tcp is None:
            self.clock.now_s += remaining_s()
            raise TimeoutError("no time left")
        return self.tcp(query)


def resolve(
    exchange: FakeExchange,
    *questions: Question,
    retries: int = 2,
    try_timeout_s: float = 2.0,
    budget_s: float = 6.0,
    case_randomization: bool = True,
) -> list[Answer]:
    """Resolve by a fake exchanger."""
    resolving = Resolver(
        exchange,
        try_timeout_s=try_timeout_s,
        retries=retries,
        case_randomization=case_randomization,
        random_bits=Randomness().bits,
        clock=exchange.clock,
    )
    return resolving.resolve(questions or [HOST], deadline=exchange.clock() + budget_s)


def good(_asked: Asked, query: Query) -> bytes:
    """Answer with one address."""
    return query.reply(address("192.0.2.80"))


def fail(rcode: int) -> Callable[[Asked, Query], bytes]:
    """Answer with a response code."""
    return lambda _asked, query: query.reply(rcode=rcode)


def silence(_asked: Asked, _query: Query) -> None:
    """Never answer."""


def by_server(scripts: dict[NameServer, Callable[[Asked, Query], Reply]]) -> Callable[[Asked, Query], Reply]:
    """Answer as the server that is asked."""
    return lambda asked, query: scripts[asked.server](asked, query)


def servers_of(exchange: FakeExchange) -> list[NameServer]:
    """The servers in the order in which they were asked."""
    return [asked.server for asked in exchange.asked]


def test_all_questions_go_out_together() -> None:
    """One call of the exchanger for all, answers in the order of the questions."""
    questions = [Question("a.test", rdtype) for rdtype in (RdataType.MX, RdataType.A, RdataType.TXT)]
    exchange = FakeExchange(
        lambda _asked, query: query.reply(address("192.0.2.80")) if query.rdtype == 1 else query.reply()
    )
    answers = resolve(exchange, *questions)
    assert [answer.question for answer in answers] == questions
    assert [answer.status for answer in answers] == [Status.NODATA, Status.OK, Status.NODATA]
    assert len(exchange.asked) == 1


def test_no_question_asks_nobody() -> None:
    """An empty list has an empty answer."""
    exchange = FakeExchange(good)
    resolving = Resolver(exchange, try_timeout_s=1, retries=2, random_bits=Randomness().bits, clock=exchange.clock)
    assert resolving.resolve([], deadline=exchange.clock() + 1) == []
    assert exchange.asked == []


def test_only_what_is_open_is_asked_again() -> None:
    """What has an answer is not part of the next try."""
    exchange = FakeExchange(
        lambda asked, query: None if query.rdtype == 28 and len(exchange.asked) == 1 else good(asked, query)
    )
    resolve(exchange, HOST, Question(HOST.name, RdataType.AAAA))
    assert [[query.rdtype for query in asked.queries] for asked in exchange.asked] == [[1, 28], [28]]


@pytest.mark.parametrize("rcode", [2, 5])
def test_a_failure_goes_to_the_next_server(rcode: int) -> None:
    """SERVFAIL and REFUSED of one server are not the last word while there is another."""
    exchange = FakeExchange(by_server({FIRST: fail(rcode), SECOND: good}), servers=(FIRST, SECOND))
    (answer,) = resolve(exchange)
    assert (answer.status, answer.server) == (Status.OK, "192.0.2.2:53")
    assert servers_of(exchange) == [FIRST, SECOND]


@pytest.mark.parametrize(("rcode", "status"), [(2, Status.SERVFAIL), (5, Status.REFUSED)])
def test_a_failure_of_every_server_stands(rcode: int, status: Status) -> None:
    """Each server is asked once, and none again."""
    exchange = FakeExchange(fail(rcode), servers=(FIRST, SECOND))
    (answer,) = resolve(exchange, retries=5)
    assert (answer.status, answer.detail) == (status, f"rcode {rcode}")
    assert servers_of(exchange) == [FIRST, SECOND]


def test_there_are_no_more_tries_than_allowed() -> None:
    """One and the retries, even where there are more servers."""
    exchange = FakeExchange(fail(2), servers=(FIRST, SECOND, THIRD))
    assert resolve(exchange, retries=1)[0].status is Status.SERVFAIL
    assert servers_of(exchange) == [FIRST, SECOND]


def test_silence_is_worth_every_try() -> None:
    """A question may have been lost: the servers are asked in turn until the tries are over."""
    exchange = FakeExchange(silence, servers=(FIRST, SECOND))
    (answer,) = resolve(exchange, retries=3, budget_s=60)
    assert answer.status is Status.TIMEOUT
    assert servers_of(exchange) == [FIRST, SECOND, FIRST, SECOND]


def test_the_words_of_a_server_outlive_silence() -> None:
    """A failure that one server told is what is reported when the others say nothing."""
    exchange = FakeExchange(by_server({FIRST: fail(2), SECOND: silence}), servers=(FIRST, SECOND))
    (answer,) = resolve(exchange, retries=1)
    assert (answer.status, answer.server) == (Status.SERVFAIL, "192.0.2.1:53")


def cut_short(_asked: Asked, query: Query) -> bytes:
    """Answer with all but the last octet."""
    return query.reply(address("192.0.2.80"))[:-1]


def test_nonsense_is_asked_again() -> None:
    """A reply that cannot be read is as good as none; if nothing better comes it is told."""
    exchange = FakeExchange(by_server({FIRST: cut_short, SECOND: good}), servers=(FIRST, SECOND))
    assert resolve(exchange)[0].status is Status.OK
    exchange = FakeExchange(cut_short)
    (answer,) = resolve(exchange)
    assert (answer.status, len(exchange.asked)) == (Status.SERVFAIL, 3)
    assert answer.detail == "record data runs past the end"


def test_a_kernel_error_is_a_timeout_with_its_words() -> None:
    """Nobody listens over there: the other server is asked."""
    refused = ConnectionRefusedError(111, "Connection refused")
    exchange = FakeExchange(by_server({FIRST: lambda *_: refused, SECOND: good}), servers=(FIRST, SECOND))
    assert resolve(exchange)[0].status is Status.OK
    (answer,) = resolve(FakeExchange(lambda *_: refused))
    assert (answer.status, answer.detail) == (Status.TIMEOUT, "Connection refused")


@pytest.mark.parametrize("status", ["nxdomain", "nodata", "alias_loop"])
def test_an_honest_no_is_final(status: str) -> None:
    """What a server knows for certain is not asked of another."""
    answers = {
        "nxdomain": lambda query: query.reply(rcode=3),
        "nodata": lambda query: query.reply(),
        "alias_loop": lambda query: query.reply(record(5, b"\xc0\x0c")),
    }
    exchange = FakeExchange(lambda _asked, query: answers[status](query), servers=(FIRST, SECOND))
    assert resolve(exchange)[0].status == status
    assert len(exchange.asked) == 1


@pytest.mark.parametrize("rcode", [1, 4])
def test_a_server_that_chokes_on_edns_is_asked_without(rcode: int) -> None:
    """FORMERR and NOTIMP to EDNS: plain DNS from then on (RFC 6891, section 7)."""
    exchange = FakeExchange(lambda asked, query: fail(rcode)(asked, query) if asked.edns else good(asked, query))
    assert resolve(exchange)[0].status is Status.OK
    assert [asked.edns for asked in exchange.asked] == [True, False]


def test_badvers_is_choking_too() -> None:
    """The extended code of an old server that means the same."""
    bad_version = b"\0\0\x29\x04\xd0\x01\0\0\0\0\0"

    def answer(asked: Asked, query: Query) -> bytes:
        if not asked.edns:
            return good(asked, query)
        empty = query.reply()
        return empty[:10] + b"\0\1" + empty[12:] + bad_version

    exchange = FakeExchange(answer)
    assert resolve(exchange)[0].status is Status.OK
    assert [asked.edns for asked in exchange.asked] == [True, False]


def test_without_edns_tcp_is_plain_too() -> None:
    """A server that chokes on EDNS and truncates is not given EDNS over TCP."""
    exchange = FakeExchange(
        lambda asked, query: query.reply(flags=QR | TC) if not asked.edns else query.reply(rcode=1),
        tcp=lambda query: query.reply(address("192.0.2.80")) if not query.edns else query.reply(rcode=1),
    )
    assert resolve(exchange)[0].records == ("192.0.2.80",)


def test_formerr_to_plain_dns_is_a_failure() -> None:
    """There is nothing left to leave out."""
    exchange = FakeExchange(fail(1))
    (answer,) = resolve(exchange)
    assert (answer.status, answer.detail) == (Status.SERVFAIL, "rcode 1")
    assert [asked.edns for asked in exchange.asked] == [True, False, False]


def test_letters_are_mixed_until_the_last_try() -> None:
    """A server that folds case never repeats a mixed question: the last try is in lower case."""
    exchange = FakeExchange(silence)
    resolve(exchange)
    names = [asked.queries[0].name for asked in exchange.asked]
    assert names[0] != HOST.name
    assert names[1] != names[0]
    assert names[2] == HOST.name
    assert {name.lower() for name in names} == {HOST.name}


def test_letters_are_not_mixed_where_that_is_switched_off() -> None:
    """`dns.case_randomization: false`."""
    exchange = FakeExchange(good)
    resolve(exchange, case_randomization=False)
    assert exchange.asked[0].queries[0].name == HOST.name


def test_each_question_is_mixed_on_its_own() -> None:
    """Two questions for one name do not help to guess each other."""
    exchange = FakeExchange(good)
    resolve(exchange, *[Question("a-very-long-name-indeed.example.com", RdataType.A)] * 2)
    first, second = exchange.asked[0].queries
    assert first.name != second.name


def test_a_truncated_reply_is_asked_again_over_tcp() -> None:
    """The TC bit: the same question of the same server, and nothing of the truncated reply is used."""
    exchange = FakeExchange(
        lambda _asked, query: query.reply(address("192.0.2.1"), flags=QR | TC),
        tcp=lambda query: query.reply(address("192.0.2.2"), address("192.0.2.3")),
    )
    (answer,) = resolve(exchange)
    assert answer.records == ("192.0.2.2", "192.0.2.3")
    udp, tcp = exchange.asked
    assert (tcp.over_tcp, tcp.queries[0].question) == (True, udp.queries[0].question)


def test_tcp_that_fails_goes_to_the_next_server() -> None:
    """A connection that stalls takes one try's time, not the whole budget."""
    exchange = FakeExchange(
        by_server({FIRST: lambda _asked, query: query.reply(flags=QR | TC), SECOND: good}), servers=(FIRST, SECOND)
    )
    (answer,) = resolve(exchange, try_timeout_s=2.0, budget_s=6.0)
    assert (answer.status, answer.server) == (Status.OK, "192.0.2.2:53")
    assert exchange.asked[1].timeout_s == 2.0


def test_tcp_that_lies_is_a_failure() -> None:
    """What answers another question is no answer."""

    def lie(_query: Query) -> bytes:
        raise wire.BadMessage("the reply over TCP answers another question")

    exchange = FakeExchange(lambda _asked, query: query.reply(flags=QR | TC), tcp=lie)
    (answer,) = resolve(exchange)
    assert (answer.status, len(exchange.asked)) == (Status.SERVFAIL, 6)


def test_the_deadline_bounds_every_try() -> None:
    """No wait is longer than a try, none goes beyond the deadline, and none begins after it."""
    exchange = FakeExchange(silence)
    (answer,) = resolve(exchange, retries=9, try_timeout_s=2.0, budget_s=5.0)
    assert answer.status is Status.TIMEOUT
    assert [asked.timeout_s for asked in exchange.asked] == [2.0, 2.0, 1.0]


def test_a_deadline_that_is_over_asks_nobody() -> None:
    """No packet, and a timeout for every question."""
    exchange = FakeExchange(good)
    (answer,) = resolve(exchange, budget_s=0.0)
    assert (answer.status, exchange.asked) == (Status.TIMEOUT, [])


def test_tcp_counts_against_the_deadline() -> None:
    """Five truncated answers whose connections stall end at the deadline, not after five of it."""
    exchange = FakeExchange(lambda _asked, query: query.reply(flags=QR | TC))
    questions = [Question(f"n{n}.test", RdataType.A) for n in range(5)]
    started = exchange.clock()
    answers = resolve(exchange, *questions, try_timeout_s=2.0, budget_s=5.0)
    assert {answer.status for answer in answers} == {Status.TIMEOUT}
    assert exchange.clock() - started <= 5.0


def test_the_system_s_name_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of resolv.conf; the one on this machine where it cannot be read."""
    assert resolver.system_name_servers()

    def unreadable(*_args: object) -> None:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.resolver, "Resolver", unreadable)
    assert resolver.system_name_servers() == (NameServer("127.0.0.1"),)


# --- against a real server --------------------------------------------------------------------------------------------


@contextmanager
def resolving(
    *scripts: Script, tcp: TcpScript | None = None, try_timeout_s: float = 0.2, retries: int = 2
) -> Iterator[tuple[Resolver, list[ScriptedNameServer]]]:
    """A resolver over as many real servers as there are scripts."""
    with ExitStack() as stack:
        servers = [stack.enter_context(ScriptedNameServer(script, tcp=tcp)) for script in scripts]
        bits = Randomness().bits
        exchange = Exchange([server.at for server in servers], bits)
        exchange.start()
        try:
            yield Resolver(exchange, try_timeout_s=try_timeout_s, retries=retries, random_bits=bits), servers
        finally:
            exchange.stop()
            assert exchange.join(PATIENCE_S)


def answer_of(script: Script, *, tcp: TcpScript | None = None, retries: int = 2) -> Answer:
    """What a resolver makes of one server, in bounded time."""
    with resolving(script, tcp=tcp, retries=retries) as (resolver_, _):
        started = time.monotonic()
        (answer,) = resolver_.resolve([HOST], deadline=started + 1.0)
        assert time.monotonic() - started < 1.5
        return answer


def reply_in_lower_case(query: Query) -> bytes:
    """Answer as a server that folds case."""
    return query.reply(address("192.0.2.80"), question=query.question.lower())


def test_a_server_that_folds_case_is_understood_in_the_end() -> None:
    """Its replies to mixed questions are not ours; the last question is one that it can repeat."""
    assert answer_of(reply_in_lower_case).records == ("192.0.2.80",)


def test_a_real_server_that_chokes_on_edns() -> None:
    """FORMERR with a header alone, as old servers send it."""
    answer = answer_of(lambda query: query.error(1) if query.edns else query.reply(address("192.0.2.80")))
    assert answer.records == ("192.0.2.80",)


def test_a_real_truncated_answer() -> None:
    """UDP says TC, TCP has four thousand addresses."""
    records = [address(f"10.1.{n >> 8}.{n & 255}") for n in range(4000)]
    answer = answer_of(lambda query: query.reply(*records) if query.over_tcp else query.reply(flags=QR | TC))
    assert len(answer.records) == 4000


def test_a_real_truncated_answer_with_no_tcp_behind() -> None:
    """TCP that closes is a timeout that says so."""
    answer = answer_of(lambda query: query.reply(flags=QR | TC), tcp=lambda _query, stream: stream.shutdown(2))
    assert answer.status is Status.TIMEOUT
    assert answer.detail is not None
    assert answer.detail.startswith("over TCP: ")


def test_a_real_server_that_is_silent_at_first() -> None:
    """A question that was lost is asked again."""
    script = answer_in_turn(no_answer, lambda query: query.reply(address("192.0.2.80")))
    assert answer_of(script).records == ("192.0.2.80",)


def test_a_real_failure_then_another_server() -> None:
    """SERVFAIL here, an answer there."""
    with resolving(lambda query: query.reply(rcode=2), lambda query: query.reply(address("192.0.2.80"))) as (
        resolver_,
        servers,
    ):
        (answer,) = resolver_.resolve([HOST], deadline=time.monotonic() + PATIENCE_S)
        assert answer.records == ("192.0.2.80",)
        assert answer.server == str(servers[1].at)


def test_a_real_closed_port_then_another_server() -> None:
    """A server that is down costs no timeout."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = NameServer("127.0.0.1", probe.getsockname()[1])
    with ScriptedNameServer(lambda query: query.reply(address("192.0.2.80"))) as server:
        exchange = Exchange([nobody, server.at], Randomness().bits)
        exchange.start()
        resolver_ = Resolver(exchange, try_timeout_s=PATIENCE_S, retries=2, random_bits=Randomness().bits)
        started = time.monotonic()
        (answer,) = resolver_.resolve([HOST], deadline=started + PATIENCE_S)
        exchange.stop()
        assert exchange.join(PATIENCE_S)
        assert answer.records == ("192.0.2.80",)
        assert time.monotonic() - started < 1.0


def test_one_reply_in_twenty_lost_costs_no_answer() -> None:
    """5 % packet loss: every name of 4,000 is answered by the third try at the latest, nearly all right at once."""
    count = 0

    def lose_some(query: Query) -> bytes | None:
        nonlocal count
        count += 1
        octets = int(query.name.lower()[1:-5]).to_bytes(3)
        return None if count % 20 == 0 else query.reply(address(socket.inet_ntoa(b"\x0a" + octets)))

    def work(worker: int) -> int:
        right = 0
        for flight in range(5):
            first = (worker * 5 + flight) * 25
            questions = [Question(f"h{first + k}.test", RdataType.A) for k in range(25)]
            answers = resolver_.resolve(questions, deadline=time.monotonic() + PATIENCE_S)
            for answer in answers:
                octets = int(answer.question.name[1:-5]).to_bytes(3)
                right += answer.records == (socket.inet_ntoa(b"\x0a" + octets),)
        return right

    with resolving(lose_some, retries=3) as (resolver_, _), ThreadPoolExecutor(32) as pool:
        right = sum(pool.map(work, range(32)))
    assert right >= 3996
