//! [`Arena`]: the address space, its runs, and the questions one can ask.

use super::config::{ArenaConfig, MAX_RUN_FRAMES};
use super::run::{Lane, Run, Runs, frames_in};
use super::state::{Frames, State};
use super::warm::Lists;
use super::{Error, Topology};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Alarm, Condvar, Mutex, MutexGuard, Rank, Region};
use crate::units::{FRAME_SIZE, Frame, Location, NodeId};
use std::io;

/// Pool memory; see the [layer](super).
///
/// ```
/// use zspool::arena::{Arena, ArenaConfig, Topology};
/// use zspool::units::{Frame, Location, NodeId};
///
/// let config = ArenaConfig { address_space: 1 << 24, topology: Topology::simulated(2), ..ArenaConfig::default() };
/// let arena = Arena::new(config)?;
/// let run = arena.alloc_run()?;
/// let first = arena.first_frame(run);
/// arena.ensure(first, 2, NodeId(1))?;
/// let place = Location::from_offset(first.offset() + 4080);
/// // SAFETY: both frames are ours, and the pointer is good for the 32 bytes asked for.
/// arena.with_mut(place, 32, |bytes| unsafe { bytes.write_bytes(7, 32) });
/// assert_eq!(arena.node_of(first), NodeId(1));
/// arena.release(first);
/// arena.release(Frame(first.0 + 1));
/// arena.free_run(run);
/// # Ok::<(), zspool::arena::Error>(())
/// ```
#[derive(Debug)]
pub struct Arena {
    /// The bytes.
    pub(super) region: Region,
    /// State and node of each frame.
    pub(super) frames: Frames,
    /// Links and warm frames of each run.
    pub(super) runs: Runs,
    /// Free runs and warm frames. Every state changes under this lock.
    pub(super) lists: Mutex<Lists>,
    /// A commit or discard has ended, and somebody waits for one.
    pub(super) changed: Condvar,
    /// Bytes of frames that are not Unbacked. Changes under the lock.
    pub(super) backed: AtomicU64,
    /// The same by node.
    pub(super) backed_on: Box<[AtomicU64]>,
    /// What `backed` may be at most in bytes. Changes under the lock.
    pub(super) limit: AtomicU64,
    /// Frames in a run.
    pub(super) run_frames: usize,
    /// Warm frames that `maintain` leaves at most.
    pub(super) warm_frames: usize,
    /// Frames backed over warm frames, at least, but for a few.
    pub(super) warm_share: usize,
    /// See [`ArenaConfig::commit_ahead`].
    pub(super) commit_ahead: usize,
    /// The nodes.
    pub(super) topology: Topology,
    /// There are warm frames that somebody may want to give back.
    pub(super) alarm: Alarm,
    /// Commits that will succeed before all fail; `u64::MAX`: none fails. For tests.
    pub(super) commits_left: AtomicU64,
}

impl Arena {
    /// An arena without a backed frame.
    ///
    /// # Errors
    /// [`Error::Reserve`] when the kernel refuses the address space even halved down to 16 MiB (or what was asked for, or
    /// the limit, if less); [`Error::RunFrames`], [`Error::AddressSpace`], [`Error::PageSize`] for what cannot be.
    pub fn new(config: ArenaConfig) -> Result<Self, Error> {
        let (mut bytes, floor) = config.checked()?;
        let (region, frames, runs) = loop {
            match reserve(bytes as usize, config.run_frames) {
                Ok(reserved) => break reserved,
                Err(_) if bytes > floor => {
                    let run_bytes = (config.run_frames * FRAME_SIZE) as u64;
                    bytes = (bytes / 2).next_multiple_of(run_bytes).max(floor);
                }
                Err(source) => return Err(Error::Reserve { bytes, source }),
            }
        };
        if config.topology.is_numa() {
            // Without memory to spare for it, later commits fail too.
            if region.populate(0..FRAME_SIZE).is_ok() {
                let _ = region.discard(0..FRAME_SIZE);
            }
            super::numa::keep_still(region.with(0..0, |start| start as usize), bytes as usize);
        }
        Ok(Arena {
            region,
            frames,
            runs,
            lists: Mutex::new(Rank::Arena, Lists::new()),
            changed: Condvar::new(),
            backed: AtomicU64::new(0),
            backed_on: config.topology.nodes().map(|_| AtomicU64::new(0)).collect(),
            limit: AtomicU64::new(config.limit_bytes),
            run_frames: config.run_frames,
            warm_frames: config.warm_frames,
            warm_share: config.warm_share.max(1),
            alarm: Alarm::new(),
            commit_ahead: config.commit_ahead,
            topology: config.topology,
            commits_left: AtomicU64::new(config.fail_commits_after.unwrap_or(u64::MAX)),
        })
    }

    /// A run nobody has; none of its frames is owned. Prefers runs with warm frames. May run under a class lock.
    ///
    /// # Errors
    /// [`Error::NoRun`].
    ///
    /// # Locks
    /// Takes [`Rank::Arena`].
    pub fn alloc_run(&self) -> Result<Run, Error> {
        let run = self.lists.lock().take_run(&self.runs).ok_or(Error::NoRun { runs: self.runs.count() as u64 })?;
        self.poison(Location::from_offset(self.first_frame(run).offset()), self.run_frames * FRAME_SIZE);
        Ok(run)
    }

    /// Give a run back. Its warm frames stay warm. May run under a class lock; no allocator, no system call.
    ///
    /// # Panics
    /// When the run is free, or one of its frames is owned or being backed.
    ///
    /// # Locks
    /// Takes [`Rank::Arena`].
    pub fn free_run(&self, run: Run) {
        let mut lists = self.lists.lock();
        assert!(run.0 < lists.bump && !self.runs.is_listed(run, Lane::Free), "{run:?} is freed but free already");
        for frame in self.frames_of(run) {
            let state = self.frames.state(frame);
            assert!(!matches!(state, State::Owned | State::Committing), "{run:?} is freed with {frame:?} {state:?}");
        }
        lists.put_run(&self.runs, run);
    }

    /// Give a frame up: an owned one becomes warm, any other stays what it is (an `ensure` that failed). The caller knows
    /// that nobody else claims the frame. May run under a class lock; no allocator, no system call, constant time.
    ///
    /// # Locks
    /// Takes [`Rank::Arena`].
    pub fn release(&self, frame: Frame) {
        let mut lists = self.lists.lock();
        if self.frames.state(frame) == State::Owned {
            self.make_warm(&mut lists, frame);
        }
    }

    pub(super) fn make_warm(&self, lists: &mut Lists, frame: Frame) {
        let (run, bit) = self.split(frame);
        self.frames.set(frame, State::Warm);
        lists.add_warm(&self.runs, run, bit, self.frames.node(frame));
        if !lists.noted {
            lists.noted = self.alarm.is_attended();
            self.alarm.ring();
        }
    }

    /// Take a warm frame off the list; the caller says what it becomes.
    pub(super) fn unwarm(&self, lists: &mut Lists, frame: Frame, becomes: State) {
        let (run, bit) = self.split(frame);
        lists.remove_warm(&self.runs, run, bit, self.frames.node(frame));
        self.frames.set(frame, becomes);
    }

    /// Wait until some commit or discard of another thread has ended.
    pub(super) fn wait(&self, lists: &mut MutexGuard<'_, Lists>) {
        lists.waiters += 1;
        self.changed.wait(lists);
        lists.waiters -= 1;
    }

    /// Tell waiters that a commit or discard has ended.
    pub(super) fn notify(&self, lists: &Lists) {
        if lists.waiters > 0 {
            self.changed.notify_all();
        }
    }

    /// Read access to `len` bytes at `at`: `f` gets a pointer good for them and for the call. Who may touch which bytes is
    /// the allocator's protocol.
    ///
    /// # Panics
    /// When the bytes are not inside the arena.
    #[inline]
    pub fn with<R>(&self, at: Location, len: usize, f: impl FnOnce(*const u8) -> R) -> R {
        self.region.with(at.offset()..at.offset() + len, f)
    }

    /// Write access: as [`with`](Self::with).
    ///
    /// # Panics
    /// When the bytes are not inside the arena.
    #[inline]
    pub fn with_mut<R>(&self, at: Location, len: usize, f: impl FnOnce(*mut u8) -> R) -> R {
        self.region.with_mut(at.offset()..at.offset() + len, f)
    }

    /// Have the caches fetch the first of `len` bytes at `at`; a hint.
    #[inline]
    pub fn prefetch(&self, at: Location, len: usize) {
        self.region.prefetch(at.offset()..at.offset() + len);
    }

    /// Have the caches fetch `len` bytes at `at` to be written; a hint, for any place in the arena.
    #[inline]
    pub fn prefetch_for_write(&self, at: Location, len: usize) {
        self.region.prefetch_for_write(at.offset()..at.offset() + len);
    }

    /// Whether memory lies behind the frame, owned or warm. True for an owned frame as long as it is; a hint for others.
    #[inline]
    pub fn is_backed(&self, frame: Frame) -> bool {
        matches!(self.frames.state(frame), State::Owned | State::Warm)
    }

    /// Whether the frame is owned. Stays true as long as somebody claims it; a warm one may go back to the kernel at any time.
    #[inline]
    pub fn is_owned(&self, frame: Frame) -> bool {
        self.frames.state(frame) == State::Owned
    }

    /// The node an owned frame lies on; of another, the last one known.
    #[inline]
    pub fn node_of(&self, frame: Frame) -> NodeId {
        self.frames.node(frame)
    }

    /// Bytes backed, or about to be: owned, warm, and in passing. Never above the limit by a reservation.
    pub fn backed_bytes(&self) -> u64 {
        self.backed.load(Ordering::Relaxed)
    }

    /// The same on one node. Over all nodes it sums up to [`backed_bytes`](Self::backed_bytes) when nothing is going on.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn backed_on(&self, node: NodeId) -> u64 {
        self.backed_on[node.index()].load(Ordering::Relaxed)
    }

    /// Bytes that may be backed.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Frames that are warm now.
    ///
    /// # Locks
    /// Takes [`Rank::Arena`].
    pub fn warm_frames(&self) -> usize {
        self.lists.lock().spare.warm as usize
    }

    /// Rung when there are warm frames again, and by the layers above for what they have to do.
    #[inline]
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// The nodes.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Frames in a run.
    #[inline]
    pub fn run_frames(&self) -> usize {
        self.run_frames
    }

    /// Runs the address space has: every [`Run`] is below.
    pub fn run_count(&self) -> usize {
        self.runs.count()
    }

    /// Runs that were ever handed out: a run that was has a lower number.
    ///
    /// # Locks
    /// Takes [`Rank::Arena`].
    pub fn runs_ever_used(&self) -> usize {
        self.lists.lock().bump as usize
    }

    /// Runs handed out and not given back.
    ///
    /// # Locks
    /// Takes [`Rank::Arena`].
    pub fn used_runs(&self) -> usize {
        let lists = self.lists.lock();
        lists.bump as usize - lists.free.len() - lists.warm_free.len()
    }

    /// The node an owned frame lies on, as nobody can change meanwhile; `None` for a frame that is not owned. Who finds it
    /// not owned and then has it backed, comes after this call, and sees what was done before it.
    ///
    /// # Locks
    /// Takes [`Rank::Arena`].
    pub fn settled_node(&self, frame: Frame) -> Option<NodeId> {
        let _lists = self.lists.lock();
        (self.frames.state(frame) == State::Owned).then(|| self.frames.node(frame))
    }

    /// Bytes of addresses reserved, less than asked for where the kernel refused so much.
    pub fn address_space(&self) -> usize {
        self.frames.count() * FRAME_SIZE
    }

    /// Address of frame 0, to look the arena up in `/proc/self/pagemap`.
    pub fn address(&self) -> usize {
        self.region.with(0..0, |start| start as usize)
    }

    /// The run's first frame.
    #[inline]
    pub fn first_frame(&self, run: Run) -> Frame {
        Frame(run.0 * self.run_frames as u32)
    }

    /// The run a frame belongs to.
    #[inline]
    pub fn run_of(&self, frame: Frame) -> Run {
        self.split(frame).0
    }

    pub(super) fn frames_of(&self, run: Run) -> impl Iterator<Item = Frame> + use<> {
        frames_in(u64::MAX >> (MAX_RUN_FRAMES - self.run_frames), self.first_frame(run))
    }

    /// Run and number in the run.
    #[inline]
    pub(super) fn split(&self, frame: Frame) -> (Run, u32) {
        let shift = self.run_frames.trailing_zeros();
        (Run(frame.0 >> shift), frame.0 & (self.run_frames as u32 - 1))
    }

    /// For tests: as [`ArenaConfig::fail_commits_after`], from now on.
    #[doc(hidden)]
    pub fn fail_commits_after(&self, commits: Option<u64>) {
        self.commits_left.store(commits.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// With the feature `poison`: tell AddressSanitizer that nobody may touch `len` bytes at `at`, a multiple of 8.
    #[cfg(feature = "poison")]
    pub fn poison(&self, at: Location, len: usize) {
        self.region.with(at.offset()..at.offset() + len, |start| super::poison::poison(start, len));
    }

    /// With the feature `poison`: tell AddressSanitizer that `len` bytes at `at` may be touched.
    #[cfg(feature = "poison")]
    pub fn unpoison(&self, at: Location, len: usize) {
        self.region.with(at.offset()..at.offset() + len, |start| super::poison::unpoison(start, len));
    }

    /// Without the feature `poison`: nothing.
    #[cfg(not(feature = "poison"))]
    #[inline(always)]
    pub fn poison(&self, _at: Location, _len: usize) {}

    /// Without the feature `poison`: nothing.
    #[cfg(not(feature = "poison"))]
    #[inline(always)]
    pub fn unpoison(&self, _at: Location, _len: usize) {}

    /// Check A1 to A4. May be called at any time: all of it holds whenever the lock is free.
    ///
    /// # Panics
    /// When one does not hold.
    ///
    /// # Locks
    /// Takes [`Rank::Arena`].
    pub fn assert_valid(&self) {
        let lists = self.lists.lock();
        let mut backed_on = vec![0u64; self.topology.len()];
        let (mut warm_on, mut pending_on, mut going_on) = (backed_on.clone(), backed_on.clone(), backed_on.clone());
        let (mut runs_with_warm, mut free_runs) = (0, 0);
        for run in (0..lists.bump).map(Run) {
            let is_free = self.runs.is_listed(run, Lane::Free);
            let mut mask = 0u64;
            for frame in self.frames_of(run) {
                let (state, node) = (self.frames.state(frame), self.frames.node(frame).index());
                let (_, bit) = self.split(frame);
                mask |= u64::from(state == State::Warm) << bit;
                backed_on[node] += u64::from(state != State::Unbacked) * FRAME_SIZE as u64;
                warm_on[node] += u64::from(state == State::Warm);
                going_on[node] += u64::from(state == State::Discarding);
                pending_on[node] += u64::from(matches!(state, State::Committing | State::Discarding));
                assert!(!(is_free && state == State::Owned), "A4: {frame:?} of the free {run:?} is owned");
            }
            assert_eq!(self.runs.warm(run), mask, "A3: the warm mask of {run:?} is not its warm frames");
            assert_eq!(self.runs.is_listed(run, Lane::Warm), mask != 0, "A3: {run:?} and the warm list disagree");
            runs_with_warm += usize::from(mask != 0);
            free_runs += usize::from(is_free);
        }
        for (node, &bytes) in backed_on.iter().enumerate() {
            let spare = lists.spare_on[node];
            assert_eq!(bytes, self.backed_on(NodeId(node as u8)), "A2: backed bytes of node {node}");
            assert_eq!(u64::from(spare.warm), warm_on[node], "A2: warm frames of node {node}");
            let passing = u64::from(spare.passing);
            assert!((going_on[node]..=pending_on[node]).contains(&passing), "A2: passing frames of node {node}");
        }
        assert_eq!(backed_on.iter().sum::<u64>(), self.backed_bytes(), "A2: backed bytes");
        assert_eq!(warm_on.iter().sum::<u64>(), u64::from(lists.spare.warm), "A2: warm frames");
        self.runs.assert_list(&lists.warm, |run| assert_ne!(self.runs.warm(run), 0, "A3: {run:?} has no warm frame"));
        self.runs.assert_list(&lists.warm_free, |run| assert_ne!(self.runs.warm(run), 0, "A4: {run:?} is not warm"));
        self.runs.assert_list(&lists.free, |run| assert_eq!(self.runs.warm(run), 0, "A4: {run:?} is warm"));
        assert_eq!(lists.warm.len(), runs_with_warm, "A3: runs with warm frames");
        assert_eq!(lists.free.len() + lists.warm_free.len(), free_runs, "A4: free runs");
    }
}

#[cfg(feature = "poison")]
impl Drop for Arena {
    /// The addresses will be somebody else's.
    fn drop(&mut self) {
        let used = self.lists.lock().bump as usize * self.run_frames * FRAME_SIZE;
        self.unpoison(Location::from_offset(0), used);
    }
}

fn reserve(bytes: usize, run_frames: usize) -> io::Result<(Region, Frames, Runs)> {
    let frames = bytes / FRAME_SIZE;
    Ok((Region::reserve(bytes)?, Frames::reserve(frames)?, Runs::reserve(frames / run_frames)?))
}
