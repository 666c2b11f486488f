//! [`Capped`]: the first bytes of a device, as a device: for one that is not to be used whole.

use super::super::device::{Device, Request};
use crate::sync::Deadline;
use std::io;
use std::ops::Range;
use std::time::Duration;

/// A device of which only so many bytes are used. Every method of [`Device`] is here, so that it behaves as the device does.
#[derive(Debug)]
pub(super) struct Capped {
    device: Box<dyn Device>,
    bytes: u64,
}

impl Capped {
    /// `device`, or what `most` bytes of it are.
    pub(super) fn at_most(device: Box<dyn Device>, most: u64) -> Box<dyn Device> {
        match device.len_bytes() > most {
            true => Box::new(Capped { device, bytes: most }),
            false => device,
        }
    }
}

impl Device for Capped {
    fn submit(&self, requests: &mut [Request]) {
        self.device.submit(requests);
    }

    fn complete(&self, requests: &mut [Request]) {
        self.device.complete(requests);
    }

    fn complete_by(&self, requests: &mut [Request], deadline: Deadline) {
        self.device.complete_by(requests, deadline);
    }

    fn poll(&self, request: &mut Request) {
        self.device.poll(request);
    }

    fn timeout(&self) -> Option<Duration> {
        self.device.timeout()
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.device.punch(range)
    }

    fn len_bytes(&self) -> u64 {
        self.bytes
    }

    fn block_bytes(&self) -> usize {
        self.device.block_bytes()
    }

    fn file_system(&self) -> Option<u64> {
        self.device.file_system()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.device.free_bytes()
    }

    fn name(&self) -> &str {
        self.device.name()
    }

    fn describe(&self) -> String {
        format!("{}, of which at most {} bytes are used", self.device.describe(), self.bytes)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::super::IoBuffer;
    use super::super::super::device::{Cause, Op};
    use super::*;
    use crate::sync::Arc;
    use std::sync::Mutex;

    /// Notes what it is asked, and has numbers of its own.
    #[derive(Debug, Default)]
    struct Noted(Mutex<Vec<&'static str>>);

    impl Noted {
        fn note(&self, what: &'static str) {
            self.0.lock().unwrap().push(what);
        }
    }

    impl Device for Noted {
        fn submit(&self, _: &mut [Request]) {
            self.note("submit");
        }
        fn complete(&self, _: &mut [Request]) {
            self.note("complete");
        }
        fn complete_by(&self, _: &mut [Request], _: Deadline) {
            self.note("complete by");
        }
        fn poll(&self, _: &mut Request) {
            self.note("poll");
        }
        fn timeout(&self) -> Option<Duration> {
            Some(Duration::from_secs(77))
        }
        fn punch(&self, range: Range<u64>) -> io::Result<()> {
            self.note("punch");
            if range == (3..5) { Err(io::ErrorKind::ResourceBusy.into()) } else { Ok(()) }
        }
        fn len_bytes(&self) -> u64 {
            8192
        }
        fn block_bytes(&self) -> usize {
            512
        }
        fn file_system(&self) -> Option<u64> {
            Some(66)
        }
        fn free_bytes(&self) -> io::Result<u64> {
            Ok(55)
        }
        fn name(&self) -> &str {
            "noted"
        }
        fn describe(&self) -> String {
            "a noted one".to_owned()
        }
    }

    fn request() -> Request {
        Request::new(Op::Read, 0, 4096, IoBuffer::new(4096))
    }

    /// That the device passes everything on, but for its length and what it says of itself.
    fn assert_passes_on(device: &dyn Device, noted: &Noted) {
        let mut requests = [request()];
        device.submit(&mut requests);
        device.complete(&mut requests);
        device.complete_by(&mut requests, Deadline::after(Duration::ZERO));
        device.poll(&mut requests[0]);
        assert_eq!(device.punch(3..5).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        let asked = std::mem::take(&mut *noted.0.lock().unwrap());
        assert_eq!(asked, ["submit", "complete", "complete by", "poll", "punch"]);
        assert_eq!((device.timeout(), device.block_bytes()), (Some(Duration::from_secs(77)), 512));
        assert_eq!((device.file_system(), device.free_bytes().unwrap(), device.name()), (Some(66), 55, "noted"));
    }

    #[test]
    fn a_capped_device_is_the_device_but_for_its_length() {
        let noted = Arc::new(Noted::default());
        assert_passes_on(&noted, &noted);
        assert_eq!((noted.describe(), Device::len_bytes(&noted)), ("a noted one".to_owned(), 8192));
        for most in [8192, u64::MAX] {
            let whole = Capped::at_most(Box::new(Arc::clone(&noted)), most);
            assert_eq!((whole.len_bytes(), whole.describe()), (8192, "a noted one".to_owned()));
        }
        let capped = Capped::at_most(Box::new(Arc::clone(&noted)), 8191);
        assert_passes_on(&*capped, &noted);
        assert_eq!(capped.len_bytes(), 8191);
        assert_eq!(capped.describe(), "a noted one, of which at most 8191 bytes are used");
    }

    #[test]
    fn what_a_device_does_not_say_is_nothing() {
        #[derive(Debug)]
        struct Plain(Noted);
        impl Device for Plain {
            fn submit(&self, _: &mut [Request]) {}
            fn complete(&self, _: &mut [Request]) {
                self.0.note("complete");
            }
            fn punch(&self, _: Range<u64>) -> io::Result<()> {
                Ok(())
            }
            fn len_bytes(&self) -> u64 {
                8192
            }
            fn block_bytes(&self) -> usize {
                512
            }
            fn name(&self) -> &str {
                "plain"
            }
        }
        let device = Plain(Noted::default());
        assert_eq!((device.timeout(), device.file_system(), device.describe()), (None, None, "plain".to_owned()));
        assert_eq!(device.free_bytes().unwrap_err().kind(), io::ErrorKind::Unsupported);
        device.complete_by(&mut [request()], Deadline::after(Duration::ZERO));
        assert_eq!(*device.0.0.lock().unwrap(), ["complete"], "it cannot stop waiting");
        // What a panic left in flight is over when somebody looks.
        let mut left = request();
        device.poll(&mut left);
        assert!(!left.is_in_flight(), "it was not begun");
        assert!(left.start(&device) && left.is_in_flight());
        left.set_ticket(9);
        device.poll(&mut left);
        assert_eq!(left.result().unwrap_err().cause, Cause::Kind(io::ErrorKind::Interrupted));
        assert_eq!(left.ticket(), 9);
    }
}
