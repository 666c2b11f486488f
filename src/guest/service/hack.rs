use crate::guest::pages::{Access, Served, Waiting};
use crate::guest::registry::{self, Found};
unsafe extern "C" fn on_bus(_s: i32, info: *mut libc::siginfo_t, _c: *mut libc::c_void) {
    let addr = unsafe { (*info).si_addr() } as usize;
    match registry::find(addr) {
        Found::Page(p, k) => {
            let r = p.fault(k, Access::Unknown, Waiting::Wait);
            match r { Served::Installed(_) | Served::Again | Served::Left => {}, r => { eprintln!("fault {r:?}"); std::process::abort() } }
        }
        Found::Transit => {}
        Found::Nothing => { eprintln!("bus {addr:#x}"); std::process::abort() }
    }
}
pub(crate) fn install() {
    unsafe {
        let mut sa: libc::sigaction = std::mem::zeroed();
        sa.sa_sigaction = on_bus as *const () as usize;
        sa.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigaction(libc::SIGBUS, &sa, std::ptr::null_mut());
    }
}
