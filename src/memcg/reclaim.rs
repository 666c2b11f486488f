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

use super::counter::Counter;
use super::error::Error;
use super::event::MemcgEvent;
use super::handle::Memcg;
use super::hooks::Hook;
use super::request::{ReclaimRequest, SOURCES, Source, Swappiness};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::Backoff;
use std::time::Duration;

/// Rounds over all reclaimers that may bring nothing, while one of them says that what it has is busy only now.
const MAX_FAILURES: usize = 16;

/// Ends what runs long, from another thread or a signal handler. Clones are the same flag.
#[derive(Clone, Debug)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
}

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

// === impl Cancel ===

impl Cancel {
    /// Not set.
    pub fn new() -> Self {
        Cancel { flag: Arc::new(AtomicBool::new(false)) }
    }

    /// Set it, for good. Takes no lock and does not allocate: also for a signal handler.
    pub fn cancel(&self) {
        // Relaxed: it orders nothing, and is seen soon.
        self.flag.store(true, Ordering::Relaxed);
    }

    /// Whether it is set.
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }
}

impl Default for Cancel {
    fn default() -> Self {
        Self::new()
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

    /// Reclaim what is charged above a limit that was set below the usage, as far as that goes. What cannot be reclaimed from
    /// memory is counted as [`MemcgEvent::Oom`], if the limit is `memory.max`.
    pub(super) fn reclaim_above(&self, counter: Counter, limit: u64, cancel: &Cancel) {
        // In their own time, so not as what was asked for by name.
        let sources = match counter {
            Counter::Zswap => Source::ZSWAP,
            Counter::Memory => Source::all(),
            Counter::Swap => return,
        };
        loop {
            let above = self.current(counter).saturating_sub(limit);
            if above == 0 {
                return;
            }
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
mod tests {
    use super::super::{Registration, Tree, TreeConfig};
    use super::*;
    use std::sync::{Arc as StdArc, Mutex};

    type Log = StdArc<Mutex<Vec<String>>>;

    /// Gives what is in its list, a call each, and notes what it was asked.
    struct Scripted {
        name: &'static str,
        source: Source,
        gives: Mutex<Vec<Reclaimed>>,
        log: Log,
    }

    impl Reclaimer for Scripted {
        fn source(&self) -> Source {
            self.source
        }

        fn reclaim(&self, memcg: &Memcg, ask: &Ask<'_>) -> Reclaimed {
            crate::sync::assert_no_lock_held("a reclaimer runs");
            let proactive = if ask.proactive { " by name" } else { "" };
            let age = ask.age.map_or(String::new(), |age| format!(" age {}", age.as_secs()));
            self.log.lock().unwrap().push(format!("{} {} {}{proactive}{age}", self.name, memcg.path(), ask.bytes));
            let mut gives = self.gives.lock().unwrap();
            if gives.len() > 1 { gives.remove(0) } else { gives[0] }
        }
    }

    fn register(tree: &Tree, log: &Log, name: &'static str, source: Source, gives: &[(u64, End)]) -> Registration {
        let gives = Mutex::new(gives.iter().map(|&(bytes, end)| Reclaimed { bytes, end }).collect());
        tree.register(Box::new(Scripted { name, source, gives, log: StdArc::clone(log) }))
    }

    fn take(log: &Log) -> Vec<String> {
        std::mem::take(&mut log.lock().unwrap())
    }

    fn ask(memcg: &Memcg, text: &str) -> Result<u64, Error> {
        Ok(memcg.reclaim(&text.parse()?, &Cancel::new())?.bytes)
    }

    #[test]
    fn ordinary_reclaim_asks_anon_and_then_zswap_for_what_is_missing() {
        let (tree, log) = (Tree::new(TreeConfig::default()), Log::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let nothing = (0, End::NothingToScan);
        let _zswap = register(&tree, &log, "zswap", Source::ZSWAP, &[(30, End::Exhausted), (100, End::Met)]);
        let _first = register(&tree, &log, "first", Source::ANON, &[(50, End::Exhausted), nothing]);
        let _second = register(&tree, &log, "second", Source::ANON, &[nothing]);
        assert_eq!(ask(&vm, "100 age=9"), Ok(180), "the last one may bring more");
        let asked = ["first /vm 100", "second /vm 50", "zswap /vm 50", "first /vm 20", "second /vm 20", "zswap /vm 20"];
        assert_eq!(take(&log), asked.map(|line| format!("{line} age 9")));
        assert_eq!(ask(&vm, "1 swappiness=0"), Ok(100));
        assert_eq!(take(&log), ["zswap /vm 1"], "pages in memory are left alone");
        assert_eq!(ask(&vm, "1 swappiness=1"), Ok(100));
        assert_eq!(take(&log), ["first /vm 1", "second /vm 1", "zswap /vm 1"]);
        assert_eq!(ask(&vm, "0"), Ok(0));
        assert!(take(&log).is_empty());
    }

    #[test]
    fn a_named_source_is_asked_and_no_other() {
        let (tree, log) = (Tree::new(TreeConfig::default()), Log::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let unserved = |text: &str| ask(&vm, text).unwrap_err().to_string();
        assert_eq!(unserved("1 source=zswap"), "nobody serves source=zswap here; no reclaimer is registered");
        let zswap = register(&tree, &log, "zswap", Source::ZSWAP, &[(10, End::Met)]);
        let says = "nobody serves source=file here; name one or more of zswap";
        assert_eq!(unserved("1 source=file,zswap"), says);
        assert_eq!(unserved("1 source=anon"), says.replace("file", "anon"));
        let _anon = register(&tree, &log, "anon", Source::ANON, &[(10, End::Met)]);
        assert_eq!(ask(&vm, "10 source=zswap"), Ok(10));
        assert_eq!(ask(&vm, "20 source=zswap,anon"), Ok(20), "the order of the list means nothing");
        let asked = ["zswap /vm 10 by name", "anon /vm 20 by name", "zswap /vm 10 by name"];
        assert_eq!(take(&log), asked);
        tree.root().set_writeback(false).unwrap();
        let off = "/vm has no writeback to ask for: memory.zswap.writeback is 0 there or above it; set it to 1";
        assert_eq!(unserved("1 source=zswap,anon"), off);
        assert_eq!(ask(&vm, "1"), Ok(10), "ordinary reclaim takes what there is");
        tree.root().set_writeback(true).unwrap();
        drop(zswap);
        assert_eq!(unserved("1 source=zswap"), "nobody serves source=zswap here; name one or more of anon");
        vm.offline().unwrap();
        assert_eq!(ask(&vm, "1 source=anon"), Err(Error::Offline { id: vm.id() }));
    }

    #[test]
    fn too_little_says_how_much_and_why() {
        let (tree, log) = (Tree::new(TreeConfig::default()), Log::default());
        let vm = tree.root().mkdir("vm").unwrap();
        let again = |text: &str| ask(&vm, text).unwrap_err();
        let path = || "/vm".to_owned();
        let nothing = Error::Again { path: path(), asked: 5, reclaimed: 0, end: End::NothingToScan };
        assert_eq!(again("5"), nothing, "nobody is registered");
        let busy = register(&tree, &log, "busy", Source::ZSWAP, &[(3, End::Busy), (0, End::Busy)]);
        assert_eq!(again("5 source=zswap"), Error::Again { path: path(), asked: 5, reclaimed: 3, end: End::Busy });
        assert_eq!(take(&log).len(), 1 + MAX_FAILURES);
        drop(busy);
        let gives = [(4, End::Exhausted), (0, End::Exhausted)];
        let _exhausted = register(&tree, &log, "exhausted", Source::ZSWAP, &gives);
        let error = again("5");
        assert_eq!(error, Error::Again { path: path(), asked: 5, reclaimed: 4, end: End::Exhausted });
        assert_eq!(error.errno(), libc::EAGAIN);
        let says =
            "4 of 5 bytes of /vm were reclaimed, and no more: what is left was used lately or cannot be written; ";
        assert_eq!(error.to_string(), format!("{says}try again later, or ask for less"));
        assert_eq!(take(&log).len(), 2, "a reclaimer that gave up has tried often enough");
    }

    #[test]
    fn a_cancelled_request_says_how_far_it_came() {
        let (tree, log) = (Tree::new(TreeConfig::default()), Log::default());
        struct Cancels(Cancel);
        impl Reclaimer for Cancels {
            fn source(&self) -> Source {
                Source::ANON
            }
            fn reclaim(&self, _: &Memcg, ask: &Ask<'_>) -> Reclaimed {
                assert!(!ask.cancel.is_cancelled());
                self.0.cancel();
                Reclaimed { bytes: 7, end: End::Cancelled }
            }
        }
        let cancel = Cancel::new();
        let _anon = tree.register(Box::new(Cancels(cancel.clone())));
        let _zswap = register(&tree, &log, "zswap", Source::ZSWAP, &[(10, End::Met)]);
        let error = tree.root().reclaim(&ReclaimRequest::new(8), &cancel).unwrap_err();
        assert_eq!(error, Error::Interrupted { path: "/".to_owned(), asked: 8, reclaimed: 7 });
        assert_eq!(error.errno(), libc::EINTR);
        assert!(take(&log).is_empty(), "nobody is asked once it is cancelled");
        let enough = tree.root().reclaim(&ReclaimRequest::new(0), &cancel);
        assert_eq!(enough, Ok(Reclaimed { bytes: 0, end: End::Met }));
    }

    #[test]
    fn the_end_of_a_registration_waits_for_calls_under_way_and_drops_the_hook() {
        use std::sync::mpsc::{Receiver, Sender, channel};
        struct Slow(
            Mutex<(Sender<()>, Receiver<()>)>,
            #[expect(dead_code, reason = "dropped with the hook")] StdArc<()>,
        );
        impl Reclaimer for Slow {
            fn source(&self) -> Source {
                Source::ANON
            }
            fn reclaim(&self, _: &Memcg, _: &Ask<'_>) -> Reclaimed {
                let (begun, go_on) = &*self.0.lock().unwrap();
                begun.send(()).unwrap();
                go_on.recv().unwrap();
                Reclaimed { bytes: 1, end: End::Met }
            }
        }
        let tree = Tree::new(TreeConfig::default());
        let ((begun, has_begun), (go, go_on)) = (channel(), channel());
        let lives = StdArc::new(());
        let registration = tree.register(Box::new(Slow(Mutex::new((begun, go_on)), StdArc::clone(&lives))));
        let root = tree.root();
        std::thread::scope(|scope| {
            let call = scope.spawn(|| root.reclaim(&ReclaimRequest::new(1), &Cancel::new()));
            has_begun.recv().unwrap();
            let ended = StdArc::new(AtomicBool::new(false));
            let end = scope.spawn({
                let ended = StdArc::clone(&ended);
                move || {
                    drop(registration);
                    ended.store(true, Ordering::SeqCst);
                }
            });
            while !tree.shared().hooks.served().is_empty() {
                std::thread::yield_now(); // until the drop has begun
            }
            assert!(ask(&root, "1").is_err(), "no call begins any more");
            assert!(!ended.load(Ordering::SeqCst), "a call is under way");
            go.send(()).unwrap();
            assert_eq!(call.join().unwrap(), Ok(Reclaimed { bytes: 1, end: End::Met }));
            end.join().unwrap();
        });
        assert_eq!(StdArc::strong_count(&lives), 1);
    }
}
