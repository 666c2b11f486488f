//! Reclaim: by text, by hand, under pressure, by the worker.

use super::super::Cancelled;
use super::super::expect::{FILES, Kind, Meaning, Request, meaning};
use super::Model;
use zspool::memcg::{Cancel, Counter, Error, Event};
use zspool::units::PAGE_SIZE;
use zspool::zswap::Shrunk;

/// What a group and those below it have, and what was written of it so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    payload: u64,
    memory: u64,
    written: u64,
    proactive: u64,
}

impl Model {
    /// Of an online group.
    fn sums(&self, g: usize) -> Sums {
        let memcg = self.memcg(g);
        // It may have been removed in the middle of a request, of which the model has not heard.
        let Ok(stat) = memcg.stat() else { return Sums::default() };
        Sums {
            payload: stat.bytes.payload,
            memory: memcg.current(Counter::Memory),
            written: stat.events(Event::ZswpWbBytes),
            proactive: stat.events(Event::ZswpWbProactiveBytes),
        }
    }

    pub(super) fn reclaim(&mut self, g: usize, text: &str, cancelled: Cancelled) {
        let (memcg, cancel) = (self.memcg(g), Cancel::new());
        self.client.with(|state| {
            state.cancel_after = match cancelled {
                Cancelled::After(pages) => Some(pages % 8),
                _ => None,
            };
            state.cancelled = false;
        });
        if cancelled == Cancelled::Before {
            cancel.cancel();
        }
        let apart = |other: usize| !self.is_below(other, g) && !self.is_below(g, other);
        let others: Vec<usize> = self.online().filter(|&other| apart(other)).collect();
        let before = self.sums(g);
        // Looked at before, for writeback may be switched off meanwhile.
        let request = match meaning(Kind::Reclaim, text) {
            Ok(Meaning::Reclaim(request)) if !self.is_refused(g, &request) => Some(request),
            _ => None,
        };
        let theirs: Vec<Sums> = others.iter().map(|&other| self.sums(other)).collect();
        let (file, _) = FILES.iter().find(|(_, kind)| *kind == Kind::Reclaim).expect("there is such a file");
        let result = memcg.open_file(file).and_then(|open| open.write(text, &cancel));
        self.client.with(|state| state.cancel_after = None);
        let after = self.sums(g);

        let Some(request) = request else {
            assert_eq!(result.as_ref().map_err(Error::errno), Err(libc::EINVAL), "3: {text:?}: {result:?}");
            assert_eq!(before, after, "3: {text:?} is refused, and something was reclaimed");
            self.reached.add("requests refused", 1);
            return;
        };
        if self.meddling {
            let errno = result.map_err(|error| error.errno());
            let possible = [Ok(()), Err(libc::EAGAIN), Err(libc::EINTR), Err(libc::ENODEV)];
            assert!(possible.contains(&errno), "3: {text:?}: {errno:?}");
            return;
        }
        self.check_reclaimed(&request, before, after, result);
        if request.sources.as_deref() == Some("z") {
            let now: Vec<Sums> = others.iter().map(|&other| self.sums(other)).collect();
            assert_eq!(theirs, now, "4: {text:?} for {} took from others", memcg.path());
        }
    }

    /// Whether what is asked for cannot be served.
    fn is_refused(&self, g: usize, request: &Request) -> bool {
        let named = |letter| request.sources.as_ref().is_some_and(|letters| letters.contains(letter));
        let mut g = Some(g);
        let mut writeback = true;
        while let Some(at) = g {
            writeback &= self.groups[at].memcg.own_writeback();
            g = (at != 0).then(|| self.groups[at].parent);
        }
        named('f') || named('a') && self.served.is_none() || named('z') && !writeback
    }

    fn check_reclaimed(&mut self, request: &Request, before: Sums, after: Sums, result: Result<(), Error>) {
        let asked = request.bytes;
        let by_name = request.sources.is_some();
        let zswap_only = request.sources.as_deref() == Some("z");
        let written = after.written - before.written;
        let proactive = after.proactive - before.proactive;
        assert!(proactive <= if by_name { written } else { 0 }, "4: {proactive} of {written} bytes by name");
        let left = if zswap_only {
            let left = before.payload - after.payload;
            assert_eq!((left, left), (written, proactive), "4: what left was written, and by name");
            let entry = PAGE_SIZE as u64;
            assert!(
                self.per_node || left == 0 || left < asked.saturating_add(entry),
                "4: {left} bytes left for {asked}"
            );
            self.reached.add("bytes written on request", left);
            left
        } else {
            before.memory.saturating_sub(after.memory)
        };
        let was_cancelled = self.client.with(|state| state.cancelled);
        match result {
            Ok(()) => {
                assert!(left >= asked, "4: {left} of {asked} bytes left, and {request:?} succeeded");
                self.reached.note("requests met", asked > 0);
                self.reached.note("requests with an age met", asked > 0 && request.age > Some(0));
                self.reached.note("requests of several sources met", asked > 0 && by_name && !zswap_only);
            }
            Err(Error::Again { asked: said, reclaimed, .. }) => {
                assert_eq!(said, asked);
                assert!(reclaimed < asked, "4: {reclaimed} of {asked} are enough");
                assert!(!zswap_only || reclaimed == left, "4: {left} bytes left, and {reclaimed} are said");
                assert!(left >= reclaimed, "4: {left} bytes left, and {reclaimed} are said");
                self.reached.add("requests not met", 1);
                if self.works() && request.age.is_none() && (zswap_only || !by_name) {
                    assert_eq!(after.payload, 0, "4: {request:?} found too little, and so much is left");
                    self.reached.add("requests that took all there was", 1);
                }
            }
            Err(Error::Interrupted { asked: said, reclaimed, .. }) => {
                assert_eq!(said, asked);
                assert!(reclaimed < asked && left >= reclaimed, "4: {left} of {asked} left, {reclaimed} are said");
                self.reached.note("requests cancelled midway", was_cancelled);
                self.reached.note("requests cancelled before", !was_cancelled);
            }
            Err(other) => panic!("4: {request:?} came to {other}"),
        }
    }

    pub(super) fn shrink(&mut self, g: usize, nr: usize) {
        let memcg = self.memcg(g);
        let before = self.sums(g);
        let shrunk = self.instance.zswap.shrink_memcg(&memcg, nr);
        let after = self.sums(g);
        if self.meddling {
            return;
        }
        let left = before.payload - after.payload;
        assert_eq!(
            (left, after.proactive),
            (after.written - before.written, before.proactive),
            "4: nobody asked by name"
        );
        match shrunk {
            Shrunk::Written(bytes) => assert!(bytes > 0 && bytes == left, "{bytes} written, {left} left"),
            Shrunk::NoneWritten | Shrunk::NothingToScan => assert_eq!(left, 0, "{shrunk:?}"),
        }
        self.reached.note("shrinks that wrote", left > 0);
    }

    pub(super) fn relieve(&mut self, pages: u64) {
        let before = self.sums(0);
        let bytes = self.instance.zswap.relieve(pages);
        let after = self.sums(0);
        if !self.meddling {
            assert_eq!(bytes, before.payload - after.payload, "4: relief says what left");
            assert_eq!((bytes, after.proactive), (after.written - before.written, before.proactive), "4");
            self.reached.add("bytes written under pressure", bytes);
        }
    }

    pub(super) fn work(&mut self) {
        let before = self.sums(0);
        // What was noted while nothing could be written is forgotten, as a worker's thread would not.
        self.forgot |= !self.works();
        self.instance.zswap.work_once();
        let after = self.sums(0);
        if self.meddling {
            return;
        }
        assert_eq!(after.proactive, before.proactive, "4: the worker is asked by nobody");
        assert_eq!(before.payload - after.payload, after.written - before.written, "4: what left was written");
        self.reached.add("bytes written by the worker", after.written - before.written);
        if self.works() && !self.forgot {
            let arena = self.instance.zswap.arena();
            assert!(arena.backed_bytes() * 10 <= arena.limit() * 9, "8: {} bytes are backed", arena.backed_bytes());
            for g in self.online() {
                let memcg = self.memcg(g);
                let limit = memcg.max(Counter::Zswap).min(memcg.max(Counter::Memory)).min(memcg.high());
                let now = memcg.current(Counter::Zswap);
                assert!(now <= limit, "8: the worker left {now} bytes in {}, of {limit}", memcg.path());
            }
            self.reached.note("runs of the worker that did all there was", after.written > before.written);
        }
    }
}
