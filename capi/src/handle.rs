//! Handles: what C has instead of an object.
//!
//! ```text
//!   handle   63 ........ 32 | 31 ......... 0         a number in a pointer's clothes, never followed; 0 is NULL
//!            generation     | index of the cell
//!                                 |
//!   cells    [ word | object ] [ word | object ] [ .. ]     in chunks of 64, 128, 256, ..: they never move and stay for ever
//!
//!   word     63 ........ 32 | 15 ... 8 | 0
//!            generation     | kind     | open
//! ```
//!
//! 1. A cell's generation is used for one object and never again, a cell that has used its last is retired: a handle that was closed is known
//!    as such for ever.
//! 2. A lookup locks and allocates nothing: two loads.
//! 3. Nobody closes a handle while another call uses it. That is the caller's part, as with any memory in C; all other misuse is seen.

use crate::call::{Call, Outcome, invalid};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// What a handle is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Pool = 1,
    Zswap,
    Memcg,
    Engine,
    Vm,
    Region,
    Pin,
}

/// What C holds by a handle.
pub(crate) trait Object: Send + Sync + Sized + 'static {
    /// The type that the header has for it.
    type Opaque;
    /// Its kind.
    const KIND: Kind;
}

/// Cells of the first chunk; each other one has twice as many as the one before.
const FIRST: u32 = 64;
/// As many as indexes can name.
const CHUNKS: usize = 26;
/// The last generation of a cell.
const LAST_GENERATION: u32 = u32::MAX;

const OPEN: u64 = 1;
const KIND_SHIFT: u32 = 8;
const GENERATION_SHIFT: u32 = 32;

struct Cell {
    /// Release when it is opened, after `object`; acquire by who looks it up.
    word: AtomicU64,
    /// A `Box` of the kind's type, while open.
    object: AtomicPtr<()>,
}

struct Idle {
    /// Cells that were closed.
    closed: Vec<u32>,
    /// Cells from here on were never used.
    unused: u32,
}

static CELLS: [OnceLock<Box<[Cell]>>; CHUNKS] = [const { OnceLock::new() }; CHUNKS];
static IDLE: Mutex<Idle> = Mutex::new(Idle { closed: Vec::new(), unused: 0 });

impl Kind {
    const ALL: [Kind; 7] = [Kind::Pool, Kind::Zswap, Kind::Memcg, Kind::Engine, Kind::Vm, Kind::Region, Kind::Pin];

    fn type_name(self) -> &'static str {
        match self {
            Kind::Pool => "zsp_pool",
            Kind::Zswap => "zsp_zswap",
            Kind::Memcg => "zsp_memcg",
            Kind::Engine => "zsp_engine",
            Kind::Vm => "zsp_vm",
            Kind::Region => "zsp_region",
            Kind::Pin => "zsp_pin",
        }
    }

    fn made_by(self) -> &'static str {
        match self {
            Kind::Pool => "zsp_pool_new",
            Kind::Zswap => "zsp_zswap_new",
            Kind::Memcg => "zsp_memcg_mkdir or zsp_memcg_open",
            Kind::Engine => "zsp_engine_new",
            Kind::Vm => "zsp_vm_new",
            Kind::Region => "zsp_vm_register or zsp_vm_register_memfd",
            Kind::Pin => "zsp_region_pin",
        }
    }
}

/// Where a cell is: its chunk, and its place there.
fn place(index: u32) -> (usize, usize) {
    let chunk = (index / FIRST + 1).ilog2();
    (chunk as usize, (index - FIRST * ((1 << chunk) - 1)) as usize)
}

fn cell(index: u32) -> Option<&'static Cell> {
    let (chunk, at) = place(index);
    CELLS.get(chunk)?.get()?.get(at)
}

fn word_of(generation: u32, kind: Kind) -> u64 {
    u64::from(generation) << GENERATION_SHIFT | u64::from(kind as u8) << KIND_SHIFT | OPEN
}

fn generation_of(word: u64) -> u32 {
    (word >> GENERATION_SHIFT) as u32
}

fn idle() -> std::sync::MutexGuard<'static, Idle> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner) // nothing there panics half way
}

/// Give an object a handle.
pub(crate) fn open<T: Object>(object: T) -> *mut T::Opaque {
    let index = {
        let mut idle = idle();
        idle.closed.pop().unwrap_or_else(|| {
            idle.unused += 1; // 2^32 cells would be 64 GiB
            idle.unused - 1
        })
    };
    let (chunk, at) = place(index);
    let cells = CELLS[chunk].get_or_init(|| {
        let cell = || Cell { word: AtomicU64::new(0), object: AtomicPtr::new(std::ptr::null_mut()) };
        (0..FIRST << chunk).map(|_| cell()).collect()
    });
    let generation = generation_of(cells[at].word.load(Ordering::Relaxed)) + 1;
    cells[at].object.store(Box::into_raw(Box::new(object)).cast(), Ordering::Relaxed);
    cells[at].word.store(word_of(generation, T::KIND), Ordering::Release);
    std::ptr::without_provenance_mut((u64::from(generation) << GENERATION_SHIFT | u64::from(index)) as usize)
}

/// The cell of a handle and the word that it has while the handle is open.
fn find<T: Object>(handle: *const T::Opaque, name: &str) -> Outcome<(&'static Cell, u64)> {
    let bits = handle.addr() as u64;
    let (ours, generation) = (T::KIND.type_name(), generation_of(bits));
    if bits == 0 {
        return Err(invalid(format_args!("`{name}` is NULL: pass the {ours} that {} gave", T::KIND.made_by())));
    }
    let cell = cell(bits as u32).filter(|_| generation > 0);
    let now = cell.map_or(0, |cell| cell.word.load(Ordering::Acquire));
    let (Some(cell), true) = (cell, generation_of(now) >= generation) else {
        return Err(invalid(format_args!(
            "`{name}` is no handle that this library gave: pass the {ours} that {} gave, which must not be changed",
            T::KIND.made_by()
        )));
    };
    if now & OPEN == 0 || generation_of(now) != generation {
        return Err(invalid(format_args!("`{name}` was closed before: do not use a handle after it was closed")));
    }
    let expected = word_of(generation, T::KIND);
    if now != expected {
        let theirs = Kind::ALL.into_iter().find(|&kind| word_of(generation, kind) == now);
        let theirs = theirs.map_or("handle of another kind", Kind::type_name);
        return Err(invalid(format_args!("`{name}` is a {theirs}: pass the {ours} that {} gave", T::KIND.made_by())));
    }
    Ok((cell, expected))
}

impl Call {
    /// The object of a handle; `name` is what the header calls the argument.
    pub(crate) fn object<T: Object>(&self, handle: *const T::Opaque, name: &str) -> Outcome<&T> {
        let (cell, _) = find::<T>(handle, name)?;
        let object = cell.object.load(Ordering::Relaxed).cast::<T>().cast_const();
        // SAFETY: the word says that the cell has a `Box<T>` which was not closed, and by 3. nobody does during the call.
        Ok(unsafe { &*object })
    }

    /// Take an object from its handle, which is good for nothing from then on, unless `end` gives the object back.
    pub(crate) fn close_unless<T: Object>(
        &self,
        handle: *mut T::Opaque,
        name: &str,
        end: impl FnOnce(T) -> Result<(), (T, crate::call::Refused)>,
    ) -> Outcome {
        let (cell, expected) = find::<T>(handle, name)?;
        // Acquire as for each look at it. Of two who close it at once one is refused.
        if cell.word.compare_exchange(expected, expected & !OPEN, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return Err(invalid(format_args!(
                "`{name}` was closed by another thread this moment: close a handle once"
            )));
        }
        let object = cell.object.load(Ordering::Relaxed).cast::<T>();
        // SAFETY: of that type by its word, and taken by nobody else: the word was exchanged.
        let object = unsafe { Box::from_raw(object) };
        if let Err((object, refused)) = end(*object) {
            cell.object.store(Box::into_raw(Box::new(object)).cast(), Ordering::Relaxed);
            cell.word.store(expected, Ordering::Release);
            return Err(refused);
        }
        if generation_of(expected) < LAST_GENERATION {
            idle().closed.push(handle.addr() as u32);
        }
        Ok(())
    }

    /// Close a handle. NULL is none.
    pub(crate) fn close<T: Object>(&self, handle: *mut T::Opaque, name: &str) -> Outcome {
        if handle.is_null() {
            return Ok(());
        }
        self.close_unless::<T>(handle, name, |object| {
            drop(object);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::enter;
    use crate::message::said;
    use crate::status::zsp_status::{ZSP_EINVAL, ZSP_OK};
    use std::ptr::{null_mut, without_provenance_mut};
    use std::sync::Arc;

    struct Opaque;
    struct Number(Arc<u32>);
    impl Object for Number {
        type Opaque = Opaque;
        const KIND: Kind = Kind::Pool;
    }
    struct Other;
    impl Object for Other {
        type Opaque = Opaque;
        const KIND: Kind = Kind::Vm;
    }

    fn number(handle: *mut Opaque) -> Result<u32, String> {
        let mut seen = 0;
        match enter(|call| {
            seen = *call.object::<Number>(handle, "it")?.0;
            Ok(())
        }) {
            ZSP_OK => Ok(seen),
            status => {
                assert_eq!(status, ZSP_EINVAL);
                Err(said())
            }
        }
    }

    #[test]
    fn places_go_on_where_the_chunk_before_ended() {
        let mut expected = (0, 0);
        for index in 0..1000 {
            assert_eq!(place(index), expected);
            expected.1 += 1;
            if expected.1 == (FIRST << expected.0) as usize {
                expected = (expected.0 + 1, 0);
            }
        }
        assert!(place(u32::MAX).0 <= CHUNKS);
    }

    #[test]
    fn a_handle_is_good_until_it_is_closed_and_every_misuse_is_told() {
        let value = Arc::new(7);
        let handle = open(Number(Arc::clone(&value)));
        assert_eq!(number(handle), Ok(7));
        assert!(number(null_mut()).unwrap_err().contains("`it` is NULL: pass the zsp_pool that zsp_pool_new gave"));
        for strange in [1, handle.addr() + (1 << 32), u32::MAX as usize, usize::MAX] {
            let told = number(without_provenance_mut(strange)).unwrap_err();
            assert!(told.contains("no handle that this library gave"), "{strange:#x}: {told}");
        }
        assert_eq!(enter(|call| call.close::<Other>(handle, "it")), ZSP_EINVAL);
        assert!(said().contains("`it` is a zsp_pool: pass the zsp_vm that zsp_vm_new gave"), "{}", said());
        assert_eq!(enter(|call| call.close::<Number>(handle, "it")), ZSP_OK);
        assert_eq!(Arc::strong_count(&value), 1, "it was dropped");
        for _ in 0..100 {
            let next = open(Number(Arc::new(8))); // the cell is used again, the handle is not
            assert!(number(handle).unwrap_err().contains("was closed before"));
            assert_eq!(enter(|call| call.close::<Number>(handle, "it")), ZSP_EINVAL);
            assert_eq!(enter(|call| call.close::<Number>(next, "it")), ZSP_OK);
        }
        assert_eq!(enter(|call| call.close::<Number>(null_mut(), "it")), ZSP_OK);
    }

    #[test]
    fn what_does_not_end_keeps_its_handle() {
        let handle = open(Number(Arc::new(9)));
        let refused = |number| Err((number, invalid(format_args!("not now"))));
        assert_eq!(enter(|call| call.close_unless::<Number>(handle, "it", refused)), ZSP_EINVAL);
        assert_eq!(number(handle), Ok(9));
        assert_eq!(enter(|call| call.close::<Number>(handle, "it")), ZSP_OK);
    }
}
