//! Reclaim on request: who is asked for bytes, in which order, and when to give up.
//!
//! ```text
//!   memory.reclaim <-- "10M source=anon,zswap"
//!        |
//!   Memcg::reclaim    for each source in the order anon, file, zswap:
//!        |               for each reclaimer of it, in order of registration:
//!        |                  ask for what is missing  -->  Reclaimer::reclaim(memcg, ask)
//!        |            again, while that brings bytes
//!        v
//!   Ok(bytes) if met,  EAGAIN or EINTR with the bytes that were reclaimed
//! ```
//!
//! This layer knows neither pages nor entries: whoever has some registers a [`Reclaimer`] with the tree
//! ([`Tree::register`](super::Tree::register)). Reclaimers are called with no lock held, and only for memcgs of their tree.
//!
//! **What a byte is.** A reclaimer of [`Source::ZSWAP`] counts payload bytes that went to a device and left the pool; the
//! others count bytes by which `memory.current` falls, so less what their pages take compressed from now on. Where pages in
//! memory are among what is asked for, a fall of `memory.current` counts that is larger than their sum: the slots of payload
//! bytes are larger than they, and to put a page away may send others to a device.

use super::cancel::Cancel;
use super::counter::Counter;
use super::error::Error;
use super::event::MemcgEvent;
use super::handle::Memcg;
use super::hooks::Hook;
use super::request::{ReclaimRequest, SOURCES, Source, Swappiness};
use crate::sync::Arc;
use crate::sync::thread::Backoff;
use std::time::Duration;

/// Rounds over all reclaimers that may bring nothing, while one of them says that what it has is busy only now, or while others use up
/// what they bring.
const MAX_FAILURES: usize = 16;

/// Makes room by request. Implemented by the layers that have something to reclaim.
pub trait Reclaimer: Send + Sync {
    /// What it takes bytes from: one source, and always the same.
    fn source(&self) -> Source;

    /// Reclaim up to `ask.bytes` bytes (see the module for what a byte is; the last page may bring more) of `memcg` and its
    /// online descendants, and of nobody else. Between batches, look at `ask.cancel`.
    fn reclaim(&self, memcg: &Memcg, ask: &Ask<'_>) -> Reclaimed;

    /// Bytes charged to `memcg` and its descendants that it cannot reclaim, whatever is asked, until their owner lets go of them.
    fn pinned(&self, memcg: &Memcg) -> u64 {
        let _ = memcg;
        0
    }
}

/// What a reclaimer is asked for.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// So many bytes.
    pub bytes: u64,
    /// Only of what has lain so long. Who cannot tell has [nothing to scan](End::NothingToScan).
    pub age: Option<Duration>,
    /// The source was asked for by name, and not as a part of ordinary reclaim.
    pub proactive: bool,
    /// Where bytes are to go.
    pub to: Option<To>,
    /// When set, it is time to return.
    pub cancel: &'a Cancel,
}

/// The tier that a request names. Asked of who serves [`Source::ZSWAP`] alone; bytes count that arrived there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To {
    /// Its index.
    pub tier: u8,
    /// `source=zswap` was named: only what is in the pool goes, and straight there. Else bytes move down from the tier above,
    /// or from the pool if there is none above.
    pub from_pool: bool,
}

/// What reclaim came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reclaimed {
    /// So many bytes.
    pub bytes: u64,
    /// Why it ended.
    pub end: End,
}

/// Why reclaim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// There were as many bytes as were asked for.
    Met,
    /// There are candidates, and none could be reclaimed in as many attempts as are made.
    Exhausted,
    /// There are no candidates.
    NothingToScan,
    /// What there is, is in use this moment.
    Busy,
    /// It was cancelled.
    Cancelled,
}

/// So that a client can register itself and go on using it.
impl<T: Reclaimer> Reclaimer for Arc<T> {
    fn source(&self) -> Source {
        (**self).source()
    }

    fn reclaim(&self, memcg: &Memcg, ask: &Ask<'_>) -> Reclaimed {
        (**self).reclaim(memcg, ask)
    }

    fn pinned(&self, memcg: &Memcg) -> u64 {
        (**self).pinned(memcg)
    }
}

// === reclaim ===

/// What a round over reclaimers came to.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// Something was reclaimed.
    moved: bool,
    /// Somebody had something, and it was busy.
    busy: bool,
    /// Somebody had candidates.
    candidates: bool,
}

/// How far a request has come.
struct Progress<'a> {
    memcg: &'a Memcg,
    asked: u64,
    /// What `memory.current` was, if bytes by which it falls are asked for.
    before: Option<u64>,
    /// What reclaimers said that they did.
    reported: u64,
    /// What counts: that, or by how much `memory.current` was seen to have fallen. To put a page away may bring more than the
    /// page: where `memory.zswap.max` is reached, others go to a device for it.
    bytes: u64,
}

impl Memcg {
    /// Reclaim bytes of this memcg and its online descendants, from the sources that the request names, or from all in the
    /// order anon, file, zswap. Ask for 0 bytes, and they are reclaimed.
    ///
    /// # Errors
    /// [`Error::Again`] when fewer bytes could be reclaimed, and [`Error::Interrupted`] when `cancel` was set before there were
    /// enough; both say how many there were. [`Error::Unserved`] for a source that nobody serves, [`Error::WritebackOff`] when
    /// the request names zswap and writeback is disabled here, [`Error::Offline`].
    ///
    /// # Locks
    /// None while reclaimers are called.
    pub fn reclaim(&self, request: &ReclaimRequest, cancel: &Cancel) -> Result<Reclaimed, Error> {
        self.shared().check_online(self.words())?;
        self.check_request(request)?;
        let reclaimed = self.reclaim_up_to(request, cancel);
        let (asked, bytes) = (request.bytes, reclaimed.bytes);
        match reclaimed.end {
            End::Met => Ok(reclaimed),
            End::Cancelled => Err(Error::Interrupted { path: self.path(), asked, reclaimed: bytes }),
            end => {
                self.shared().check_online(self.words())?;
                Err(Error::Again { path: self.path(), asked, reclaimed: bytes, end })
            }
        }
    }

    fn check_request(&self, request: &ReclaimRequest) -> Result<(), Error> {
        if let Some(tier) = &request.to
            && !self.tiers().contains(self.tree().tier(tier)?)
        {
            return Err(Error::TierForbidden { path: self.path(), tier: tier.clone() });
        }
        let named = match (request.sources, &request.to) {
            (Some(sources), _) => sources,
            (None, Some(_)) => Source::ZSWAP,
            (None, None) => return Ok(()),
        };
        let unserved = named - self.shared().hooks.served();
        if !unserved.is_empty() {
            return Err(Error::Unserved { sources: unserved, served: self.shared().hooks.served() });
        }
        if named.contains(Source::ZSWAP) && !self.writeback() {
            return Err(Error::WritebackOff { path: self.path() });
        }
        Ok(())
    }

    /// [`reclaim`](Self::reclaim) without checks: what could be done.
    #[must_use]
    pub(super) fn reclaim_up_to(&self, request: &ReclaimRequest, cancel: &Cancel) -> Reclaimed {
        let ordinary = match request.swappiness {
            _ if request.to.is_some() => Source::ZSWAP,
            Some(Swappiness::Weight(0)) => Source::all() - Source::ANON,
            _ => Source::all(),
        };
        let to = request.to.as_deref().map(|tier| self.tree().tier(tier));
        let Ok(to) = to.transpose() else { return Reclaimed { bytes: 0, end: End::NothingToScan } };
        let ask = Ask {
            bytes: request.bytes,
            age: request.age,
            proactive: request.sources.is_some() || to.is_some(),
            to: to.map(|tier| To { tier, from_pool: request.sources.is_some() }),
            cancel,
        };
        self.reclaim_from(request.sources.unwrap_or(ordinary), &ask)
    }

    fn reclaim_from(&self, sources: Source, ask: &Ask<'_>) -> Reclaimed {
        let mut progress = Progress::new(self, sources, ask.bytes);
        let (mut failures, mut backoff) = (0, Backoff::new());
        while !progress.is_met() {
            let Round { moved, busy, candidates } = self.ask_all(sources, ask, &mut progress);
            let end = match () {
                () if progress.is_met() => break,
                () if ask.cancel.is_cancelled() => End::Cancelled,
                () if moved => {
                    failures = 0;
                    continue; // what one source gave may be another one's to take
                }
                () if busy => End::Busy,
                () if candidates => End::Exhausted,
                () => End::NothingToScan,
            };
            failures += 1;
            if end != End::Busy || failures == MAX_FAILURES {
                return Reclaimed { bytes: progress.bytes, end };
            }
            backoff.wait();
        }
        Reclaimed { bytes: progress.bytes, end: End::Met }
    }

    /// Whether a `memory.max` can hold.
    ///
    /// # Errors
    /// [`Error::BelowPinned`].
    pub(super) fn check_pinned(&self, limit: u64) -> Result<(), Error> {
        let (mut after, mut pinned) = (0, 0);
        while let Some(call) = self.shared().hooks.next(after, |hook| matches!(hook, Hook::Reclaimer(..))) {
            after = call.number();
            let Hook::Reclaimer(_, reclaimer) = call.hook() else { unreachable!("only reclaimers were asked for") };
            pinned += reclaimer.pinned(self);
        }
        match pinned > limit {
            true => Err(Error::BelowPinned { path: self.path(), limit, pinned }),
            false => Ok(()),
        }
    }

    /// Reclaim what is charged above a limit that was set below the usage, as far as that goes: until it is met, nothing is won, or others
    /// charge as fast as that (past the limit, or up to one that `memory.high` does not hold). What cannot be reclaimed from memory is
    /// counted as [`MemcgEvent::Oom`], if the limit is `memory.max`.
    pub(super) fn reclaim_above(&self, counter: Counter, limit: u64, cancel: &Cancel) {
        // In their own time, so not as what was asked for by name.
        let sources = match counter {
            Counter::Zswap => Source::ZSWAP,
            Counter::Memory => Source::all(),
            Counter::Swap => return,
        };
        let (mut lowest, mut vain) = (u64::MAX, 0);
        loop {
            let above = self.current(counter).saturating_sub(limit);
            if above == 0 {
                return;
            }
            vain = if above < lowest { 0 } else { vain + 1 };
            if vain == MAX_FAILURES {
                break;
            }
            lowest = lowest.min(above);
            match self.reclaim_from(sources, &Ask { bytes: above, age: None, proactive: false, to: None, cancel }) {
                Reclaimed { end: End::Cancelled, .. } => return,
                Reclaimed { bytes: 0, .. } => break,
                Reclaimed { .. } => {}
            }
        }
        if counter == Counter::Memory && self.current(counter) > self.max(counter) {
            self.note(MemcgEvent::Oom);
        }
    }

    /// Ask each reclaimer once for what is missing then.
    fn ask_all(&self, sources: Source, ask: &Ask<'_>, progress: &mut Progress<'_>) -> Round {
        let mut round = Round::default();
        for (source, _) in SOURCES {
            if !sources.contains(source) {
                continue;
            }
            let mut after = 0;
            let serves = |hook: &Hook| matches!(hook, &Hook::Reclaimer(serves, _) if serves == source);
            while !progress.is_met()
                && !ask.cancel.is_cancelled()
                && let Some(call) = self.shared().hooks.next(after, serves)
            {
                after = call.number();
                let Hook::Reclaimer(_, reclaimer) = call.hook() else { unreachable!("only reclaimers serve") };
                let reclaimed = reclaimer.reclaim(self, &Ask { bytes: progress.missing(), ..ask.clone() });
                round.moved |= progress.add(reclaimed);
                round.busy |= reclaimed.end == End::Busy;
                round.candidates |= reclaimed.end != End::NothingToScan;
            }
        }
        round
    }
}

impl<'a> Progress<'a> {
    fn new(memcg: &'a Memcg, sources: Source, asked: u64) -> Self {
        let measured = sources.intersects(Source::ANON | Source::FILE);
        let before = measured.then(|| memcg.current(Counter::Memory));
        Progress { memcg, asked, before, reported: 0, bytes: 0 }
    }

    fn is_met(&self) -> bool {
        self.bytes >= self.asked
    }

    fn missing(&self) -> u64 {
        self.asked - self.bytes
    }

    /// Add what a reclaimer did. Whether that was anything.
    fn add(&mut self, Reclaimed { bytes, end }: Reclaimed) -> bool {
        let was = self.bytes;
        self.reported = self.reported.saturating_add(bytes);
        self.bytes = self.bytes.max(self.reported);
        if let Some(before) = self.before
            && (bytes > 0 || end != End::NothingToScan)
        {
            let now = self.memcg.current(Counter::Memory);
            if self.memcg.is_online() {
                self.bytes = self.bytes.max(before.saturating_sub(now));
            }
        }
        bytes > 0 || self.bytes > was
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
