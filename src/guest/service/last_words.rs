//! [`LastWords`]: a sentence for standard error, put together and written where nothing may be allocated or locked.
//!
//! ```text
//!   [ zspool: page 0x7f12_3000 of process 4711 cannot be read back: ... \n ]   512 bytes on the stack, one write(2)
//! ```
//!
//! 1. Neither formatting nor writing allocates, takes a lock or touches a thread-local: it may run in a signal handler, on a
//!    thread that holds every lock of the process.
//! 2. What is too long is cut off; there is always room for the line's end.

use std::fmt::{self, Write};

/// The longest message. A line of standard error that is read by people.
const BYTES: usize = 512;

/// A message under way.
pub(crate) struct LastWords {
    text: [u8; BYTES],
    len: usize,
}

impl LastWords {
    /// The message, with the name of this crate before it.
    pub(crate) fn new(message: fmt::Arguments<'_>) -> Self {
        let mut words = LastWords { text: [0; BYTES], len: 0 };
        // Never an error: what is too long is cut off.
        let _ = writeln!(words, "zspool: {message}");
        words
    }

    /// Write it to standard error, as far as that takes it.
    pub(crate) fn say(&self) {
        let mut left = &self.text[..self.len];
        while !left.is_empty() {
            // SAFETY: the bytes are ours and alive.
            let written = unsafe { libc::write(2, left.as_ptr().cast(), left.len()) };
            match usize::try_from(written) {
                Ok(bytes @ 1..) => left = &left[bytes.min(left.len())..],
                _ => return, // closed, or full and not waiting: nobody listens
            }
        }
    }
}

impl Write for LastWords {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = BYTES - 1 - self.len;
        let bytes = &text.as_bytes()[..text.len().min(room)];
        self.text[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        if bytes.len() < text.len() {
            self.text[BYTES - 1] = b'\n';
            self.len = BYTES;
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// Say why, and end the process with SIGABRT: where pages cannot be served any more, going on would hang it or lose data.
pub(crate) fn end(message: fmt::Arguments<'_>) -> ! {
    LastWords::new(message).say();
    // SAFETY: takes nothing; it may be called from signal handlers.
    unsafe { libc::abort() }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_with_a_name_and_is_cut_where_it_is_too_long() {
        let words = LastWords::new(format_args!("page {:#x} of {}", 0x1000, 7));
        assert_eq!(&words.text[..words.len], b"zspool: page 0x1000 of 7\n");
        let long = "x".repeat(2 * BYTES);
        for cut in [BYTES - 10, BYTES - 9, BYTES - 8, BYTES, 2 * BYTES] {
            let words = LastWords::new(format_args!("{}", &long[..cut]));
            assert_eq!(words.len, (cut + 9).min(BYTES), "{cut}");
            assert_eq!(words.text[words.len - 1], b'\n');
        }
    }
}
