"""Runs tests against one mutant; and finds out which tests call which function, so that only those are run that can tell."""

import concurrent.futures
import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

STARTED = re.compile(r"^test (\S+)", re.M)
FAILED = re.compile(r"^test (\S+).*FAILED", re.M)
MOST_BYTES = 3 << 30  # of resident memory, for one test program and its children
MOST_SECONDS = 900
TIERS = (0.05, 0.5, 5, float("inf"))  # seconds of a test: quick ones first


def processes(group):
    """The processes of a group, by looking at all there are."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group:
                    yield int(name), int(fields[21]) * 4096
            except (OSError, IndexError):
                pass


def waited(pid):
    """Seconds the process's threads were ready and had no processor; the longest of them."""
    longest = 0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            longest = max(longest, int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[1]))
    except (OSError, IndexError):
        pass
    return longest / 1e9


def test(program, names, number, tree, folder, patience, calls=None):
    """Runs these tests of a program with a mutant. Returns None, or what went wrong and in which test; and the seconds it took.

    `patience`: seconds from one line of output to the next, not counting those when others had the processor.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    env = dict(os.environ, ZSPOOL_MUTANT=str(number), TMPDIR=str(folder), RUST_BACKTRACE="0", PROPTEST_FAILURE_PERSISTENCE="off",
               CARGO_MANIFEST_DIR=str(tree), ZSPOOL_SKIP_LOG=str(folder / "skips"))
    if calls:
        env["ZSPOOL_MUTANT_CALLS"] = str(calls)
    start = time.monotonic()
    process = subprocess.Popen([program, "--exact", "--test-threads=1", *names], cwd=tree, env=env, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
                               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
    output, wrong, since, delay = "", None, time.monotonic(), 0
    while True:
        ready, _, _ = select.select([process.stdout], [], [], 0.3)
        piece = os.read(process.stdout.fileno(), 65536).decode(errors="replace") if ready else None
        if piece == "":
            break
        if piece:
            output += piece
            since, delay = time.monotonic(), waited(process.pid)
            if FAILED.search(output):
                break
            continue
        if process.poll() is not None:
            break
        if sum(size for _, size in processes(process.pid)) > MOST_BYTES:
            wrong = "memory"
        elif time.monotonic() - since - max(0, waited(process.pid) - delay) > patience or time.monotonic() - start > MOST_SECONDS:
            wrong = "time-out"
        if wrong:
            break
    failed = FAILED.search(output)
    last = STARTED.findall(output)
    where = failed.group(1) if failed else last[-1] if last else "before the first test"
    if not failed and not wrong:
        process.wait()
        wrong = None if process.returncode == 0 else f"signal {-process.returncode}" if process.returncode < 0 else "exit"
    elif failed:
        wrong = "failed"
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    process.stdout.close()
    shutil.rmtree(folder, ignore_errors=True)
    return (wrong, where) if wrong else None, time.monotonic() - start


class Queue:
    """What is left to do, for several threads."""

    def __init__(self, items):
        self.items, self.lock = iter(items), threading.Lock()

    def __iter__(self):
        return self

    def __next__(self):
        with self.lock:
            return next(self.items)


class Calls:
    """Which tests there are, which functions each calls, and how long it takes; kept in a file by name."""

    def __init__(self, path):
        self.path = path
        kept = json.loads(path.read_text()) if path.is_file() else {"functions": [], "tests": {}}
        self.functions, self.tests = kept["functions"], kept["tests"]

    def learn(self, programs, tree, folder, functions, say, jobs):
        """Runs each test that is not known yet by itself, on the code as it is. One that fails is not asked about mutants."""
        names = {}
        for program, path in programs.items():
            listed = subprocess.run([path, "--list", "--format=terse"], cwd=tree, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            names |= {f"{program}::{line[:-6]}": (path, line[:-6]) for line in listed.stdout.splitlines() if line.endswith(": test")}
        strange = not set(functions) <= set(self.functions)  # of those the tests were not asked
        self.functions = functions if strange else self.functions
        new = [name for name in names if strange or name not in self.tests or self.tests[name]["wrong"]]
        say(f"{len(names)} tests, {len(new)} of them new: which functions do they call?")

        def learn(job):
            at = folder / f"calls.{job}"
            for name in iter(lambda: next(queue, None), None):
                folder.mkdir(parents=True, exist_ok=True)
                at.write_bytes(bytes(len(functions)))
                path, test_name = names[name]
                wrong, seconds = test(path, [test_name], 0, tree, folder / f"{job}", 120, at)
                called = [functions[n] for n, byte in enumerate(at.read_bytes()) if byte]
                known = self.tests.get(name, {"wrong": True})  # one that was wrong has told nobody anything
                since = time.time() if known["wrong"] else known["since"]
                self.tests[name] = {"seconds": seconds, "calls": called, "wrong": wrong, "since": since}
                if wrong:
                    say(f"left out, for it fails on the code as it is: {name} ({wrong[0]})")

        queue = Queue(new)
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            list(pool.map(learn, range(jobs)))
        self.path.write_text(json.dumps({"functions": self.functions, "tests": self.tests}))
        self.here = names

    def ladder(self, function, first, after):
        """Batches of (program, path, tests, longest seconds): those that call the function and are newer than `after`, quick ones first."""
        rungs = {}
        for name, (path, test_name) in self.here.items():
            known = self.tests[name]
            if known["wrong"] or function not in known["calls"] or known["since"] <= after:
                continue
            program = name.split("::")[0]
            tier = next(n for n, most in enumerate(TIERS) if known["seconds"] <= most)
            rank = 0 if program == "lib" and test_name.startswith(first) else 1 if program == "lib" else 2 if program.startswith(first) else 3
            rungs.setdefault((tier, rank, program), (path, []))[1].append((known["seconds"], test_name))
        for (tier, rank, program), (path, tests) in sorted(rungs.items()):
            # Long tests one by one, so that the first failure ends it.
            for batch in [tests] if tier < 2 else [[one] for one in sorted(tests)]:
                yield program, path, [name for _, name in batch], max(seconds for seconds, _ in batch)


def certain(program, path, wrong, mutant, calls, tree, folder, patience):
    """Whether it was the mutant: a test with time or threads in it may fail by itself. Quick unit tests have neither."""
    known = calls.tests.get(f"{program}::{wrong[1]}")
    if known is None or program == "lib" and known["seconds"] <= TIERS[0]:
        return True
    again, _ = test(path, [wrong[1]], mutant.number, tree, folder, patience)
    without, _ = test(path, [wrong[1]], 0, tree, folder, patience)
    return again is not None and without is None


def judge(mutant, function, calls, tree, folder, after, budget):
    """What becomes of a mutant: ("caught", by whom), ("time-out", where), ("survived", tests run), ("unasked", "") or ("partly", tests run)."""
    first = mutant.file.split("/")[1]
    ran, spent = 0, 0
    for program, path, names, seconds in calls.ladder(function, first, after):
        if spent > budget:
            return "partly", f"{ran} tests"
        # What seems to hang is asked without the mutant below, so that little patience costs no truth.
        patience = (6 if seconds <= TIERS[0] else 12) + 5 * seconds
        wrong, took = test(path, names, mutant.number, tree, folder, patience)
        spent += took
        if wrong and wrong[0] == "time-out":
            still, _ = test(path, names, 0, tree, folder, patience)
            if still:
                return "unclear", f"{program}::{wrong[1]} takes too long on the code as it is, too"
            return "time-out", f"{program}::{wrong[1]}"
        if wrong and certain(program, path, wrong, mutant, calls, tree, folder, patience):
            return "caught", f"{program}::{wrong[1]} ({wrong[0]})"
        ran += len(names)
    return ("survived", f"{ran} tests") if ran else ("uncalled", "")
