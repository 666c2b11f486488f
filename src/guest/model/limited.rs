//! A VM without a kernel in a real engine: limits, evictor, policy, store and statistics are those of any VM.

use super::{Charged, Model, ModelOptions, Paint};
use crate::guest::memory::simulated::Simulated;
use crate::guest::{Engine, Error};
use crate::memcg::Memcg;

impl Model {
    /// The one region of a VM of `engine`, charged to `memcg` under its limits. `paint` says which bytes a page of a token has; each page that
    /// comes in is compared.
    ///
    /// # Errors
    /// As [`Engine::vm`] and [`Vm::register`](crate::guest::Vm::register).
    pub fn limited(options: ModelOptions, engine: &Engine, memcg: &Memcg, paint: Paint) -> Result<Model, Error> {
        let slots = engine.zswap().reserve(options.pages.into())?;
        let around = options.fault_around();
        let (shared, enrolled) = engine.simulated(memcg, options.kept_bytes, around, options.planted)?;
        let backing = Simulated::new(options.pages, options.staging()).painted(paint);
        let (pages, gate) = Self::assemble(options, shared, &backing, slots, false);
        let _kept = Some(Box::new(enrolled) as Box<dyn Send + Sync>);
        Ok(Model { pages, backing, charged: Charged::Shared, tokens: None, gate, family: None, _kept })
    }

    /// Have pages of a range leave for their slots, however hot they are. Bytes by which less is charged.
    pub fn evict(&self, first: u32, pages: u32) -> u64 {
        self.pages.evict(first..first + pages, None).won_bytes
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::Planted;
    use crate::units::PAGE_SIZE;
    use crate::zswap::Zswap;

    /// Noise that begins with the token.
    fn noise(token: u64, page: &mut [u8; PAGE_SIZE]) {
        let mut word = token;
        for bytes in page.as_chunks_mut::<8>().0 {
            *bytes = word.to_ne_bytes();
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).rotate_left(17) ^ token;
        }
    }

    /// Found by the simulation: such a page went on being counted as the parent's, and was uncounted as the removed memcg's, so that the
    /// next one to have its objcg began below zero.
    #[test]
    fn a_page_of_a_removed_memcg_that_the_store_refuses_stays_its_own() {
        let zswap = Zswap::builder().pool_limit(1 << 20).worker(false).build().unwrap();
        let engine = Engine::builder(zswap).evictor(false).build().unwrap();
        let options =
            ModelOptions { pages: 4, in_place: false, kept_bytes: 0, around: 0, stiff_from: 0, planted: Planted::NONE };
        let memcg = engine.root().mkdir("vm").unwrap();
        let model = Model::limited(options, &engine, &memcg, noise).unwrap();
        (0..4).for_each(|page| model.write(page, 1000 + u64::from(page)).unwrap());
        engine.zswap().offline(&memcg).unwrap();
        model.stage(0, 4);
        assert_eq!(model.compress(4), 0, "noise does not shrink");
        (0..4).for_each(|page| assert_eq!(model.read(page), Some(1000 + u64::from(page))));
        model.discard(0, 4).unwrap();
        assert_eq!(model.check(), (0, 0, 0));
        drop(model);
        let next = engine.root().mkdir("next").unwrap();
        assert_eq!(next.stat().unwrap().resident, 0);
        engine.assert_valid();
    }
}
