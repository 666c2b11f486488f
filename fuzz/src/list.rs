//! [`List`]: all of an input, as operations.

use arbitrary::{Arbitrary, Unstructured};

/// As many operations as the input has bytes for. (A `Vec` reads a byte before each element that says whether there is one
/// more: half of all mutations of it would cut the list off.)
#[derive(Clone, Debug)]
pub struct List<T>(pub Vec<T>);

/// Operations at most: longer lists only take longer.
const MOST: usize = 512;

impl<'a, T: Arbitrary<'a>> Arbitrary<'a> for List<T> {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut list = Vec::new();
        while !u.is_empty() && list.len() < MOST {
            list.push(T::arbitrary(u)?);
        }
        Ok(List(list))
    }
}
