//! [`Lane`]: one source on its way into one memcg.

use crate::source::{Kind, Source, SourceError};
use crate::target::Target;
use zspool::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use zspool::sync::{Mutex, Rank};
use zspool::units::{Page, Slot, SlotRange};

/// A source on its way into its memcg. Workers share it; only its reader is locked, and only while reading.
pub(super) struct Lane<T: Target> {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) group: T::Group,
    /// A slot for each page the source may yield.
    slots: SlotRange,
    /// Number of its first page among all pages of the run.
    pub(super) first: u64,
    reader: Mutex<Reader>,
    /// Whether the source is at its end; then the reader need not be asked.
    done: AtomicBool,
    pub(super) counts: Counts,
    /// What the store said to the first page it refused.
    pub(super) refusal: Mutex<Option<String>>,
}

/// What became of a lane's pages. Statistics, read after the workers are joined: relaxed.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) stored: AtomicU64,
    pub(super) same_filled: AtomicU64,
    pub(super) refused: AtomicU64,
    /// Came back different.
    pub(super) different: AtomicU64,
    /// Did not come back.
    pub(super) unreadable: AtomicU64,
}

/// The source itself, and how far it is.
struct Reader {
    /// Dropped at its end: a command is ended then.
    source: Option<Box<dyn Source>>,
    /// Pages to read at most.
    limit: u64,
    outcome: Outcome,
}

/// What the source had to say at its end.
#[derive(Debug, Default, Clone)]
pub(super) struct Outcome {
    /// Pages read.
    pub(super) read: u64,
    pub(super) vanished: u64,
    pub(super) note: Option<String>,
}

/// Pages that were read together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// The first one's number in its lane.
    pub(super) first: u64,
    pub(super) count: usize,
}

impl<T: Target> Lane<T> {
    pub(super) fn new(
        name: String,
        group: T::Group,
        slots: SlotRange,
        first: u64,
        limit: u64,
        source: Box<dyn Source>,
    ) -> Self {
        let kind = source.kind();
        let reader = Reader { source: Some(source), limit, outcome: Outcome::default() };
        Lane {
            name,
            kind,
            group,
            slots,
            first,
            reader: Mutex::new(Rank::Leaf, reader),
            done: AtomicBool::new(false),
            counts: Counts::default(),
            refusal: Mutex::new(Rank::Leaf, None),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.load(Relaxed)
    }

    /// The slot of a page of this lane.
    pub(super) fn slot(&self, page: u64) -> Slot {
        self.slots.get(page).expect("slots were reserved for every page that may come")
    }

    /// Read the next pages. With `wait` also when another worker reads just now; without, that is None as the end is.
    ///
    /// # Errors
    /// When the source fails; the lane is then done.
    pub(super) fn read(&self, out: &mut [Page], wait: bool) -> Result<Option<Batch>, SourceError> {
        let mut reader = match (wait, self.reader.try_lock()) {
            (_, Some(reader)) => reader,
            (true, None) => self.reader.lock(),
            (false, None) => return Ok(None),
        };
        let batch = reader.read(out);
        if !matches!(batch, Ok(Some(_))) {
            self.done.store(true, Relaxed);
        }
        batch
    }

    /// What the source had to say; it is closed if it was not.
    pub(super) fn outcome(&self) -> Outcome {
        let mut reader = self.reader.lock();
        reader.close();
        reader.outcome.clone()
    }
}

impl Reader {
    fn read(&mut self, out: &mut [Page]) -> Result<Option<Batch>, SourceError> {
        let Some(source) = &mut self.source else { return Ok(None) };
        let first = self.outcome.read;
        let want = out.len().min(usize::try_from(self.limit - first).unwrap_or(usize::MAX));
        let count = if want == 0 { Ok(0) } else { source.read(&mut out[..want]) };
        match count {
            Ok(count) if count > 0 => {
                self.outcome.read += count as u64;
                Ok(Some(Batch { first, count }))
            }
            end => {
                self.close();
                end.map(|_| None)
            }
        }
    }

    fn close(&mut self) {
        if let Some(source) = self.source.take() {
            self.outcome.vanished = source.vanished_pages();
            self.outcome.note = source.note();
        }
    }
}
