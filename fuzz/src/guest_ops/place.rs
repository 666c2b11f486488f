//! [`Place`]: a mapping, what it must read as, and its region if it is registered.

use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use zspool::compress::{Codec, Compressed, Context, Lz4};
use zspool::guest::memory::{Memory, Method};
use zspool::guest::{Error, Pin, Region, Vm};
use zspool::units::PAGE_SIZE;

/// What is mapped; unmapped when dropped.
pub struct Map {
    start: *mut u8,
    pages: usize,
    /// Of a memfd.
    pub file: Option<OwnedFd>,
}

impl Map {
    /// Anonymous memory, or a memfd mapped shared.
    pub fn new(pages: usize, of_file: bool) -> Map {
        let bytes = pages * PAGE_SIZE;
        let file = of_file.then(|| {
            // SAFETY: takes a name and flags.
            let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            // SAFETY: new; nobody else knows the descriptor.
            let file = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: changes the size of our own file.
            assert_eq!(unsafe { libc::ftruncate(file.as_raw_fd(), bytes as libc::off_t) }, 0);
            file
        });
        let kind = if of_file { libc::MAP_SHARED } else { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS };
        let fd = file.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping wherever the kernel likes.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind | libc::MAP_NORESERVE, fd, 0) };
        assert_ne!(start, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Map { start: start.cast(), pages, file }
    }

    /// Where the page begins.
    pub fn page(&self, page: usize) -> *mut u8 {
        assert!(page < self.pages);
        // SAFETY: inside of the mapping.
        unsafe { self.start.add(page * PAGE_SIZE) }
    }

    /// Whether the kernel has the page where dropping it would lose it: mapped, or in the file.
    fn is_there(&self, page: usize, of_file: bool) -> bool {
        if let (Some(file), true) = (&self.file, of_file) {
            let at = (page * PAGE_SIZE) as libc::off_t;
            // SAFETY: moves the position of a file that nobody reads by position.
            return unsafe { libc::lseek(file.as_raw_fd(), at, libc::SEEK_DATA) } == at;
        }
        self.is_mapped(page)
    }

    /// Whether the page is in memory and mapped.
    pub fn is_mapped(&self, page: usize) -> bool {
        use std::os::unix::fs::FileExt;
        let map = std::fs::File::open("/proc/self/pagemap").expect("every process has one");
        let mut entry = [0; 8];
        map.read_exact_at(&mut entry, (self.page(page).addr() / PAGE_SIZE * 8) as u64).expect("an entry for each page");
        entry[7] & 0x80 != 0
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: our own mapping; the region is gone before.
        unsafe { libc::munmap(self.start.cast(), self.pages * PAGE_SIZE) };
    }
}

/// See the file.
pub struct Place {
    // Dropped in this order: pins are of the region, and that is of the mapping.
    pins: Vec<(Range<usize>, Pin<'static>)>,
    region: Option<Box<Region>>,
    pub map: Map,
    pub pages: usize,
    /// What it must read as.
    pub bytes: Vec<u8>,
    /// Pages that somebody threw away behind our back, and that were not touched since.
    pub vanished: Vec<bool>,
    /// Pages written since somebody asked.
    pub written: Vec<bool>,
    /// Whose it is.
    pub vm: usize,
    /// How its pages leave.
    pub method: Method,
}

impl Place {
    /// A mapping that reads as zeroes, of nobody yet.
    pub fn new(pages: usize, method: Method, of_file: bool, vm: usize) -> Place {
        Place {
            pins: Vec::new(),
            region: None,
            map: Map::new(pages, of_file),
            pages,
            bytes: vec![0; pages * PAGE_SIZE],
            vanished: vec![false; pages],
            written: vec![false; pages],
            vm,
            method,
        }
    }

    /// Register it.
    pub fn register(&mut self, vm: &Vm) -> Result<(), Error> {
        let (start, bytes) = (self.map.page(0), self.pages * PAGE_SIZE);
        let memory = match &self.map.file {
            None => Memory::anonymous(start, bytes),
            Some(file) => Memory::memfd(start, bytes, file, 0),
        };
        // SAFETY: mapped for longer than the region lives, and nobody maps anything else there.
        self.region = Some(Box::new(unsafe { vm.register(memory.method(self.method)) }?));
        Ok(())
    }

    /// Its region.
    pub fn region(&self) -> Option<&Region> {
        self.region.as_deref()
    }

    /// Pages as bytes from the beginning.
    pub fn span(pages: Range<usize>) -> Range<usize> {
        pages.start * PAGE_SIZE..pages.end * PAGE_SIZE
    }

    /// Keep pages in memory.
    pub fn pin(&mut self, pages: Range<usize>) -> Result<(), Error> {
        let pin = self.region.as_ref().expect("it is registered").pin(Self::span(pages.clone()))?;
        // SAFETY: the region is boxed, and taken or dropped only after all pins of it: `unpin_all`, and the order of fields.
        let pin = unsafe { std::mem::transmute::<Pin<'_>, Pin<'static>>(pin) };
        self.pins.push((pages, pin));
        Ok(())
    }

    /// Drop one pin, by any number.
    pub fn unpin(&mut self, which: u8) {
        if !self.pins.is_empty() {
            let at = usize::from(which) % self.pins.len();
            drop(self.pins.swap_remove(at));
        }
    }

    /// Drop all but the first so many.
    pub fn unpin_to(&mut self, left: usize) {
        self.pins.truncate(left);
    }

    /// How many pins there are.
    pub fn pins(&self) -> usize {
        self.pins.len()
    }

    /// How many there are of a page.
    pub fn pins_of(&self, page: usize) -> usize {
        self.pins.iter().filter(|(pages, _)| pages.contains(&page)).count()
    }

    /// Drop all.
    pub fn unpin_all(&mut self) {
        self.pins.clear();
    }

    /// Whether it is pinned.
    pub fn is_pinned(&self, page: usize) -> bool {
        self.pins.iter().any(|(pages, _)| pages.contains(&page))
    }

    /// Whether it may stay because it hardly shrinks: its object would take more than seven eighths of a page, in classes of up to 64 bytes.
    pub fn wins_little(&self, page: usize) -> bool {
        let bytes: &[u8; PAGE_SIZE] = self.bytes[Self::span(page..page + 1)].try_into().expect("a page");
        match Lz4.compress(&mut Context::new(), bytes) {
            Compressed::Bytes(object) => object.len() + 64 > PAGE_SIZE / 8 * 7,
            Compressed::Incompressible => true,
        }
    }

    /// Take the region, to end it.
    pub fn take(&mut self) -> Option<Region> {
        self.unpin_all();
        self.region.take().map(|region| *region)
    }

    /// It could not be ended.
    pub fn give_back(&mut self, region: Region) {
        self.region = Some(Box::new(region));
    }

    /// Throw pages away behind the region's back. They are zeroes where the kernel had them.
    pub fn vanish(&mut self, pages: Range<usize>, of_file: bool) -> u64 {
        let of_file = of_file && self.map.file.is_some();
        let there: Vec<usize> = pages.clone().filter(|&page| self.map.is_there(page, of_file)).collect();
        let span = Self::span(pages.clone());
        let done = if of_file {
            let file = self.map.file.as_ref().expect("just looked at").as_raw_fd();
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: our own file.
            unsafe { libc::fallocate(file, mode, span.start as libc::off_t, span.len() as libc::off_t) }
        } else {
            // SAFETY: our own mapping, and bytes that only this thread looks at.
            unsafe { libc::madvise(self.map.page(pages.start).cast(), span.len(), libc::MADV_DONTNEED) }
        };
        assert_eq!(done, 0, "throwing pages away: {}", std::io::Error::last_os_error());
        let lost = of_file || self.map.file.is_none(); // else the file has them
        let there: Vec<usize> = there.into_iter().filter(|_| lost).collect();
        there.iter().for_each(|&page| self.zero(page));
        self.vanished[pages].fill(true);
        there.len() as u64
    }

    /// A page reads as zeroes from now on.
    pub fn zero(&mut self, page: usize) {
        self.bytes[Self::span(page..page + 1)].fill(0);
        self.vanished[page] = false;
        self.written[page] = true;
    }

    /// Compare a page that may be touched.
    pub fn compare(&mut self, page: usize) {
        let expected = &self.bytes[Self::span(page..page + 1)];
        let start = self.map.page(page);
        for (at, word) in expected.chunks_exact(8).enumerate() {
            // SAFETY: mapped, whole words.
            let found = unsafe { start.cast::<u64>().wrapping_add(at).read_volatile() };
            let expected = u64::from_ne_bytes(word.try_into().expect("8 bytes"));
            assert!(
                found == expected,
                "1: page {page} has {found:#x} as word {at}, not {expected:#x} ({:?})",
                self.method
            );
        }
        self.vanished[page] = false;
    }

    /// Write the page's bytes from `from` on, in the model and in memory that may be touched.
    pub fn write(&mut self, page: usize, from: usize, bytes: &[u8]) {
        let start = page * PAGE_SIZE + from;
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        // SAFETY: inside of a mapped page, whole words.
        let to = unsafe { self.map.page(page).add(from) }.cast::<u64>();
        for (at, word) in bytes.chunks_exact(8).enumerate() {
            // SAFETY: as above.
            unsafe { to.wrapping_add(at).write_volatile(u64::from_ne_bytes(word.try_into().expect("8 bytes"))) };
        }
        self.vanished[page] = false;
        self.written[page] = true;
    }
}
