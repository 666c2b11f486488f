//! [`Loss`]: why a page that was on a device cannot be had any more. It fits in a slot word.
//!
//! ```text
//!   zero 32 | errno 16 | why 3 | device 5        56 bits
//! ```
//!
//! A slot whose page is lost says so until it is stored again or freed: the device is not asked twice, so that a page does
//! not come and go with the device's mood.

use super::Place;
use std::fmt;

const WHY_BITS: u32 = 3;
const ERRNO_BITS: u32 = 16;

/// Why a page cannot be had any more, and which device had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Loss {
    /// Number of the device, below 2^5.
    pub device: u8,
    /// What became of it there.
    pub why: Why,
}

/// What became of a page on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// The device failed to read it.
    Io {
        /// The system's error number; 0 where it gave none (the file ended early).
        errno: u16,
    },
    /// What was read is not what was written: a check failed.
    Corrupt,
}

impl Loss {
    /// Bits that are used of a slot word's payload.
    pub const BITS: u32 = Place::DEVICE_BITS + WHY_BITS + ERRNO_BITS;

    /// As it lies in a slot word.
    pub(super) fn pack(self) -> u64 {
        let (why, errno) = match self.why {
            Why::Io { errno } => (0, errno),
            Why::Corrupt => (1, 0),
        };
        debug_assert!(self.device < 1 << Place::DEVICE_BITS);
        u64::from(self.device) | why << Place::DEVICE_BITS | u64::from(errno) << (Place::DEVICE_BITS + WHY_BITS)
    }

    pub(super) fn unpack(bits: u64) -> Self {
        let device = (bits & ((1 << Place::DEVICE_BITS) - 1)) as u8;
        let errno = (bits >> (Place::DEVICE_BITS + WHY_BITS)) as u16;
        let why = match bits >> Place::DEVICE_BITS & ((1 << WHY_BITS) - 1) {
            0 => Why::Io { errno },
            1 => Why::Corrupt,
            why => unreachable!("no page is lost for reason {why}"),
        };
        Loss { device, why }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.device;
        match self.why {
            Why::Io { errno: 0 } => write!(f, "device {device} ended before it"),
            Why::Io { errno } => {
                let error = std::io::Error::from_raw_os_error(errno.into());
                write!(f, "device {device} could not read it ({error})")
            }
            Why::Corrupt => write!(f, "device {device} returned other bytes than were written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_survive_packing_and_say_what_happened() {
        for device in [0, 7, 31] {
            for errno in [0, 5, u16::MAX] {
                for why in [Why::Io { errno }, Why::Corrupt] {
                    let loss = Loss { device, why };
                    assert!(loss.pack() >> Loss::BITS == 0);
                    assert_eq!(Loss::unpack(loss.pack()), loss);
                    assert!(loss.to_string().contains(&format!("device {device} ")), "{loss}");
                }
            }
        }
        assert!(Loss { device: 1, why: Why::Io { errno: 5 } }.to_string().contains("os error 5"));
    }
}
