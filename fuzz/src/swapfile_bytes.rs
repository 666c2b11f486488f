//! What lies on devices, changed by somebody else between write and read: hostile headers and hostile blocks.
//!
//! ```text
//!   objects written  -->  two devices in memory, one protection  -->  objects read
//!                             ^ bytes set, bits flipped, blocks copied across, old images brought back,
//!                               checksums made right again by one who knows the seed
//!
//!   first bytes of a file, forged or raw  -->  SwapFile  -->  taken, or refused with a sentence and left alone
//! ```
//!
//! Checked:
//! 1. A read gives the object as it was written, or an error. It gives the object exactly if its bytes on the device are
//!    those that were written for it: no false alarm either.
//! 2. An object is found at its own place only, for its own slot only, in its own generation only.
//! 3. One who knows the seed of the checksums can forge a block, and then no more than another object: no length leads
//!    outside of it.
//! 4. A file is taken only if it is empty or begins with a header that is right by the table of `docs/swapfile-format.md`;
//!    one that is refused is as it was.
//!
//! The checks are made anew here after that document, and not with the crate's code.

use super::list::List;
use super::reached::Reached;
use arbitrary::Arbitrary;
use std::path::PathBuf;
use std::sync::Arc;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};
use zspool::swap::{
    Area, BLOCK_BYTES, Cipher, Error, Flaw, Geometry, HEADER_BYTES, Label, MemoryDevice, Place, Protection, SwapFile,
    Tenant,
};
use zspool::units::Owner;

/// Bytes of each device.
const DEVICE_BYTES: usize = 64 << 10;

/// The seed of checksums, which the forger knows.
const SEED: u64 = 0x0005_eed0_fa11;

/// Two devices, and what is done to them.
#[derive(Arbitrary, Clone, Debug)]
pub struct Run {
    /// AES-256-GCM, ChaCha20-Poly1305, a checksum: modulo 3.
    pub protection: u8,
    /// What is done.
    pub ops: List<Op>,
}

/// What is done. Objects are numbered in the order they were written, modulo how many there are.
#[derive(Arbitrary, Clone, Debug)]
pub enum Op {
    /// A batch of objects for consecutive slots.
    Write {
        device: bool,
        slot: u8,
        lens: [u16; 3],
    },
    Read {
        object: u8,
    },
    /// Read an object's place for another slot, or as another generation of it.
    Mistake {
        object: u8,
        slot: u64,
        generation: u16,
    },
    Free {
        object: u8,
    },
    Flip {
        object: u8,
        bit: u16,
    },
    Set {
        device: bool,
        at: u32,
        bytes: [u8; 8],
    },
    Zero {
        device: bool,
        page: u8,
    },
    /// The bytes of one object over those of another.
    Copy {
        from: u8,
        over: u8,
    },
    /// Keep what the devices hold now; bring back what was kept.
    Keep,
    BringBack {
        device: bool,
    },
    /// Change a field of an object's header and make the checksum right.
    Forge {
        object: u8,
        at: u8,
        bytes: [u8; 4],
    },
    Maintain,
    /// Offer a file that begins with a good header, changed, or with raw bytes.
    Header {
        raw: Option<Vec<u8>>,
        at: u16,
        bytes: [u8; 4],
        right: bool,
        len: u16,
    },
}

/// An object that was written.
struct Object {
    device: usize,
    slot: u64,
    place: Place,
    len: usize,
    mark: u64,
    /// What lay on the device right after it was written.
    bytes: Vec<u8>,
    live: bool,
}

struct World {
    devices: [Arc<MemoryDevice>; 2],
    areas: [Area; 2],
    sealed: bool,
    objects: Vec<Object>,
    kept: Option<[Vec<u8>; 2]>,
    /// Where one who knows the seed made a checksum right again.
    forged: Vec<(usize, Place)>,
    next_mark: u64,
    reached: Reached,
}

/// Do all of it.
pub fn run(run: Run) -> Reached {
    let protection = match run.protection % 3 {
        0 => Protection::sealed(Cipher::Aes256Gcm).expect("there is memory for a key"),
        1 => Protection::sealed(Cipher::ChaCha20Poly1305).expect("there is memory for a key"),
        _ => Protection::Checksum(SEED),
    };
    let geometry = Geometry { batch_pages: 4, write_buffers: 1, read_buffers: 1, ..Geometry::default() };
    let devices = [0, 1].map(|_| Arc::new(MemoryDevice::new(DEVICE_BYTES, 4096)));
    let area = |k: usize| {
        let device = Box::new(Arc::clone(&devices[k]));
        Area::with_protection(device, k as u8, geometry, protection.clone()).expect("the device suits")
    };
    let mut world = World {
        areas: [area(0), area(1)],
        sealed: protection.encrypts(),
        devices,
        objects: Vec::new(),
        kept: None,
        forged: Vec::new(),
        next_mark: 1,
        reached: Reached::new(),
    };
    run.ops.0.into_iter().for_each(|op| world.apply(op));
    world.finish()
}

/// The payload of an object.
fn payload(mark: u64, len: usize) -> impl Iterator<Item = u8> {
    (0..len as u64).map(move |i| (mark.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left((i % 64) as u32) ^ i) as u8)
}

/// The checksum of a block, after the document.
fn checksum(place: &Place, block: &[u8]) -> u64 {
    let word = place.block << 12 | u64::from(place.blocks) << 5 | u64::from(place.device);
    let mut z = SEED.wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    xxh3_64_with_seed(&block[8..], z ^ z >> 31)
}

impl World {
    fn object(&self, k: u8) -> Option<usize> {
        (!self.objects.is_empty()).then(|| usize::from(k) % self.objects.len())
    }

    /// Whether any of its bytes may be the forger's.
    fn is_forged(&self, k: usize) -> bool {
        let Object { device, place, .. } = &self.objects[k];
        let overlap = |other: &Place| {
            other.block < place.block + u64::from(place.blocks) && place.block < other.block + u64::from(other.blocks)
        };
        self.forged.iter().any(|(on, other)| on == device && overlap(other))
    }

    fn bytes_at(&self, k: usize) -> Vec<u8> {
        let Object { device, place, .. } = &self.objects[k];
        let start = place.offset_bytes() as usize;
        let mut bytes = Vec::new();
        self.devices[*device].tamper(|image| bytes.extend_from_slice(&image[start..start + place.len_bytes()]));
        bytes
    }

    fn change(&self, k: usize, change: impl FnOnce(&mut [u8])) {
        let Object { device, place, .. } = &self.objects[k];
        let start = place.offset_bytes() as usize;
        self.devices[*device].tamper(|image| change(&mut image[start..start + place.len_bytes()]));
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Write { device, slot, lens } => self.write(usize::from(device), u64::from(slot), lens),
            Op::Read { object } => _ = self.object(object).map(|k| self.read(k)),
            Op::Mistake { object, slot, generation } => {
                let Some(k) = self.object(object) else { return };
                let Object { device, place, slot: own, .. } = self.objects[k];
                // One thing is wrong, and by little: a check of a part would let that pass first.
                let (slot, off) = match generation % 2 {
                    0 => (own ^ (1 + slot % 7), 0),
                    _ => (own, 1 + generation / 2 % 7),
                };
                let other = Place { generation: place.generation ^ off, ..place };
                let result = self.areas[device].read(other, slot, |_| ());
                // Unless there is another object there that is just what was looked for.
                let is_another = self.objects.iter().any(|o| (o.slot, o.place) == (slot, other));
                assert!(result.is_err() || is_another || self.is_forged(k), "found for slot {slot} at {other:?}");
                self.reached.note("reads for another slot or generation refused", result.is_err());
            }
            Op::Free { object } => {
                let Some(k) = self.object(object).filter(|&k| self.objects[k].live) else { return };
                let object = &mut self.objects[k];
                object.live = false;
                let payer = self.areas[object.device].free(object.place);
                assert_eq!(payer, object.mark as u32);
                self.reached.add("objects freed", 1);
            }
            Op::Flip { object, bit } => {
                let Some(k) = self.object(object) else { return };
                self.change(k, |block| {
                    let bit = usize::from(bit) % (block.len() * 8);
                    block[bit / 8] ^= 1 << (bit % 8);
                });
                self.read(k);
            }
            Op::Set { device, at, bytes } => self.devices[usize::from(device)].tamper(|image| {
                let at = at as usize % (image.len() - bytes.len());
                image[at..at + bytes.len()].copy_from_slice(&bytes);
            }),
            Op::Zero { device, page } => self.devices[usize::from(device)].tamper(|image| {
                let at = usize::from(page) * 4096 % image.len();
                image[at..at + 4096].fill(0);
            }),
            Op::Copy { from, over } => {
                let (Some(from), Some(over)) = (self.object(from), self.object(over)) else { return };
                let bytes = self.bytes_at(from);
                self.change(over, |block| {
                    let len = block.len().min(bytes.len());
                    block[..len].copy_from_slice(&bytes[..len]);
                });
                self.read(over);
            }
            Op::Keep => self.kept = Some([0, 1].map(|k| self.devices[k].image())),
            Op::BringBack { device } => {
                let Some(kept) = &self.kept else { return };
                let k = usize::from(device);
                self.devices[k].tamper(|image| image.copy_from_slice(&kept[k]));
                self.reached.add("old images brought back", 1);
                (0..self.objects.len())
                    .filter(|&o| self.objects[o].device == k)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .for_each(|o| self.read(o));
            }
            Op::Forge { object, at, bytes } => {
                let Some(k) = self.object(object).filter(|_| !self.sealed) else { return };
                let place = self.objects[k].place;
                self.change(k, |block| {
                    let at = 8 + usize::from(at) % (HEADER_BYTES - 8 - bytes.len() + 1);
                    block[at..at + bytes.len()].copy_from_slice(&bytes);
                    let right = checksum(&place, block);
                    block[..8].copy_from_slice(&right.to_le_bytes());
                });
                self.forged.push((self.objects[k].device, place));
                self.read(k);
            }
            Op::Maintain => self.areas.iter().for_each(|area| _ = area.maintain()),
            Op::Header { raw, at, bytes, right, len } => self.header(raw, at, bytes, right, len),
        }
    }

    fn write(&mut self, device: usize, slot: u64, lens: [u16; 3]) {
        let area = &self.areas[device];
        let Ok(mut batch) = area.begin_at_least(2, 4) else {
            self.reached.add("devices full", 1);
            return;
        };
        let first = self.objects.len();
        for (len, slot) in lens.into_iter().zip(slot..) {
            let (len, mark) = (usize::from(len) % (area.geometry().max_payload + 1), self.next_mark);
            let fill = |bytes: &mut [u8]| bytes.iter_mut().zip(payload(mark, len)).for_each(|(to, from)| *to = from);
            let label = Label { codec: mark as u8, flags: !mark as u8, node: mark as u8 % 64 };
            let tenant = Tenant { owner: Owner(slot as u32), payer: mark as u32 };
            let Some(place) = batch.push(slot, label, tenant, len, fill) else { break };
            self.next_mark += 1;
            self.objects.push(Object { device, slot, place, len, mark, bytes: vec![], live: true });
        }
        batch.write().expect("memory does not fail");
        for k in first..self.objects.len() {
            self.objects[k].bytes = self.bytes_at(k);
            self.reached.add("objects written", 1);
            if !self.sealed {
                let (place, block) = (&self.objects[k].place, &self.objects[k].bytes);
                assert_eq!(block[..8], checksum(place, block).to_le_bytes(), "the checksum is the document's");
            }
        }
    }

    /// Read an object, also one that was freed: its bytes may still be there.
    fn read(&mut self, k: usize) {
        let intact = self.bytes_at(k) == self.objects[k].bytes;
        let forged = self.is_forged(k);
        let Object { device, slot, place, len, mark, .. } = self.objects[k];
        let result = self.areas[device].read(place, slot, |object| {
            let right = object.bytes.iter().copied().eq(payload(mark, len));
            let label = (object.label.codec, object.label.flags, object.label.node);
            assert!(object.bytes.len() + HEADER_BYTES <= place.len_bytes(), "no more than the block holds");
            right && label == (mark as u8, !mark as u8, mark as u8 % 64)
        });
        match result {
            Ok(right) => {
                assert!(right || forged, "slot {slot} came back as something else");
                assert!(intact || forged, "slot {slot} came back although it was changed");
                self.reached.note("objects read back", intact);
                self.reached.note("forged objects read", !intact);
            }
            Err(Error::Corrupt { flaw, .. }) => {
                assert!(!intact, "slot {slot} was refused as it was written: {flaw}");
                assert_eq!(flaw == Flaw::Seal, self.sealed, "{flaw}");
                self.reached.add("changed objects refused", 1);
                self.reached.note("forged lengths refused", matches!(flaw, Flaw::Length { .. }));
                self.reached.note("old blocks told", matches!(flaw, Flaw::Slot { .. } | Flaw::Generation { .. }));
            }
            Err(other) => panic!("memory does not fail: {other}"),
        }
    }

    /// Offer a file.
    fn header(&mut self, raw: Option<Vec<u8>>, at: u16, bytes: [u8; 4], right: bool, len: u16) {
        let file = File::new();
        let mut first = raw.unwrap_or_else(|| good_header(file.path()));
        if let Some(field) = first.get_mut(usize::from(at) % 4096..).and_then(|rest| rest.get_mut(..bytes.len())) {
            field.copy_from_slice(&bytes);
        }
        if right && first.len() == 4096 {
            let right = xxh3_64(&first[..4088]);
            first[4088..].copy_from_slice(&right.to_le_bytes());
        }
        // Cut short, at times.
        if len < 4096 {
            first.truncate(usize::from(len));
        }
        std::fs::write(file.path(), &first).expect("a temporary file can be written");
        let fits = first.is_empty() || is_header(&first);
        match SwapFile::options().path(file.path()).size(1 << 20).direct(false).open() {
            Ok(_) => {
                assert!(fits, "a file was taken that is none of ours");
                self.reached.add("files taken", 1);
            }
            Err(error) => {
                assert!(!fits, "{error}");
                assert!(!error.to_string().ends_with('.'), "{error}");
                let now = std::fs::read(file.path()).expect("it is still there");
                assert!(now == first, "a file was refused and changed");
                self.reached.add("files refused", 1);
                self.reached.note(
                    "files of other versions or sizes refused",
                    matches!(error, Error::Version { .. } | Error::Units { .. }),
                );
                self.reached.note("damaged headers refused", matches!(error, Error::DamagedHeader { .. }));
            }
        }
    }

    fn finish(mut self) -> Reached {
        for k in 0..self.objects.len() {
            self.read(k);
            if self.objects[k].live {
                _ = self.areas[self.objects[k].device].free(self.objects[k].place);
            }
        }
        for area in &self.areas {
            area.assert_valid();
            assert_eq!((area.stats().objects, area.stats().live_bytes), (0, 0));
        }
        self.reached
    }
}

/// Whether this is the header of a file that may be thrown away, after the document.
fn is_header(bytes: &[u8]) -> bool {
    let Some(page) = bytes.get(..4096) else { return false };
    page[..8] == *b"\x8fzspool\n"
        && page[8..12] == 2u32.to_le_bytes()
        && page[12..16] == 4096u32.to_le_bytes()
        && page[16..20] == 64u32.to_le_bytes()
        && page[20..24] == 4096u32.to_le_bytes()
        && page[48..4088].iter().all(|&b| b == 0)
        && page[4088..] == xxh3_64(&page[..4088]).to_le_bytes()
}

/// What a new swapfile begins with.
fn good_header(path: &std::path::Path) -> Vec<u8> {
    drop(
        SwapFile::options().path(path).size(1 << 20).direct(false).keep(true).open().expect("there is room for a file"),
    );
    std::fs::read(path).expect("it was kept")
}

/// A path that nobody else has, without a file at the end.
struct File(PathBuf);

impl File {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("swapfile_bytes-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // In memory where there is such a place: a fuzzer makes many.
        let memory = PathBuf::from("/dev/shm");
        File(if memory.is_dir() { memory } else { std::env::temp_dir() }.join(name))
    }

    fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const _: () = assert!(BLOCK_BYTES == 64);
