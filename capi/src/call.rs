//! A call from C, from its first instruction to its code.
//!
//! ```text
//!   zsp_pool_read(..) -> enter --> body: Ok(()) ............................ ZSP_OK
//!                          |        `--> Err(Refused): the sentence is said ... its code
//!                          `--> a panic: caught here, said ................... ZSP_EPANIC
//! ```

use crate::message::say;
use crate::status::{Coded, zsp_status};
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A call under way: what C has handed over is borrowed from this, and so for no longer than the call.
pub(crate) struct Call(());

/// A call that ends without having done what was asked. Its sentence was said.
#[derive(Debug)]
pub(crate) struct Refused(zsp_status);

pub(crate) type Outcome<T = ()> = Result<T, Refused>;

/// Run a call.
pub(crate) fn enter(body: impl FnOnce(&Call) -> Outcome) -> zsp_status {
    // What is left behind by a panic is in the library's hands, which holds its invariants by guards.
    match catch_unwind(AssertUnwindSafe(|| body(&Call(())))) {
        Ok(Ok(())) => zsp_status::ZSP_OK,
        Ok(Err(Refused(status))) => status,
        Err(payload) => {
            let what = text_of(&*payload);
            say(format_args!(
                "the library panicked, which is a defect of it: {what}. What the call was at is undone or left as it was; please report this \
                 with what is on standard error"
            ));
            std::mem::forget(payload); // dropping it might panic again
            zsp_status::ZSP_EPANIC
        }
    }
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "it left no words",
    }
}

/// End a call with a code and a sentence.
pub(crate) fn refuse(status: zsp_status, sentence: fmt::Arguments<'_>) -> Refused {
    say(sentence);
    Refused(status)
}

/// End a call for what it was handed: [`ZSP_EINVAL`](zsp_status::ZSP_EINVAL).
pub(crate) fn invalid(sentence: fmt::Arguments<'_>) -> Refused {
    refuse(zsp_status::ZSP_EINVAL, sentence)
}

impl<E: Coded> From<E> for Refused {
    fn from(error: E) -> Self {
        refuse(error.code(), format_args!("{error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::said;

    #[test]
    fn a_panic_ends_as_a_code_with_its_words() {
        assert_eq!(enter(|_| panic!("number {}", 7)), zsp_status::ZSP_EPANIC);
        assert!(said().contains("a defect of it: number 7."), "{}", said());
        assert_eq!(enter(|_| panic!("plain")), zsp_status::ZSP_EPANIC);
        assert!(said().contains("plain"));
        assert_eq!(enter(|_| std::panic::panic_any(3)), zsp_status::ZSP_EPANIC);
        assert!(said().contains("it left no words"));
    }

    #[test]
    fn a_refusal_says_its_sentence() {
        assert_eq!(enter(|_| Err(invalid(format_args!("no {}", "good")))), zsp_status::ZSP_EINVAL);
        assert_eq!(said(), "no good");
        assert_eq!(enter(|_| Ok(())), zsp_status::ZSP_OK);
        assert_eq!(said(), "no good", "what was said stays until the next refusal");
    }
}
