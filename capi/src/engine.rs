//! An engine: what VMs share. Limits on memory that is used directly.

use crate::call::{enter, refuse};
use crate::handle::{Kind, Object, open};
use crate::sized::sized;
use crate::status::zsp_status;
use crate::zswap::{Store, zsp_zswap};
use std::ffi::c_void;
use std::sync::Arc;
use zspool_core::guest::{Engine, Overshoot, Verdict};

/// What VMs share.
pub struct zsp_engine(());

/// A limit that is about to be passed, because a page must be served and nothing can be evicted.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_overshoot {
    /// sizeof(struct zsp_overshoot).
    pub size: usize,
    /// `zsp_memcg_id` of the VM's group.
    pub vm_memcg: u64,
    /// That of the group whose limit it is: the same, or one above it.
    pub memcg: u64,
    /// Bytes charged to it.
    pub usage_bytes: u64,
    /// Its limit.
    pub limit_bytes: u64,
    /// Bytes that are to be charged.
    pub bytes: u64,
    /// How often it was asked about this charge before.
    pub asked: u64,
    /// Whether it may say ZSP_POISON.
    pub can_poison: u64,
}
sized!(zsp_overshoot, 64, [vm_memcg, memcg, usage_bytes, limit_bytes, bytes, asked, can_poison]);

/// What is done about it.
#[repr(C)]
pub enum zsp_verdict {
    /// It is served: charged past the limit, and counted.
    ZSP_SERVE = 0,
    /// The limit was raised, or room made: it is charged again. Asked in vain 64 times, it is served.
    ZSP_AGAIN = 1,
    /// The thread waits up to 10 ms for room, is charged again, and asks again.
    ZSP_PAUSE = 2,
    /// The page is poisoned: who touches it gets SIGBUS.
    ZSP_POISON = 3,
}

/// Asked when a limit is about to be passed; returns an enum zsp_verdict, anything else is ZSP_SERVE. It is called by the thread that
/// faults, perhaps in a signal handler: it may do only what such a handler may, must not touch memory of a VM, and must not end by an
/// exception or longjmp.
pub type zsp_on_overshoot = Option<unsafe extern "C" fn(context: *mut c_void, overshoot: *const zsp_overshoot) -> u32>;

/// What an engine is to be.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct zsp_engine_options {
    /// sizeof(struct zsp_engine_options).
    pub size: usize,
    /// Asked before a limit is passed; NULL: the page is served, and the bytes counted.
    pub on_overshoot: zsp_on_overshoot,
    /// Handed to it.
    pub context: *mut c_void,
    /// Not 0: no thread evicts ahead of need; faults at the limit do it themselves.
    pub no_evictor: u64,
}
sized!(zsp_engine_options, 32, [on_overshoot, context, no_evictor]);

/// A context of the caller's, for a callback that any thread may make.
pub(crate) struct Context(pub(crate) *mut c_void);

// SAFETY: nothing here looks at it; the header says that callbacks come from any thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(crate) fn get(&self) -> *mut c_void {
        self.0
    }
}

impl Object for Engine {
    type Opaque = zsp_engine;
    const KIND: Kind = Kind::Engine;
}

/// Make an engine over a store, which has one engine in its life: `*engine` is its handle, NULL if it was refused. `options` may be NULL. The
/// store's handle stays good. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_engine_new(
    zswap: *const zsp_zswap,
    options: *const zsp_engine_options,
    engine: *mut *mut zsp_engine,
) -> zsp_status {
    enter(|call| {
        let mut to = call.handle_out(engine, "engine")?;
        let store = call.object::<Store>(zswap, "zswap")?;
        let options = call.options_or_default(options, "options")?;
        let mut builder = Engine::builder(Arc::clone(&store.zswap)).evictor(options.no_evictor == 0);
        if let Some(ask) = options.on_overshoot {
            let context = Context(options.context);
            builder = builder.on_overshoot(move |about| {
                let told = told(about);
                // SAFETY: the caller's function with its context, on whatever thread, as the header says.
                verdict(unsafe { ask(context.get(), &told) })
            });
        }
        if !store.engage() {
            return Err(refuse(
                zsp_status::ZSP_EINVAL,
                format_args!(
                    "an engine was made over this store before, and it has one in its life: make another store"
                ),
            ));
        }
        to.set(open(builder.build().inspect_err(|_| store.disengage())?));
        Ok(())
    })
}

fn told(about: &Overshoot) -> zsp_overshoot {
    zsp_overshoot {
        size: size_of::<zsp_overshoot>(),
        vm_memcg: about.vm.id().0,
        memcg: about.memcg.id().0,
        usage_bytes: about.usage,
        limit_bytes: about.limit,
        bytes: about.bytes,
        asked: about.asked.into(),
        can_poison: about.can_poison.into(),
    }
}

fn verdict(number: u32) -> Verdict {
    match number {
        1 => Verdict::Again,
        2 => Verdict::Pause,
        3 => Verdict::Poison,
        _ => Verdict::Serve,
    }
}

/// Close an engine's handle. The engine goes with the last of its VMs. NULL is ignored. Any thread, when no other call uses the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_engine_close(engine: *mut zsp_engine) -> zsp_status {
    enter(|call| call.close::<Engine>(engine, "engine"))
}
