//! [`Space`]: memory that pages are put into from here and that is no region: a child's, what `mremap` has moved, a model's.

use super::gate::Gate;
use super::last_words;
use crate::guest::uffd::{Descriptor, Errno, Mode};
use crate::sync::Arc;
use crate::units::PAGE_SIZE;

/// Memory elsewhere, by the addresses that it has there. What is put wakes who waits for it.
pub(crate) trait Space: Send + Sync {
    /// Put a page.
    ///
    /// # Errors
    /// What the kernel said.
    fn put(&self, address: usize, bytes: &[u8; PAGE_SIZE]) -> Result<(), Errno>;
    /// Put a page of zeroes.
    ///
    /// # Errors
    /// What the kernel said.
    fn put_zeroes(&self, address: usize) -> Result<(), Errno>;
    /// Who touches the page gets a SIGBUS.
    ///
    /// # Errors
    /// What the kernel said.
    fn put_poison(&self, address: usize) -> Result<(), Errno>;
    /// Who waits for the page makes the access again.
    fn wake_page(&self, address: usize);
    /// Whether the process is there whose memory it is.
    fn is_there(&self) -> bool;
}

impl Space for Descriptor {
    fn put(&self, address: usize, bytes: &[u8; PAGE_SIZE]) -> Result<(), Errno> {
        self.copy(address, bytes.as_ptr(), PAGE_SIZE, Mode::empty()).stopped.map_or(Ok(()), Err)
    }

    fn put_zeroes(&self, address: usize) -> Result<(), Errno> {
        self.zeropage(address..address + PAGE_SIZE, Mode::empty()).stopped.map_or(Ok(()), Err)
    }

    fn put_poison(&self, address: usize) -> Result<(), Errno> {
        self.poison(address..address + PAGE_SIZE, Mode::empty()).stopped.map_or(Ok(()), Err)
    }

    fn wake_page(&self, address: usize) {
        let _ = self.wake(address..address + PAGE_SIZE); // refused only for what is no page
    }

    fn is_there(&self) -> bool {
        self.lives()
    }
}

/// This process's memory. What is put passes the gate: between the moment in which a change was read and the one in which its words have followed,
/// something else may be mapped there, or something that is out.
pub(crate) struct Here {
    pub(crate) descriptor: Arc<Descriptor>,
    pub(crate) gate: Option<Arc<Gate>>,
}

impl Here {
    fn through(&self, address: usize, put: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        match &self.gate {
            Some(gate) => gate.through(address..address + PAGE_SIZE, put).unwrap_or(Err(Errno::AGAIN)),
            None => put(),
        }
    }
}

impl Space for Here {
    fn put(&self, address: usize, bytes: &[u8; PAGE_SIZE]) -> Result<(), Errno> {
        self.through(address, || self.descriptor.put(address, bytes))
    }

    fn put_zeroes(&self, address: usize) -> Result<(), Errno> {
        self.through(address, || self.descriptor.put_zeroes(address))
    }

    fn put_poison(&self, address: usize) -> Result<(), Errno> {
        self.through(address, || self.descriptor.put_poison(address))
    }

    fn wake_page(&self, address: usize) {
        self.descriptor.wake_page(address);
    }

    fn is_there(&self) -> bool {
        self.descriptor.is_there()
    }
}

/// Put a page; one that cannot be read is poisoned. False: later.
pub(super) fn arrive(space: &dyn Space, address: usize, bytes: Option<&[u8; PAGE_SIZE]>) -> bool {
    let done = match bytes {
        Some(bytes) => space.put(address, bytes),
        None => space.put_poison(address),
    };
    // There already, or gone again: nothing to be done about it. A kernel that cannot poison lets it read as zeroes, which must not be.
    match done {
        Err(Errno::AGAIN | Errno::NO_MEMORY) => false,
        Err(Errno::INVALID) if bytes.is_none() => last_words::end(format_args!(
            "the page that mremap moved to {address:#x} cannot be read back, and this kernel cannot mark it (it needs Linux 6.6): the \
             process ends, for the page must not read as zeroes"
        )),
        _ => true,
    }
}
