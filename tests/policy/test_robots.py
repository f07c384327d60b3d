"""robots.txt verdicts over a scripted fetch and a clock that only the test moves."""

import json
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from spyder.model.outcomes import Status
from spyder.model.robots import RobotsDecision, RobotsFile
from spyder.net import robots
from spyder.policy.robots import RobotsPolicy
from tests.shared_data import shared

DAY_S = 24 * 3600.0
FILE = b"User-agent: *\nDisallow: /private\nCrawl-delay: 2\n"
CHALLENGE = b"<!DOCTYPE html><html><title>Just a moment...</title></html>"


class Site:
    """A site that answers robots.txt in one way, and counts how often it was asked."""

    def __init__(self, status: int | None, body: bytes = b"", content_type: str | None = "text/plain") -> None:
        self.answer = RobotsFile(status, body, content_type)
        self.asked = 0

    def __call__(self) -> RobotsFile:
        """Answer once."""
        self.asked += 1
        return self.answer


class Clock:
    """Seconds that pass when the test says so."""

    now_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """One clock, standing still."""
    return Clock()


@pytest.fixture
def policy(clock: Clock) -> RobotsPolicy:
    """The policy with its defaults."""
    return RobotsPolicy(product_token="spyder", clock=clock)


def decide(policy: RobotsPolicy, site: Site, path: str = "/") -> RobotsDecision:
    """Ask for one path of one host."""
    return policy.decide("https://h.example", path, site, timeout_s=1)


def test_a_file_is_obeyed(policy: RobotsPolicy) -> None:
    """The rule that decides is named, and the delay handed on."""
    site = Site(200, FILE)
    assert decide(policy, site, "/") == RobotsDecision(True, Status.OK, None, 2.0)
    denied = RobotsDecision(False, Status.ROBOTS_DENIED, "Disallow: /private", 2.0)
    assert decide(policy, site, "/private/x") == denied
    assert site.asked == 1


def test_each_http_status_means_what_rfc_9309_says(policy: RobotsPolicy) -> None:
    """2xx is parsed, a redirect too many and 4xx allow, 5xx denies (RFC 9309 section 2.3.1).

    429 allows, as the expectation says and section 2.3.1.3 has it, although Google takes it for a server error.
    """
    meaning = {
        "parse body": (False, "robots_denied"),
        "unavailable": (True, "ok"),
        "follow at least five consecutive redirects, also across hosts": (True, "ok"),
        "unreachable": (False, "robots_unreachable"),
    }
    for row in json.loads(shared("robots/http_status.json").read_text()):
        site = Site(row["status"], b"User-agent: *\nDisallow: /")
        decision = policy.decide(str(row["status"]), "/", site, timeout_s=1)
        expected = meaning[row["outcome"].partition(":")[0].partition(";")[0]]
        assert (decision.allowed, decision.status) == expected, row


@pytest.mark.parametrize("status", [None, 0, 100, 199, 500, 600, 999, -1])
def test_no_answer_is_no_permission(policy: RobotsPolicy, status: int | None) -> None:
    """An unreachable host, and a status that HTTP does not have, deny and say why."""
    decision = decide(policy, Site(status, FILE))
    assert (decision.allowed, decision.status) == (False, "robots_unreachable")
    assert decision.line is not None


def test_on_error_allow_allows_what_cannot_be_reached(clock: Clock) -> None:
    """The owner of the probe may decide otherwise, and the status still tells."""
    policy = RobotsPolicy(product_token="spyder", on_error="allow", clock=clock)
    decision = decide(policy, Site(503))
    assert decision == RobotsDecision(True, Status.ROBOTS_UNREACHABLE, "robots.txt: HTTP 503", None)


@pytest.mark.parametrize(
    ("body", "content_type"), [(CHALLENGE, None), (CHALLENGE, "text/plain"), (b"denied", "text/html")]
)
def test_a_page_in_place_of_robots_txt_is_no_permission(
    policy: RobotsPolicy, body: bytes, content_type: str | None
) -> None:
    """A challenge page with status 200 says nothing, which is not yes."""
    decision = decide(policy, Site(200, body, content_type))
    assert (decision.allowed, decision.status) == (False, "robots_unreachable")


@pytest.mark.parametrize("body", [b"", b"\n", b"# nothing\n", b"Sitemap: https://h.example/s.xml\n"])
def test_an_empty_file_allows(policy: RobotsPolicy, body: bytes) -> None:
    """A file without rules allows everything, whatever its type."""
    assert decide(policy, Site(200, body)) == RobotsDecision(True, Status.OK, None, None)


def test_a_page_is_asked_again_after_minutes(policy: RobotsPolicy, clock: Clock) -> None:
    """An HTML page counts as a failure, so it is not kept for a day."""
    site = Site(200, CHALLENGE)
    decide(policy, site)
    clock.now_s += 301
    site.answer = RobotsFile(200, b"", "text/plain")
    assert decide(policy, site).allowed


def test_an_answer_is_kept_for_a_day(policy: RobotsPolicy, clock: Clock) -> None:
    """Rules are asked for again after 24 hours and not before (RFC 9309 section 2.4)."""
    site = Site(200, FILE)
    for now_s, asked in ((0.0, 1), (DAY_S - 1, 1), (DAY_S, 2)):
        clock.now_s = now_s
        decide(policy, site)
        assert site.asked == asked


def test_a_missing_file_is_kept_for_a_day(policy: RobotsPolicy, clock: Clock) -> None:
    """404 is an answer, not a failure."""
    site = Site(404)
    for now_s, asked in ((0.0, 1), (DAY_S - 1, 1), (DAY_S, 2)):
        clock.now_s = now_s
        decide(policy, site)
        assert site.asked == asked


@pytest.mark.parametrize("status", [None, 503])
def test_a_failure_is_kept_for_minutes(policy: RobotsPolicy, clock: Clock, status: int | None) -> None:
    """A host that failed is asked again after five minutes."""
    site = Site(status)
    for now_s, asked in ((0.0, 1), (299.0, 1), (300.0, 2)):
        clock.now_s = now_s
        decide(policy, site)
        assert site.asked == asked


def test_hosts_are_apart(policy: RobotsPolicy) -> None:
    """Rules hold for one scheme and authority only (RFC 9309 section 2.3)."""
    assert not policy.decide("https://a", "/private", Site(200, FILE), timeout_s=1).allowed
    assert policy.decide("http://a", "/private", Site(404), timeout_s=1).allowed


def test_256_threads_ask_a_host_once(policy: RobotsPolicy) -> None:
    """One fetch, however many want to know, and all are told the same."""
    gate, start = threading.Event(), threading.Barrier(256)
    site = Site(200, FILE)

    def fetch() -> RobotsFile:
        gate.wait(10)
        return site()

    def ask(number: int) -> RobotsDecision:
        start.wait(10)
        return policy.decide("https://h.example", "/private" if number % 2 else "/", fetch, timeout_s=10)

    with ThreadPoolExecutor(256) as pool:
        asked = [pool.submit(ask, number) for number in range(256)]
        turn = threading.Event()
        while policy.stats().waits < 255:
            turn.wait(0.001)
        gate.set()
        assert [future.result().allowed for future in asked] == [True, False] * 128
    assert site.asked == 1


@pytest.mark.parametrize("on_error", ["deny", "allow"])
def test_who_waits_in_vain_is_denied(clock: Clock, on_error: str) -> None:
    """A fetch of another that takes too long is no permission, and no exception either."""
    policy = RobotsPolicy(product_token="spyder", on_error=on_error, clock=clock)  # type: ignore[arg-type]
    gate, begun = threading.Event(), threading.Event()

    def fetch() -> RobotsFile:
        begun.set()
        gate.wait(10)
        return RobotsFile(404, b"", None)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(policy.decide, "h", "/", fetch, timeout_s=1)
        begun.wait(10)
        decision = policy.decide("h", "/", fetch, timeout_s=0.01)
        gate.set()
        assert first.result().allowed
    assert (decision.allowed, decision.status) == (False, "robots_unreachable")


def test_what_fetch_raises_is_not_kept(policy: RobotsPolicy) -> None:
    """A fault of ours reaches the worker, and the host is asked again."""

    def broken() -> RobotsFile:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        policy.decide("h", "/", broken, timeout_s=1)
    assert policy.decide("h", "/", Site(404), timeout_s=1).allowed


def test_forget_asks_again(policy: RobotsPolicy) -> None:
    """After forget() every host is asked anew."""
    site = Site(404)
    decide(policy, site)
    policy.forget()
    decide(policy, site)
    assert site.asked == 2


def test_hosts_without_rules_share_one_answer(policy: RobotsPolicy) -> None:
    """A host that says nothing to us costs no more than its place in the cache."""
    for host, site in (("a", Site(200)), ("b", Site(200, b"User-agent: other\nDisallow: /\n"))):
        policy.decide(host, "/", site, timeout_s=1)
    assert policy._answers.peek("a") is policy._answers.peek("b")


def test_the_largest_real_file_is_kept_small(policy: RobotsPolicy) -> None:
    """What is kept of any of 400 real files is under 22 KiB; the largest of them has 241 KB."""
    with tarfile.open(shared("robots/real_files.tar.gz")) as files:
        bodies = [found.read() for member in files if (found := files.extractfile(member))]
    kept = [robots.parse(body).for_agent("spyder") for body in bodies]
    assert max(map(len, bodies)) > 240_000
    assert max(sys.getsizeof(rules.rules) for rules in kept) < 22 * 1024


def test_hostile_files_push_each_other_out(clock: Clock) -> None:
    """The cache is bounded by what its rules weigh: ten files of 500 KiB do not fit where 1,000 entries do."""
    policy = RobotsPolicy(product_token="spyder", max_entries=1000, clock=clock)
    body = b"User-agent: *\n" + b"".join(b"Disallow: /%d\n" % number for number in range(28_000))
    for number in range(10):
        policy.decide(f"h{number}", "/", Site(200, body), timeout_s=1)
    assert policy.stats().size < 10
