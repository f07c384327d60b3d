"""`spyderctl probe` as a process: formats, lists, exit statuses, and how it stops."""

import contextlib
import csv
import gzip
import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from spyder.lab import Lab
from spyder.lab.records import WEB_ADDRESSES
from spyder.lab.web_server import bind_together
from tests.cli.spyderctl import ROOT, Ended, finish, hosts_file, run, start

FAST = ("healthy", "alias_three_hops", "mx_null", "cert_expired", "robots_deny_all", "dns_nxdomain", "redirect_www")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of 14 sites that answer at once, and 6 whose page takes half a second."""
    with Lab(tmp_path_factory.mktemp("lab"), sites=21, traits=(*FAST, *FAST, *["page_slow"] * 7)) as running:
        yield running


def fast(lab: Lab) -> list[str]:
    """Return the hosts that answer at once."""
    return [host for host, trait in lab.expected.traits.items() if trait != "page_slow"]


def slow(lab: Lab) -> list[str]:
    """Return the hosts whose page takes half a second."""
    return [host for host, trait in lab.expected.traits.items() if trait == "page_slow"]


def expect(lab: Lab, ended: Ended, hosts: list[str]) -> None:
    """Hold outcomes and edges of a run against what the lab expects of these hosts."""
    stages = ("dns", "robots", "http", "tls")
    found = {host: {stage: outcome[stage] for stage in stages} for host, outcome in ended.outcomes.items()}
    assert found == {host: lab.expected.outcomes[host] for host in hosts}


# What it prints


def test_hosts_of_the_command_line_are_probed(lab: Lab) -> None:
    """Batches on standard output, one a line; a summary on standard error; status 0."""
    hosts = fast(lab)[:3]
    ended = run("probe", *hosts, "--config", lab.settings_path)
    assert ended.status == 0
    expect(lab, ended, hosts)
    assert re.search(r"3 hosts in [\d.]+ s, [\d.]+ a second", ended.stderr)
    assert "dns:    ok " in ended.stderr
    assert "edges:  " in ended.stderr


def test_what_is_printed_is_what_the_schema_says(lab: Lab) -> None:
    """Every batch validates against docs/batch.schema.json."""
    ended = run("probe", "-f", lab.hosts_path, "--config", lab.settings_path)
    schema = json.loads((ROOT / "docs" / "batch.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    assert ended.batches
    for batch in ended.batches:
        validator.validate(batch)
    assert ended.status == 0
    expect(lab, ended, list(lab.hosts))
    assert ended.edges == lab.expected.edges


def test_csv_is_edges_under_one_header(lab: Lab) -> None:
    """Whatever the number of batches."""
    ended = run("probe", *fast(lab), "--config", lab.settings_path, "--format", "csv", "--set", "batch.max_edges=3")
    rows = list(csv.DictReader(io.StringIO(ended.stdout.decode(), newline="")))
    found = {(row["source"], row["edge_type"], row["target"]) for row in rows}
    assert found == {edge for edge in lab.expected.edges if edge[0] in found_sources(lab, fast(lab))}
    assert ended.stdout.count(b"batch_id") == 1
    assert len({row["batch_id"] for row in rows}) > 1


def found_sources(lab: Lab, hosts: list[str]) -> set[str]:
    """Return the names that edges of these hosts start at: themselves, their apexes, and the hops of their aliases."""
    known = set(hosts) | {host.partition(".")[2] for host in hosts}
    while more := {t for s, kind, t in lab.expected.edges if s in known and kind == "ALIAS_OF"} - known:
        known |= more
    return known


def test_jsonl_is_one_record_a_line(lab: Lab) -> None:
    """Every host has its outcome among them."""
    hosts = fast(lab)
    ended = run("probe", *hosts, "--config", lab.settings_path, "--format", "jsonl")
    records = [json.loads(line) for line in ended.stdout.splitlines()]
    assert sorted(record["outcome"]["host"] for record in records if record["type"] == "outcome") == sorted(hosts)
    assert {record["type"] for record in records} >= {"edge", "node_domain", "node_ip", "node_cert", "outcome"}


def test_the_format_of_the_settings_holds_where_none_is_given(lab: Lab) -> None:
    """`output.format` is the default of `--format`."""
    ended = run("probe", fast(lab)[0], "--config", lab.settings_path, "--set", "output.format=csv")
    assert ended.stdout.startswith(b"batch_id,timestamp,")


def test_results_go_to_the_file_of_o(lab: Lab, tmp_path: Path) -> None:
    """And nothing to standard output."""
    ended = run("probe", fast(lab)[0], "--config", lab.settings_path, "-o", tmp_path / "out.jsonl")
    assert (ended.status, ended.stdout) == (0, b"")
    assert json.loads((tmp_path / "out.jsonl").read_bytes())["outcomes"][0]["host"] == fast(lab)[0]


def test_quiet_says_nothing_but_errors(lab: Lab) -> None:
    """No summary, no rejected lines; results as ever."""
    ended = run("probe", "-q", "-f", "-", "--config", lab.settings_path, stdin=f"{fast(lab)[0]}\n!!\n%%%\n".encode())
    assert (ended.status, ended.stderr) == (0, "")
    assert len(ended.outcomes) == 1


# Lists


def test_a_list_is_read_from_a_file_from_standard_input_and_from_gzip(lab: Lab, tmp_path: Path) -> None:
    """All the same."""
    hosts = fast(lab)[:2]
    plain = hosts_file(tmp_path / "hosts.txt", hosts)
    packed = tmp_path / "hosts.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for arguments, stdin in ((("-f", plain), b""), (("-f", "-"), plain.read_bytes()), (("-f", packed), b"")):
        ended = run("probe", *arguments, "--config", lab.settings_path, stdin=stdin)
        assert ended.status == 0
        expect(lab, ended, hosts)


def test_hosts_and_a_file_go_together_and_each_host_is_probed_once(lab: Lab, tmp_path: Path) -> None:
    """However often it is given, and however it is spelled."""
    host = fast(lab)[0]
    listed = hosts_file(tmp_path / "hosts.txt", [host, host.upper(), f"https://{host}/x", f"{host}.", fast(lab)[1]])
    ended = run("probe", host, host, "-f", listed, "--config", lab.settings_path)
    assert ended.status == 0
    expect(lab, ended, fast(lab)[:2])
    assert "5 duplicates" in ended.stderr


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# only comments\n; and more\n"])
def test_an_empty_list_is_no_fault(lab: Lab, content: bytes) -> None:
    """Nothing to do is done."""
    ended = run("probe", "-f", "-", "--config", lab.settings_path, stdin=content)
    assert (ended.status, ended.stdout) == (0, b"")
    assert "0 hosts" in ended.stderr


def rubbish(hosts: list[str]) -> tuple[bytes, dict[int, str]]:
    """Return a list of everything that people have, with these hosts in it, and the reason of each bad line."""
    good = iter(hosts)
    lines: list[tuple[bytes, str | None]] = [
        (b"# a comment", None),
        (next(good).encode() + b"\r", None),
        (bytes(range(1, 10)) + b"\x0e\x0f\xff\xfe binary", "bad_encoding"),
        (b"\x00\x01\x02\x03", "nul_byte"),
        (f"https://{next(good)}:8443/path?q=1#f".encode(), None),
        (b"x" * 10_000_000, "line_too_long"),
        (f"*.{next(good)}".encode(), None),
        (f"{next(good)}:443".encode(), None),
        (b"", None),
        (b"192.0.2.1", "ip_address"),
        (b"[2001:db8::1]:443", "ip_address"),
        (b"exa mple..test", "bad_character"),
        (b"localhost", "single_label"),
        (b"under_score.test", "underscore"),
        (b"-bad-.test", "bad_hyphen"),
        (b"a..b.test", "empty_label"),
        ("\u2488.test".encode(), "bad_idna"),
        (b"a" * 64 + b".test", "label_too_long"),
        (next(good).upper().encode() + b".\r", None),
        (hosts[0].encode(), None),  # a duplicate
        (b'{"domain": 7}', "not_a_host"),
        (b'{"domain', "bad_json"),
        (f'{{"domain": "{next(good)}"}}'.encode(), None),
        (b"caf\xe9.test", "bad_encoding"),
    ]
    bad = {number: reason for number, (_, reason) in enumerate(lines, 1) if reason}
    return b"\xef\xbb\xbf" + b"\n".join(line for line, _ in lines) + b"\n", bad


def test_a_file_of_rubbish_costs_its_bad_lines_and_no_more(lab: Lab, tmp_path: Path) -> None:
    """Each bad line is rejected with its number and its reason, the good ones are probed, the status is 0."""
    hosts = [host for host in fast(lab) if host.isascii()][:6]
    content, bad = rubbish(hosts)
    path = tmp_path / "rubbish"
    path.write_bytes(content)
    ended = run("probe", "-f", path, "--config", lab.settings_path)
    told = dict(re.findall(r"^line (\d+): (\w+): ", ended.stderr, re.MULTILINE))
    assert {int(number): reason for number, reason in told.items()} == bad
    assert ended.status == 0
    expect(lab, ended, hosts)
    assert f"{len(bad)} rejected, 1 duplicates" in ended.stderr
    assert max(map(len, ended.stderr.splitlines())) < 300


def test_utf_16_is_read_and_idn_too(lab: Lab, tmp_path: Path) -> None:
    """With its byte order mark, CRLF and a name in its own letters."""
    host = fast(lab)[0]
    path = tmp_path / "utf16"
    path.write_bytes(f"{host}\r\nhttp://{host}/\r\nb\u00fccher.{host}\r\n?\r\n".encode("utf-16"))
    ended = run("probe", "-f", path, "--config", lab.settings_path)
    assert ended.status == 0
    assert set(ended.outcomes) == {host, f"xn--bcher-kva.{host}"}
    assert "line 4: " in ended.stderr
    assert "1 duplicates" in ended.stderr


def test_rejections_without_end_are_counted_and_not_all_shown(lab: Lab) -> None:
    """A thousand are named; then one line says that the rest is counted."""
    ended = run("probe", "-f", "-", "--config", lab.settings_path, stdin=b"!bad\n%%%\n" * 3000)
    assert ended.status == 0
    assert ended.stderr.count("line ") < 1100
    assert "further rejected lines are only counted" in ended.stderr
    assert "3,000 rejected" in ended.stderr


def test_a_list_that_breaks_off_is_no_success(lab: Lab, tmp_path: Path) -> None:
    """What came before is probed and printed; the status says that work remains."""
    packed = gzip.compress(f"{fast(lab)[0]}\n".encode() + os.urandom(30_000).hex().encode())
    path = tmp_path / "cut.gz"
    path.write_bytes(packed[:-2000])
    ended = run("probe", "-f", path, "--config", lab.settings_path)
    assert ended.status == 1
    assert "could not be read to its end" in ended.stderr
    assert fast(lab)[0] in ended.outcomes


# Wrong usage


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no hosts"),
        (("not a host",), "not a host"),
        (("192.0.2.1",), "address"),
        (("a.test", "--format", "xml"), "xml"),
        (("-f", "/nonexistent/list"), "/nonexistent/list"),
        (("-f", "/"), "directory"),
        (("a.test", "-o", "/nonexistent/out"), "-o"),
        (("a.test", "-o", "/"), "-o"),
        (("a.test", "--no-such-option"), "no-such-option"),
        (("--lab", "5", "--config", "x"), "--lab"),
    ],
)
def test_wrong_usage_is_status_2(arguments: tuple[str, ...], words: str) -> None:
    """Said on standard error, without a trace, and nothing is printed."""
    ended = run("probe", *arguments)
    assert (ended.status, ended.stdout) == (2, b"")
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--config", "/nonexistent.yaml"), "/nonexistent.yaml"),
        (("--set", "crawling.concurrency=0"), "crawling.concurrency"),
        (("--set", "no.such.key=1"), "no.such"),
        (("--set", "http_client.ca_bundle=/etc/passwd"), "cannot start"),
    ],
)
def test_wrong_settings_are_status_78(arguments: tuple[str, ...], words: str) -> None:
    """Named on standard error, before anything is probed."""
    ended = run("probe", "a.test", *arguments)
    assert (ended.status, ended.stdout) == (78, b"")
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


# Results that cannot be written


def test_a_full_disk_is_said_and_is_status_1(lab: Lab) -> None:
    """On standard output as in a file, with a header as without."""
    for form in ("json", "csv"):
        with Path("/dev/full").open("wb") as full:
            to_stdout = finish(
                start("probe", fast(lab)[0], "--config", lab.settings_path, "--format", form, stdout=full)
            )
        to_file = run("probe", fast(lab)[0], "--config", lab.settings_path, "--format", form, "-o", "/dev/full")
        for ended in (to_stdout, to_file):
            assert ended.status == 1
            assert "No space left on device" in ended.stderr
            assert "Traceback" not in ended.stderr
            assert "Exception" not in ended.stderr


def test_a_disk_that_fills_up_stops_the_run_while_hosts_remain(lab: Lab) -> None:
    """Workers that are blocked on the outbox end, the list is read no further, and the end comes at once."""
    hosts = "".join(f"h{number}.test\n" for number in range(20_000)).encode()
    begun = time.monotonic()
    ended = run(
        "probe",
        "-f",
        "-",
        "--config",
        lab.settings_path,
        "-o",
        "/dev/full",
        "--set",
        "batch.max_nodes=5",
        stdin=hosts,
    )
    assert ended.status == 1
    assert "No space left on device" in ended.stderr
    assert time.monotonic() - begun < 20


def test_a_reader_that_has_enough_ends_the_run_quietly(lab: Lab) -> None:
    """`| head -1`: no trace, no complaint, status 1, also while the list on standard input stays open."""
    process = start(
        "probe",
        "-f",
        "-",
        "--config",
        lab.settings_path,
        "--set",
        "batch.max_nodes=1",
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("".join(f"{host}\n" for host in lab.hosts).encode())
    process.stdin.flush()
    assert process.stdout.readline().startswith(b"{")
    process.stdout.close()
    assert process.wait(20) == 1
    assert process.stderr is not None
    stderr = process.stderr.read().decode()
    process.stdin.close()
    process.stderr.close()
    assert "Broken pipe" not in stderr
    assert "Traceback" not in stderr
    assert "Exception" not in stderr


@pytest.mark.slow
def test_a_reader_that_takes_its_time_loses_nothing(lab: Lab) -> None:
    """A full pipe slows the run down, and no deadline of the end cuts it off."""
    links = [f"h{number}.{host}" for host in fast(lab) for number in range(150)]
    process = start(
        "probe",
        "-f",
        "-",
        "--config",
        lab.settings_path,
        "--set",
        "batch.max_nodes=50",
        "-q",
        "--set",
        "crawling.host_budget=1s",
        "--set",
        "shutdown.drain_timeout=1s",
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    threading.Thread(target=lambda: feed_all(process, links), daemon=True).start()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(5)  # the pipe holds 64 KiB of some 700: nobody reads, and nobody may give up
    ended = finish(process)
    assert ended.status == 0
    assert set(ended.outcomes) == set(links)


def feed_all(process: subprocess.Popen[bytes], hosts: list[str]) -> None:
    """Write a list to standard input and close it."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.write("".join(f"{host}\n" for host in hosts).encode())
        process.stdin.close()
    process.stdin = None


# How it stops


@contextlib.contextmanager
def silent_web() -> Iterator[int]:
    """Yield a port on which connections are taken and nothing is ever said."""
    sockets = bind_together(WEB_ADDRESSES)
    try:
        for each in sockets:
            each.listen(64)
        yield sockets[0].getsockname()[1]
    finally:
        for each in sockets:
            each.close()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_what_is_being_probed_and_prints_it(lab: Lab, signum: int) -> None:
    """What was not begun is left; the status says that work remains."""
    process = start(
        "probe",
        "-f",
        lab.hosts_path,
        *slow(lab),
        "--config",
        lab.settings_path,
        "--set",
        "crawling.concurrency=2",
        "--set",
        "batch.flush_interval=10ms",
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signum)
    ended = finish(process, 20, already=first)
    assert ended.status == 1
    assert "stopped: hosts remain" in ended.stderr
    assert 1 <= len(ended.outcomes) < len(lab.hosts)
    assert all(outcome["http"] == "ok" for outcome in ended.outcomes.values() if outcome["host"] in slow(lab))
    assert "hosts in" in ended.stderr


def test_a_signal_ends_a_run_that_waits_for_its_list(lab: Lab) -> None:
    """Standard input stays open and silent: the read is left behind, what came is printed, nothing crashes."""
    process = start(
        "probe",
        "-f",
        "-",
        "--config",
        lab.settings_path,
        "--set",
        "batch.flush_interval=10ms",
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{fast(lab)[0]}\n".encode())
    process.stdin.flush()
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 1
    stdin, process.stdin = process.stdin, None
    ended = finish(process, already=first)
    stdin.close()
    assert fast(lab)[0] in ended.outcomes
    assert "Fatal Python error" not in ended.stderr


def test_a_signal_ends_a_run_whose_fifo_is_silent(lab: Lab, tmp_path: Path) -> None:
    """Also where the list is a file that has to be closed."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = start("probe", "-f", fifo, "--config", lab.settings_path, "--set", "batch.flush_interval=10ms")
    with fifo.open("wb", buffering=0) as writer:
        assert process.stdout is not None
        writer.write(f"{fast(lab)[0]}\n".encode())
        first = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        ended = finish(process, 20, already=first)
    assert ended.status == 1
    assert fast(lab)[0] in ended.outcomes


def test_a_second_signal_hurries(lab: Lab) -> None:
    """Hosts that say nothing would hold the run for their budget; cut off, they have an outcome all the same."""
    with silent_web() as port:
        process = start(
            "probe",
            *slow(lab)[:3],
            "-q",
            "--config",
            lab.settings_path,
            "--set",
            f"http_client.port_https={port}",
            "--set",
            f"http_client.port_http={port}",
            "--set",
            "crawling.tls_timeout=25s",
            "--set",
            "http_client.response_header_timeout=25s",
        )
        await_connections(port, 3)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        ended = finish(process, 20)
    assert time.monotonic() - begun < 8
    assert set(ended.outcomes) == set(slow(lab)[:3])
    assert {outcome["dns"] for outcome in ended.outcomes.values()} == {"ok"}


def await_connections(port: int, count: int) -> None:
    """Wait until so many connections to a port are established (/proc/net/tcp, state 01)."""
    wanted = f":{port:04X}"
    end = time.monotonic() + 20
    while time.monotonic() < end:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        if sum(row[2].endswith(wanted) and row[3] == "01" for row in rows) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {count} connections to port {port}")


def test_a_first_signal_waits_no_longer_than_the_budget_of_a_host(lab: Lab) -> None:
    """Every stop is bounded."""
    with silent_web() as port:
        process = start(
            "probe",
            *slow(lab)[:3],
            "-q",
            "--config",
            lab.settings_path,
            "--set",
            "crawling.host_budget=2s",
            "--set",
            f"http_client.port_https={port}",
            "--set",
            f"http_client.port_http={port}",
        )
        await_connections(port, 3)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        ended = finish(process, 20)
    assert time.monotonic() - begun < 5
    assert {outcome["robots"] for outcome in ended.outcomes.values()} == {"budget_spent"}


def test_a_run_takes_as_long_as_its_hosts_need(lab: Lab) -> None:
    """The tasks that still wait at the end of the list have their time too: N in, N out, status 0."""
    with silent_web() as port:
        hosts = [f"h{number}.{host}" for host in slow(lab)[:1] for number in range(3)] + slow(lab)[:6]
        ended = run(
            "probe",
            *hosts,
            "-q",
            "--config",
            lab.settings_path,
            "--set",
            "crawling.concurrency=2",
            "--set",
            "crawling.host_budget=500ms",
            "--set",
            "shutdown.drain_timeout=100ms",
            "--set",
            f"http_client.port_https={port}",
            "--set",
            f"http_client.port_http={port}",
        )
    assert ended.status == 0
    assert set(ended.outcomes) == set(hosts)


@pytest.mark.parametrize("after_ms", [0, 100, 200, 300, 400, 550])
def test_a_signal_at_any_moment_of_the_start_ends_it(lab: Lab, after_ms: int) -> None:
    """Before the imports, in the middle of them, while threads start: it ends, and not with success."""
    process = start("probe", "-q", "-f", "-", "--config", lab.settings_path, stdin=subprocess.PIPE)
    time.sleep(after_ms / 1000)
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(20) != 0
    finally:
        process.kill()
        process.communicate()


def test_progress_is_shown_on_a_terminal_and_comes_to_its_end(lab: Lab) -> None:
    """Rate and count on standard error while it is a terminal; the total is that of the hosts, not of the lines."""
    leader, follower = pty.openpty()
    listed = "# comment\n\n" + "".join(f"{host}\n" for host in [*slow(lab), slow(lab)[0], *fast(lab)]) + "!\n%%%"
    process = start(
        "probe",
        "-f",
        "-",
        "--config",
        lab.settings_path,
        "--set",
        "crawling.concurrency=3",
        stdin=subprocess.PIPE,
        stderr=follower,
    )
    os.close(follower)
    threading.Thread(target=lambda: feed_all(process, [listed]), daemon=True).start()
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while chunk := os.read(leader, 4096):
            shown += chunk
    os.close(leader)
    ended = finish(process)
    counts = [(int(done), int(total)) for done, total in re.findall(rb"(\d+)/(\d+)", shown)]
    assert counts
    assert counts[-1][1] == len(lab.hosts) + 2  # a duplicate and a rejected line are left out, and done
    assert all(done <= total for done, total in counts)
    assert b"a second" in shown
    assert ended.status == 0


def test_no_progress_is_shown_in_a_pipe(lab: Lab) -> None:
    """Nor any control sequence."""
    ended = run("probe", *slow(lab)[:1], "--config", lab.settings_path)
    assert "\x1b" not in ended.stderr
    assert "probing" not in ended.stderr


def test_one_option_probes_the_simulated_network() -> None:
    """`--lab` needs no settings and no hosts, and ends with status 0."""
    ended = run("probe", "--lab", "12", "--format", "csv")
    assert ended.status == 0
    assert ended.stdout.count(b"\r\n") > 20
    assert "12 hosts" in ended.stderr


def test_the_port_of_the_silent_web_is_silent() -> None:
    """The test's own tool: a connection is taken, and nothing comes."""
    with silent_web() as port, socket.create_connection((WEB_ADDRESSES[0], port), timeout=1) as connection:
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
