//! [`Roster`]: which devices there are, in which tiers, and whose turn it is.
//!
//! ```text
//!   tiers  index 0 "swap"     priority 0    members 0, 3     last 3     indexes and names stay for good
//!          index 1 "nvme"     priority 10   members 1        last 1
//!          index 2 "archive"  -             none
//! ```
//!
//! - **D1** A number is a member of one tier from when it is claimed until it is given up, and two claims never have the same.
//! - **D2** Tiers with members have different priorities; a tier's members have its priority.
//! - **D3** A tier's index is its own for good: masks of memcgs name it.

use super::super::Error;
use super::room::FileSystems;
use crate::sync::DEVICES;
use crate::units::{MAX_TIERS, TierMask};

/// Most bytes of a tier's name: it is a word in control files.
const MAX_NAME: usize = 63;

/// A tier, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TierInfo {
    /// Its bit in masks: 0 to 30.
    pub index: u8,
    /// Its name.
    pub name: String,
    /// The priority of its devices; `None` while it has none.
    pub priority: Option<i16>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Roster {
    tiers: Vec<Tier>,
    /// Bit n: number n is claimed.
    claimed: u32,
    /// The number that was claimed last: numbers come back late.
    last: Option<u8>,
    /// Changes so far.
    version: u64,
    /// What the generations of each number go on from (D6).
    bases: [u16; DEVICES],
    /// Where they lie.
    pub(super) file_systems: FileSystems,
}

#[derive(Debug)]
struct Tier {
    name: String,
    /// Of its members; means nothing without.
    priority: i16,
    members: Vec<u8>,
    /// It has had a device, and so its index for good.
    settled: bool,
    /// The member whose turn was last; above all numbers when nobody's was.
    last: u8,
}

/// What a device gets that is to come.
pub(super) struct Claim {
    /// Its number.
    pub(super) number: u8,
    /// Index of its tier.
    pub(super) tier: u8,
    /// What its generations go on from.
    pub(super) base: u16,
}

// === impl Roster ===

impl Roster {
    /// A number for a device of this tier.
    ///
    /// # Errors
    /// [`Error::TierName`], [`Error::TierPriority`], [`Error::TiersClash`], [`Error::TooManyTiers`], [`Error::TooManyDevices`].
    pub(super) fn claim(&mut self, name: &str, priority: i16) -> Result<Claim, Error> {
        check_tier_name(name)?;
        if let Some(other) =
            self.tiers.iter().find(|tier| !tier.members.is_empty() && tier.priority == priority && tier.name != name)
        {
            return Err(Error::TiersClash { tier: name.to_owned(), other: other.name.clone(), priority });
        }
        let index = self.tiers.iter().position(|tier| tier.name == name);
        if let Some(tier) = index.map(|index| &self.tiers[index])
            && !tier.members.is_empty()
            && tier.priority != priority
        {
            return Err(Error::TierPriority { tier: name.to_owned(), has: tier.priority, asked: priority });
        }
        if index.is_none() && self.tiers.len() == MAX_TIERS {
            return Err(Error::TooManyTiers { tier: name.to_owned(), most: MAX_TIERS });
        }
        let first = self.last.map_or(0, |last| usize::from(last) + 1);
        let number = (first..first + DEVICES)
            .map(|number| (number % DEVICES) as u8)
            .find(|number| self.claimed & 1 << number == 0)
            .ok_or(Error::TooManyDevices { most: DEVICES })?;
        let index = index.unwrap_or_else(|| {
            self.tiers.push(Tier {
                name: name.to_owned(),
                priority,
                members: Vec::new(),
                settled: false,
                last: u8::MAX,
            });
            self.tiers.len() - 1
        });
        let tier = &mut self.tiers[index];
        tier.priority = priority;
        tier.members.push(number);
        tier.members.sort_unstable();
        self.claimed |= 1 << number;
        self.last = Some(number);
        self.version += 1;
        Ok(Claim { number, tier: index as u8, base: self.bases[usize::from(number)] })
    }

    /// The device of this number has come.
    pub(super) fn settle(&mut self, number: u8) {
        let tier = self.tiers.iter_mut().find(|tier| tier.members.contains(&number));
        tier.expect("D1: a number that is claimed is a member of a tier").settled = true;
        self.version += 1;
    }

    /// The device of this number is gone, or did not come: then a tier that was made for it is forgotten, if it can be.
    /// `base`: what the generations of the next device of this number go on from.
    pub(super) fn give_up(&mut self, number: u8, base: Option<u16>) {
        self.claimed &= !(1 << number);
        if let Some(base) = base {
            self.bases[usize::from(number)] = base;
        }
        self.version += 1;
        self.file_systems.leave(number);
        self.tiers.iter_mut().for_each(|tier| tier.members.retain(|&member| member != number));
        while self.tiers.pop_if(|tier| !tier.settled && tier.members.is_empty()).is_some() {}
    }

    /// Whose turn it is among the devices of the tiers in the mask, those in `tried` left out: of the highest priority the one
    /// after the last. It is his turn that is over then, whatever comes of it.
    pub(super) fn next(&mut self, tiers: TierMask, tried: u32) -> Option<u8> {
        let untried = |member: &&u8| tried & 1 << **member == 0;
        let tier = self
            .tiers
            .iter_mut()
            .enumerate()
            .filter(|(index, tier)| tiers.contains(*index as u8) && tier.members.iter().any(|member| untried(&member)))
            .max_by_key(|(_, tier)| tier.priority)?
            .1;
        let after = |member: &&u8| **member > tier.last;
        let mut members = tier.members.iter().filter(untried);
        let next = members.clone().find(after).or_else(|| members.next()).copied()?;
        tier.last = next;
        Some(next)
    }

    /// The tiers that have members.
    pub(super) fn occupied(&self) -> TierMask {
        let bits = self.tiers.iter().zip(0..).filter(|(tier, _)| !tier.members.is_empty());
        bits.fold(TierMask::NONE, |mask, (_, index)| mask.with(index, true))
    }

    /// All claimed numbers.
    pub(super) fn claimed(&self) -> u32 {
        self.claimed
    }

    /// The tiers there were ever, by index; and a number that grows with every change. Without those at the end that are forgotten
    /// if their first device does not come: another one would have their index then.
    pub(super) fn tiers(&self) -> (u64, Vec<TierInfo>) {
        let info = |(index, tier): (usize, &Tier)| TierInfo {
            index: index as u8,
            name: tier.name.clone(),
            priority: (!tier.members.is_empty()).then_some(tier.priority),
        };
        let told = self.tiers.iter().rposition(|tier| tier.settled).map_or(0, |last| last + 1);
        (self.version, self.tiers[..told].iter().enumerate().map(info).collect())
    }
}

/// Whether a tier can have this name, as [`DeviceOptions::tier`](super::options::DeviceOptions::tier) says.
///
/// # Errors
/// [`Error::TierName`].
pub fn check_tier_name(name: &str) -> Result<(), Error> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(good) {
        return Ok(());
    }
    Err(Error::TierName { name: name.to_owned(), most: MAX_NAME })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ALL: TierMask = TierMask::ALL;

    #[test]
    fn higher_priorities_come_first_and_equal_ones_in_turn() {
        let mut roster = Roster::default();
        for (tier, priority) in [("slow", -1), ("fast", 5), ("fast", 5), ("slow", -1), ("fast", 5)] {
            roster.claim(tier, priority).unwrap();
        }
        let turns: Vec<_> = (0..7).map(|_| roster.next(ALL, 0).unwrap()).collect();
        assert_eq!(turns, [1, 2, 4, 1, 2, 4, 1]);
        assert_eq!(roster.next(ALL, 1 << 2), Some(4), "2 was tried");
        assert_eq!(roster.next(ALL, 0b10110), Some(0));
        assert_eq!(roster.next(ALL, 0b10110), Some(3));
        assert_eq!(roster.next(ALL, 0b11111), None);
        assert_eq!(roster.next(TierMask::only(0), 0), Some(0), "only tier 0 is allowed");
        assert_eq!(roster.next(TierMask::NONE, 0), None);
    }

    fn names(roster: &Roster) -> Vec<(String, Option<i16>)> {
        roster.tiers().1.into_iter().map(|tier| (tier.name, tier.priority)).collect()
    }

    #[test]
    fn a_tier_is_a_name_for_one_priority_while_it_has_devices() {
        let mut roster = Roster::default();
        let a = roster.claim("a", 1).unwrap().number;
        roster.settle(a);
        assert!(matches!(roster.claim("a", 2), Err(Error::TierPriority { has: 1, asked: 2, .. })));
        assert!(matches!(roster.claim("b", 1), Err(Error::TiersClash { priority: 1, .. })));
        let Claim { number: b, tier, base } = roster.claim("b", 2).unwrap();
        assert_eq!((tier, base), (1, 0));
        // It never came: its tier is forgotten.
        roster.give_up(b, None);
        assert_eq!(names(&roster), [("a".to_owned(), Some(1))]);
        // This one was there: its name keeps the index, and may come back with another priority.
        roster.give_up(a, None);
        assert_eq!(names(&roster), [("a".to_owned(), None)]);
        let b = roster.claim("b", 1).unwrap();
        roster.settle(b.number);
        assert_eq!((b.tier, roster.claim("a", 2).unwrap().tier), (1, 0));
        assert_eq!(names(&roster), [("a".to_owned(), Some(2)), ("b".to_owned(), Some(1))]);
    }

    #[test]
    fn a_tier_that_may_be_forgotten_yet_is_not_told_of() {
        let mut roster = Roster::default();
        let a = roster.claim("a", 1).unwrap().number;
        roster.settle(a);
        let (before, _) = roster.tiers();
        // Its device is being opened.
        let b = roster.claim("b", 2).unwrap().number;
        assert_eq!(names(&roster), [("a".to_owned(), Some(1))]);
        roster.give_up(b, None);
        let b = roster.claim("b", 2).unwrap().number;
        let (claimed, _) = roster.tiers();
        roster.settle(b);
        let (settled, tiers) = roster.tiers();
        assert!(before < claimed && claimed < settled && tiers.len() == 2, "{before} {claimed} {settled}");
        // One that another came after keeps its index whatever becomes of it.
        let (c, d) = (roster.claim("c", 3).unwrap().number, roster.claim("d", 4).unwrap().number);
        roster.settle(d);
        let told = roster.tiers().1;
        roster.give_up(c, None);
        assert_eq!(roster.tiers().1.len(), told.len());
        assert_eq!(roster.claim("c", 3).unwrap().tier, 2);
    }

    #[test]
    fn numbers_come_back_late_and_run_out() {
        let mut roster = Roster::default();
        let first = roster.claim("a", 0).unwrap().number;
        roster.give_up(first, None);
        let numbers: Vec<_> = (0..DEVICES).map(|_| roster.claim("a", 0).unwrap().number).collect();
        assert_eq!(numbers[..2], [1, 2]);
        assert_eq!(numbers.last(), Some(&first), "the one given up last comes last");
        assert!(matches!(roster.claim("a", 0), Err(Error::TooManyDevices { most: 32 })));
        roster.give_up(7, Some(55));
        let again = roster.claim("a", 0).unwrap();
        assert_eq!((again.number, again.base), (7, 55));
    }

    #[test]
    fn names_of_tiers_run_out_and_are_words() {
        let mut roster = Roster::default();
        for tier in 0..MAX_TIERS {
            let number = roster.claim(&format!("t{tier}"), 0).unwrap().number;
            roster.settle(number);
            roster.give_up(number, None);
        }
        assert!(matches!(roster.claim("one-more", 0), Err(Error::TooManyTiers { most: 31, .. })));
        roster.claim("t30", 0).unwrap();
        for bad in ["", "a b", "a\n", "a,b", "a=b", "\u{e4}", &"x".repeat(64)] {
            assert!(matches!(roster.claim(bad, 1), Err(Error::TierName { .. })), "{bad:?}");
        }
    }
}
