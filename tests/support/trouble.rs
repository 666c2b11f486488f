//! [`Trouble`]: the ways in which a device goes wrong by plan; [`Split`]: a device in memory that does.
#![allow(dead_code, unreachable_pub)]

use super::support::rest_of_device;
use std::sync::Arc;
use zspool::swap::{Device, Fault, FaultyDevice, MemoryDevice, Op, Plan, Request};

/// Which operations go wrong, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    WritesFail,
    NoRoom,
    ShortWrites,
    TornWrites,
    LostWrites,
    FlippedWrites,
    AstrayWrites,
    ReadsFail,
    ShortReads,
    FlippedReads,
    AstrayReads,
    Anything,
    Down,
    Hangs,
}

/// All of them.
pub const TROUBLES: [Trouble; 14] = [
    Trouble::WritesFail,
    Trouble::NoRoom,
    Trouble::ShortWrites,
    Trouble::TornWrites,
    Trouble::LostWrites,
    Trouble::FlippedWrites,
    Trouble::AstrayWrites,
    Trouble::ReadsFail,
    Trouble::ShortReads,
    Trouble::FlippedReads,
    Trouble::AstrayReads,
    Trouble::Anything,
    Trouble::Down,
    Trouble::Hangs,
];

/// Gives numbers below another.
pub type Below<'a> = &'a mut dyn FnMut(u64) -> u64;

impl Trouble {
    /// One operation that goes wrong.
    pub fn fault(self, device_bytes: u64, below: Below<'_>) -> Fault {
        let bits = 8 * 16 * 4096;
        match self {
            Trouble::WritesFail | Trouble::ReadsFail | Trouble::Down => Fault::Errno(libc::EIO),
            Trouble::NoRoom => Fault::Errno([libc::ENOSPC, libc::EDQUOT, libc::EFBIG][below(3) as usize]),
            Trouble::ShortWrites | Trouble::ShortReads => Fault::Short { bytes: below(16 * 4096) as usize },
            Trouble::TornWrites => Fault::Torn { sectors: below(32) as usize },
            Trouble::LostWrites => Fault::Lost,
            Trouble::FlippedWrites | Trouble::FlippedReads => Fault::Flip { bit: below(bits) as usize },
            Trouble::AstrayWrites | Trouble::AstrayReads => Fault::Misdirect { to: below(device_bytes) },
            Trouble::Hangs => Fault::Hang,
            Trouble::Anything => TROUBLES[below(11) as usize].fault(device_bytes, below),
        }
    }

    /// Whether reads, and punches, go wrong.
    pub fn of_reads(self) -> bool {
        use Trouble::*;
        matches!(self, ReadsFail | ShortReads | FlippedReads | AstrayReads | Anything | Down | Hangs)
    }

    /// Whether writes do.
    pub fn of_writes(self) -> bool {
        matches!(self, Trouble::Anything | Trouble::Down | Trouble::Hangs) || !self.of_reads()
    }

    /// Whether what lies on the device alone may be lost to it. Not to writes that are admitted to have failed, nor to requests that
    /// come late.
    pub fn may_lose(self) -> bool {
        !matches!(self, Trouble::WritesFail | Trouble::NoRoom | Trouble::ShortWrites | Trouble::Hangs)
    }

    /// One operation in `times` goes wrong; a device that is down stays down.
    pub fn plan(self, times: u64, device_bytes: u64, below: Below<'_>) -> Plan {
        match self {
            Trouble::Down => Plan::none().down_from(1 + below(40), libc::EIO),
            _ => (1..4000).fold(Plan::none(), |plan, k| match below(times) {
                0 => plan.at(k, self.fault(device_bytes, below)),
                _ => plan,
            }),
        }
    }
}

/// A device of whose writes, or reads and punches, or both, some go wrong.
#[derive(Debug)]
pub struct Split {
    /// Does as it is told.
    pub plain: Arc<MemoryDevice>,
    /// The same, where some requests go wrong.
    pub faulty: FaultyDevice<Arc<MemoryDevice>>,
    /// Which of them come to the latter.
    pub trouble: Trouble,
}

impl Device for Split {
    fn submit(&self, requests: &mut [Request]) {
        for request in requests {
            let faulty = if request.op() == Op::Read { self.trouble.of_reads() } else { self.trouble.of_writes() };
            let one = std::slice::from_mut(request);
            if faulty { self.faulty.submit(one) } else { self.plain.submit(one) }
        }
    }
    rest_of_device!(faulty);
}
