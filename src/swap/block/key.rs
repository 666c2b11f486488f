//! [`Key`]: a cipher with a random key that never leaves memory, and the nonces that are left for it.
//!
//! ```text
//!   page 0   | cipher with its key schedule | wiped seed |       locked in memory, in no core dump, wiped on drop
//!   page 1   | 1 | zeroes                                |       all zeroes in a child of fork
//!   counter    0 ... next ... 2^63                               64 bits of the 96 of a nonce; the others are 0
//! ```
//!
//! 1. The key comes from the system's random numbers, in page 0, and is nowhere else once `new` has returned.
//! 2. A nonce is taken by counting up and never given back, whatever becomes of what was sealed with it: none seals
//!    twice in the life of a key.
//! 3. A child of fork has a copy of key and counter, and would seal with its parent's nonces: it is refused.
//!
//! Locking and leaving out of dumps are best effort (limits, other systems); the rest is not.
//!
//! AES-256-GCM where the processor has instructions for it (see [`Cipher::fastest`]), else ChaCha20-Poly1305, which is
//! fast without: both of the crate `ring`, which takes no lock, allocates nothing and has no thread-locals.

use crate::swap::Error;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::process_static;
use crate::units::PAGE_SIZE;
use memmap2::MmapMut;
use ring::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use std::io;
use std::ops::Range;

/// Bytes of a nonce that are stored; the rest of its 12 are zeroes.
pub(super) const NONCE_BYTES: usize = size_of::<u64>();

/// Bytes of a tag, of either cipher.
pub(super) const TAG_BYTES: usize = 16;

/// Nonces of a key: objects it may seal. At 10 million a second that is 29,000 years.
pub(super) const NONCES: u64 = 1 << 63;

/// Bytes of a key, of either cipher.
const KEY_BYTES: usize = 32;

/// Where the key's random bytes are until the cipher is made of them.
const SEED: Range<usize> = PAGE_SIZE / 2..PAGE_SIZE / 2 + KEY_BYTES;

/// Bytes of stack that making a cipher may have left parts of the key on: what it needs, several times over.
const SCRUBBED_STACK: usize = 32 << 10;

const _: () = assert!(size_of::<LessSafeKey>() <= SEED.start && align_of::<LessSafeKey>() <= PAGE_SIZE);

/// What seals objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-256 in Galois/Counter Mode.
    Aes256Gcm,
    /// ChaCha20 with Poly1305 (RFC 8439).
    ChaCha20Poly1305,
}

/// A cipher with a random key, and its nonces.
pub struct Key {
    /// Page 0: a [`LessSafeKey`] at its start.
    secret: MmapMut,
    /// Page 1: its first byte is 1, in the process that made the key.
    alive: MmapMut,
    /// Page 0 is locked in memory.
    locked: bool,
    cipher: Cipher,
    /// The next nonce. Only ever counted up.
    next: AtomicU64,
}

// === impl Cipher ===

impl Cipher {
    /// The one that is fast on this processor: AES where it has instructions for AES and carry-less multiplication.
    pub fn fastest() -> Self {
        #[cfg(target_arch = "x86_64")]
        let hardware = is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq");
        #[cfg(target_arch = "aarch64")]
        let hardware =
            std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let hardware = false;
        if hardware { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 }
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self, Cipher::fastest()) {
            (Cipher::Aes256Gcm, Cipher::Aes256Gcm) => "AES-256-GCM (in hardware)",
            (Cipher::Aes256Gcm, _) => "AES-256-GCM (in software: slow)",
            (Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm) => "ChaCha20-Poly1305 (in software)",
            (Cipher::ChaCha20Poly1305, _) => "ChaCha20-Poly1305 (in software: the processor has no AES)",
        })
    }
}

process_static! {
    /// Bytes of keys that are locked in memory.
    LOCKED: AtomicU64 = AtomicU64::new(0)
}

/// Bytes that this crate has locked in memory, in the whole process: what is locked beside them is the program's.
pub fn locked_bytes() -> u64 {
    LOCKED.load(Ordering::Relaxed)
}

// === impl Key ===

impl Key {
    /// A random key for `cipher`. Three pages of memory, mapped for it.
    ///
    /// # Errors
    /// [`Error::Key`] when the system has no memory or no random numbers.
    pub fn new(cipher: Cipher) -> Result<Self, Error> {
        let refused = |source| Error::Key { source };
        let mut secret = MmapMut::map_anon(PAGE_SIZE).map_err(refused)?;
        let mut alive = MmapMut::map_anon(PAGE_SIZE).map_err(refused)?;
        #[cfg(target_os = "linux")]
        {
            let _ = secret.advise(memmap2::Advice::DontDump);
            // SAFETY: the mapping is this process's alone; in a child its bytes are zeroes, which bytes may be.
            if unsafe { libc::madvise(alive.as_mut_ptr().cast(), PAGE_SIZE, libc::MADV_WIPEONFORK) } != 0 {
                return Err(refused(io::Error::last_os_error()));
            }
        }
        alive[0] = 1;
        // RLIMIT_MEMLOCK may be 0; the key is then as likely to be swapped out as everything else is.
        let locked = secret.lock().is_ok();
        SystemRandom::new().fill(&mut secret[SEED]).map_err(|_| refused(io::Error::other("no random numbers")))?;
        if locked {
            LOCKED.fetch_add(PAGE_SIZE as u64, Ordering::Relaxed); // no error comes after it: who drops the key takes it back
        }
        make(&mut secret, cipher);
        wipe(&mut secret[SEED]);
        scrub_stack();
        Ok(Key { secret, alive, locked, cipher, next: AtomicU64::new(0) })
    }

    /// The same key, of which so many nonces are gone.
    #[cfg(all(test, not(loom)))]
    pub(super) fn used(self, sealed: u64) -> Self {
        self.next.store(sealed, Ordering::Relaxed);
        self
    }

    /// What it seals with.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Objects that were sealed with it, ever.
    pub fn sealed(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Whether more may be sealed: to be asked once for each batch. A batch that is begun may be filled: what is open at
    /// the limit still has nonces.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child of fork, [`Error::NoncesExhausted`] when all nonces are used.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.check_process()?;
        // Relaxed: a counter that orders nothing.
        if self.next.load(Ordering::Relaxed) >= NONCES {
            return Err(Error::NoncesExhausted { sealed: NONCES });
        }
        Ok(())
    }

    /// Whether this is the process that made it.
    ///
    /// # Errors
    /// [`Error::Forked`] in a child of fork.
    pub(super) fn check_process(&self) -> Result<(), Error> {
        if self.alive[0] == 1 { Ok(()) } else { Err(Error::Forked) }
    }

    /// Encrypt `text` in place. Returns the nonce and the tag; `data` is under the tag as well.
    pub(super) fn seal(&self, data: &[u8], text: &mut [u8]) -> ([u8; NONCE_BYTES], [u8; TAG_BYTES]) {
        // Relaxed: that every value comes once is all.
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        assert!(count < NONCES + (1 << 62), "nobody begins a batch when the nonces are used up");
        let nonce = count.to_le_bytes();
        let tag = self
            .secret()
            .seal_in_place_separate_tag(full(nonce), Aad::from(data), text)
            .expect("an object is far shorter than what a nonce can seal");
        (nonce, tag.as_ref().try_into().expect("both ciphers have tags of 16 bytes"))
    }

    /// Decrypt `text` in place, if it is what was sealed with this nonce, tag and data. `false`: it is not, and `text` is
    /// anything. No allocation.
    #[must_use]
    pub(super) fn open(&self, nonce: [u8; NONCE_BYTES], tag: [u8; TAG_BYTES], data: &[u8], text: &mut [u8]) -> bool {
        self.secret().open_in_place_separate_tag(full(nonce), Aad::from(data), Tag::from(tag), text, 0..).is_ok()
    }

    fn secret(&self) -> &LessSafeKey {
        // SAFETY: `make` wrote one there, at a page's start, which is aligned for it; nobody writes to it before `drop`.
        unsafe { &*self.secret.as_ptr().cast() }
    }

    /// Take all that was random out of memory.
    fn destroy(&mut self) {
        // SAFETY: as in `secret`; `self` is borrowed mutably, and only `drop` calls this, so nobody uses it again.
        unsafe { std::ptr::drop_in_place(self.secret.as_mut_ptr().cast::<LessSafeKey>()) };
        wipe(&mut self.secret);
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.destroy();
        if self.locked {
            LOCKED.fetch_sub(PAGE_SIZE as u64, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {} sealed)", self.cipher, self.sealed())
    }
}

/// The 12 bytes of a nonce.
fn full(stored: [u8; NONCE_BYTES]) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..NONCE_BYTES].copy_from_slice(&stored);
    Nonce::assume_unique_for_key(nonce)
}

/// Make the cipher at the page's start of the random bytes further on. Not inlined, so that all that it leaves on the stack
/// is below the caller's.
#[inline(never)]
fn make(secret: &mut MmapMut, cipher: Cipher) {
    let key = UnboundKey::new(cipher.algorithm(), &secret[SEED]).expect("both ciphers have keys of 32 bytes");
    // SAFETY: the mapping is a page, as long and as aligned as a `LessSafeKey` wants (asserted above), and borrowed mutably.
    unsafe { secret.as_mut_ptr().cast::<LessSafeKey>().write(LessSafeKey::new(key)) };
}

/// Write zeroes that no optimiser leaves out.
fn wipe(bytes: &mut [u8]) {
    for byte in bytes {
        // SAFETY: a reference to a byte is good to write to.
        unsafe { std::ptr::write_volatile(byte, 0) };
    }
}

/// Wipe the stack below the caller.
#[inline(never)]
fn scrub_stack() {
    wipe(&mut [0; SCRUBBED_STACK]);
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;

    const CIPHERS: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

    fn sealed(key: &Key) -> ([u8; NONCE_BYTES], [u8; TAG_BYTES], Vec<u8>) {
        let mut text = b"what was in memory".to_vec();
        let (nonce, tag) = key.seal(b"place", &mut text);
        (nonce, tag, text)
    }

    #[test]
    fn what_was_sealed_opens_with_the_same_key_data_nonce_and_tag_only() {
        for cipher in CIPHERS {
            let (key, other) = (Key::new(cipher).unwrap(), Key::new(cipher).unwrap());
            let (nonce, tag, text) = sealed(&key);
            assert_ne!(&text, b"what was in memory");
            let open = |key: &Key, nonce, tag, data: &[u8]| {
                let mut text = text.clone();
                key.open(nonce, tag, data, &mut text).then_some(text)
            };
            assert_eq!(open(&key, nonce, tag, b"place").as_deref(), Some(&b"what was in memory"[..]));
            assert_eq!(open(&other, nonce, tag, b"place"), None);
            assert_eq!(open(&key, nonce, tag, b"place2"), None);
            assert_eq!(open(&key, 1u64.to_le_bytes(), tag, b"place"), None);
            assert_eq!(open(&key, nonce, [0; TAG_BYTES], b"place"), None);
        }
    }

    #[test]
    fn both_are_the_ciphers_they_are_called() {
        // From the definition of each: what encrypting zeroes with a known key and nonce 0 gives. The first block of GCM's
        // key stream is AES of the counter 2, that of ChaCha20-Poly1305 is block 1.
        let known: [(Cipher, [u8; 16]); 2] = [
            (Cipher::Aes256Gcm, *b"\xce\xa7\x40\x3d\x4d\x60\x6b\x6e\x07\x4e\xc5\xd3\xba\xf3\x9d\x18"),
            (Cipher::ChaCha20Poly1305, *b"\x9f\x07\xe7\xbe\x55\x51\x38\x7a\x98\xba\x97\x7c\x73\x2d\x08\x0d"),
        ];
        for (cipher, expected) in known {
            let mut page = MmapMut::map_anon(PAGE_SIZE).unwrap();
            make(&mut page, cipher); // of zeroes
            let alive = MmapMut::map_anon(PAGE_SIZE).unwrap();
            let key = Key { secret: page, alive, locked: false, cipher, next: AtomicU64::new(0) };
            let mut text = [0; 16];
            key.seal(b"", &mut text);
            assert_eq!(text, expected, "{cipher}");
        }
    }

    #[test]
    fn a_nonce_seals_once_whatever_number_of_threads_seal() {
        let key = Key::new(Cipher::fastest()).unwrap();
        let mut nonces: Vec<_> = std::thread::scope(|scope| {
            let sealers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..500).map(|_| sealed(&key).0).collect::<Vec<_>>())).collect();
            sealers.into_iter().flat_map(|sealer| sealer.join().unwrap()).collect()
        });
        nonces.sort_unstable();
        nonces.dedup();
        assert_eq!((nonces.len(), key.sealed()), (2000, 2000));
    }

    #[test]
    fn when_the_nonces_are_used_up_no_batch_begins_and_what_is_open_still_seals_with_new_ones() {
        let key = Key::new(Cipher::fastest()).unwrap().used(NONCES - 1);
        key.check().unwrap();
        let last = sealed(&key).0;
        assert!(matches!(key.check(), Err(Error::NoncesExhausted { .. })));
        assert_ne!(sealed(&key).0, last);
        assert!(key.check().unwrap_err().to_string().contains("make a new instance"));
    }

    #[test]
    fn the_child_of_a_fork_begins_no_batch() {
        let key = Key::new(Cipher::fastest()).unwrap();
        // SAFETY: the child makes no call but `check`, which reads memory, and `_exit`.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            let code = if matches!(key.check(), Err(Error::Forked)) { 7 } else { 1 };
            // SAFETY: ends the child, at once.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: `status` is an int to write to, and the child is ours.
        let ended = unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!((ended, libc::WEXITSTATUS(status)), (child, 7));
        key.check().unwrap();
    }

    /// Whether what `pattern` is the complement of is anywhere in the stack of this thread, found through the kernel: below the caller too.
    fn on_the_stack(pattern: &[u8; KEY_BYTES]) -> bool {
        let here = (&raw const pattern) as u64;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let stack = maps.lines().find_map(|line| {
            let (from, to) = line.split_once(' ')?.0.split_once('-')?;
            let range = u64::from_str_radix(from, 16).ok()?..u64::from_str_radix(to, 16).ok()?;
            range.contains(&here).then_some(range)
        });
        let range = stack.expect("a thread's stack is mapped");
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let mem = std::fs::File::open("/proc/self/mem").unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&mem, &mut bytes, range.start).unwrap();
        // Masked: what is looked for must not be on the stack for the search.
        bytes.windows(KEY_BYTES).any(|window| window.iter().zip(pattern).all(|(a, b)| *a == !*b))
    }

    /// A key made further down the stack than the search of the stack will write to.
    #[inline(never)]
    fn made_below() -> Key {
        let gap = [0u8; 64 << 10];
        std::hint::black_box(&gap);
        Key::new(Cipher::Aes256Gcm).unwrap()
    }

    #[test]
    fn the_key_is_in_its_page_alone_and_gone_when_it_is_dropped() {
        // AES expands a key into round keys, the first of which are the key itself: it can be looked for.
        std::thread::spawn(|| {
            let at = first_round_key();
            let mut key = made_below();
            // Masked on the way out: the test must not put on the stack what it looks for.
            let masked: Box<[u8; KEY_BYTES]> = Box::new(std::array::from_fn(|i| !key.secret[at + i]));
            assert!(!on_the_stack(&masked), "nothing of the key is left on the stack");
            let copy: [u8; KEY_BYTES] = key.secret[at..at + KEY_BYTES].try_into().unwrap();
            std::hint::black_box(&copy);
            assert!(on_the_stack(&masked), "it would be found if it were there");
            key.destroy();
            assert!(key.secret.iter().all(|&b| b == 0), "the page is wiped");
            std::mem::forget(key);
        })
        .join()
        .unwrap();
    }

    /// Where in its page the key schedule begins: where two keys first differ.
    fn first_round_key() -> usize {
        let [one, other] = [0, 1].map(|_| Key::new(Cipher::Aes256Gcm).unwrap());
        (0..size_of::<LessSafeKey>()).find(|&at| one.secret[at] != other.secret[at]).expect("keys differ")
    }

    #[test]
    fn the_key_is_locked_and_in_no_core_dump() {
        let key = Key::new(Cipher::fastest()).unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{:x}-", key.secret.as_ptr() as usize);
        let at = smaps.find(&format!("\n{start}")).expect("the page is a mapping of its own");
        let flags = smaps[at..].lines().find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.contains(" dd"), "left out of dumps: {flags}");
        assert!(flags.contains(" lo") || flags.contains(" lf"), "locked: {flags}");
    }
}
