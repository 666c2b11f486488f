//! [`PeakReader`]: a peak of its own for each reader of `memory.peak`, as the kernel keeps one for each open file.
//!
//! ```text
//! usage      |      /\                   the counter has one peak, which any reset begins anew:
//!            |     /  \      /\            what it was goes into `ever` and into the other readers' values first
//!            |____/    \____/  \__
//! reader 1   |------ 9 --------------->   9: never reset          max(ever, the counter's)
//! reader 2   |         reset ---- 5 -->   5: since its reset      max(its value, the counter's)
//! ```

use super::counter::Counter;
use super::error::Error;
use super::handle::Memcg;
use crate::sync::Record;

/// The peaks of one counter of one group.
#[derive(Debug, Default)]
pub(super) struct Peaks([Record<Log>; Counter::COUNT]);

#[derive(Debug, Default)]
struct Log {
    /// The most there was before the last reset.
    ever: u64,
    /// Of readers that have reset: number, and the most there was between its reset and the last one.
    readers: Vec<(u64, u64)>,
    next: u64,
}

/// A reader of a memcg's peak.
#[derive(Debug)]
pub struct PeakReader {
    memcg: Memcg,
    counter: Counter,
    number: u64,
}

impl Peaks {
    /// Another memcg's life begins. (Readers keep their memcg's index, so there are none.)
    pub(super) fn reset(&self) {
        self.0.iter().for_each(|log| log.with(|log| *log = Log::default()));
    }
}

impl Memcg {
    /// A reader of the peak of a counter: of all time, until it [resets](PeakReader::reset) it for itself.
    pub fn peak_reader(&self, counter: Counter) -> PeakReader {
        let number = self.shared().peaks(self.index()).0[counter as usize].with(|log| {
            log.next += 1;
            log.next
        });
        PeakReader { memcg: self.clone(), counter, number }
    }
}

impl PeakReader {
    fn log(&self) -> &Record<Log> {
        &self.memcg.shared().peaks(self.memcg.index()).0[self.counter as usize]
    }

    /// The most bytes that were charged, since its reset if there was one.
    pub fn read(&self) -> u64 {
        let now = self.memcg.peak(self.counter);
        let words = self.memcg.words().of(self.counter);
        let noted = self.log().with(|log| {
            let own = log.readers.iter().find(|(number, _)| *number == self.number);
            // Both in one look: what is not in the one yet is in the other.
            own.map_or(log.ever, |&(_, most)| most).max(words.noted_peak())
        });
        noted.max(now)
    }

    /// Begin this reader's peak anew from what is charged now. Others' stay what they are.
    ///
    /// # Errors
    /// [`Error::Offline`].
    ///
    /// # Locks
    /// The tree lock.
    pub fn reset(&self) -> Result<(), Error> {
        self.memcg.begin_peak(self.counter, Some(self.number))
    }
}

impl Memcg {
    /// Begin the counter's peak anew, and the reader's. What it was, goes into the values of the others.
    pub(super) fn begin_peak(&self, counter: Counter, reader: Option<u64>) -> Result<(), Error> {
        let _hierarchy = self.online()?;
        self.shared().recall();
        let words = self.words().of(counter);
        words.raise_peak();
        self.shared().peaks(self.index()).0[counter as usize].with(|log| {
            let peak = words.begin_peak(self.group().generation());
            log.ever = log.ever.max(peak);
            log.readers.iter_mut().for_each(|(_, most)| *most = peak.max(*most));
            let Some(reader) = reader else { return };
            match log.readers.iter_mut().find(|(number, _)| *number == reader) {
                Some((_, most)) => *most = 0,
                None => log.readers.push((reader, 0)),
            }
        });
        words.settle_peak();
        Ok(())
    }
}

impl Drop for PeakReader {
    fn drop(&mut self) {
        self.log().with(|log| log.readers.retain(|&(number, _)| number != self.number));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::{Tree, TreeConfig};
    use super::*;

    #[test]
    fn each_reader_has_its_own_peak() {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let rise_to = |bytes| drop(vm.charge_resident(bytes).unwrap());
        let [all, one, two] = [0; 3].map(|_| vm.peak_reader(Counter::Memory));
        let read = || [all.read(), one.read(), two.read(), vm.peak_reader(Counter::Memory).read()];
        rise_to(9000);
        assert_eq!(read(), [9000; 4]);
        let kept = vm.charge_resident(1000).unwrap();
        one.reset().unwrap();
        assert_eq!(read(), [9000, 1000, 9000, 9000]);
        rise_to(4000);
        two.reset().unwrap();
        rise_to(2000);
        assert_eq!(read(), [9000, 5000, 3000, 9000]);
        one.reset().unwrap();
        assert_eq!(read(), [9000, 1000, 3000, 9000]);
        rise_to(19_000);
        assert_eq!(read(), [20_000; 4]);
        drop((kept, one, two));
        assert_eq!(vm.peak_reader(Counter::Swap).read(), 0);
        vm.offline().unwrap();
        assert_eq!(all.reset(), Err(Error::Offline { id: vm.id() }));
    }

    #[test]
    fn a_peak_is_of_one_memcgs_life() {
        let tree = Tree::new(TreeConfig::default());
        let old = tree.root().mkdir("old").unwrap();
        let reader = old.peak_reader(Counter::Memory);
        drop(old.charge_resident(4096).unwrap());
        reader.reset().unwrap();
        let index = old.index();
        old.offline().unwrap();
        drop((old, reader));
        let new = tree.root().mkdir("new").unwrap();
        assert_eq!((new.index(), new.peak_reader(Counter::Memory).read()), (index, 0));
    }

    #[test]
    fn a_reader_that_goes_leaves_nothing() {
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let readers = [0; 3].map(|_| vm.peak_reader(Counter::Memory));
        readers.iter().for_each(|reader| reader.reset().unwrap());
        let [first, second, third] = readers;
        let numbers = || first.log().with(|log| log.readers.iter().map(|&(number, _)| number).collect::<Vec<_>>());
        assert_eq!(numbers(), [1, 2, 3]);
        drop(second);
        assert_eq!(numbers(), [1, 3]);
        drop(third);
        assert_eq!(numbers(), [1]);
    }

    #[test]
    fn a_reader_misses_nothing_while_another_one_resets() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let tree = Tree::new(TreeConfig::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let [all, other] = [0; 2].map(|_| vm.peak_reader(Counter::Memory));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    other.reset().unwrap();
                }
            });
            for bytes in 1..30_000 {
                drop(vm.charge_resident(bytes).unwrap());
                let read = all.read();
                done.store(read != bytes, Ordering::Relaxed); // so that the scope ends
                assert_eq!(read, bytes, "each is more than ever");
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
