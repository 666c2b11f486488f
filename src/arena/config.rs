//! [`ArenaConfig`]: how an arena is made.

use super::{Error, Topology};
use crate::units::{FRAME_SIZE, LOCATION_UNIT, Location};

/// Locations have 36 bits of 16-byte units, so an arena has at most 1 TiB of addresses.
const MAX_ADDRESS_SPACE: u64 = (LOCATION_UNIT as u64) << Location::BITS;

/// What a reservation may be halved down to: less makes no pool worth having, so it is refused instead.
const ADDRESS_SPACE_FLOOR: u64 = 16 << 20;

/// Warm frames that any arena may have: with less, a call gives hardly more than a frame back.
pub(super) const MIN_WARM: usize = 16;

/// One `u64` holds a bit per frame of a run.
pub(super) const MAX_RUN_FRAMES: usize = 64;

/// How an [`Arena`](super::Arena) is made. Start from the default and change what matters.
#[derive(Clone, Debug)]
pub struct ArenaConfig {
    /// Bytes of addresses to reserve, rounded up to whole runs. Halved while the kernel refuses, down to 16 MiB.
    pub address_space: usize,
    /// Frames in a run: a power of two up to 64.
    pub run_frames: usize,
    /// Bytes that may be backed at any instant, warm frames included.
    pub limit_bytes: u64,
    /// Frames that [`maintain`](super::Arena::maintain) leaves warm at most.
    pub warm_frames: usize,
    /// And no more than the frames backed over this, but for a few. 1: no such bound. More than 0.
    pub warm_share: usize,
    /// A commit may back one frame less than so many beyond those asked for: they follow them in the run and become warm, for
    /// one system call costs less than several. 0 and 1: only what was asked for.
    pub commit_ahead: usize,
    /// The nodes.
    pub topology: Topology,
    /// For tests: let this many commits succeed and fail the later ones half-way, as the kernel would without memory.
    #[doc(hidden)]
    pub fail_commits_after: Option<u64>,
}

impl Default for ArenaConfig {
    /// This machine's nodes, no limit, 16 frames a run, a 256th of the frames warm (16 to 128), and 16 times the physical memory of
    /// addresses (at most 1 TiB): at worst a run has one backed frame, so memory ends before addresses do.
    fn default() -> Self {
        let run_frames = 16;
        ArenaConfig {
            address_space: physical_memory()
                .saturating_mul(run_frames)
                .checked_next_power_of_two()
                .map_or(MAX_ADDRESS_SPACE, |bytes| bytes.min(MAX_ADDRESS_SPACE)) as usize,
            run_frames: run_frames as usize,
            limit_bytes: u64::MAX,
            warm_frames: 128,
            warm_share: 256,
            commit_ahead: 4,
            topology: Topology::detect(),
            fail_commits_after: None,
        }
    }
}

impl ArenaConfig {
    /// Refuse what cannot be, and say how many bytes to try to reserve: at first, and at least.
    pub(super) fn checked(&self) -> Result<(u64, u64), Error> {
        self.checked_with(page_size())
    }

    /// The same on a machine with pages of so many bytes.
    fn checked_with(&self, page: u64) -> Result<(u64, u64), Error> {
        if !self.run_frames.is_power_of_two() || self.run_frames > MAX_RUN_FRAMES {
            return Err(Error::RunFrames { run_frames: self.run_frames });
        }
        if page != FRAME_SIZE as u64 {
            return Err(Error::PageSize { bytes: page });
        }
        let run_bytes = (self.run_frames * FRAME_SIZE) as u64;
        let bytes = self.address_space as u64;
        if bytes > MAX_ADDRESS_SPACE {
            return Err(Error::AddressSpace { bytes, max: MAX_ADDRESS_SPACE });
        }
        let whole_runs = |bytes: u64| bytes.max(1).next_multiple_of(run_bytes);
        let first = whole_runs(bytes);
        let floor = whole_runs(ADDRESS_SPACE_FLOOR.min(self.limit_bytes));
        Ok((first, floor.min(first)))
    }
}

fn sysconf(name: i32) -> Option<u64> {
    // SAFETY: reads a system constant, touches no memory of ours.
    let value = unsafe { libc::sysconf(name) };
    u64::try_from(value).ok().filter(|&v| v > 0)
}

fn page_size() -> u64 {
    sysconf(libc::_SC_PAGESIZE).unwrap_or(FRAME_SIZE as u64)
}

/// Bytes of RAM of this machine; where nobody tells, enough for the largest arena.
pub fn physical_memory() -> u64 {
    if cfg!(miri) {
        return MAX_ADDRESS_SPACE; // Miri does not tell
    }
    sysconf(libc::_SC_PHYS_PAGES).map_or(MAX_ADDRESS_SPACE, |pages| pages.saturating_mul(page_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_has_addresses_for_sixteen_times_the_memory_or_a_tebibyte() {
        let bytes = ArenaConfig::default().address_space as u64;
        assert!(bytes.is_power_of_two());
        assert!(bytes == MAX_ADDRESS_SPACE || bytes >= 16 * physical_memory());
    }

    #[test]
    fn the_default_is_as_documented() {
        let ArenaConfig { run_frames, limit_bytes, warm_frames, warm_share, .. } = ArenaConfig::default();
        assert_eq!((run_frames, limit_bytes, warm_frames, warm_share, MIN_WARM), (16, u64::MAX, 128, 256, 16));
    }

    #[test]
    fn pages_of_another_size_are_refused_with_a_sentence() {
        let config = ArenaConfig { address_space: 1 << 20, ..ArenaConfig::default() };
        assert!(config.checked_with(4096).is_ok());
        for page in [1024, 16 << 10, 64 << 10] {
            let refused = config.checked_with(page).unwrap_err().to_string();
            assert!(refused.contains(&format!("pages of {page} bytes")) && refused.contains("4096"), "{refused}");
        }
    }

    #[test]
    fn run_lengths_are_powers_of_two_up_to_64() {
        for run_frames in 0..=130 {
            let config = ArenaConfig { run_frames, address_space: 1 << 20, ..ArenaConfig::default() };
            let good = [1, 2, 4, 8, 16, 32, 64].contains(&run_frames);
            assert_eq!(config.checked().is_ok(), good, "{run_frames}");
        }
    }

    #[test]
    fn more_than_a_tebibyte_is_refused_and_a_tebibyte_is_not() {
        let max = MAX_ADDRESS_SPACE as usize;
        let config = |address_space| ArenaConfig { address_space, limit_bytes: u64::MAX, ..ArenaConfig::default() };
        assert_eq!(config(max).checked().unwrap(), (1 << 40, 16 << 20));
        let refused = config(max + 1).checked().unwrap_err().to_string();
        assert!(refused.contains("ask for at most 1099511627776"), "{refused}");
    }

    #[test]
    fn the_floor_follows_small_limits_and_small_requests() {
        let config = |address_space, limit_bytes| {
            ArenaConfig { address_space, limit_bytes, run_frames: 4, ..ArenaConfig::default() }.checked().unwrap()
        };
        assert_eq!(config(64 << 20, 1 << 20), (64 << 20, 1 << 20));
        assert_eq!(config(1 << 20, u64::MAX), (1 << 20, 1 << 20));
        assert_eq!(config(0, 0), (16384, 16384));
        assert_eq!(config(16385, 1), (32768, 16384));
    }
}
