//! [`Codecs`]: the codecs an instance knows, by name and by id.

use super::{Codec, CodecId, Corrupt, Error, Lz4};
use crate::units::PAGE_SIZE;

/// The codecs an instance knows. Fixed once it is in use: what is stored must stay readable.
///
/// ```
/// use zspool::compress::{Codecs, Compressed, Context};
///
/// let codecs = Codecs::builtin();
/// let lz4 = codecs.by_name("lz4")?;
/// let (mut context, page, mut back) = (Context::new(), [7; 4096], [0; 4096]);
/// let Compressed::Bytes(bytes) = lz4.compress(&mut context, &page) else { panic!("sevens shrink") };
/// codecs.decompress(lz4.id(), bytes, &mut back).expect("these are the bytes just written");
/// assert_eq!(page, back);
/// # Ok::<(), zspool::compress::Error>(())
/// ```
pub struct Codecs {
    /// By id; 0 is raw and stays empty.
    codecs: [Option<Box<dyn Codec>>; CodecId::COUNT],
}

impl Codecs {
    /// The codecs of this crate.
    pub fn builtin() -> Self {
        Codecs::none().with(Lz4).expect("the ids and names of this crate's codecs differ")
    }

    /// No codec: pages are kept raw or not at all.
    pub fn none() -> Self {
        Codecs { codecs: [const { None }; CodecId::COUNT] }
    }

    /// These and `codec`.
    ///
    /// # Errors
    /// When its id or its name is taken, or its id is 0.
    pub fn with(mut self, codec: impl Codec + 'static) -> Result<Self, Error> {
        let (id, name) = (codec.id(), codec.name());
        if id == CodecId::RAW {
            return Err(Error::IdReserved { name });
        }
        if self.iter().any(|other| other.name() == name) {
            return Err(Error::NameTaken { name });
        }
        let place = &mut self.codecs[usize::from(id.get())];
        if let Some(other) = place {
            return Err(Error::IdTaken { name, id, holder: other.name() });
        }
        *place = Some(Box::new(codec));
        Ok(self)
    }

    /// The codec of this name.
    ///
    /// # Errors
    /// When there is none; the error lists those there are.
    pub fn by_name(&self, name: &str) -> Result<&dyn Codec, Error> {
        self.iter().find(|codec| codec.name() == name).ok_or_else(|| Error::UnknownName {
            name: name.to_owned(),
            known: self.iter().map(Codec::name).collect::<Vec<_>>().join(", "),
        })
    }

    /// The codec of this id. None for raw.
    #[inline]
    pub fn by_id(&self, id: CodecId) -> Option<&dyn Codec> {
        self.codecs[usize::from(id.get())].as_deref()
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Codec> {
        self.codecs.iter().flatten().map(|codec| &**codec)
    }

    /// Unpack what codec `id` wrote, or copy what was kept raw. Allocates nothing.
    ///
    /// # Errors
    /// When the bytes are no page of that codec, or no such codec is registered. `out` then holds anything.
    #[inline]
    pub fn decompress(&self, id: CodecId, bytes: &[u8], out: &mut [u8; PAGE_SIZE]) -> Result<(), Corrupt> {
        if id == CodecId::RAW {
            let page: &[u8; PAGE_SIZE] =
                bytes.try_into().map_err(|_| Corrupt::WrongLength { codec: "raw", unpacked: bytes.len() })?;
            *out = *page;
            return Ok(());
        }
        self.by_id(id).ok_or(Corrupt::UnknownId(id))?.decompress(bytes, out)
    }
}

impl std::fmt::Debug for Codecs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter().map(Codec::name)).finish()
    }
}

#[cfg(test)]
mod tests {
    //! 1. What a codec compresses it gives back, and it is shorter than a page.
    //! 2. Garbage and truncations are errors or some page; never a panic, never a byte outside `out`.

    use super::super::{Compressed, Context, Tagged};
    use super::*;
    use proptest::prelude::*;

    fn codecs() -> Codecs {
        Codecs::builtin().with(Tagged).unwrap()
    }

    /// Pages between zeroes and noise: runs of repeated pieces.
    fn pages() -> impl Strategy<Value = Box<[u8; PAGE_SIZE]>> {
        let piece = (prop::collection::vec(any::<u8>(), 1..64), 1..400usize);
        prop::collection::vec(piece, 0..40).prop_map(|pieces| {
            let mut page = Box::new([0; PAGE_SIZE]);
            let bytes = pieces.iter().flat_map(|(piece, len)| piece.iter().cycle().take(*len));
            page.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            page
        })
    }

    /// Decompress into a page with guard bytes on both sides.
    fn between_guards(codecs: &Codecs, id: CodecId, bytes: &[u8]) -> (Result<(), Corrupt>, Box<[u8; PAGE_SIZE]>) {
        let mut memory = vec![0xa5u8; 3 * PAGE_SIZE];
        // An exact copy on the heap, so that sanitizers see a read past the end.
        let bytes: Box<[u8]> = bytes.into();
        let out: &mut [u8; PAGE_SIZE] = (&mut memory[PAGE_SIZE..2 * PAGE_SIZE]).try_into().unwrap();
        let result = codecs.decompress(id, &bytes, out);
        let page = Box::new(*out);
        assert!(memory[..PAGE_SIZE].iter().all(|&b| b == 0xa5), "written before the page");
        assert!(memory[2 * PAGE_SIZE..].iter().all(|&b| b == 0xa5), "written past the page");
        (result, page)
    }

    fn compress(codecs: &Codecs, id: CodecId, page: &[u8; PAGE_SIZE]) -> Option<Vec<u8>> {
        let mut context = Context::new();
        match codecs.by_id(id).unwrap().compress(&mut context, page) {
            Compressed::Bytes(bytes) => Some(bytes.to_vec()),
            Compressed::Incompressible => None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 64 }, ..ProptestConfig::default() })]

        #[test]
        fn pages_come_back(page in pages()) {
            let codecs = codecs();
            for codec in codecs.iter() {
                if let Some(bytes) = compress(&codecs, codec.id(), &page) {
                    prop_assert!((1..PAGE_SIZE).contains(&bytes.len()));
                    let (result, back) = between_guards(&codecs, codec.id(), &bytes);
                    prop_assert_eq!(result, Ok(()));
                    prop_assert_eq!(&back, &page);
                }
            }
        }

        #[test]
        fn garbage_is_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..PAGE_SIZE), id in 0u8..16) {
            // Random bytes now and then are a page; all that is asked is no panic and no byte outside.
            let _ = between_guards(&codecs(), CodecId::new(id), &bytes);
        }

        #[test]
        fn truncated_bytes_are_refused(page in pages(), keep in 0.0..1.0f64) {
            let codecs = codecs();
            for codec in codecs.iter() {
                if let Some(bytes) = compress(&codecs, codec.id(), &page) {
                    let keep = (keep * bytes.len() as f64) as usize;
                    let (result, _) = between_guards(&codecs, codec.id(), &bytes[..keep]);
                    prop_assert!(result.is_err(), "{} of {} bytes passed for the page", keep, bytes.len());
                }
            }
        }

        #[test]
        fn flipped_bits_do_no_harm(page in pages(), at in any::<prop::sample::Index>(), bit in 0..8u32) {
            let codecs = codecs();
            for codec in codecs.iter() {
                if let Some(mut bytes) = compress(&codecs, codec.id(), &page) {
                    *at.get_mut(&mut bytes) ^= 1 << bit;
                    let _ = between_guards(&codecs, codec.id(), &bytes);
                }
            }
        }
    }

    #[test]
    fn noise_is_incompressible() {
        let mut state = 1u64;
        let noise: [u8; PAGE_SIZE] = std::array::from_fn(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        });
        assert_eq!(compress(&codecs(), Lz4::ID, &noise), None);
        assert_eq!(compress(&codecs(), Tagged::ID, &noise), None);
    }

    #[test]
    fn raw_is_a_whole_page() {
        let page = Box::new([9; PAGE_SIZE]);
        assert_eq!(between_guards(&codecs(), CodecId::RAW, &page[..]), (Ok(()), page));
        let short = between_guards(&codecs(), CodecId::RAW, &[9; 4095]).0;
        assert_eq!(short, Err(Corrupt::WrongLength { codec: "raw", unpacked: 4095 }));
    }

    #[test]
    fn unknown_names_and_ids_are_said() {
        let error = codecs().by_name("lz5").err().unwrap().to_string();
        assert_eq!(error, "there is no codec \"lz5\"; use one of: lz4, tagged");
        let id = CodecId::new(3);
        assert_eq!(codecs().decompress(id, &[1], &mut [0; PAGE_SIZE]), Err(Corrupt::UnknownId(id)));
    }

    #[test]
    fn two_codecs_share_neither_id_nor_name() {
        struct Other(CodecId, &'static str);
        impl Codec for Other {
            fn id(&self) -> CodecId {
                self.0
            }
            fn name(&self) -> &'static str {
                self.1
            }
            fn compress<'c>(&self, _: &'c mut Context, _: &[u8; PAGE_SIZE]) -> Compressed<'c> {
                Compressed::Incompressible
            }
            fn decompress(&self, bytes: &[u8], _: &mut [u8; PAGE_SIZE]) -> Result<(), Corrupt> {
                Err(Corrupt::Malformed { codec: self.1, len: bytes.len() })
            }
        }
        let refused = |id, name| Codecs::builtin().with(Other(id, name)).unwrap_err();
        assert_eq!(refused(Lz4::ID, "mine"), Error::IdTaken { name: "mine", id: Lz4::ID, holder: "lz4" });
        assert_eq!(refused(CodecId::new(4), "lz4"), Error::NameTaken { name: "lz4" });
        assert_eq!(refused(CodecId::RAW, "mine"), Error::IdReserved { name: "mine" });
    }
}
