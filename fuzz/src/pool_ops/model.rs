//! The model, and what each operation has to come to.

use super::super::page::noise;
use super::super::reached::Reached;
use super::super::subject::{Subject, Writing};
use super::super::tree::Groups;
use super::{Budget, Op};
use zspool::arena::{self, Arena};
use zspool::units::{FRAME_SIZE, NodeId, NodeMask};
use zspool::zsmalloc::{Error, HandleError, Pool, ReadGuard};

/// Guards at a time: a 64th on one object would wait for ever.
const GUARDS: usize = 40;
/// Objects at a time.
const OBJECTS: usize = 1024;
/// Memcgs ever made.
const MEMCGS: usize = 16;

struct Thing<N> {
    name: N,
    bytes: Vec<u8>,
    slot: u64,
    memcg: Option<usize>,
    guards: usize,
    freed: bool,
}

pub(super) struct Model<'a, S: Subject> {
    subject: &'a S,
    /// Another pool, whose handles are foreign.
    other: &'a Pool,
    accounting: bool,
    groups: Groups,
    /// By place; `None` where one is gone.
    things: Vec<Option<Thing<S::Name>>>,
    live: Vec<usize>,
    stale: Vec<S::Name>,
    guards: Vec<(usize, ReadGuard<'a, S::Cells>)>,
    drafts: Vec<(S::Draft<'a>, usize, Option<usize>)>,
    /// Commits may fail.
    failing: bool,
    /// Some memcg has had a mask.
    masked: bool,
    /// Bytes of slots that may lie outside of masks.
    left: u64,
    objects: u64,
    slot_bytes: u64,
    payload: u64,
    reached: Reached,
}

/// Mostly one of a few, around the edges of classes and frames, so that classes fill up.
fn length(len: u16) -> usize {
    const USUAL: [usize; 16] = [1, 31, 97, 257, 700, 1024, 1280, 1360, 1600, 1632, 2048, 2731, 3000, 3840, 4095, 4096];
    let len = usize::from(len);
    if len < 0xc000 { USUAL[len % 16] } else { 1 + len % 4096 }
}

impl<'a, S: Subject> Model<'a, S> {
    pub(super) fn new(subject: &'a S, other: &'a Pool, accounting: bool, groups: Groups) -> Self {
        Model {
            subject,
            other,
            accounting,
            groups,
            things: Vec::new(),
            live: Vec::new(),
            stale: Vec::new(),
            guards: Vec::new(),
            drafts: Vec::new(),
            failing: false,
            masked: false,
            left: 0,
            objects: 0,
            slot_bytes: 0,
            payload: 0,
            reached: Reached::new(),
        }
    }

    fn arena(&self) -> &'a Arena {
        self.subject.pool().arena()
    }

    fn slot_size(&self, len: usize) -> u64 {
        let geometry = self.subject.pool().geometry();
        geometry.class(geometry.class_of(len).unwrap()).size() as u64
    }

    fn thing(&self, at: usize) -> &Thing<S::Name> {
        self.things[at].as_ref().expect("a live or guarded object is in the list")
    }

    fn is_live(&self, name: S::Name) -> bool {
        self.live.iter().any(|&at| self.thing(at).name == name)
    }

    // --- taking room ---

    /// Room for an object, and the memcg that is charged.
    fn malloc(&mut self, len: usize, memcg: u8, node: u8) -> Option<(S::Draft<'a>, Option<usize>)> {
        if self.objects as usize >= OBJECTS {
            return None;
        }
        // Every eighth is charged to nobody.
        let memcg = (self.accounting && !memcg.is_multiple_of(8)).then(|| self.groups.pick(memcg / 8));
        let owner = memcg.map(|g| self.groups.memcg(g).clone());
        let pool = self.subject.pool();
        let (size, node) = (self.slot_size(len), NodeId(node % pool.arena().topology().len() as u8));
        let before = pool.stats();
        let fits = memcg.is_none_or(|g| self.groups.fits(g, size));
        match self.subject.malloc(owner.as_ref(), len, node) {
            Ok(draft) => {
                assert!(fits, "2: {size} bytes are charged past a limit");
                let spilled = self.subject.home(&draft).is_some_and(|home| home != node);
                self.reached.note("objects spilled to another node", spilled);
                self.came(len, size, memcg);
                Some((draft, memcg))
            }
            Err(error) => {
                let after = pool.stats();
                assert_eq!((before.objects, before.frame_bytes), (after.objects, after.frame_bytes), "6: {error}");
                if let (Error::NodesFull { nodes, .. }, Some(g)) = (&error, memcg) {
                    assert_eq!(*nodes, self.groups.nodes(g), "7: all nodes that it may use were tried");
                }
                self.check_refusal(&error, size, memcg, before.frame_bytes);
                None
            }
        }
    }

    fn check_refusal(&mut self, error: &Error, size: u64, memcg: Option<usize>, frame_bytes: u64) {
        let arena = self.arena();
        let two = 2 * FRAME_SIZE as u64;
        match error {
            Error::Limit(hit) => {
                self.groups.check_hit(memcg.expect("somebody is charged"), size, hit);
                self.reached.add("memcg limits hit", 1);
            }
            Error::Arena(arena::Error::Limit { limit, .. }) => {
                assert!(frame_bytes + two > *limit && *limit == arena.limit(), "3: {error}");
                self.reached.add("arena limits hit", 1);
            }
            Error::NodesFull { nodes, .. } => {
                arena.flush();
                for node in nodes.iter() {
                    let capacity = arena.topology().capacity(node).expect("3: a node without capacity is not full");
                    assert!(arena.backed_on(node) + two > capacity, "3: {error}, and {node} has room");
                }
                self.reached.add("all nodes full", 1);
            }
            Error::Arena(arena::Error::NoRun { runs }) => {
                assert_eq!(arena.used_runs() as u64, *runs, "3: {error}");
                self.reached.add("address space used up", 1);
            }
            Error::Arena(arena::Error::NoMemory { .. }) => {
                assert!(self.failing, "3: {error}");
                self.reached.add("commits failed", 1);
            }
            other => panic!("room is refused: {other:?}"),
        }
    }

    fn came(&mut self, len: usize, size: u64, memcg: Option<usize>) {
        self.objects += 1;
        self.payload += len as u64;
        self.slot_bytes += size;
        if let Some(g) = memcg {
            self.groups.charge(g, size);
        }
    }

    fn went(&mut self, len: usize, size: u64, memcg: Option<usize>) {
        self.objects -= 1;
        self.payload -= len as u64;
        self.slot_bytes -= size;
        if let Some(g) = memcg {
            self.groups.uncharge(g, size);
        }
    }

    fn write(&mut self, draft: S::Draft<'a>, len: usize, memcg: Option<usize>, seed: u8, how: Writing) {
        let mut bytes = vec![0; len];
        noise(seed, &mut bytes);
        let name = self.subject.write(draft, &bytes, how).expect("the length is right");
        self.stale.retain(|stale| *stale != name);
        let thing = Thing { name, slot: self.slot_size(len), bytes, memcg, guards: 0, freed: false };
        self.live.push(self.things.len());
        self.things.push(Some(thing));
    }

    // --- giving back ---

    fn free(&mut self, k: usize) {
        let at = self.live.swap_remove(k);
        let name = self.thing(at).name;
        assert!(self.subject.free(name), "1: {name:?} is live");
        assert!(
            !self.subject.free(name) && self.subject.read(name).is_none(),
            "5: {name:?} is freed twice or read after"
        );
        self.stale.push(name);
        let thing = self.things[at].as_mut().expect("it was live");
        thing.freed = true;
        self.reached.note("objects freed under guards", thing.guards > 0);
        self.gone(at);
    }

    /// Forget it if neither a name nor a guard is left.
    fn gone(&mut self, at: usize) {
        if let Some(Thing { bytes, slot, memcg, .. }) =
            self.things[at].take_if(|thing| thing.freed && thing.guards == 0)
        {
            self.went(bytes.len(), slot, memcg);
        }
    }

    fn drop_guard(&mut self, k: usize) {
        let (at, guard) = self.guards.swap_remove(k);
        assert!(self.thing(at).bytes == *guard, "1: a guard keeps its object");
        drop(guard);
        let thing = self.things[at].as_mut().expect("a guarded object is in the list");
        thing.guards -= 1;
        self.reached.note("slots returned by the last guard", thing.freed && thing.guards == 0);
        self.gone(at);
    }

    fn drop_draft(&mut self, k: usize, cancel: bool) {
        let (draft, len, memcg) = self.drafts.swap_remove(k);
        if cancel {
            self.subject.cancel(draft)
        } else {
            drop(draft)
        }
        self.went(len, self.slot_size(len), memcg);
        self.reached.add("drafts dropped or cancelled", 1);
    }

    // --- compaction ---

    fn compact(&mut self, node: Option<NodeId>, budget: Budget) {
        let bytes = match budget {
            Budget::All => u64::MAX,
            Budget::Bytes(bytes) => u64::from(bytes),
        };
        let pool = self.subject.pool();
        let compact = |bytes| node.map_or_else(|| pool.compact(bytes), |node| pool.compact_node(node, bytes));
        let before = pool.stats();
        let done = compact(bytes);
        let after = pool.stats();
        let frames = |count| count * FRAME_SIZE as u64;
        assert_eq!(
            before.frame_bytes + frames(done.frames_backed),
            after.frame_bytes + frames(done.frames_freed),
            "4: {done:?}"
        );
        assert!(done.moved_bytes <= bytes, "4: {done:?}");
        let held = self.masked || !self.guards.is_empty() || !self.drafts.is_empty();
        assert!(done.busy == 0 || held, "4: {done:?}, and all are free");
        if !self.masked && !done.out_of_budget && self.guards.is_empty() && self.drafts.is_empty() {
            assert_eq!(compact(u64::MAX), Default::default(), "4: nothing is left to win after {done:?}");
        }
        self.read_all();
        self.reached.add("objects moved by compaction", done.moved_objects);
        self.reached.add("frames won by compaction", done.frames_freed);
        self.reached.add("frames too busy for compaction", done.busy);
        self.reached.note("compactions out of budget", done.out_of_budget);
    }

    fn read(&self, at: usize) {
        let thing = self.thing(at);
        let guard = self.subject.read(thing.name).expect("1: a live object can be read");
        assert!(thing.bytes == *guard, "1: {:?} is not what was written", thing.name);
        guard.with(|bytes| assert_eq!(bytes.len(), thing.bytes.len(), "1"));
    }

    fn read_all(&self) {
        self.live.iter().for_each(|&at| self.read(at));
        for (at, guard) in &self.guards {
            assert!(self.thing(*at).bytes == **guard, "1: a guard keeps its object");
        }
    }

    // --- steps ---

    fn step(&mut self, op: Op) {
        let arena = self.arena();
        let backed = arena.backed_bytes();
        self.act(op);
        assert!(arena.backed_bytes() <= arena.limit().max(backed), "3: the arena's limit holds");
        for node in arena.topology().nodes() {
            let capacity = arena.topology().capacity(node);
            assert!(capacity.is_none_or(|bytes| arena.backed_on(node) <= bytes), "3: capacity of {node}");
        }
        let stats = self.subject.pool().stats();
        let expected = (self.objects, self.slot_bytes, self.payload);
        assert_eq!((stats.objects, stats.slot_bytes, stats.payload_bytes), expected, "the pool's sums");
        assert_eq!(self.groups.memcg(0).usage(), self.groups.total(), "the root's charge");
        if self.masked {
            let outside = self.outside(0);
            assert!(outside <= self.left, "7: {outside} bytes lie outside, and {} were left there", self.left);
            if self.drafts.is_empty() {
                self.left = outside;
            }
        }
    }

    /// Bytes of a group's objects outside of their masks.
    fn outside(&self, g: usize) -> u64 {
        self.subject.pool().bytes_outside(self.groups.memcg(g))
    }

    /// Set a group's nodes and move what lies outside.
    fn set_nodes(&mut self, g: usize, mask: NodeMask) {
        if !self.groups.set_nodes(g, mask) || !self.accounting {
            return;
        }
        self.masked = true;
        let pool = self.subject.pool();
        let done = pool.move_off(self.groups.memcg(g), |moving| moving.switch());
        let drafts: u64 = self.drafts.iter().map(|&(_, len, _)| self.slot_size(len)).sum();
        let outside = self.outside(g);
        assert!((outside..=outside + drafts).contains(&done.left_bytes), "7: {done:?}, {outside} bytes are outside");
        if self.guards.is_empty() && self.drafts.is_empty() {
            assert_eq!(done.left_bytes > 0, done.refusal.is_some(), "7: {done:?}, and nobody holds them");
        }
        // Drafts that were made under older masks are published where they are.
        self.left = self.outside(0) + drafts;
        self.read_all();
        self.reached.add("objects moved off nodes", done.moved_objects);
        self.reached.note("objects left outside of a mask", done.left_bytes > 0);
    }

    /// One of the `n`th of so many, if there are any.
    fn pick(which: u8, len: usize) -> Option<usize> {
        (len > 0).then(|| usize::from(which) * 31 % len)
    }

    fn act(&mut self, op: Op) {
        match op {
            Op::Malloc { len, memcg, node, seed, in_place } => {
                let how = if in_place { Writing::InPlace } else { Writing::Whole };
                if let Some((draft, memcg)) = self.malloc(length(len), memcg, node) {
                    self.write(draft, length(len), memcg, seed, how);
                }
            }
            Op::Burst { len, n, memcg, node } => {
                for k in 0..n % 128 {
                    let Some((draft, memcg)) = self.malloc(length(len), memcg, node) else { break };
                    self.write(draft, length(len), memcg, k, Writing::Whole);
                }
            }
            Op::Free { which } => {
                if let Some(k) = Self::pick(which, self.live.len()) {
                    self.free(k);
                }
            }
            Op::Thin { step } => {
                // All but every so many, from the end: the others stay scattered.
                let step = 2 + usize::from(step % 8);
                (0..self.live.len()).rev().filter(|k| k % step > 0).for_each(|k| self.free(k));
            }
            Op::Read { which } => {
                if let Some(k) = Self::pick(which, self.live.len()) {
                    self.read(self.live[k]);
                }
            }
            Op::Guard { which } => {
                if let Some(k) = Self::pick(which, self.live.len()).filter(|_| self.guards.len() < GUARDS) {
                    let at = self.live[k];
                    let guard = self.subject.read(self.thing(at).name).expect("1: a live object can be read");
                    self.guards.push((at, guard));
                    self.things[at].as_mut().expect("it is live").guards += 1;
                }
            }
            Op::DropGuard { which } => {
                if let Some(k) = Self::pick(which, self.guards.len()) {
                    self.drop_guard(k);
                }
            }
            Op::Draft { len, memcg, node } => {
                if let Some((draft, memcg)) = self.malloc(length(len), memcg, node) {
                    self.drafts.push((draft, length(len), memcg));
                }
            }
            Op::WriteDraft { which, seed } => {
                if let Some(k) = Self::pick(which, self.drafts.len()) {
                    let (draft, len, memcg) = self.drafts.swap_remove(k);
                    self.write(draft, len, memcg, seed, Writing::InPlace);
                }
            }
            Op::DropDraft { which } | Op::CancelDraft { which } => {
                if let Some(k) = Self::pick(which, self.drafts.len()) {
                    self.drop_draft(k, matches!(op, Op::CancelDraft { .. }));
                }
            }
            Op::WrongLength { len, memcg, by } => self.wrong_length(length(len), memcg, by),
            Op::Impossible { len, node } => {
                let len = if len == 0 { 0 } else { 4096 + usize::from(len) };
                let nodes = self.arena().topology().len();
                let result = self.subject.malloc(None, len, NodeId(0));
                assert!(matches!(result, Err(Error::Length { .. })), "5: an object of {len} bytes");
                let node = NodeId(node.saturating_add(nodes as u8).clamp(nodes as u8, u8::MAX));
                let result = self.subject.malloc(None, 100, node);
                assert!(matches!(result, Err(Error::Arena(arena::Error::NoSuchNode { .. }))), "5: {node}");
            }
            Op::Stale { which } => {
                if let Some(k) = Self::pick(which, self.stale.len()) {
                    let name = self.stale[k];
                    assert!(self.subject.read(name).is_none() && !self.subject.free(name), "5: {name:?} is stale");
                    self.reached.add("stale names refused", 1);
                }
            }
            Op::MadeUp { raw } => self.subject.misuse(raw, &|name| self.is_live(name)),
            Op::Foreign { which } => self.foreign(which),
            Op::Compact { budget } => self.compact(None, budget),
            Op::CompactNode { node, budget } => {
                let node = NodeId(node % self.arena().topology().len() as u8);
                self.compact(Some(node), budget);
            }
            Op::Mkdir { parent } => {
                if self.groups.made() < MEMCGS {
                    self.groups.mkdir(self.groups.pick(parent));
                }
            }
            Op::Limit { memcg, bytes } => self.groups.set_limit(self.groups.pick(memcg), u64::from(bytes) * 4),
            Op::NoLimit { memcg } => self.groups.set_limit(self.groups.pick(memcg), u64::MAX),
            Op::Offline { memcg } => {
                let charged = self.groups.offline(self.groups.pick(memcg));
                self.reached.note("memcgs taken offline with objects", charged.is_some_and(|bytes| bytes > 0));
            }
            Op::Nodes { memcg, bits } => {
                self.set_nodes(self.groups.pick(memcg), NodeMask::from_bits(u64::from(bits % 16)));
            }
            Op::AllNodes { memcg } => {
                self.set_nodes(self.groups.pick(memcg), NodeMask::first(self.arena().topology().len()));
            }
            Op::ArenaLimit { frames } => {
                self.arena().set_limit(frames.map_or(u64::MAX, |frames| u64::from(frames) * FRAME_SIZE as u64));
            }
            Op::FailCommits { after } => {
                self.failing |= after.is_some();
                self.arena().fail_commits_after(after.map(u64::from));
            }
            Op::Maintain => self.subject.pool().maintain(),
            Op::Flush => {
                self.subject.pool().flush();
                let stats = self.subject.pool().stats();
                assert_eq!(self.arena().backed_bytes(), stats.frame_bytes, "frames are backed if they are touched");
            }
            Op::Check => self.check(),
        }
    }

    fn wrong_length(&mut self, len: usize, memcg: u8, by: i8) {
        let Some((draft, memcg)) = self.malloc(len, memcg, 0) else { return };
        let wrong = len.saturating_add_signed(by.into());
        if wrong == len {
            return self.write(draft, len, memcg, 1, Writing::Whole);
        }
        let result = self.subject.write(draft, &vec![1; wrong], Writing::Whole);
        assert!(matches!(result, Err(Error::WrongLength { .. })), "5: {wrong} bytes into {len} say {result:?}");
        self.went(len, self.slot_size(len), memcg);
    }

    fn foreign(&mut self, which: u8) {
        let theirs = self.other.insert(b"theirs..").unwrap();
        // No handle of ours is equal to it: but a client, who has no tags, may take it for one of its own.
        self.subject.misuse(theirs.raw(), &|name| self.is_live(name));
        if let Some(k) = Self::pick(which, self.live.len()) {
            self.read(self.live[k]);
        }
        assert_eq!(&*self.other.get(theirs).unwrap(), b"theirs..", "5: no harm was done to the other pool");
        self.other.remove(theirs).unwrap();
        assert!(matches!(self.other.remove(theirs), Err(HandleError::Stale { .. })));
    }

    /// What is only true when nothing is being written.
    fn check(&mut self) {
        while !self.drafts.is_empty() {
            self.drop_draft(0, false);
        }
        self.read_all();
        self.groups.check();
        self.subject.assert_valid();
    }

    pub(super) fn run(mut self, ops: &[Op]) -> Reached {
        ops.iter().for_each(|&op| self.step(op));
        self.check();
        while !self.live.is_empty() {
            self.free(self.live.len() - 1);
        }
        while !self.guards.is_empty() {
            self.drop_guard(0);
        }
        self.check();
        self.subject.pool().flush();
        assert_eq!(self.arena().backed_bytes(), 0, "no frame is left");
        assert_eq!(self.arena().used_runs(), 0, "no run is left");
        assert_eq!(self.subject.pool().stats(), Default::default(), "nothing is left");
        assert_eq!((self.groups.memcg(0).usage(), self.groups.total()), (0, 0), "nothing is charged");
        self.reached
    }
}
