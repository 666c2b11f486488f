//! What a faulting instruction wanted, from what the kernel tells a signal handler.
//!
//! | machine | where | a write |
//! |---|---|---|
//! | x86-64 | the page-fault error code in the registers | bit 1 |
//! | aarch64 | the `esr_context` record behind the registers: ESR_EL1 of a data abort | bit 6, WnR |
//!
//! Elsewhere, and where the record is missing, it is unknown: the fault is served as a write, which is right for both.

use crate::guest::pages::Access;

/// What the interrupted instruction wanted.
///
/// # Safety
/// `context` is the third argument of a running signal handler for SIGBUS.
pub(super) unsafe fn access(context: *const libc::ucontext_t) -> Access {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the caller's promise.
        let context = unsafe { &*context };
        let error = context.uc_mcontext.gregs[libc::REG_ERR as usize];
        return if error & 2 != 0 { Access::Write } else { Access::Read };
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: the caller's promise.
        let registers = unsafe { &raw const (*context).uc_mcontext };
        // SAFETY: the kernel reserves room for records behind the registers, as part of this.
        let records = unsafe { registers.cast::<u8>().add(RESERVED) };
        // SAFETY: there they begin, and the kernel ends them by an empty one.
        return match unsafe { esr(records) } {
            Some(esr) if matches!(esr >> 26 & 0x3f, 0x24 | 0x25) && esr & 1 << 6 != 0 => Access::Write,
            Some(_) => Access::Read,
            None => Access::Unknown,
        };
    }
    #[allow(unreachable_code)]
    {
        let _ = context;
        Access::Unknown
    }
}

/// Where records begin in an aarch64 `sigcontext`: fault address, 31 registers, sp, pc, pstate, and the alignment of 16.
#[cfg(target_arch = "aarch64")]
const RESERVED: usize = 288;

/// ESR_EL1 of the record with the magic of `esr_context`.
///
/// # Safety
/// `records` is where the kernel's records begin: each has a magic and a size of 32 bits, and the last a magic of 0.
#[cfg(any(target_arch = "aarch64", all(test, not(loom))))]
unsafe fn esr(records: *const u8) -> Option<u64> {
    const ESR_MAGIC: u32 = 0x4553_5201;
    // The kernel reserves so much.
    const RECORDS_BYTES: usize = 4096;
    let mut at = 0;
    while at + 16 <= RECORDS_BYTES {
        // SAFETY: within the records.
        let here = unsafe { records.add(at) };
        // SAFETY: as above; a record begins with its magic.
        let magic = unsafe { here.cast::<u32>().read_unaligned() };
        // SAFETY: as above; its size follows.
        let size = unsafe { here.add(4) };
        // SAFETY: as above.
        let bytes = unsafe { size.cast::<u32>().read_unaligned() };
        match magic {
            0 => return None,
            ESR_MAGIC => {
                // SAFETY: as above; the register follows magic and size.
                let register = unsafe { here.add(8) };
                // SAFETY: as above.
                return Some(unsafe { register.cast::<u64>().read_unaligned() });
            }
            _ if bytes < 8 => return None,
            _ => at += bytes as usize,
        }
    }
    None
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_record_of_an_aarch64_context_is_found_behind_others() {
        let record = |magic: u32, words: &[u64]| {
            let bytes = 8 + 8 * words.len() as u32;
            let mut all = [magic.to_ne_bytes(), bytes.to_ne_bytes()].concat();
            all.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
            all
        };
        let esr_of = |records: &[Vec<u8>]| {
            let mut all = records.concat();
            all.resize(4096, 0);
            // SAFETY: the records end with zeroes.
            unsafe { esr(all.as_ptr()) }
        };
        let floating = record(0x4650_8001, &[7; 65]);
        assert_eq!(esr_of(&[floating.clone(), record(0x4553_5201, &[0x9200_0047])]), Some(0x9200_0047));
        assert_eq!(esr_of(&[floating]), None);
        assert_eq!(esr_of(&[record(1, &[])[..4].to_vec()]), None, "a size of nothing ends the walk");
    }
}
