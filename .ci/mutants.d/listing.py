"""What cargo-mutants would change: one Mutant for each entry of its list, with a name that survives edits elsewhere."""

import hashlib
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path


def sh(*command, **options):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **options).stdout


class Lines:
    """Text by line and column, both from 1, as cargo-mutants counts them: columns in characters."""

    def __init__(self, text):
        self.text = text
        self.starts = [0]
        for at, char in enumerate(text):
            if char == "\n":
                self.starts.append(at + 1)

    def offset(self, place):
        return self.starts[place["line"] - 1] + place["column"] - 1

    def span(self, span):
        return self.offset(span["start"]), self.offset(span["end"])


@dataclass
class Mutant:
    number: int  # from 1; 0 is the code as it is
    file: str
    function: str  # its path, as cargo-mutants prints it
    start: int  # of what is replaced, in characters from the start of the file
    end: int
    replacement: str
    home: tuple  # start and end of the outermost function around it; None outside of functions
    name: str  # the list's name without line and column; "(k of n)" where a function has several of one name
    key: str  # file, function, its text, place within it, replacement: what a result is remembered by


def outermost(spans):
    """Every span of the file's functions, mapped to the outermost one that holds it."""
    homes, roof = {}, None
    for span in sorted(spans, key=lambda s: (s[0], -s[1])):
        if roof is None or span[0] >= roof[1]:
            roof = span
        homes[span] = roof
    return homes


TEST_MODULE = re.compile(r"^#\[cfg\([^\n]*\btest\b[^\n]*\)\]\n(?:#\[[^\n]*\n)*(?:pub(?:\([a-z]+\))? )?mod (\w+)( \{|;)", re.M)


def test_code(root: Path):
    """Modules under a cfg that names `test`: of files from which character on, and whole files and folders. (cargo-mutants knows
    `cfg(test)` alone, not `cfg(all(test, not(loom)))`.)"""
    begins, whole = {}, []
    for path in (root / "src").rglob("*.rs"):
        text = path.read_text()
        for found in TEST_MODULE.finditer(text):
            if found.group(2) == ";":
                home = path.parent if path.name in ("mod.rs", "lib.rs") else path.with_suffix("")
                whole += [f"{(home / found.group(1)).relative_to(root)}{end}" for end in (".rs", "/")]
            else:
                begins.setdefault(str(path.relative_to(root)), found.start())
    return begins, tuple(whole)


PLANTED = re.compile(r"\bif [^{};]*planted(?:\(\))?\s*\.is\(Bug::\w+\)[^{};]*\{")


def planted_arms(text):
    """What runs only where a bug is planted: the blocks after `if ..planted.is(Bug::X)`. Tests turn the bug on to see it found, under loom."""
    found = []
    for arm in PLANTED.finditer(text):
        if "||" in arm.group() or re.search(r"!\s*[\w.()]*planted", arm.group()):
            continue
        depth, at = 1, arm.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        found.append((arm.end(), at))
    return found


ELSEWHERE = re.compile(r"^#\[cfg\(not\((?!loom|miri|test).*?\)\)\]\nmod \w+ \{\n.*?^\}", re.M | re.S)


def elsewhere(text):
    """Modules for systems other than those that the tests run on."""
    return [found.span() for found in ELSEWHERE.finditer(text)]


def is_noise(entry, text, start, end, arms):
    """What no test is to notice: text for who debugs this crate, what runs with a planted bug alone, what is not compiled here."""
    name = entry["function"]["function_name"] if entry["function"] else ""
    if re.search(r"impl [\w:]*\bDebug for |::planted$", name):
        return True
    if entry["replacement"] == "false" and re.search(r"planted(?:\(\))?\s*\.is\(Bug::\w+\)$", text[start:end]):
        return True
    return any(first <= start and end <= last for first, last in arms)


def mutants(root: Path, folders):
    """The mutants of these folders of src, but of tests, in the order of the list and numbered from 1."""
    begins, whole = test_code(root)
    globs = [arg for folder in folders for arg in ("-f", f"src/{folder}/**")]
    listed = json.loads(sh("cargo", "mutants", "--list", "--json", "-d", str(root), "-p", "zspool", *globs, cwd=root))
    by_file = {}
    for entry in listed:
        by_file.setdefault(entry["file"], []).append(entry)
    found = []
    for file, entries in sorted(by_file.items()):
        text = (root / file).read_text()
        lines, arms = Lines(text), planted_arms(text) + elsewhere(text)
        homes = outermost({lines.span(e["function"]["span"]) for e in entries if e["function"]})
        seen = {}
        for entry in entries:
            start, end = lines.span(entry["span"])
            if file.startswith(whole) or start > begins.get(file, len(text)) or is_noise(entry, text, start, end, arms):
                continue
            home = homes[lines.span(entry["function"]["span"])] if entry["function"] else None
            line = (text.rfind("\n", 0, start) + 1, text.find("\n", end))
            around = home or line
            body = text[around[0]:around[1]]
            digest = hashlib.sha256(body.encode()).hexdigest()[:12]
            function = entry["function"]["function_name"] if entry["function"] else ""
            name = entry["name"].split(": ", 1)
            name = f"{name[0].split(':')[0]}: {' '.join(name[1].split())}"
            key = "|".join([file, function, digest, str(start - around[0]), entry["replacement"]])
            found.append(Mutant(0, file, function, start, end, entry["replacement"], home, name, key))
            seen.setdefault(name, []).append(found[-1])
        for name, same in seen.items():
            for k, mutant in enumerate(same, 1):
                if len(same) > 1:
                    mutant.name = f"{name} ({k} of {len(same)})"
    for number, mutant in enumerate(found, 1):
        mutant.number = number
    return found
