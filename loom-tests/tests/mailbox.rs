//! Who tells a background thread of work and then waits for it, and an alarm that somebody ceases to attend.
//!
//! | model | race |
//! |---|---|
//! | `kick_vs_kick` | a kick finds another one waiting that is on its way to the thread, and its kicker waits until all is done |
//! | `ring_vs_leave` | the alarm is rung while the one who attended leaves |
use loom_tests::outcomes;
use std::collections::BTreeSet;
use zspool::sync::atomic::{AtomicU64, Ordering};
use zspool::sync::{Alarm, Arc, Mailbox, thread};

/// What the thread had seen of our work when we had waited: 1, or 2 with the other's.
fn kick_vs_kick() -> u64 {
    let (mailbox, work, done) = (Arc::new(Mailbox::new()), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let keeper = {
        let (mailbox, work, done) = (Arc::clone(&mailbox), Arc::clone(&work), Arc::clone(&done));
        thread::spawn("keeper", move || {
            let _attendance = mailbox.attend();
            while mailbox.wait(None).is_some() {
                done.store(work.load(Ordering::Acquire), Ordering::Release);
            }
        })
        .unwrap()
    };
    let other = {
        let (mailbox, work) = (Arc::clone(&mailbox), Arc::clone(&work));
        thread::spawn("other", move || {
            work.fetch_add(1, Ordering::AcqRel);
            mailbox.kick(1);
        })
        .unwrap()
    };
    work.fetch_add(1 << 8, Ordering::AcqRel);
    mailbox.kick(1);
    mailbox.wait_until_idle();
    let seen = done.load(Ordering::Acquire);
    mailbox.stop();
    other.join().unwrap();
    keeper.join().unwrap();
    assert_ne!(seen & 1 << 8, 0, "our work was not done when we had waited for it");
    seen
}

#[test]
fn who_has_waited_finds_the_work_done() {
    assert_eq!(outcomes(kick_vs_kick), BTreeSet::from([1 << 8, 1 << 8 | 1]));
}

/// Whether the ring came in time to be heard.
fn ring_vs_leave() -> bool {
    let alarm = Arc::new(Alarm::new());
    assert!(alarm.attend());
    let ringer = {
        let alarm = Arc::clone(&alarm);
        thread::spawn("ringer", move || {
            alarm.ring();
        })
        .unwrap()
    };
    let heard = alarm.answer(Default::default(), || alarm.is_rung());
    alarm.leave();
    ringer.join().unwrap();
    assert!(!alarm.is_rung(), "an alarm that nobody attends sends every caller to the mailbox");
    heard
}

#[test]
fn nobody_hears_an_alarm_after_the_last_has_left() {
    assert_eq!(outcomes(ring_vs_leave), BTreeSet::from([false, true]));
}
