"""Many mutants in one binary: each function that has some becomes a match on the number of the mutant that is switched on.

    fn charge(&self, n: u64) -> bool { self.used + n <= self.max }

    fn charge(&self, n: u64) -> bool { match crate::mutant_switch::at(3) {
        17 => { true }                             what the list says of mutant 17
        18 => { self.used - n <= self.max }
        _ => { self.used + n <= self.max }         number 0, and every mutant of another function
    } }

A mutant is a whole body and never a part of one, so that types, borrows and drops are those of the mutant. `at` is const and says
0 while a constant is evaluated: what depends on such a mutant at run time alone is judged.
"""

import re

SWITCH = r'''//! Which mutant is switched on, read from the environment before main; and which functions were called.
#![allow(warnings, clippy::all)]
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};

static MUTANT: AtomicU32 = AtomicU32::new(0);
static CALLED: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

#[used]
#[unsafe(link_section = ".init_array")]
static INIT: extern "C" fn() = init;

// No allocation: tests replace the allocator, and some forbid it.
extern "C" fn init() {
    unsafe {
        let number = libc::getenv(c"ZSPOOL_MUTANT".as_ptr());
        if !number.is_null() {
            MUTANT.store(libc::atoi(number) as u32, Relaxed);
        }
        let path = libc::getenv(c"ZSPOOL_MUTANT_CALLS".as_ptr());
        if !path.is_null() {
            let file = libc::open(path, libc::O_RDWR);
            let at = libc::mmap(std::ptr::null_mut(), FUNCTIONS, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file, 0);
            libc::close(file);
            if at != libc::MAP_FAILED {
                CALLED.store(at.cast(), Relaxed);
            }
        }
    }
}

const fn in_a_constant(_function: usize) -> u32 {
    0
}

#[inline(never)]
fn at_run_time(function: usize) -> u32 {
    let called = CALLED.load(Relaxed);
    if !called.is_null() {
        unsafe { called.add(function).write_volatile(1) };
    }
    MUTANT.load(Relaxed)
}

#[inline]
pub(crate) const fn at(function: usize) -> u32 {
    core::intrinsics::const_eval_select((function,), in_a_constant, at_run_time)
}
'''

TOKEN = re.compile(
    r'//[^\n]*|/\*.*?\*/|b?r(?P<h>#*)".*?"(?P=h)|b?c?"(?:\\.|[^"\\])*"'
    r"|b?'(?:\\(?:x..|u\{[^}]*\}|.)|[^'\\])'|'[A-Za-z_]\w*|[{}]", re.S)
RETURNS_ITERATOR = re.compile(r"->\s*impl\s+((?:DoubleEnded)?Iterator<.*>)(\s*\+\s*(?:'\w+|use<[^>]*>))?\s*$", re.S)


def body(text, home):
    """Where the body of the function begins, its brace included; it ends where the function does."""
    open_braces = []
    for token in TOKEN.finditer(text, *home):
        if token.group() == "{":
            open_braces.append(token.start())
        elif token.group() == "}":
            start = open_braces.pop()
            if token.end() == home[1]:
                return start
    raise ValueError(f"no body in {text[home[0]:home[0] + 80]!r}")


def rewrite(text, mutants, function_numbers):
    """The file with all `mutants` of it switchable; and for each its first and last line in that text, and each function's lines."""
    out, done, line = [], 0, 1
    arms, functions = {}, {}

    def emit(piece):
        nonlocal line
        out.append(piece)
        line += piece.count("\n")

    by_home = {}
    for mutant in mutants:
        by_home.setdefault(mutant.home, []).append(mutant)
    for home, inside in sorted(by_home.items()):
        start = body(text, home)
        returns = RETURNS_ITERATOR.search(text[home[0]:start])
        wrap = ("Box::new(", ")") if returns else ("", "")
        emit(text[done:start])
        first = line
        emit("{ ")
        if returns:
            emit(f"let it: Box<dyn {returns.group(1)} + '_> = ")
        emit(f"match crate::mutant_switch::at({function_numbers[mutants[0].file, home]}) {{\n")
        for m in inside:
            arms[m.number] = [line, line]
            changed = text[start:m.start] + m.replacement + " " + text[m.end:home[1]]
            emit(f"{m.number} => {wrap[0]}{changed}{wrap[1]},\n")
            arms[m.number][1] = line - 1
        emit(f"_ => {wrap[0]}{text[start:home[1]]}{wrap[1]}\n}}")
        emit("; it }" if returns else " }")
        functions[home] = (first, line)
        done = home[1]
    emit(text[done:])
    return "".join(out), arms, functions
