"""The settings themselves: one frozen tree, the one home of every default and of every key's description.

A `Settings` value is immutable and may be shared by all threads and pickled to worker processes.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from spyder.settings.values import (
    SIZE_EXAMPLES,
    AnyCase,
    Collector,
    Destination,
    Duration,
    FilePath,
    Headers,
    Identity,
    Kind,
    ListenAddress,
    LogLevel,
    NameServers,
    Networks,
    Port,
    Processes,
    Redis,
    Size,
    Text,
    TopLevelDomains,
    UserAgent,
    Whole,
    size_text,
)


def key(
    default: Any,
    description: str,
    *,
    alias: str | None = None,
    env: str | None = None,
    hide: Literal["all", "url"] | None = None,
    unused: bool = False,
) -> Any:
    """Declare one key.

    `alias` is SPYDER's name for it and `env` SPYDER's variable; `hide` says what is never shown: all of it, or
    what a URL carries beside the address. `unused` marks a key that no code reads yet; a test fails when that
    is no longer true.
    """
    extra: dict[str, Any] = {"alias": alias, "env": env, "hide": hide, "unused": unused}
    return Field(default, description=description, repr=hide is None, json_schema_extra=extra)


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
        str_strip_whitespace=True,
    )


class Crawling(_Frozen):
    """What is done to one host, how many at a time, and how long it may take."""

    concurrency: Annotated[int, Field(ge=1, le=4096)] = key(
        256, "Hosts probed at the same time by one process: its worker threads.", alias="concurrency"
    )
    processes: Processes = key(1, "Worker processes; auto: one for each core.", unused=True)
    rate_per_host: Annotated[float, Field(gt=0, le=10**6, allow_inf_nan=False)] = key(
        "1", "Requests a second to one host, over time."
    )
    rate_burst: Annotated[int, Field(ge=1, le=10**6)] = key(
        1, "Requests that one host may get at once before the rate holds it back."
    )
    max_domains: Annotated[int, Field(ge=0)] = key(0, "Hosts probed in one run at most; 0: no limit.", unused=True)
    continuous: bool = key(False, "Whether hosts that were found are probed too.", unused=True)
    max_depth: Annotated[int, Field(ge=0, le=1000)] = key(
        1, "Steps away from the hosts given, where those found are probed too.", unused=True
    )
    http_timeout: Duration = key("15s", "Time limit of one HTTP exchange: request, header and body.")
    tls_timeout: Duration = key("8s", "Time limit of one TLS handshake.")
    host_budget: Duration = key("30s", "Time limit of all that is done to one host; what is not done by then is left.")
    body_max_bytes: Annotated[Size, Field(le=64 * 2**20), Kind("size up to 64MiB", size_text, SIZE_EXAMPLES)] = key(
        "512KiB", "Decoded bytes of a page that are read for links; the rest is not fetched."
    )
    allow_private_addresses: bool = key(
        False,
        "Whether private, loopback, link-local and other special-purpose addresses are dialled. "
        "For labs and intranets only.",
    )
    allow_addresses: Networks = key(
        (), "Networks that are dialled although they are special-purpose, such as 10.1.0.0/16."
    )


class HttpClient(_Frozen):
    """Connections to the hosts that are probed."""

    max_idle_conns: Whole = key(
        1024, "Connections kept open for further requests, of all hosts.", alias="http_client.MaxIdleConns", unused=True
    )
    max_conns_per_host: Whole = key(
        128, "Connections to one host at the same time.", alias="http_client.MaxConnsPerHost", unused=True
    )
    connect_timeout: Duration = key("5s", "Time limit of making one TCP connection.")
    response_header_timeout: Duration = key(
        "10s",
        "Time limit from the end of a request to the end of the response's header.",
        alias="http_client.ResponseHeaderTimeout",
    )
    idle_conn_timeout: Duration = key(
        "30s", "After this time an unused connection is closed.", alias="http_client.IdleConnTimeout", unused=True
    )
    max_header_bytes: Annotated[
        Size, Field(ge=1024, le=2**20), Kind("size from 1KiB to 1MiB", size_text, SIZE_EXAMPLES)
    ] = key("64KiB", "A longer response header ends the exchange.")
    max_redirects: Annotated[int, Field(ge=0, le=20)] = key(5, "Redirects followed for one page.")
    ca_bundle: FilePath = key("", "Certificates (PEM) of the authorities to trust; empty: the system's.")
    port_https: Port = key(443, "Port for HTTPS; another than 443 is for labs.")
    port_http: Port = key(80, "Port for HTTP; another than 80 is for labs.")


class Dns(_Frozen):
    """How names are resolved."""

    nameservers: NameServers = key((), "Recursive name servers to ask; empty: those of /etc/resolv.conf.")
    timeout: Duration = key("2s", "Time limit of one try at one name server.")
    retries: Annotated[int, Field(ge=0, le=20)] = key(2, "Further tries after the first.")
    cache_size: Whole = key(100_000, "Answers kept in memory, for as long as their TTL allows.", unused=True)
    case_randomization: bool = key(True, "Whether questions are asked in random letter case, against forged answers.")


class Robots(_Frozen):
    """robots.txt (RFC 9309)."""

    on_error: Annotated[Literal["deny", "allow"], AnyCase] = key(
        "deny", "What a robots.txt that cannot be reached, or a 5xx for it, means (RFC 9309 2.3.1.4: deny)."
    )
    cache_ttl: Duration = key("24h", "How long a robots.txt holds (RFC 9309 2.4: not longer than 24h).")
    failure_ttl: Duration = key("5m", "How long it holds that a robots.txt could not be reached.")
    max_bytes: Annotated[
        Size, Field(ge=512_000, le=16 * 2**20), Kind("size from 500KiB to 16MiB", size_text, SIZE_EXAMPLES)
    ] = key("500KiB", "Bytes of a robots.txt that are read (RFC 9309 2.5: 500 KiB at least).")
    cache_size: Whole = key(65_536, "Hosts whose robots.txt verdict is kept in memory.")


class Batching(_Frozen):
    """When reports become a batch: at whichever of these comes first, and when the program stops."""

    max_edges: Annotated[int, Field(ge=1, le=10**6)] = key(10_000, "Edges in a batch.", alias="batch_max_edges")
    max_nodes: Annotated[int, Field(ge=1, le=10**6)] = key(5_000, "Nodes of all kinds in a batch.")
    flush_interval: Duration = key(
        "2s", "Age of its oldest report at which a batch goes that is not full.", alias="batch_flush_sec"
    )


class Output(_Frozen):
    """Where batches go. Every batch is in the spool before it goes anywhere."""

    ingest: Destination = key(
        "",
        "Where batches are sent. Empty: spyderd writes JSON lines beside the spool, spyderctl probe prints.",
        alias="ingest",
        hide="url",
    )
    format: Annotated[Literal["json", "jsonl", "csv"], AnyCase] = key(
        "json",
        "What stdout: writes: json, one batch a line; jsonl, one record a line; csv, the edges. Elsewhere it is json.",
        alias="output_format",
    )
    spool_dir: Annotated[Text, Field(min_length=1), Kind("path of a directory")] = key(
        "spool", "Where batches wait until they are delivered.", alias="spool_dir"
    )
    spool_max_bytes: Size = key("10GiB", "Size of the spool at which intake waits until there is room.")
    compress: bool = key(False, "Whether batches are sent with gzip.")
    headers: Headers = key({}, "Headers sent with every batch. Tokens are safer in headers_file.", hide="all")
    headers_file: FilePath = key("", "A file of further headers, one 'Name: value' a line.")
    mtls_cert: FilePath = key("", "Client certificate (PEM) for the ingest service.", alias="mtls_cert")
    mtls_key: FilePath = key("", "Private key (PEM) of mtls_cert.", alias="mtls_key")
    mtls_ca: FilePath = key(
        "", "Authorities (PEM) that the ingest service is checked against; empty: the system's.", alias="mtls_ca"
    )
    connect_timeout: Duration = key("10s", "Time limit of making a connection to the ingest service.")
    timeout: Duration = key("30s", "Time limit of each wait for the ingest service's answer.")
    concurrency: Annotated[int, Field(ge=1, le=64)] = key(4, "Batches being sent at the same time.")
    file_max_bytes: Size = key("100MiB", "Size at which a file: destination goes on to its next file.")


class Inbox(_Frozen):
    """A directory whose files of host names are taken up when they are complete."""

    dir: Annotated[Text, Kind("path of a directory, or empty")] = key(
        "", "The directory; empty: no inbox.", unused=True
    )
    poll_interval: Duration = key("2s", "Time between two looks at the directory.", unused=True)


class Dedup(_Frozen):
    """Nodes and edges that were reported lately are not reported again."""

    backend: Annotated[Literal["memory", "redis"], AnyCase] = key(
        "memory", "Where the keys are kept; redis needs redis.addr.", unused=True
    )
    max_entries: Whole = key(500_000, "Keys kept in memory; the oldest give way.")
    ttl: Duration = key("24h", "How long a key is remembered.")


class RedisServers(_Frozen):
    """Redis, shared by many probes."""

    addr: Redis = key(
        "",
        "Server of dedup, where dedup.backend is redis.",
        alias="redis_addr",
        env="REDIS_ADDR",
        hide="url",
        unused=True,
    )
    queue_addr: Redis = key(
        "",
        "Server of the queue of hosts; empty: no queue.",
        alias="redis_queue_addr",
        env="REDIS_QUEUE_ADDR",
        hide="url",
        unused=True,
    )
    queue_key: Annotated[Text, Field(min_length=1)] = key(
        "spyder:queue", "Name of the queue.", alias="redis_queue_key", env="REDIS_QUEUE_KEY", unused=True
    )


class Telemetry(_Frozen):
    """Health, metrics and traces."""

    metrics_addr: ListenAddress = key(
        "127.0.0.1:9090",
        "Where health, metrics and the control API are served; empty: nowhere.",
        alias="metrics_addr",
        unused=True,
    )
    otel_endpoint: Collector = key(
        "",
        "OTLP/HTTP collector for traces; empty: no traces.",
        alias="otel_endpoint",
        hide="url",
        unused=True,
    )
    otel_insecure: bool = key(
        True,
        "Whether a collector given as HOST:PORT is spoken to without TLS.",
        alias="otel_insecure",
        unused=True,
    )
    otel_service: Text = key("spyder-probe", "Name of this service in traces.", alias="otel_service", unused=True)


class Logging(_Frozen):
    """What is logged to standard error."""

    level: LogLevel = key("info", "The least severe messages that are logged.", unused=True)
    format: Annotated[Literal["auto", "json", "console"], AnyCase] = key(
        "auto", "json: one object a line; console: for people; auto: console on a terminal.", unused=True
    )


class ApiKey(_Frozen):
    """One key of the control API."""

    key: Annotated[Text, Field(min_length=8, repr=False)]
    name: Identity
    scope: Literal["read", "write", "admin"]


class Api(_Frozen):
    """The control API."""

    rate_limit: Annotated[float, Field(gt=0, le=10**6, allow_inf_nan=False)] = key(
        "100", "Requests a second that are answered, over time.", unused=True
    )
    rate_burst: Annotated[int, Field(ge=1, le=10**6)] = key(20, "Requests answered at once.", unused=True)
    keys: Annotated[
        tuple[ApiKey, ...],
        Kind(
            "list of keys", examples="mappings with key (8 characters or more), name, and scope: read, write or admin"
        ),
    ] = key(
        (),
        "Who may use the control API.",
        hide="all",
        unused=True,
    )


class Shutdown(_Frozen):
    """How the program stops."""

    drain_timeout: Duration = key("30s", "After this time what is still in flight is left undone.")


class Settings(_Frozen):
    """Every setting of a run; see `docs/settings.md`. `load` makes one; `Settings()` is all defaults."""

    probe: Identity = key("local-1", "Name of this probe, in every edge and batch.", alias="probe")
    run: Annotated[
        Identity | None,
        BeforeValidator(lambda value: value or None),
        Kind("name as that of probe, or empty"),
    ] = key(None, "Name of this run; empty: run-<unix seconds>-<4 hex digits>, made at the start.", alias="run")
    ua: UserAgent = key(
        "SPYDERProbe/1.0 (+https://github.com/gustycube/spyder)",
        "The User-Agent of every request. Its first word is what robots.txt files name; put an address in it "
        "at which you can be reached.",
        alias="ua",
    )
    exclude_tlds: TopLevelDomains = key(
        ("gov", "mil", "int"),
        "Hosts under these are only looked up in DNS; [] for none.",
        alias="exclude_tlds",
    )
    crawling: Crawling = Crawling()
    http_client: HttpClient = HttpClient()
    dns: Dns = Dns()
    robots: Robots = Robots()
    batch: Batching = Batching()
    output: Output = Output()
    inbox: Inbox = Inbox()
    dedup: Dedup = Dedup()
    redis: RedisServers = RedisServers()
    telemetry: Telemetry = Telemetry()
    logging: Logging = Logging()
    api: Api = Api()
    shutdown: Shutdown = Shutdown()
