//! [`Geometry`]: which sizes of slots there are, and how each is laid out over the frames of a zspage.
//!
//! ```text
//! slots of 3072 bytes, chain 3 (the default takes 15, five times this)
//!
//! byte  0           3072        6144        9216        12288
//!       +-----------+-----------+-----------+-----------+
//!       |  slot 0   |  slot 1   |  slot 2   |  slot 3   |
//!       +-----------+---+-------+-------+---+-----------+
//!       |    frame 0    |    frame 1    |    frame 2    |
//!       +---------------+---------------+---------------+
//!       0               4096            8192            12288     slots 1 and 2 straddle two frames
//!
//! first slot that starts in the frame:   0, 2, 3, and 4 ends the list
//! ```
//!
//! A class has the chain with the least share of its bytes left over at the end. Of several such chains the longest is
//! taken: frames are backed only where objects lie, so a long chain costs no memory, and its descriptor and its
//! addresses are shared by more objects. Two neighbouring sizes with the same chain and as many slots are merged, and
//! the smaller one uses the larger slots.
//!
//! [`Geometry::kernel`] is the layout of the kernel's zsmalloc for comparisons: an 8-byte header counts
//! in each slot, and the first chain with the least bytes left over wins.
//!
//! Invariants:
//! - **G1** Slot sizes are multiples of [`LOCATION_UNIT`], grow with the class, and the last is 4096.
//! - **G2** A slot touches at most two frames, for none is larger than a frame.
//! - **G3** The class of a length holds it, and no smaller class does.
//! - **G4** A zspage has at most as many slots as an array of entries has words: chains of slots below 128 bytes are shorter.

use super::entries::MAX_WORDS;
use super::error::Error;
use crate::sync::ZSPAGE_FRAMES;
use crate::units::{FRAME_SIZE, LOCATION_UNIT};

/// Smallest slot in bytes: with smaller ones a frame would have more objects than a count byte holds.
const MIN_SLOT: usize = 32;

const _: () = assert!(MAX_WORDS * MIN_SLOT >= FRAME_SIZE, "a chain of one frame has an array");

/// Number of a size class, from the smallest. Below 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassIndex(pub u16);

/// The sizes of a pool's slots.
#[derive(Clone, Debug)]
pub struct Geometry {
    /// Bytes a slot has beyond the payload: the kernel's handle header, or none.
    header: usize,
    /// Payloads of up to this size use the first raw size.
    min: usize,
    /// Every raw size is this many bytes above another, or a multiple of it.
    step: usize,
    /// Sizes before merging.
    raw_sizes: usize,
    /// The most frames a zspage has.
    max_chain: usize,
    /// Class of a slot of `min + i * step` bytes.
    of_raw: Vec<ClassIndex>,
    /// Merged classes, by size.
    classes: Vec<SizeClass>,
}

/// Slots of one size in a zspage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeClass {
    size: usize,
    chain: usize,
    slots: usize,
    /// `ceil(2^32 / size)`, to divide offsets in a zspage by the size without dividing.
    reciprocal: u64,
    /// `floor(2^32 * chain / slots)`: frames a slot fills.
    frames_per_slot: u64,
    /// First slot that starts in each frame; from the end of the chain on, the number of slots.
    first: [u16; ZSPAGE_FRAMES + 1],
    /// Bit f: the last slot that starts in frame f ends in frame f + 1.
    straddles: u16,
}

/// How a chain is chosen.
#[derive(Clone, Copy)]
enum Rule {
    /// Least share left over, the longest of equals.
    LeastShare,
    /// Least bytes left over, the shortest of equals; one frame for powers of two.
    Kernel,
}

// === impl Geometry ===

impl Geometry {
    /// Slots from `min` bytes in steps of `step` bytes up to 4096, in zspages of up to `max_chain` frames.
    ///
    /// # Errors
    /// [`Error::Geometry`] when a size is no multiple of 16, `min` is below 32 or above 4096, or the chain is not 1 to
    /// 16.
    pub fn new(min: usize, step: usize, max_chain: usize) -> Result<Self, Error> {
        Self::build(0, min, &[(FRAME_SIZE, step)], max_chain, Rule::LeastShare)
    }

    /// The kernel's classes with this longest chain (its `ZSMALLOC_CHAIN_SIZE`; 8 unless configured otherwise).
    ///
    /// # Errors
    /// [`Error::Geometry`] when the chain is not 1 to 16.
    pub fn kernel(max_chain: usize) -> Result<Self, Error> {
        Self::build(8, 32, &[(FRAME_SIZE, 16)], max_chain, Rule::Kernel)
    }

    /// `steps`: up to how many bytes of slot, and in steps of how many.
    fn build(header: usize, min: usize, steps: &[(usize, usize)], max_chain: usize, rule: Rule) -> Result<Self, Error> {
        let fits = |n: usize| n > 0 && n.is_multiple_of(LOCATION_UNIT) && n <= FRAME_SIZE;
        let step = steps.iter().map(|&(_, step)| step).min().unwrap_or(0);
        if !fits(min) || min < MIN_SLOT || !fits(step) || !(1..=ZSPAGE_FRAMES).contains(&max_chain) {
            return Err(Error::Geometry { min, step, max_chain });
        }
        let mut sizes = vec![min];
        while let Some(&last) = sizes.last().filter(|&&last| last < FRAME_SIZE) {
            let step = steps.iter().find(|&&(end, _)| last < end).map_or(FRAME_SIZE, |&(_, step)| step);
            sizes.push((last + step).min(FRAME_SIZE));
        }
        // From the largest down, as the kernel does: a size joins the class above it when their zspages look alike.
        let mut classes: Vec<SizeClass> = Vec::new();
        for &size in sizes.iter().rev() {
            let class = SizeClass::new(size, max_chain, rule);
            let alike = |above: &SizeClass| above.chain == class.chain && above.slots == class.slots;
            if !classes.last().is_some_and(alike) {
                classes.push(class);
            }
        }
        classes.reverse();
        let class_for = |size: usize| classes.partition_point(|class| class.size < size.min(FRAME_SIZE));
        let raw = (FRAME_SIZE - min).div_ceil(step) + 1;
        let of_raw = (0..raw).map(|i| ClassIndex(class_for(min + i * step) as u16)).collect();
        Ok(Geometry { header, min, step, raw_sizes: sizes.len(), max_chain, of_raw, classes })
    }

    /// The class for a payload of `len` bytes, if it is 1 to 4096.
    #[inline]
    pub fn class_of(&self, len: usize) -> Option<ClassIndex> {
        if !(1..=FRAME_SIZE).contains(&len) {
            return None;
        }
        let raw = (len + self.header).saturating_sub(self.min).div_ceil(self.step);
        Some(self.of_raw[raw.min(self.of_raw.len() - 1)])
    }

    /// The class with this number.
    ///
    /// # Panics
    /// When there is none.
    #[inline]
    pub fn class(&self, index: ClassIndex) -> &SizeClass {
        &self.classes[index.0 as usize]
    }

    /// All classes, smallest first.
    pub fn classes(&self) -> impl DoubleEndedIterator<Item = (ClassIndex, &SizeClass)> + ExactSizeIterator {
        self.classes.iter().enumerate().map(|(i, class)| (ClassIndex(i as u16), class))
    }

    /// Number of sizes before merging.
    pub fn raw_sizes(&self) -> usize {
        self.raw_sizes
    }

    /// The most frames a zspage of any class has: a pool's runs must be as long.
    pub fn max_chain(&self) -> usize {
        self.max_chain
    }

    /// The smallest payload in bytes that gets a slot of a [huge](SizeClass::is_huge) class.
    pub fn huge_len(&self) -> usize {
        let below = self.classes.iter().rev().find(|class| !class.is_huge());
        below.map_or(1, |class| class.size - self.header + 1)
    }
}

impl Default for Geometry {
    /// From 32 bytes, in chains up to 16, in steps of 32 bytes; of 16 from 1 to 2 KiB, and of 64 from 3 KiB.
    ///
    /// A step of half the size saves 4 to 8 bytes an object, and costs a class more, which leaves half a frame of its own
    /// unused. That pays where most compressed pages are. Frames over payload, for real pages (Java, Node, Python; the
    /// last column has 16 times as many):
    ///
    /// | step | 64 MiB | a random half of them, packed | 1 GiB |
    /// |---|---|---|---|
    /// | 16 | 1.020, 1.023, 1.024 | 1.033, 1.037, 1.037 | 1.008, 1.010, 1.009 |
    /// | 32 | 1.020, 1.023, 1.022 | 1.026, 1.028, 1.031 | 1.013, 1.015, 1.014 |
    /// | these | 1.018, 1.021, 1.020 | 1.025, 1.030, 1.031 | 1.009, 1.011, 1.010 |
    fn default() -> Self {
        let steps = [(1024, 32), (2048, 16), (3072, 32), (FRAME_SIZE, 64)];
        Self::build(0, MIN_SLOT, &steps, ZSPAGE_FRAMES, Rule::LeastShare).expect("the numbers are within the bounds")
    }
}

// === impl SizeClass ===

impl SizeClass {
    fn new(size: usize, max_chain: usize, rule: Rule) -> Self {
        let left_over = |chain: usize| chain * FRAME_SIZE % size;
        let max_chain = max_chain.min(MAX_WORDS * size / FRAME_SIZE);
        let chain = match rule {
            // left/chain < best/best_chain, multiplied out.
            Rule::LeastShare => (1..=max_chain)
                .reduce(|best, k| if left_over(k) * best <= left_over(best) * k { k } else { best })
                .expect("a chain has a frame"),
            Rule::Kernel if size.is_power_of_two() => 1,
            Rule::Kernel => {
                (1..=max_chain).min_by_key(|&k| left_over(k)).expect("a chain has a frame") // the first of equals
            }
        };
        let slots = chain * FRAME_SIZE / size;
        let first = std::array::from_fn(|f| (f * FRAME_SIZE).div_ceil(size).min(slots) as u16);
        let straddles = (0..chain)
            .filter(|&f| first[f + 1] > first[f] && first[f + 1] as usize * size > (f + 1) * FRAME_SIZE)
            .fold(0, |bits, f| bits | 1 << f);
        SizeClass {
            size,
            chain,
            slots,
            reciprocal: (1u64 << 32).div_ceil(size as u64),
            frames_per_slot: ((chain as u64) << 32) / slots as u64,
            first,
            straddles,
        }
    }

    /// Bytes of a slot.
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Frames of a zspage.
    #[inline]
    pub fn chain(&self) -> usize {
        self.chain
    }

    /// Slots of a zspage.
    #[inline]
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Frames that `slots` slots of full zspages fill, the last one rounded up: the fewest that hold so many, or one less
    /// where the end of a zspage is left over.
    #[inline]
    pub(super) fn frames_for(&self, slots: u64) -> u64 {
        (slots * self.frames_per_slot).div_ceil(1 << 32)
    }

    /// Frames of a zspage, from its start, that hold `slots` slots.
    pub(super) fn frames_from_start(&self, slots: usize) -> usize {
        (slots * self.size).div_ceil(FRAME_SIZE)
    }

    /// Slots that lie wholly in the first `frames` frames of a zspage.
    pub(super) fn slots_within(&self, frames: usize) -> usize {
        (frames * FRAME_SIZE / self.size).min(self.slots)
    }

    /// Whether each slot has a frame of its own, so that nothing is gained by packing.
    #[inline]
    pub fn is_huge(&self) -> bool {
        self.slots == self.chain
    }

    /// The slot that byte `offset` of a zspage is the first of, if one is.
    #[inline]
    pub(super) fn slot_at(&self, offset: usize) -> Option<usize> {
        // Exact: offset < 2^16 and size <= 2^12, so the reciprocal's error stays below one part in 2^32.
        let slot = ((offset as u64 * self.reciprocal) >> 32) as usize;
        (slot < self.slots && slot * self.size == offset).then_some(slot)
    }

    /// The frame a slot starts in, and whether it ends in the next.
    #[inline]
    pub(super) fn place_of(&self, slot: usize) -> (usize, bool) {
        let start = slot * self.size;
        (start / FRAME_SIZE, start % FRAME_SIZE + self.size > FRAME_SIZE)
    }

    /// First slot that starts in `frame`.
    #[inline]
    pub(super) fn first(&self, frame: usize) -> usize {
        self.first[frame] as usize
    }

    /// Number of slots that start in `frame`.
    #[inline]
    pub(super) fn starting(&self, frame: usize) -> usize {
        (self.first[frame + 1] - self.first[frame]) as usize
    }

    /// Number of slots that lie wholly in `frame`.
    #[inline]
    pub(super) fn inner(&self, frame: usize) -> usize {
        self.starting(frame) - usize::from(self.straddles(frame))
    }

    /// Whether the last slot that starts in `frame` ends in the next one.
    #[inline]
    pub(super) fn straddles(&self, frame: usize) -> bool {
        self.straddles >> frame & 1 == 1
    }

    /// Bit f: what [`straddles`](Self::straddles) says of frame f.
    #[inline]
    pub(super) fn straddlers(&self) -> u16 {
        self.straddles
    }

    /// Bytes of the slot at this byte offset in its frame that lie in that frame.
    #[inline]
    pub(super) fn first_part(&self, offset_in_frame: usize) -> usize {
        self.size.min(FRAME_SIZE - offset_in_frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel_clusters(chain: usize) -> usize {
        Geometry::kernel(chain).unwrap().classes().len()
    }

    #[test]
    fn kernel_classes_are_the_kernels() {
        let kernel = Geometry::kernel(8).unwrap();
        assert_eq!(kernel.raw_sizes(), 255);
        let clusters = [4, 5, 6, 7, 8, 9, 10, 16].map(kernel_clusters);
        assert_eq!(clusters, [69, 86, 94, 110, 119, 136, 141, 192]);
        assert_eq!(kernel.huge_len(), 3625);
        assert!(!kernel.class(kernel.class_of(3624).unwrap()).is_huge());
        assert!(kernel.class(kernel.class_of(3625).unwrap()).is_huge());
        // The example of zsmalloc.rst for chain 4: 1568 bytes use the slots of 1632.
        let short = Geometry::kernel(4).unwrap();
        assert_eq!(short.class(short.class_of(1568 - 8).unwrap()).size(), 1632);
        assert_eq!(short.huge_len(), 3264 - 7);
    }

    #[test]
    fn every_length_gets_the_smallest_class_that_holds_it() {
        for geometry in [Geometry::default(), Geometry::kernel(8).unwrap(), Geometry::new(48, 80, 5).unwrap()] {
            for len in 1..=FRAME_SIZE {
                let index = geometry.class_of(len).unwrap();
                let need = (len + geometry.header).min(FRAME_SIZE);
                assert!(geometry.class(index).size >= need, "G3: {len}");
                assert!(index.0 == 0 || geometry.class(ClassIndex(index.0 - 1)).size < need, "G3: {len}");
            }
            assert!(geometry.classes.is_sorted_by(|a, b| a.size < b.size), "G1");
            assert_eq!(geometry.classes.last().unwrap().size, FRAME_SIZE, "G1");
            assert!(geometry.class_of(0).is_none() && geometry.class_of(FRAME_SIZE + 1).is_none());
        }
    }

    #[test]
    fn slots_and_frames_agree() {
        for (_, class) in Geometry::default().classes() {
            let mut straddling = 0;
            for slot in 0..class.slots {
                let (frame, straddles) = class.place_of(slot);
                assert_eq!(class.slot_at(slot * class.size), Some(slot));
                assert!((class.first(frame)..class.first(frame + 1)).contains(&slot));
                let crosses = ((slot + 1) * class.size - 1) / FRAME_SIZE != frame;
                assert_eq!(crosses, class.straddles(frame) && slot + 1 == class.first(frame + 1), "G2: {slot}");
                assert_eq!(crosses, straddles, "G2: {slot}");
                straddling += usize::from(crosses);
            }
            let inner: usize = (0..class.chain).map(|f| class.inner(f)).sum();
            assert_eq!(inner + straddling, class.slots);
            assert_eq!(class.slot_at(class.size / 2), None);
            assert_eq!(class.slot_at(class.slots * class.size), None);
            for slots in 0..=class.slots {
                let from_start = class.frames_from_start(slots);
                assert_eq!(
                    from_start,
                    (0..slots).map(|slot| (slot * class.size + class.size - 1) / FRAME_SIZE + 1).max().unwrap_or(0)
                );
                assert!(class.slots_within(from_start) >= slots);
                // Of full zspages what is left over at their ends is nobody's.
                assert!(
                    (from_start.saturating_sub(1)..=from_start + 1)
                        .contains(&(class.frames_for(slots as u64) as usize))
                );
            }
            assert_eq!(
                [1, 10, 1000].map(|n| class.frames_for(n * class.slots as u64)),
                [1, 10, 1000].map(|n| n * class.chain as u64)
            );
            for frames in 0..=class.chain {
                let within = (0..class.slots).filter(|slot| (slot + 1) * class.size <= frames * FRAME_SIZE).count();
                assert_eq!(class.slots_within(frames), within);
            }
        }
    }

    #[test]
    fn chains_waste_little_and_are_long() {
        let geometry = Geometry::default();
        for (_, class) in geometry.classes() {
            assert!(class.slots <= MAX_WORDS, "G4");
            let doubled = class.chain * 2 <= ZSPAGE_FRAMES && class.slots * 2 <= MAX_WORDS;
            assert!(!doubled, "a shorter chain of {} could be doubled", class.size);
        }
        let class = geometry.class(geometry.class_of(3072).unwrap());
        assert_eq!((class.size, class.chain, class.slots), (3072, 15, 20));
        assert!((900..=1024).contains(&geometry.class(geometry.class_of(1000).unwrap()).size));
        for (len, size) in [(1025, 1040), (1041, 1056), (2048, 2048), (2049, 2080), (3073, 3136)] {
            // Or a larger one that looks alike.
            let class = geometry.class(geometry.class_of(len).unwrap());
            assert!((size..size + 64).contains(&class.size), "{len} in {}", class.size);
        }
        let huge = geometry.class(geometry.class_of(4096).unwrap());
        assert_eq!((huge.chain, huge.slots, huge.is_huge()), (16, 16, true));
        assert_eq!(geometry.huge_len(), 3841);
    }

    #[test]
    fn impossible_numbers_are_refused() {
        for (min, step, chain) in [(16, 16, 4), (32, 0, 4), (32, 24, 4), (8192, 16, 4), (32, 16, 0), (32, 16, 17)] {
            assert!(matches!(Geometry::new(min, step, chain), Err(Error::Geometry { .. })), "{min} {step} {chain}");
        }
    }
}
