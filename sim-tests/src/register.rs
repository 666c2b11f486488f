//! [`Register`]: what one slot, or one page of a guest, may hold, by what was written to it and when.
//!
//! ```text
//!   writes    |-- a --|        |------ b ------|
//!   reads         |-1-|  |-2-|     |-3-|          |-4-|
//!   may see      nothing,a  a       a, b            b
//! ```
//!
//! A read may see a write that had begun before the read ended, unless another write began after that one had ended, and had ended
//! before the read began. (Necessary for a register that changes at one moment within each write, and nearly sufficient.)
//!
//! Losing a page is a write of a kind of its own, which is allowed where devices lie or fail; once somebody was told that the page is
//! lost, it stays lost until it is written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// A moment: how many began or ended before.
pub type Moment = u64;

/// What is there: a token, nothing, or what cannot be had any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The page of this token. A guest's page that is zeroes has the token 0.
    Page(u64),
    /// Nothing is stored.
    Nothing,
    /// It was, and cannot be read back: with a name.
    Lost,
}

/// One write.
#[derive(Clone, Copy, Debug)]
struct Write {
    content: Content,
    begun: Moment,
    /// `u64::MAX`: it is under way.
    ended: Moment,
    /// Somebody has seen it.
    seen: bool,
    /// It may have changed nothing.
    doubtful: bool,
    /// Somebody has seen that it failed, for the slot was empty before it had ended.
    seen_to_fail: bool,
}

impl Write {
    fn new(content: Content, begun: Moment, ended: Moment) -> Self {
        Write { content, begun, ended, seen: false, doubtful: false, seen_to_fail: false }
    }

    /// A write that fails leaves nothing.
    fn may_fail(&self) -> bool {
        self.ended == u64::MAX
    }
}

/// Names a write under way.
#[derive(Debug)]
#[must_use = "a write that is begun is to end"]
pub struct Begun(Moment);

/// The time of one execution.
#[derive(Debug, Default)]
pub struct Time(AtomicU64);

impl Time {
    /// Now; no two moments are the same.
    pub fn now(&self) -> Moment {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// See the file.
#[derive(Debug)]
pub struct Register {
    name: String,
    writes: Mutex<Vec<Write>>,
}

impl Register {
    /// One that holds `content`.
    pub fn new(name: String, content: Content) -> Self {
        Register { name, writes: Mutex::new(vec![Write::new(content, 0, 0)]) }
    }

    fn writes(&self) -> MutexGuard<'_, Vec<Write>> {
        self.writes.lock().expect("a failed check ends the execution")
    }

    /// A write begins.
    pub fn begin(&self, time: &Time, content: Content) -> Begun {
        let begun = time.now();
        self.writes().push(Write::new(content, begun, u64::MAX));
        Begun(begun)
    }

    /// It was done.
    pub fn end(&self, time: &Time, begun: Begun) {
        self.end_as(time, begun, None);
    }

    /// It ended, and left something else than what it was to write: what that was, nobody has seen.
    ///
    /// # Panics
    /// When somebody has.
    pub fn end_with(&self, time: &Time, begun: Begun, content: Content) {
        self.end_as(time, begun, Some(content));
    }

    fn end_as(&self, time: &Time, Begun(begun): Begun, instead: Option<Content>) {
        let mut writes = self.writes();
        let write = writes.iter_mut().find(|write| write.begun == begun).expect("it is under way");
        write.ended = time.now();
        let failed = instead == Some(Content::Nothing) || write.content == Content::Nothing;
        assert!(failed || !write.seen_to_fail, "{}: nothing was read while {:?} was written", self.name, write.content);
        if let Some(instead) = instead {
            let other = write.content != instead;
            assert!(!(write.seen && other), "{}: {:?} was read, and its write failed", self.name, write.content);
            write.content = instead;
        }
    }

    /// It was not done at all.
    pub fn undo(&self, Begun(begun): Begun) {
        let mut writes = self.writes();
        let at = writes.iter().position(|write| write.begun == begun).expect("it is under way");
        assert!(!writes[at].seen, "{}: {:?} was read, and was not written", self.name, writes[at].content);
        writes.remove(at);
    }

    /// It may have been done, or may have changed nothing.
    pub fn end_in_doubt(&self, time: &Time, Begun(begun): Begun) {
        let mut writes = self.writes();
        let write = writes.iter_mut().find(|write| write.begun == begun).expect("it is under way");
        (write.ended, write.doubtful) = (time.now(), true);
    }

    /// Something was read, by a read that began then and ends now.
    ///
    /// # Panics
    /// When that cannot be what was there.
    pub fn saw(&self, time: &Time, began: Moment, content: Content) {
        let mut writes = self.writes();
        let now = time.now();
        let may = |write: &Write| write.begun < now && !superseded(&writes, write, began);
        let found: Vec<_> = (0..writes.len()).filter(|&at| writes[at].content == content && may(&writes[at])).collect();
        match found[..] {
            [] if content == Content::Nothing && writes.iter().any(Write::may_fail) => {
                let mut failing = writes.iter_mut().filter(|write| write.may_fail());
                if let (Some(only), None) = (failing.next(), failing.next()) {
                    only.seen_to_fail = true;
                }
            }
            [] => panic!("{}: a read from {began} to {now} saw {content:?}, of these writes: {writes:#?}", self.name),
            // Somebody else's write may be failing just now, and be what was seen.
            [only] if content != Content::Nothing || writes.iter().filter(|write| write.may_fail()).count() == 0 => {
                writes[only].seen = true;
            }
            _ => {} // one of them
        }
    }

    /// A read was told that the page is lost, for the first time perhaps: it was there, and is not any more.
    ///
    /// # Panics
    /// When there was nothing to lose.
    pub fn was_lost(&self, time: &Time, began: Moment) {
        let mut writes = self.writes();
        let now = time.now();
        let there = |write: &Write| write.begun < now && !superseded(&writes, write, began);
        assert!(
            writes.iter().any(|write| write.content != Content::Nothing && there(write)),
            "{}: a read from {began} to {now} was told of a loss, of these writes: {writes:#?}",
            self.name
        );
        if !writes.iter().any(|write| write.content == Content::Lost && there(write)) {
            writes.push(Write { seen: true, ..Write::new(Content::Lost, began, now) });
        }
    }

    /// Nobody is at it, and this is what it holds: what was before does not matter any more.
    ///
    /// # Panics
    /// When it cannot be what it holds.
    pub fn settle(&self, time: &Time, content: Content) {
        let began = time.now();
        match content {
            Content::Lost => self.was_lost(time, began),
            _ => self.saw(time, began, content),
        }
        let mut writes = self.writes();
        assert!(writes.iter().all(|write| write.ended < u64::MAX), "{}: somebody is at it", self.name);
        *writes = vec![Write::new(content, began, began)];
    }
}

/// Whether another write has taken this one's place before a read began then.
fn superseded(writes: &[Write], write: &Write, read_began: Moment) -> bool {
    writes.iter().any(|other| !other.doubtful && other.begun > write.ended && other.ended < read_began)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register() -> (Register, Time) {
        let (register, time) = (Register::new("slot 1".to_owned(), Content::Nothing), Time::default());
        time.now();
        (register, time)
    }

    #[test]
    fn a_read_sees_what_is_being_written_or_what_was_before() {
        let (register, time) = register();
        let write = register.begin(&time, Content::Page(1));
        let began = time.now();
        register.saw(&time, began, Content::Nothing);
        register.saw(&time, began, Content::Page(1));
        register.end(&time, write);
        register.saw(&time, began, Content::Nothing); // it may have read before
        let began = time.now();
        register.saw(&time, began, Content::Page(1));
        register.settle(&time, Content::Page(1));
    }

    #[test]
    #[should_panic(expected = "saw Nothing")]
    fn what_was_written_over_is_not_read_any_more() {
        let (register, time) = register();
        let write = register.begin(&time, Content::Page(1));
        register.end(&time, write);
        let began = time.now();
        register.saw(&time, began, Content::Nothing);
    }

    #[test]
    #[should_panic(expected = "saw Page(2)")]
    fn what_was_never_written_is_not_read() {
        let (register, time) = register();
        register.saw(&time, 0, Content::Page(2));
    }

    #[test]
    #[should_panic(expected = "saw Page(1)")]
    fn what_is_lost_stays_lost() {
        let (register, time) = register();
        let write = register.begin(&time, Content::Page(1));
        register.end(&time, write);
        register.was_lost(&time, time.now());
        register.was_lost(&time, time.now());
        let began = time.now();
        register.saw(&time, began, Content::Page(1));
    }

    #[test]
    #[should_panic(expected = "its write failed")]
    fn a_page_whose_store_fails_is_not_read_before() {
        let (register, time) = register();
        let write = register.begin(&time, Content::Page(1));
        register.saw(&time, 0, Content::Page(1));
        register.end_with(&time, write, Content::Nothing);
    }

    #[test]
    fn a_store_that_is_going_to_fail_may_be_seen_to() {
        let (register, time) = register();
        let first = register.begin(&time, Content::Page(1));
        register.end(&time, first);
        let write = register.begin(&time, Content::Page(2));
        register.saw(&time, time.now(), Content::Nothing);
        register.end_with(&time, write, Content::Nothing);
        register.settle(&time, Content::Nothing);
    }

    #[test]
    #[should_panic(expected = "nothing was read while")]
    fn a_store_that_succeeds_shows_no_gap() {
        let (register, time) = register();
        let first = register.begin(&time, Content::Page(1));
        register.end(&time, first);
        let write = register.begin(&time, Content::Page(2));
        register.saw(&time, time.now(), Content::Nothing);
        register.end(&time, write);
    }

    #[test]
    fn what_is_in_doubt_may_be_either() {
        let (register, time) = register();
        let write = register.begin(&time, Content::Page(1));
        register.end(&time, write);
        let doubt = register.begin(&time, Content::Page(0));
        register.end_in_doubt(&time, doubt);
        let began = time.now();
        register.saw(&time, began, Content::Page(1));
        register.saw(&time, began, Content::Page(0));
        register.settle(&time, Content::Page(0));
    }
}
