//! SIGBUS, for programs that have a handler of it themselves.

use crate::status::zsp_status::{self, ZSP_ENOENT, ZSP_OK};
use std::ffi::c_void;
use zspool_core::guest::service::sigbus;

/// Serve a fault of registered memory from a handler of SIGBUS of the program's own: `info` and `context` are the handler's second and third
/// argument, and it was installed with SA_SIGINFO and a mask of all signals. `ZSP_OK`: it was one, and the handler must return. `ZSP_ENOENT`:
/// it is the program's; nothing was done, and no sentence written. Programs without such a handler need not call this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_sigbus_handle(info: *mut c_void, context: *mut c_void) -> zsp_status {
    if info.is_null() || context.is_null() {
        return zsp_status::ZSP_EINVAL;
    }
    // SAFETY: the header says whose arguments these are. It catches its panics itself.
    if unsafe { sigbus::handle(info.cast(), context) } { ZSP_OK } else { ZSP_ENOENT }
}

/// Say that the program's handler of SIGBUS, installed by now and for good, calls `zsp_sigbus_handle` first. The library installs none then.
/// Before the first VM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zsp_sigbus_adopt() -> zsp_status {
    // SAFETY: the header asks for just that.
    unsafe { sigbus::adopt() };
    ZSP_OK
}
