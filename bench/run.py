"""The benchmark: what one healthy host costs `spyderctl probe`, as a ratio to `floor.py`, over one lab.

    python bench/run.py [--hosts N] [--threads 256] [--rtt MS ...] [--rounds 3] [--json] [--profile]

Floor and probe take turns in one run, so that whatever else the machine does falls on both. Time and memory are
those that the kernel counts for the process (wait4, VmHWM); messages are counted on the wire, requests by the server.
Exit status: 0 every host was right in every run, 1 not so, 2 the lab cannot be made here.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lab as bench_lab
from lab import HERE, NAMESERVER, Lab, Wire

HOST_BUDGET_S = 0.25
"""A run that takes longer than this for each of its hosts (and RUN_BUDGET_S besides) has hung and is killed."""
RUN_BUDGET_S = 30.0
ALONE_RUNS = 3
ALONE_RTTS_MS = (0.0, 200.0, 400.0)
"""One host alone: at 0 ms it shows what starting costs; from 200 to 400 ms it grows by its round trips and nothing
else (from 0 ms it would not: the other threads are still being started while the first waits)."""
ROUND_TRIPS = 5
"""DNS, connect, TLS, robots.txt, page (DESIGN.md, section 7)."""
CPU_RATIO_MAX = 2.5
RATE_SHARE_MIN = 0.8
RSS_MAX_MB = 120.0
STAGES = ("dns", "robots", "http", "tls")
WRONG_SHOWN = 5
PROFILE_LINES = 25
PYSPY_RATE_HZ = 100
PERF_RATE_HZ = 499

PROBE_CONFIG = """\
probe: bench
ua: "SPYDERProbe/1.0 (+https://example.org/bench)"
dns: {{nameservers: ["{nameserver}"]}}
http_client: {{ca_bundle: "{ca_file}", port_https: 443, port_http: 80}}
crawling: {{concurrency: {threads}, allow_private_addresses: true}}
"""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of one program over one list of hosts."""

    hosts: int
    wall_s: float
    cpu_s: float
    max_rss_mb: float
    voluntary_switches: int
    involuntary_switches: int
    wire: Wire
    lab_cpu_s: dict[str, float]
    others_cores: float
    wrong: list[str]


@dataclasses.dataclass(frozen=True)
class Program:
    """A program under test: the command for a file of hosts, and what is wrong with what it left behind."""

    name: str
    command: Callable[[Path], list[str]]
    faults: Callable[[Path, str], list[str]]


def floor_program(lab: Lab, threads: int) -> Program:
    """`floor.py` on the lab; it says itself how many hosts went well."""

    def command(hosts_file: Path) -> list[str]:
        where = ["--nameserver", NAMESERVER, "--ca", str(lab.ca_file), "--threads", str(threads)]
        return [sys.executable, str(HERE / "floor.py"), *where, str(hosts_file)]

    def faults(hosts_file: Path, output: str) -> list[str]:
        figures = json.loads(output)
        missing = len(hosts_file.read_text().split()) - figures["ok"]
        return [f"{missing} hosts failed", *figures["errors"]] if missing else []

    return Program("floor", command, faults)


def probe_program(lab: Lab, threads: int, spyderctl: str) -> Program:
    """`spyderctl probe` on the lab; its records are checked, host by host and edge by edge."""
    config, records = lab.folder / "probe.yaml", lab.folder / "batches.jsonl"
    config.write_text(PROBE_CONFIG.format(nameserver=NAMESERVER, ca_file=lab.ca_file, threads=threads))

    def command(hosts_file: Path) -> list[str]:
        records.unlink(missing_ok=True)
        arguments = ["probe", "--config", config, "-f", hosts_file, "--format", "json", "-o", records, "--quiet"]
        return [spyderctl, *map(str, arguments)]

    def faults(hosts_file: Path, output: str) -> list[str]:
        del output  # with --quiet and -o there is none
        return wrong_records(records, hosts_file.read_text().split(), lab.expected_edges)

    return Program("probe", command, faults)


def wrong_records(records: Path, hosts: list[str], edges_a_host: dict[str, int]) -> list[str]:
    """Compare batches, one a line, with what must come out: one outcome a host, all `ok`, and every edge."""
    if not records.exists():
        return ["no output file"]
    outcomes: dict[str, dict[str, Any]] = {}
    edges: dict[str, set[tuple[str, str]]] = collections.defaultdict(set)
    for line in records.read_text().splitlines():
        batch = json.loads(line)
        outcomes |= {outcome["host"]: outcome for outcome in batch["outcomes"]}
        for edge in batch["edges"]:
            edges[edge["type"]].add((edge["source"], edge["target"]))
    wrong = [f"{host}: no outcome" for host in hosts if host not in outcomes]
    for host, outcome in outcomes.items():
        bad = {stage: outcome.get(stage) for stage in STAGES if outcome.get(stage) != "ok"}
        if bad:
            wrong.append(f"{host}: {bad}")
    for kind, each in edges_a_host.items():
        if len(edges[kind]) != each * len(hosts):
            wrong.append(f"{len(edges[kind])} edges {kind}, expected {each * len(hosts)}")
    return wrong


def measure(lab: Lab, program: Program, hosts_file: Path) -> Run:
    """Run the program once over `hosts_file`; blocks until it has ended or its time is up."""
    hosts = len(hosts_file.read_text().split())
    command = [*lab.enter, *program.command(hosts_file)]
    wire, lab_cpu_s, busy_s = lab.wire(), lab.cpu_s(), machine_busy_s()
    errors = lab.folder / "stderr"
    started = time.monotonic()
    with errors.open("w") as stderr:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=lab.folder)
    memory = PeakMemory(child.pid)
    watchdog = threading.Timer(RUN_BUDGET_S + hosts * HOST_BUDGET_S, child.kill)
    watchdog.start()
    try:
        assert child.stdout is not None
        output = child.stdout.read()
        memory.stop()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    finally:
        watchdog.cancel()
        memory.stop()
        if child.returncode is None:
            child.kill()
            child.wait()
    wall_s = time.monotonic() - started
    lab_used_s = {name: used - lab_cpu_s[name] for name, used in lab.cpu_s().items()}
    cpu_s = usage.ru_utime + usage.ru_stime
    others_s = machine_busy_s() - busy_s - cpu_s - sum(lab_used_s.values())
    wrong = program.faults(hosts_file, output) if output or program.name == "probe" else ["no output"]
    if child.returncode != 0:
        wrong += [f"exit status {child.returncode}", *errors.read_text().splitlines()[-WRONG_SHOWN:]]
    return Run(
        hosts=hosts,
        wall_s=wall_s,
        cpu_s=cpu_s,
        max_rss_mb=memory.peak_mb,
        voluntary_switches=usage.ru_nvcsw,
        involuntary_switches=usage.ru_nivcsw,
        wire=lab.wire().since(wire),
        lab_cpu_s=lab_used_s,
        others_cores=max(0.0, others_s / wall_s),
        wrong=wrong,
    )


class PeakMemory:
    """The peak of a process's resident memory, read while it runs.

    Not `ru_maxrss`: the kernel counts in it what this program held when it forked.
    """

    def __init__(self, pid: int) -> None:
        self.peak_mb = 0.0
        self._status = Path(f"/proc/{pid}/status")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; may be called twice."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            peak = re.search(r"^VmHWM:\s+(\d+) kB", self._status.read_text(), re.MULTILINE)
            if peak is not None:  # None once it has ended and waits to be reaped
                self.peak_mb = int(peak[1]) / 1024


def machine_busy_s() -> float:
    """Seconds that all processors together have worked so far (proc(5), /proc/stat), or were denied by a host."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Bench:
    """All runs of one invocation, and the figures made of them."""

    def __init__(self, lab: Lab, programs: list[Program], rounds: int, threads: int) -> None:
        self.runs: dict[float, dict[str, list[Run]]] = {}
        self._lab = lab
        self._programs = programs
        self._rounds = rounds
        self._threads = threads
        self._single = lab.folder / "one-host.txt"
        self._single.write_text(lab.hosts_file.read_text().partition("\n")[0] + "\n")
        self._alone: dict[float, dict[str, list[Run]]] = {}

    def run(self, rtts_ms: list[float]) -> None:
        """Measure every program at every round-trip time: first one host alone, then all, taking turns."""
        for rtt_ms in ALONE_RTTS_MS:
            self._lab.set_round_trip(rtt_ms)
            self._alone[rtt_ms] = self._take_turns(self._single, ALONE_RUNS, f"{rtt_ms:g} ms, one host")
        for rtt_ms in rtts_ms:
            self._lab.set_round_trip(rtt_ms)
            self.runs[rtt_ms] = self._take_turns(self._lab.hosts_file, self._rounds, f"{rtt_ms:g} ms")

    def _take_turns(self, hosts_file: Path, rounds: int, title: str) -> dict[str, list[Run]]:
        runs: dict[str, list[Run]] = {program.name: [] for program in self._programs}
        for number in range(1, rounds + 1):
            for program in self._programs:
                say(f"{title}: {program.name}, {number} of {rounds}")
                runs[program.name].append(measure(self._lab, program, hosts_file))
        return runs

    def wrong(self) -> list[str]:
        """The first few faults of every run that was not right, each said once."""
        faults = (
            f"{rtt_ms:g} ms, {name}, {run.hosts} hosts: {fault}"
            for table in (self._alone, self.runs)
            for rtt_ms, by_name in table.items()
            for name, runs in by_name.items()
            for run in runs
            for fault in run.wrong[:WRONG_SHOWN]
        )
        return list(dict.fromkeys(faults))

    def figures(self, rtt_ms: float, name: str) -> dict[str, float]:
        """Medians over the rounds; a host's cost is net of the program's start, which stands apart."""
        runs, hosts = self.runs[rtt_ms][name], self.runs[rtt_ms][name][0].hosts
        start_wall_s, start_cpu_s = self._start(name)
        rate = median(runs, lambda r: hosts / max(r.wall_s - start_wall_s, 1e-9))
        figures = {
            "hosts/s": rate,
            "CPU ms/host": median(runs, lambda r: self._cpu_ms(r, start_cpu_s)),
            "cores used": median(runs, lambda r: r.cpu_s / r.wall_s),
            "DNS messages/host": median(runs, lambda r: r.wire.dns_messages / hosts),
            "TCP connections/host": median(runs, lambda r: r.wire.connections / hosts),
            "TLS handshakes/host": median(runs, lambda r: r.wire.handshakes / hosts),
            "HTTP requests/host": median(runs, lambda r: r.wire.requests / hosts),
            "voluntary switches/host": median(runs, lambda r: r.voluntary_switches / hosts),
            "forced switches/host": median(runs, lambda r: r.involuntary_switches / hosts),
            "max RSS MB": median(runs, lambda r: r.max_rss_mb),
            "start s": start_wall_s,
            "start CPU s": start_cpu_s,
            "lab CPU ms/host": median(runs, lambda r: sum(r.lab_cpu_s.values()) * 1000 / hosts),
            "cores used by others": median(runs, lambda r: r.others_cores),
        }
        if rtt_ms:
            figures["share of threads/(5 rtt)"] = rate / (self._threads / (ROUND_TRIPS * rtt_ms / 1000))
        return figures

    def cpu_ratio(self, rtt_ms: float) -> float:
        """CPU a host of the probe over that of the floor, round by round, and the median of that."""
        probe, floor = (
            [self._cpu_ms(run, self._start(name)[1]) for run in self.runs[rtt_ms][name]] for name in ("probe", "floor")
        )
        return statistics.median(p / f for p, f in zip(probe, floor, strict=True))

    def round_trips(self, name: str) -> float:
        """How many round trips one host takes when nothing else runs."""
        _, short, long = ALONE_RTTS_MS
        wall_s = {rtt_ms: min(run.wall_s for run in self._alone[rtt_ms][name]) for rtt_ms in (short, long)}
        return (wall_s[long] - wall_s[short]) / ((long - short) / 1000)

    def _start(self, name: str) -> tuple[float, float]:
        """Wall and CPU seconds of a run of one host without a delay: what the program pays before it works.

        The least of the runs: they are short, and all that can disturb one makes it longer.
        """
        runs = self._alone[0.0][name]
        return min(run.wall_s for run in runs), min(run.cpu_s for run in runs)

    @staticmethod
    def _cpu_ms(run: Run, start_cpu_s: float) -> float:
        return (run.cpu_s - start_cpu_s) * 1000 / run.hosts

    def as_json(self) -> dict[str, Any]:
        """Everything: the figures, and every run that they are made of."""
        names = [program.name for program in self._programs]
        return {
            "threads": self._threads,
            "round trips, one host": {name: self.round_trips(name) for name in names},
            "figures": {
                f"{rtt_ms:g}": {
                    **{name: self.figures(rtt_ms, name) for name in names},
                    **({"CPU ratio": self.cpu_ratio(rtt_ms)} if len(names) > 1 else {}),
                }
                for rtt_ms in self.runs
            },
            "runs": {f"{rtt_ms:g}": _plain(table) for rtt_ms, table in self.runs.items()},
            "one_host_runs": {f"{rtt_ms:g}": _plain(table) for rtt_ms, table in self._alone.items()},
            "wrong": self.wrong(),
        }

    def table(self, rtt_ms: float) -> str:
        """One round-trip time as text, with the budgets of DESIGN.md, section 7."""
        columns = [self.figures(rtt_ms, program.name) for program in self._programs]
        head = "".join(f"{program.name:>10}" for program in self._programs)
        verdicts = self._verdicts(rtt_ms, columns[-1]) if len(columns) > 1 else {}
        lines = [f"{f'round trip {rtt_ms:g} ms':<26}{head}"]
        for row in columns[0]:
            values = "".join(f"{column[row]:>10.{_digits(row)}f}" for column in columns)
            lines.append(f"{row:<26}{values}  {verdicts.get(row, '')}".rstrip())
        return "\n".join(lines)

    def _verdicts(self, rtt_ms: float, probe: dict[str, float]) -> dict[str, str]:
        ratio = self.cpu_ratio(rtt_ms)
        rss, share = probe["max RSS MB"], probe.get("share of threads/(5 rtt)", RATE_SHARE_MIN)
        return {
            "CPU ms/host": f"{ratio:.2f} x floor, budget {CPU_RATIO_MAX}: {_met(ratio <= CPU_RATIO_MAX)}",
            "max RSS MB": f"budget {RSS_MAX_MB:g}: {_met(rss <= RSS_MAX_MB)}",
            "share of threads/(5 rtt)": f"budget {RATE_SHARE_MIN:g}: {_met(share >= RATE_SHARE_MIN)}",
        }


def median(runs: list[Run], figure: Callable[[Run], float]) -> float:
    """The median of one figure over some runs."""
    return statistics.median([figure(run) for run in runs])


def _met(met: bool) -> str:
    return "met" if met else "missed"


def _digits(row: str) -> int:
    return 0 if row in {"hosts/s", "max RSS MB"} else 2


def _plain(table: dict[str, list[Run]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [dataclasses.asdict(run) for run in runs] for name, runs in table.items()}


def say(words: str) -> None:
    """Progress, on standard error."""
    print(words, file=sys.stderr, flush=True)


def profile(lab: Lab, probe: Program, rtt_ms: float) -> None:
    """Run the probe twice more, under `perf` (which code) and under `py-spy` (which Python), and print both."""
    lab.set_round_trip(rtt_ms)
    tools = {name: _beside_interpreter(name) for name in ("perf", "py-spy")}
    for name, path in tools.items():
        if path is None:
            print(f"\nnot profiled with {name}: not installed (see bench/README.md)")
    if perf := tools["perf"]:
        _perf(lab, perf, probe.command(lab.hosts_file))
    if pyspy := tools["py-spy"]:
        _pyspy(lab, pyspy, probe.command(lab.hosts_file))


def _perf(lab: Lab, perf: str, command: list[str]) -> None:
    data = str(lab.folder / "perf.data")
    record = [*lab.enter, perf, "record", "-q", "-F", str(PERF_RATE_HZ), "-o", data, "--", *command]
    subprocess.run(record, cwd=lab.folder, check=True)
    for columns in ("overhead,dso", "overhead,dso,symbol"):
        report = [perf, "report", "-q", "-i", data, "--stdio", "--fields", columns]
        text = subprocess.run(report, check=True, capture_output=True, text=True).stdout
        named = [line.rstrip() for line in text.splitlines() if line.strip() and "] 0x0" not in line]
        print(f"\nCPU time by {columns.partition(',')[2]} (perf):", *named[:PROFILE_LINES], sep="\n")


def _pyspy(lab: Lab, pyspy: str, command: list[str]) -> None:
    folded = lab.folder / "stacks.txt"
    # --gil: a thread that waits in a system call looks busy to py-spy; what runs without the lock is perf's to show.
    options = ["--format", "raw", "--rate", str(PYSPY_RATE_HZ), "--function", "--gil", "--output", str(folded)]
    subprocess.run(
        [*lab.enter, pyspy, "record", *options, "--", *command], cwd=lab.folder, check=True, stdout=subprocess.DEVNULL
    )
    alone: collections.Counter[str] = collections.Counter()
    under: collections.Counter[str] = collections.Counter()
    for line in folded.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = (stack or "(no Python frame)").split(";")
        alone[frames[-1]] += int(count)
        under.update(dict.fromkeys(frames, int(count)))
    total = sum(alone.values())
    for title, counter in (("itself", alone), ("itself and what it calls", under)):
        print(f"\nPython functions by samples with the interpreter lock, {title} (py-spy):")
        for frame, samples in counter.most_common(PROFILE_LINES):
            print(f"{samples * 100 / total:7.2f} %  {frame}")


def _beside_interpreter(name: str) -> str | None:
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=3000, help="sites of the lab, each probed once a run")
    parser.add_argument("--threads", type=int, default=256, help="workers of floor and probe")
    parser.add_argument("--rtt", type=float, nargs="+", default=[0.0, 100.0], metavar="MS", help="round-trip times")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each program at each round-trip time")
    parser.add_argument("--json", action="store_true", help="every figure of every run, instead of the table")
    parser.add_argument("--profile", action="store_true", help="then show where the probe's CPU time goes")
    parser.add_argument("--spyderctl", metavar="PATH", help="default: the one beside this interpreter")
    parser.add_argument("--floor-only", action="store_true", help="leave the probe out")
    return parser.parse_args()


def bench(options: argparse.Namespace) -> int:
    """Make the lab, run everything, print; the exit status."""
    spyderctl = options.spyderctl or str(Path(sys.executable).parent / "spyderctl")
    if not options.floor_only and not Path(spyderctl).exists():
        raise bench_lab.LabError(f"{spyderctl} does not exist: install the project, or use --floor-only")
    with bench_lab.running(options.hosts) as lab:
        programs = [floor_program(lab, options.threads)]
        if not options.floor_only:
            programs.append(probe_program(lab, options.threads, spyderctl))
        runs = Bench(lab, programs, options.rounds, options.threads)
        runs.run(options.rtt)
        if options.json:
            print(json.dumps(runs.as_json(), indent=2))
        else:
            print(f"{options.hosts} hosts, {options.threads} threads, medians of {options.rounds} rounds")
            for program in programs:
                trips = runs.round_trips(program.name)
                print(f"{program.name}: {trips:.2f} round trips for one host, budget {ROUND_TRIPS}")
            for rtt_ms in options.rtt:
                print("\n" + runs.table(rtt_ms))
        wrong = runs.wrong()
        for fault in wrong:
            say(f"wrong: {fault}")
        if options.profile and not options.floor_only:
            for rtt_ms in options.rtt:
                print(f"\nprofile at {rtt_ms:g} ms")
                profile(lab, programs[-1], rtt_ms)
        return 1 if wrong else 0


def main() -> int:
    """Run, and leave nothing behind, whether it ends by itself, by Ctrl-C or by SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return bench(arguments())
    except bench_lab.LabError as error:
        say(f"bench: {error}")
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    raise SystemExit(main())
