//! The sentence that belongs to a code: one for each thread, in a buffer of its own.
//!
//! 1. Nothing is allocated, locked or initialised to write it: a call that refuses may run in the handler of a fault.
//! 2. The last byte is always 0. A signal handler that comes between, and refuses too, may mix two sentences, and no more.

use std::cell::Cell;
use std::ffi::c_char;
use std::fmt::{self, Write};

/// Bytes of a sentence, with the 0 at its end; longer ones end in "...". Most have less than 300.
const BYTES: usize = 1024;

const CUT: &str = "...";

struct Buffer {
    bytes: [Cell<u8>; BYTES],
}

thread_local! {
    static MESSAGE: Buffer = const { Buffer { bytes: [const { Cell::new(0) }; BYTES] } };
}

/// Writes into the buffer from a position on.
struct Writer<'a> {
    buffer: &'a Buffer,
    at: usize,
    full: bool,
}

impl Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.full {
            return Ok(());
        }
        let room = BYTES - 1 - CUT.len() - self.at;
        let fits = text.floor_char_boundary(text.len().min(room));
        self.put(&text[..fits]);
        if fits < text.len() {
            self.put(CUT);
            self.full = true;
        }
        Ok(())
    }
}

impl Writer<'_> {
    fn put(&mut self, text: &str) {
        for (to, byte) in self.buffer.bytes[self.at..BYTES - 1].iter().zip(text.bytes()) {
            to.set(byte);
            self.at += 1;
        }
    }
}

/// Have this thread's next [`zsp_error_message`] say so.
pub(crate) fn say(sentence: fmt::Arguments<'_>) {
    MESSAGE.with(|buffer| {
        let mut writer = Writer { buffer, at: 0, full: false };
        // `write_str` never fails; a `Display` of somebody else's that does has said what it could.
        let _ = writer.write_fmt(sentence);
        buffer.bytes[writer.at].set(0);
    });
}

/// What was wrong with the last call of this thread that did not return `ZSP_OK`, and what to do about it: one sentence in English, in
/// UTF-8; empty if there was none. It is this thread's until its next call that fails, and is never freed. Any thread, at any time, also
/// in signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn zsp_error_message() -> *const c_char {
    MESSAGE.with(|buffer| buffer.bytes.as_ptr().cast())
}

#[cfg(test)]
pub(crate) fn said() -> String {
    MESSAGE.with(|buffer| {
        let bytes = buffer.bytes.iter().map(Cell::get).take_while(|&byte| byte != 0);
        String::from_utf8(bytes.collect()).expect("sentences are UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_replaces_the_one_before_and_a_long_one_is_cut_between_characters() {
        say(format_args!("{} of {}", 1, "two"));
        assert_eq!(said(), "1 of two");
        let long = "ä".repeat(BYTES);
        say(format_args!("a{long}{long}"));
        let cut = said();
        assert!(cut.len() < BYTES && cut.len() > BYTES - 8 && cut.ends_with("ä..."), "{} bytes", cut.len());
        say(format_args!("b"));
        assert_eq!(said(), "b");
    }

    #[test]
    fn each_thread_has_its_own() {
        say(format_args!("mine"));
        std::thread::spawn(|| assert_eq!(said(), "")).join().unwrap();
        assert_eq!(said(), "mine");
    }
}
