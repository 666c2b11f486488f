//! [`Process`]: the resident anonymous pages of a live process, read beside it: it is neither stopped nor signalled.
//!
//! `/proc/PID/maps` names the mappings, `/proc/PID/pagemap` says which of their pages are resident and anonymous, and
//! `/proc/PID/mem` has the bytes. The list of pages is made when the source is opened and read later, so a page may be gone by
//! then (skipped and counted), have other contents (what is read is what is stored), or the whole process may have ended
//! (the source ends early and says so). The open file stays with the memory it was opened for: a process that gets the same
//! number later is never read by mistake.

use super::{Kind, Source, SourceError};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IoSliceMut, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use zspool::units::{PAGE_SIZE, Page};

const PAGE: u64 = PAGE_SIZE as u64;

/// Pagemap entries are this long, one per page.
const ENTRY: usize = 8;
/// In a pagemap entry: the page is in memory.
const PRESENT: u64 = 1 << 63;
/// In a pagemap entry: the page belongs to a file or is shared anonymous memory.
const FILE_OR_SHARED: u64 = 1 << 61;

/// In the flags of a process's `stat`: a thread of the kernel (PF_KTHREAD).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Pagemap entries read at once: 64 KiB of them describe 32 MiB.
const ENTRIES_AT_ONCE: usize = 8192;

/// A run of resident anonymous pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// Address of its first page.
    start: u64,
    pages: u64,
}

/// The resident anonymous pages of a live process.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    /// `comm-PID`.
    name: String,
    mem: File,
    runs: Vec<Run>,
    /// Which run is read, and how many of its pages are done.
    at: (usize, u64),
    /// Pages in all runs.
    pages: u64,
    /// Pages read.
    read: u64,
    /// Pages that were gone when their turn came.
    vanished: u64,
    /// Whether the process was found ended.
    ended: bool,
    /// Whether it is no error if it ends before its first page is read.
    may_end: bool,
}

impl Process {
    /// List the pages of process `pid`.
    pub(crate) fn open(pid: u32) -> Result<Self, SourceError> {
        if pid == std::process::id() {
            return Err(SourceError::Ourselves { pid });
        }
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let comm = comm.trim_end();
        if is_kernel_thread(pid) {
            return Err(SourceError::KernelThread { pid, name: comm.to_owned() });
        }
        let mem = open_proc(pid, "mem", comm)?;
        let maps = open_proc(pid, "maps", comm)?;
        let mut pagemap = open_proc(pid, "pagemap", comm)?;

        let mut runs = vec![];
        for line in BufReader::new(maps).lines() {
            // A process that ends meanwhile has no further mappings.
            let Ok(line) = line else { break };
            if let Some((start, end)) = private_mapping(&line) {
                list_resident(&mut pagemap, start, end, &mut runs);
            }
        }
        let pages = runs.iter().map(|run| run.pages).sum();
        if pages == 0 {
            return Err(SourceError::NothingResident { pid, name: comm.to_owned() });
        }
        let name = format!("{comm}-{pid}");
        Ok(Process { pid, name, mem, runs, at: (0, 0), pages, read: 0, vanished: 0, ended: false, may_end: false })
    }

    /// It was not asked for by name: that it ended before its turn came is worth a note and no more.
    pub(super) fn that_may_end(self) -> Self {
        Process { may_end: true, ..self }
    }

    /// Read up to `out.len()` pages of one run with one call.
    fn read_run(&mut self, run: Run, done: u64, out: &mut [Page]) -> io::Result<usize> {
        self.mem.seek(SeekFrom::Start(run.start + done * PAGE))?;
        let mut slices: Vec<_> = out.iter_mut().map(|page| IoSliceMut::new(&mut page.0)).collect();
        // The kernel copies whole pages and stops before one that is gone.
        Ok(self.mem.read_vectored(&mut slices)? / PAGE_SIZE)
    }
}

fn is_kernel_thread(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; the flags are the seventh word after it.
    let flags = stat.rfind(')').and_then(|end| stat[end + 1..].split_ascii_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

fn open_proc(pid: u32, what: &str, comm: &str) -> Result<File, SourceError> {
    let path = PathBuf::from(format!("/proc/{pid}/{what}"));
    File::open(&path).map_err(|cause| match cause.raw_os_error() {
        // A process that has ended and was not waited for has a folder, and no memory any more.
        Some(libc::ESRCH) if path.parent().is_some_and(Path::exists) => {
            SourceError::NothingResident { pid, name: comm.to_owned() }
        }
        Some(libc::ENOENT | libc::ESRCH) => SourceError::NoSuchProcess { pid },
        Some(libc::EACCES | libc::EPERM) => SourceError::not_permitted(format!("process {pid} ({comm})")),
        _ => SourceError::Io { path, cause },
    })
}

/// The addresses of a mapping that can have anonymous pages of its own, from its line in `maps`.
fn private_mapping(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let private = fields.next()?.ends_with('p');
    let path = fields.nth(3).unwrap_or("");
    // Not the kernel's own pages (`[vvar]`, `[vdso]`, `[vsyscall]`), nor a device's memory, which reading might disturb.
    if !private || path.starts_with("[v") || path.starts_with("/dev/") {
        return None;
    }
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    (start < end).then_some((start, end))
}

/// Append the runs of resident anonymous pages between two addresses.
fn list_resident(pagemap: &mut File, start: u64, end: u64, runs: &mut Vec<Run>) {
    let mut buffer = [0; ENTRIES_AT_ONCE * ENTRY];
    let mut at = start;
    if pagemap.seek(SeekFrom::Start(start / PAGE * ENTRY as u64)).is_err() {
        return;
    }
    while at < end {
        let want = (((end - at) / PAGE) as usize).min(ENTRIES_AT_ONCE) * ENTRY;
        // Short at the end of the address space, or when the process ended.
        let got = pagemap.read(&mut buffer[..want]).unwrap_or(0) / ENTRY;
        if got == 0 {
            return;
        }
        for entry in buffer[..got * ENTRY].as_chunks::<ENTRY>().0 {
            if u64::from_ne_bytes(*entry) & (PRESENT | FILE_OR_SHARED) == PRESENT {
                match runs.last_mut() {
                    Some(run) if run.start + run.pages * PAGE == at => run.pages += 1,
                    _ => runs.push(Run { start: at, pages: 1 }),
                }
            }
            at += PAGE;
        }
    }
}

impl Source for Process {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Process
    }

    fn pages_at_most(&self) -> u64 {
        self.pages
    }

    fn read(&mut self, out: &mut [Page]) -> Result<usize, SourceError> {
        let mut count = 0;
        while count < out.len() && !self.ended {
            let (at, done) = self.at;
            let Some(&run) = self.runs.get(at) else { break };
            if done == run.pages {
                self.at = (at + 1, 0);
                continue;
            }
            let want = (out.len() - count).min((run.pages - done) as usize);
            let step = match self.read_run(run, done, &mut out[count..count + want]) {
                // End of file: there is no memory any more.
                Ok(0) => {
                    self.ended = true;
                    0
                }
                Ok(read) => {
                    count += read;
                    self.read += read as u64;
                    read
                }
                // The first page is gone: unmapped or made unreadable.
                Err(_) => {
                    self.vanished += 1;
                    1
                }
            };
            self.at = (at, done + step as u64);
        }
        if self.ended && self.read == 0 && !self.may_end {
            let name = self.name.clone();
            return Err(SourceError::Vanished { pid: self.pid, name });
        }
        Ok(count)
    }

    fn vanished_pages(&self) -> u64 {
        self.vanished
    }

    fn note(&self) -> Option<String> {
        let Process { pid, name, pages, read, .. } = self;
        self.ended.then(|| format!("Process {pid} ({name}) ended while it was read: {read} of {pages} pages were."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// A process with a mebibyte and more of memory, as soon as it has it.
    fn sleeper() -> Child {
        let child = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().unwrap();
        while Process::open(child.id()).map_or(0, |p| p.pages_at_most()) < 10 {
            std::thread::yield_now();
        }
        child
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn mappings_of_devices_and_of_the_kernel_are_left_out() {
        let of = |line| private_mapping(line);
        assert_eq!(of("1000-3000 rw-p 00000000 00:00 0 "), Some((0x1000, 0x3000)));
        assert_eq!(of("1000-3000 rw-p 00000000 00:00 0                          [heap]"), Some((0x1000, 0x3000)));
        assert_eq!(of("1000-3000 r--p 00001000 08:01 77 /usr/lib/a b.so"), Some((0x1000, 0x3000)));
        assert_eq!(of("1000-3000 rw-s 00000000 00:00 0 "), None);
        assert_eq!(of("1000-3000 r--p 00000000 00:00 0 [vvar]"), None);
        assert_eq!(of("1000-3000 rw-p 00000000 00:05 9 /dev/dri/card0"), None);
        assert_eq!(of("nonsense"), None);
    }

    #[test]
    fn every_listed_page_of_a_quiet_process_is_read() {
        let child = sleeper();
        let mut process = Process::open(child.id()).unwrap();
        let expected = process.pages_at_most();
        let mut out = vec![Page::zeroed(); 7];
        let mut pages = 0;
        loop {
            let n = process.read(&mut out).unwrap();
            if n == 0 {
                break;
            }
            pages += n as u64;
        }
        end(child);
        assert_eq!(pages + process.vanished_pages(), expected);
        assert!(process.note().is_none());
        assert!(process.name().starts_with("sleep-"));
    }

    #[test]
    fn a_process_that_ends_while_read_ends_its_source_with_a_note() {
        let child = sleeper();
        let mut process = Process::open(child.id()).unwrap();
        let mut out = vec![Page::zeroed(); 3];
        assert_eq!(process.read(&mut out).unwrap(), 3);
        end(child);
        assert_eq!(process.read(&mut out).unwrap(), 0);
        assert!(process.note().unwrap().contains("ended while it was read: 3 of"), "{:?}", process.note());
    }

    #[test]
    fn a_process_that_ends_before_its_first_page_is_an_error() {
        let child = sleeper();
        let mut process = Process::open(child.id()).unwrap();
        end(child);
        let error = process.read(&mut [Page::zeroed()]).unwrap_err();
        assert!(matches!(error, SourceError::Vanished { .. }), "{error}");
    }

    #[test]
    fn unless_it_was_only_found_by_the_survey() {
        let child = sleeper();
        let mut process = Process::open(child.id()).unwrap().that_may_end();
        end(child);
        assert_eq!(process.read(&mut [Page::zeroed()]).unwrap(), 0);
        assert!(process.note().unwrap().contains("ended while it was read: 0 of"), "{:?}", process.note());
    }

    #[test]
    fn the_pages_listed_are_the_anonymous_ones_the_kernel_counts() {
        let child = sleeper();
        // Reading a program that has just begun: it must be asleep before it is counted.
        while !fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap().contains(") S ") {
            std::thread::yield_now();
        }
        let listed = Process::open(child.id()).unwrap().pages_at_most() * PAGE;
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", child.id())).unwrap();
        end(child);
        let counted = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        let counted = counted.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() << 10;
        assert_eq!(listed, counted);
    }

    #[test]
    fn we_do_not_read_ourselves() {
        let error = Process::open(std::process::id()).unwrap_err();
        assert!(matches!(error, SourceError::Ourselves { .. }), "{error}");
    }
}
