"""A copy of the tree with every mutant in it, built once; what the compiler refuses is left out."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import schemata
from listing import sh

# Left out: tests of guests and programs, that take devices or kill processes, or have a main of their own. What they are needed for, the
# tests of the layers below them are not good enough for.
LEFT_OUT = re.compile(r"guest_|squeeze_|run_|cgroupfs|classes$|numa_guest|zram_kernel|swap_killed|swap_faults_real|swapfile_disk|blockdev|hung_disk")
FEATURES = ["--features", "guest"]


def snapshot(root: Path, to: Path):
    """The files that git has or would take, as they are now: whoever works on them meanwhile moves no mutant."""
    shutil.rmtree(to, ignore_errors=True)
    for name in sh("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=root).split("\0"):
        if name and (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, to / name)


class Build:
    """A copy of `root` below `work`, with a target directory of its own."""

    def __init__(self, root: Path, work: Path, which: str):
        self.root, self.tree = root, work / f"tree.{which}"
        self.env = dict(os.environ, CARGO_TARGET_DIR=str(work / f"target.{which}"), RUSTC_BOOTSTRAP="zspool", RUSTFLAGS="--cap-lints allow",
                        CARGO_PROFILE_DEV_OPT_LEVEL="1", CARGO_PROFILE_DEV_DEBUG="0", CARGO_TERM_COLOR="never")
        self.lines = {}  # of a file of the copy: (first, last, mutant number) of each arm
        self.functions = {}  # of a file of the copy: (first, last, [mutant numbers])

    def write(self, name, data):
        path = self.tree / name
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def copy(self):
        """Everything but the sources, which `plant` writes; and what is not there any more goes."""
        names = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}
        for name in names:
            if not name.startswith("src/"):
                self.write(name, (self.root / name).read_bytes())
        for old in [*(self.tree / "src").rglob("*.rs"), *(self.tree / "tests").rglob("*.rs")]:
            if str(old.relative_to(self.tree)) not in names:
                old.unlink()

    def plant(self, mutants, numbers):
        """Writes the copy's sources, with these mutants switchable. `numbers`: of each function, by file and place."""
        by_file = {}
        for mutant in mutants:
            by_file.setdefault(mutant.file, []).append(mutant)
        self.lines, self.functions = {}, {}
        for name in sorted(str(path.relative_to(self.root)) for path in (self.root / "src").rglob("*") if path.is_file()):
            text = (self.root / name).read_text()
            if name in by_file:
                text, arms, functions = schemata.rewrite(text, by_file[name], numbers)
                self.lines[name] = [(first, last, number) for number, (first, last) in arms.items()]
                self.functions[name] = [(*lines, [m.number for m in by_file[name] if m.home == home]) for home, lines in functions.items()]
            if name == "src/lib.rs":
                text = "#![feature(core_intrinsics, const_eval_select)]\n#![allow(internal_features)]\n" + text + "\nmod mutant_switch;\n"
            self.write(name, text.encode())
        switch = schemata.SWITCH + f"\nconst FUNCTIONS: usize = {max(numbers.values(), default=0) + 1};\n"
        self.write("src/mutant_switch.rs", switch.encode())

    def cargo(self, *args):
        """Runs cargo on the copy. What the compiler refused: arms, and functions where it named no arm; and the test programs."""
        command = ["cargo", *args, "--message-format=json", *FEATURES]
        process = subprocess.Popen(command, cwd=self.tree, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        output, errors = process.communicate()
        refused, blamed, strange, programs = set(), set(), [], {}
        for message in (json.loads(line) for line in output.splitlines() if line.startswith("{")):
            if message["reason"] == "compiler-artifact" and message["executable"] and message["profile"]["test"]:
                name = "lib" if "lib" in message["target"]["kind"] else message["target"]["name"]
                programs[name] = message["executable"]
            if message["reason"] != "compiler-message" or message["message"]["level"] != "error":
                continue
            at = [span for span in message["message"]["spans"] if span["file_name"] in self.lines]
            arms = {n for s in at for first, last, n in self.lines[s["file_name"]] if s["is_primary"] and first <= s["line_start"] <= last}
            arms = arms or {n for s in at for first, last, n in self.lines[s["file_name"]] if first <= s["line_start"] <= last}
            functions = {n for s in at for first, last, ns in self.functions[s["file_name"]] if first <= s["line_start"] <= last for n in ns}
            refused |= arms
            if not arms:
                blamed |= functions
                if not functions and message["message"]["spans"]:
                    strange.append(message["message"]["rendered"])
        if process.returncode and not refused and not blamed:
            sys.exit(f"The copy in {self.tree} does not build, and no mutant is to blame:\n" + "\n".join(strange[:5]) + errors[-3000:])
        return refused, blamed, programs

    def tests(self):
        names = sorted(path.stem for path in (self.tree / "tests").glob("*.rs"))
        return [arg for name in names if not LEFT_OUT.match(name) for arg in ("--test", name)]

    def build(self, mutants, numbers, lib, tests, refuse, say):
        """Builds the unit tests (`lib`), the other tests (`tests`) or both, with as many mutants as compile: returns those and the
        programs. The others are given to `refuse`, with why."""
        refuse([m for m in mutants if m.home is None], "unswitched", "not in a function")
        mutants = [m for m in mutants if m.home is not None]
        self.copy()
        wanted = [*(["--lib"] if lib else []), *(self.tests() if tests else [])]
        for step in (["check", "--lib"], ["test", "--no-run", *wanted]):
            while True:
                self.plant(mutants, numbers)
                bad, blamed, programs = self.cargo(*step)
                if not bad and not blamed:
                    break
                say(f"{step[0]}: {len(bad)} mutants do not compile" + (f", {len(blamed)} cannot be switched" if blamed and not bad else ""))
                refuse([m for m in mutants if m.number in bad], "unviable", "rustc")
                if not bad:
                    refuse([m for m in mutants if m.number in blamed], "unswitched", "its function cannot be a match of bodies")
                    bad = blamed
                mutants = [m for m in mutants if m.number not in bad]
        return mutants, programs
