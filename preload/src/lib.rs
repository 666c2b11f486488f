//! The library that `zspool run` preloads: it puts the memory of an unmodified program under a limit.
//!
//! ```text
//!   program                 this library, in the same process
//!   +------------------+    +-----------------------------------------------------------+
//!   | heap, mappings --|--->| finder: looks in /proc/self/maps, registers what is large  |
//!   | mmap, munmap, .. |--->| interpose: sees what the program does to its mappings      |
//!   | fork             |--->| fork                                                       |
//!   |                  |    | engine: pages out, handler threads, evictor, control socket|
//!   +------------------+    +-----------------------------------------------------------+
//!                             its memory: allocator (own mappings, never registered)
//!                             its thread-locals: tls (found without memory of the program's)
//! ```
//!
//! 1. Nothing of ours that serves a fault touches memory of the program's, takes a lock of the C library's, or calls its malloc:
//!    that may be the memory that is out, or the lock that the thread holds which waits for us.
//! 2. Threads of ours block all signals; threads of the program do so while they are in here ([`inside`]).
//! 3. In a process that is not meant (a child of the one that is), nothing happens at all.
//!
//! | file | holds |
//! |---|---|
//! | `settings` of [`zspool::guest::control`] | what the launcher says |
//! | [`engine`] | the engine it describes |
//! | [`interpose`], [`locking`], [`served`], [`descriptors`], [`next`], [`threads`], [`malloc`], [`fork`] | what is seen of the program |
//! | [`finder`], [`maps`], [`following`], [`moving`], [`gone`], [`own`], [`ranges`] | which memory is registered, and what becomes of it |
//! | [`allocator`], [`lock`], [`system`], [`inside`], [`tls`], [`state`] | how we stay out of the program's way |
//! | [`farewell`] | the last word |

#![cfg(target_os = "linux")]

mod allocator;
mod cold;
mod descriptors;
mod engine;
mod farewell;
mod finder;
mod following;
mod fork;
mod gone;
mod inside;
mod interpose;
mod lock;
mod locking;
mod malloc;
mod maps;
mod moving;
mod next;
mod own;
mod ranges;
mod served;
mod state;
mod system;
mod threads;
mod tls;

use inside::Inside;
use std::ffi::CStr;
use zspool::guest::control::{LIBRARY_NOTE, Settings, VARIABLE};

#[global_allocator]
static OURS: allocator::Ours = allocator::Ours;

/// [`VARIABLE`], as the C library wants it.
const NAME: &CStr = c"ZSPOOL_RUN";
const _: () = assert!(NAME.count_bytes() == VARIABLE.len());

/// Smallest range that is registered unless told otherwise: what V8 maps at once.
const LEAST: usize = 256 << 10;

/// As the launcher's, for a program that was not put under a limit.
const REFUSED: i32 = 125;

/// Tells the launcher that this file is the library, and not another one that would be preloaded to no effect.
#[used]
#[unsafe(link_section = ".note.zspool")]
static NOTE: Note = Note(LIBRARY_NOTE);

/// Notes begin at multiples of four bytes.
#[repr(C, align(4))]
struct Note([u8; LIBRARY_NOTE.len()]);

/// Run by the dynamic linker before the program's `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    // As few things as can be: this runs in every child of the program's.
    // SAFETY: nothing else runs yet that could change the environment.
    let value = unsafe { libc::getenv(NAME.as_ptr()) };
    if value.is_null() {
        return;
    }
    // SAFETY: the C library's strings end with a zero, and this one stays.
    let value = unsafe { CStr::from_ptr(value) }.to_bytes();
    let with_children = value.split(|byte| *byte == b'\n').any(|line| line == b"children=1");
    if Settings::pid_of(value) != Some(std::process::id()) && !with_children {
        return;
    }
    if let Err(sentence) = tls::prepare().and_then(|()| state::run()) {
        refuse(sentence);
    }
    let _inside = Inside::enter();
    std::panic::set_hook(Box::new(|panic| farewell::say(&format!("{panic}"))));
    threads::prepare();
    malloc::prepare();
    // A panic must not go through the dynamic linker.
    match std::panic::catch_unwind(|| descriptors::put_aside(|| begin(value))) {
        Ok(Ok(())) => (),
        Ok(Err(sentence)) => refuse(&sentence),
        Err(_) => refuse("The library could not be started."),
    }
}

fn begin(value: &[u8]) -> Result<(), String> {
    let value = std::str::from_utf8(value).map_err(|_| format!("{VARIABLE} is not text: have `zspool run` set it."))?;
    let settings = Settings::decode(value)?;
    own::note_images();
    let no_proc = |error| format!("/proc cannot be read ({error}): mount it.");
    maps::wiped().map_err(no_proc)?.into_iter().for_each(|range| own::leave_out(range, own::Why::Wiped));
    let program = farewell::program();
    let (engine, vm) = engine::start(&settings, &program).map_err(|failed| failed.to_string())?;
    let least = settings.least.map_or(LEAST, |bytes| bytes as usize);
    following::start(vm, least);
    let vm = following::vm().expect("it was set right now");
    let mut finder = finder::Finder::new(vm, least).map_err(no_proc)?;
    finder.look();
    let mut cold = cold::Cold::new(vm, settings.evict_cold_after);
    std::thread::Builder::new()
        .name("zspool-finder".to_owned())
        .spawn(move || finder.run(|| cold.tick()))
        .map_err(|error| format!("No thread can be started ({error}): see `ulimit -u`."))?;
    // Without a socket the program can run all the same; but who asked for a limit wants to see it.
    let server = engine::listen(&settings, &program, &engine).map_err(|failed| failed.to_string())?;
    std::mem::forget(server); // until the process ends
    farewell::at_exit(&settings, &program, &engine);
    fork::start(engine);
    Ok(())
}

/// The program must not run without the limit that somebody asked for.
fn refuse(sentence: &str) -> ! {
    farewell::say(sentence);
    // SAFETY: it ends the process.
    unsafe { libc::_exit(REFUSED) }
}
