//! Pages to measure on: made here, the same each time, or real ones from files.

#![allow(dead_code, unreachable_pub)] // each bench uses a part of this one

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use zspool::compress::same_filled;
use zspool::units::Page;

/// SplitMix64 (Steele, Lea, Flood, 2014).
#[derive(Clone)]
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// The numbers below `n` in random order (Fisher and Yates).
    pub fn shuffled(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// Nothing to compress.
pub fn noise_page(noise: &mut Noise) -> Page {
    let mut page = Page::zeroed();
    page.as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = noise.next().to_le_bytes());
    page
}

/// A heap as a program leaves it: small objects of a header, a pointer into the same 16 MiB, a counter and zeroes.
pub fn heap_page(noise: &mut Noise) -> Page {
    let mut page = Page::zeroed();
    fill_heap(&mut page.0, noise);
    page
}

fn fill_heap(bytes: &mut [u8], noise: &mut Noise) {
    for object in bytes.as_chunks_mut::<32>().0 {
        let random = noise.next();
        object[..4].copy_from_slice(&[(random % 5) as u8, 0, 0x21, 0]);
        object[8..16].copy_from_slice(&(0x7f3a_4000_0000 | (random >> 8 & 0xff_fff0)).to_le_bytes());
        object[16..18].copy_from_slice(&(random as u16 & 0x3ff).to_le_bytes());
    }
}

/// A heap of which a random part is in use, the rest is zero, and one page in 32 does not shrink: lengths of all classes.
pub fn mixed_page(noise: &mut Noise) -> Page {
    if noise.below(32) == 0 {
        return noise_page(noise);
    }
    let mut page = Page::zeroed();
    let used = 64 + noise.below(4096 - 64) / 32 * 32;
    fill_heap(&mut page.0[..used], noise);
    page
}

/// Where pages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Heap,
    Mixed,
    Noise,
    /// Flat 4096-byte pages, of which those are left out that repeat one word: they take no memory to speak of.
    File(PathBuf),
}

impl Input {
    pub fn name(&self) -> String {
        match self {
            Input::Heap => "heap".to_owned(),
            Input::Mixed => "mixed".to_owned(),
            Input::Noise => "noise".to_owned(),
            Input::File(path) => path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
        }
    }

    /// As an argument of a child process.
    pub fn argument(&self) -> String {
        match self {
            Input::File(path) => path.to_str().expect("a path of text").to_owned(),
            made => made.name(),
        }
    }

    pub fn parse(argument: &str) -> Self {
        match argument {
            "heap" => Input::Heap,
            "mixed" => Input::Mixed,
            "noise" => Input::Noise,
            path => Input::File(path.into()),
        }
    }

    /// At most `most` pages.
    pub fn pages(&self, most: usize) -> Vec<Page> {
        let mut noise = Noise(1);
        let make = |page: fn(&mut Noise) -> Page, noise: &mut Noise| (0..most).map(|_| page(noise)).collect();
        match self {
            Input::Heap => make(heap_page, &mut noise),
            Input::Mixed => make(mixed_page, &mut noise),
            Input::Noise => make(noise_page, &mut noise),
            Input::File(path) => read(path, most),
        }
    }
}

fn read(path: &Path, most: usize) -> Vec<Page> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{} cannot be opened: {error}", path.display()));
    let mut file = BufReader::with_capacity(1 << 20, file);
    let (mut pages, mut page) = (vec![], Page::zeroed());
    while pages.len() < most && file.read_exact(&mut page.0).is_ok() {
        if same_filled(&page).is_none() {
            pages.push(page.clone());
        }
    }
    pages
}

/// The `*.pages` files of the folder that `ZSPOOL_PAGES` names; none where it is not set.
pub fn files() -> Vec<Input> {
    let Some(folder) = std::env::var_os("ZSPOOL_PAGES") else { return vec![] };
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("ZSPOOL_PAGES names {folder:?}, which cannot be read: {error}"))
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "pages"))
        .collect();
    paths.sort();
    paths.into_iter().map(Input::File).collect()
}
