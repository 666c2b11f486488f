//! `mremap` of what the kernel has as several mappings, and would have as one without us.
//!
//! ```text
//!   what the program has    |--------------- one mapping ---------------|
//!   what the kernel has     |-- registered --|--- not yet ---|-- since --|     "Bad address"
//!
//!   to a place of its size  1. each as it is; its old addresses stay mapped, empty
//!                           2. what it is to be longer by, behind the last one
//!                           3. the old addresses go; or, where one could not be moved, all come back
//! ```
//!
//! 1. Nothing of it is registered: [`following::before_move`](crate::following::before_move) has given it up. The kernel may still have several
//!    mappings: their advice differs, or pages were touched first while they were several.
//! 2. Nobody else can map anything at either place while some of it is there.
//! 3. Each piece is private anonymous memory that is read and written. What the program itself has made several of such, it can move as one too.

use crate::maps::Maps;
use crate::system::PAGE;
use libc::{c_int, c_void};
use std::ops::Range;

/// Move `from`, of whole pages, as `mremap` with these arguments has failed to do with EFAULT. The address where it is then.
///
/// # Errors
/// Nothing has changed. EFAULT: it is nothing that this can help. ENOMEM: there is no room for it.
pub(crate) fn in_pieces(
    from: &Range<usize>,
    new_len: usize,
    flags: c_int,
    new_at: *mut c_void,
) -> Result<usize, c_int> {
    let (may_move, fixed) = (flags & libc::MREMAP_MAYMOVE != 0, flags & libc::MREMAP_FIXED != 0);
    let is_known = flags & !(libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) == 0;
    let longer = new_len.checked_next_multiple_of(PAGE).and_then(|new_len| new_len.checked_sub(from.len()));
    let (Some(longer), true, Some(pieces)) = (longer, is_known, pieces(from)) else { return Err(libc::EFAULT) };
    let last = pieces.last().expect("there are some");
    if !fixed && remap(last.clone(), last.len() + longer, 0, 0).is_some() {
        return Ok(from.start);
    }
    if !may_move {
        return Err(libc::ENOMEM);
    }
    move_each(from, &pieces, longer, fixed.then(|| new_at.addr())).ok_or(libc::ENOMEM)
}

fn move_each(from: &Range<usize>, pieces: &[Range<usize>], longer: usize, to: Option<usize>) -> Option<usize> {
    let new_len = from.len() + longer;
    // The kernel has seen that a place of the program's choice is one, before it looked at what is to move there; not that there is nothing of it.
    let to = map(to.unwrap_or(0), new_len, libc::PROT_NONE, if to.is_some() { libc::MAP_FIXED } else { 0 })?;
    let there = |at: usize| at - from.start + to;
    let keep = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    let moves = |piece: &&Range<usize>| remap((*piece).clone(), piece.len(), keep, there(piece.start)).is_some();
    let moved = pieces.iter().take_while(moves).count();
    let usual = libc::PROT_READ | libc::PROT_WRITE;
    if moved == pieces.len() && (longer == 0 || map(there(from.end), longer, usual, libc::MAP_FIXED).is_some()) {
        unmap(from);
        return Some(to);
    }
    for piece in &pieces[..moved] {
        let here = there(piece.start)..there(piece.end);
        // Onto what it left there, which is still mapped: no mapping is made, so that nothing is missing for it.
        let back = remap(here, piece.len(), libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, piece.start);
        assert!(back.is_some(), "Memory that was being moved cannot be moved back.");
    }
    unmap(&(to..to + new_len));
    None
}

/// The mappings that `from` lies in, cut to it; `None` where it is one, or where some of it is none that we register.
fn pieces(from: &Range<usize>) -> Option<Vec<Range<usize>>> {
    let mut maps = Maps::default();
    maps.read().ok()?;
    let within = maps.each().map(|range| range.start.max(from.start)..range.end.min(from.end));
    let pieces: Vec<_> = within.filter(|piece| !piece.is_empty()).collect();
    let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
    (pieces.len() > 1 && bytes == from.len()).then_some(pieces)
}

fn remap(from: Range<usize>, new_len: usize, flags: c_int, to: usize) -> Option<usize> {
    // SAFETY: of the program's memory what it has asked to be moved; to a place that is ours or that it has named.
    let at = unsafe { libc::syscall(libc::SYS_mremap, from.start, from.len(), new_len, flags as isize, to) };
    (at != -1).then_some(at as usize)
}

fn map(at: usize, len: usize, protection: c_int, flags: c_int) -> Option<usize> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: what is there, if anything, is ours, or the program wants it replaced.
    let at = unsafe { libc::syscall(libc::SYS_mmap, at, len, protection, flags, -1isize, 0) };
    (at != -1).then_some(at as usize)
}

fn unmap(range: &Range<usize>) {
    // SAFETY: nothing is there any more.
    unsafe { libc::syscall(libc::SYS_munmap, range.start, range.len()) };
}
