"""The composition root: settings in, objects out. The only place where neighbours of one floor meet."""

import contextlib
import ctypes
import gc
import resource
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spyder.daemon.workers import WorkerFault, WorkerPool
from spyder.model.names import load_suffix_rules
from spyder.model.records import Batch, Report, Task
from spyder.net.dns.exchange import Exchange, NameServer
from spyder.net.dns.resolver import Resolver, system_name_servers
from spyder.net.html import load_grammar
from spyder.net.http import Dialer, Limits
from spyder.net.robots import product_token
from spyder.outbox.batcher import Batcher, BatchLimits
from spyder.outbox.dedup import Dedup
from spyder.outbox.spool import new_batch_id
from spyder.policy.addresses import AddressPolicy
from spyder.policy.pacing import Pacer
from spyder.policy.robots import RobotsPolicy
from spyder.policy.scope import Scope
from spyder.probe.prober import Identity, Prober
from spyder.probe.web import Rules, WebLimits
from spyder.runtime.bounded_queue import BoundedQueue
from spyder.runtime.randomness import Randomness
from spyder.runtime.watchdog import TICK_S, Watchdog
from spyder.settings import Settings

_TASKS_PER_WORKER = 2
"""Tasks that wait for each worker: enough that none idles, few enough that a stop has little to give back."""
_M_MMAP_THRESHOLD = -3  # mallopt(3)
_LARGE_BYTES = 256 * 1024
_COLLECT_AFTER = 20_000
"""Objects made and not freed before the collector looks; its default, 700, costs 4 % of the CPU of a host."""
_LAST_BATCH_BUDGET_S = 5.0
"""For the batch that is open when all stops: it is written to a disk or a pipe, not sent anywhere."""


@dataclass(frozen=True, slots=True)
class Path:
    """The path of a task, from the queue of tasks to the batcher, put together and not yet started."""

    identity: Identity
    tasks: BoundedQueue[Task]
    workers: WorkerPool
    batcher: Batcher
    exchange: Exchange
    watchdog: Watchdog
    pacer: Pacer

    def start(self) -> None:
        """Start every thread of the path.

        Raises:
            RuntimeError: the system has no more threads.
        """
        _raise_file_limit()
        load_suffix_rules()
        load_grammar()
        _tune_memory()
        self.watchdog.start()
        self.exchange.start()
        self.batcher.start()
        self.workers.start()

    def drain(self, budget_s: float | None = None) -> int:
        """Let the tasks that were put be done, and hand on what there is.

        Returns the number of workers, and then of reports, that are still to be done when the budget is over; may be
        called again, to wait on.
        """
        deadline = None if budget_s is None else time.monotonic() + budget_s
        self.tasks.close()
        if working := self.workers.join(budget_s):
            return working
        self.batcher.stop()
        return self.batcher.join(None if deadline is None else max(deadline - time.monotonic(), 0.0))

    def stop(self) -> int:
        """End every thread, whatever is still to be done; return the number of workers and reports left undone."""
        self.tasks.close(discard=True)
        self.pacer.stop()
        self.batcher.stop()
        undone = self.workers.join(0.0) + self.batcher.join(_LAST_BATCH_BUDGET_S)
        self.exchange.stop()
        self.watchdog.stop()
        self.exchange.join(1.0)
        self.watchdog.join(1.0)
        return undone

    @property
    def failure(self) -> BaseException | None:
        """Why nothing more can be handed on, if so."""
        return self.batcher.failure or self.workers.failure

    def abandon(self) -> list[Task]:
        """Take no more tasks; return those that were not begun."""
        return self.tasks.close(discard=True)

    def hurry(self) -> None:
        """Cut off every connection, also those that are made meanwhile, until no worker is left.

        Blocks, for as long as the name servers may take.
        """
        self.pacer.stop()
        while self.workers.join(TICK_S):
            self.watchdog.cut_all()


def build_path(
    settings: Settings,
    *,
    store: Callable[[Batch], None],
    on_promised: Callable[[Sequence[Task]], None] = lambda _tasks: None,
    observe: Callable[[Report], None],
    on_fault: Callable[[WorkerFault], None],
) -> Path:
    """Put the path together.

    `store` is given each batch, and has it safe when it returns; `observe` is given each report before it is
    batched, by the worker; `on_promised` the tasks of a stored batch; `on_fault` what was our own fault.

    Raises:
        OSError: a file that the settings name, such as the CA bundle, cannot be used.
    """
    identity = Identity(settings.probe, settings.run or new_run_id())
    tasks: BoundedQueue[Task] = BoundedQueue(_TASKS_PER_WORKER * settings.crawling.concurrency)
    watchdog = Watchdog()
    randomness = Randomness()
    exchange = Exchange(name_servers(settings), randomness.bits)
    batcher = Batcher(
        probe_id=identity.probe_id,
        run_id=identity.run_id,
        limits=BatchLimits(settings.batch.max_edges, settings.batch.max_nodes, settings.batch.flush_interval),
        dedup=Dedup(max_entries=settings.dedup.max_entries, ttl_s=settings.dedup.ttl),
        store=store,
        on_promised=on_promised,
        new_batch_id=lambda: new_batch_id(time.time()),
    )
    pacer = Pacer(rate_per_host=settings.crawling.rate_per_host, burst=settings.crawling.rate_burst)
    prober = _build_prober(settings, identity, exchange, watchdog, randomness, pacer)

    def put(report: Report) -> None:
        observe(report)
        batcher.put(report)

    workers = WorkerPool(settings.crawling.concurrency, tasks=tasks, probe=prober.probe, put=put, on_fault=on_fault)
    return Path(identity, tasks, workers, batcher, exchange, watchdog, pacer)


def _build_prober(
    settings: Settings,
    identity: Identity,
    exchange: Exchange,
    watchdog: Watchdog,
    randomness: Randomness,
    pacer: Pacer,
) -> Prober:
    crawling, http = settings.crawling, settings.http_client
    resolver = Resolver(
        exchange,
        try_timeout_s=settings.dns.timeout,
        retries=settings.dns.retries,
        case_randomization=settings.dns.case_randomization,
        random_bits=randomness.bits,
    )
    dialer = Dialer(
        watchdog,
        user_agent=settings.ua,
        limits=Limits(
            connect_timeout_s=http.connect_timeout,
            tls_timeout_s=crawling.tls_timeout,
            header_timeout_s=http.response_header_timeout,
            exchange_timeout_s=crawling.http_timeout,
            max_header_bytes=http.max_header_bytes,
        ),
        ca_bundle=str(http.ca_bundle),
    )
    return Prober(
        identity=identity,
        resolve=resolver.resolve,
        dialer=dialer,
        rules=_build_rules(settings, pacer),
        limits=WebLimits(
            port_https=http.port_https,
            port_http=http.port_http,
            max_redirects=http.max_redirects,
            body_max_bytes=crawling.body_max_bytes,
            robots_max_bytes=settings.robots.max_bytes + 1,
        ),
        dns_budget_s=settings.dns.timeout * (1 + settings.dns.retries),
        host_budget_s=crawling.host_budget,
    )


def _build_rules(settings: Settings, pacer: Pacer) -> Rules:
    crawling = settings.crawling
    robots = RobotsPolicy(
        product_token=product_token(settings.ua),
        on_error=settings.robots.on_error,
        cache_ttl_s=settings.robots.cache_ttl,
        failure_ttl_s=settings.robots.failure_ttl,
        max_entries=settings.robots.cache_size,
        clock=time.monotonic,
    )
    return Rules(
        in_scope=Scope(settings.exclude_tlds).verdict,
        may_dial=AddressPolicy(
            allow_private=crawling.allow_private_addresses, allow=map(str, crawling.allow_addresses)
        ).may_dial,
        decide_robots=robots.decide,
        wait_turn=pacer.wait,
    )


def name_servers(settings: Settings) -> tuple[NameServer, ...]:
    """Return the name servers of the settings, or the system's."""
    configured = tuple(NameServer(each.address, each.port) for each in settings.dns.nameservers)
    return configured or system_name_servers()


def _tune_memory() -> None:
    """Leave what is loaded by now to itself, and look for garbage in cycles seldom: a visit makes next to none.

    Large pieces go back to the system when they are freed; by itself the C library learns to keep them, and bodies
    and batches of all sizes leave holes in what it keeps.
    """
    with contextlib.suppress(AttributeError):  # another C library than GNU's
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 100)


def _raise_file_limit() -> None:
    """Take all the descriptors that we may have: a worker holds several, and shells give 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def new_run_id() -> str:
    """Return an id for this run: when it began, and four random digits for those that began in the same second."""
    return f"run-{int(time.time())}-{secrets.token_hex(2)}"
