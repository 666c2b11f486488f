//! [`Charge`]: bytes reserved from a memcg's limits for an object that is not published yet.

use super::error::Error;
use crate::memcg::{Objcg, ObjcgId};

/// A charge of a slot's size, given back on drop unless an entry takes it over.
#[derive(Debug)]
pub(super) struct Charge {
    /// Who is charged; `None` for nobody.
    objcg: Option<Objcg>,
    bytes: u64,
}

impl Charge {
    /// Charge a slot of `size` bytes.
    pub(super) fn take(objcg: Option<Objcg>, size: usize) -> Result<Self, Error> {
        let bytes = size as u64;
        if let Some(objcg) = &objcg {
            objcg.try_charge(bytes)?;
        }
        Ok(Charge { objcg, bytes })
    }

    /// Who is charged.
    pub(super) fn objcg(&self) -> ObjcgId {
        self.objcg.as_ref().map_or(ObjcgId::NONE, Objcg::id)
    }

    /// Hand charge and reference over to an entry that holds the id.
    pub(super) fn into_id(mut self) -> ObjcgId {
        self.objcg.take().map_or(ObjcgId::NONE, Objcg::into_id)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(objcg) = &self.objcg {
            objcg.uncharge(self.bytes);
        }
    }
}
