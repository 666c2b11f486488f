//! The floors under a store and a load: copying a page, looking whether it is same-filled, compressing and decompressing it.
//!
//! Pages are made here, with the shape of a program's heap; with `ZSPOOL_PAGES=FOLDER` also real ones, from the `*.pages` files
//! (flat 4096-byte pages) in that folder.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::Path;
use zspool::compress::{Codec, Compressed, Context, Lz4, same_filled};
use zspool::units::{PAGE_SIZE, Page};

/// Pages per input: 16 MiB, more than the caches near a core hold, as a store finds its pages.
const PAGES: usize = 4096;

/// SplitMix64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn noise_page(noise: &mut Noise) -> Page {
    let mut page = Page::zeroed();
    page.as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = noise.next().to_le_bytes());
    page
}

/// A heap as a program leaves it: small objects of a header, a pointer into the same 16 MiB, a counter and zeroes.
fn heap_page(noise: &mut Noise) -> Page {
    let mut page = Page::zeroed();
    for object in page.as_chunks_mut::<32>().0 {
        let random = noise.next();
        object[..4].copy_from_slice(&[(random % 5) as u8, 0, 0x21, 0]);
        object[8..16].copy_from_slice(&(0x7f3a_4000_0000 | (random >> 8 & 0xff_fff0)).to_le_bytes());
        object[16..18].copy_from_slice(&(random as u16 & 0x3ff).to_le_bytes());
    }
    page
}

/// The first pages of a file that are not same-filled.
fn real_pages(path: &Path) -> Vec<Page> {
    let mut file = File::open(path).unwrap();
    let mut pages = vec![];
    let mut page = Page::zeroed();
    while pages.len() < PAGES && file.read_exact(&mut page.0).is_ok() {
        if same_filled(&page).is_none() {
            pages.push(page.clone());
        }
    }
    pages
}

fn inputs() -> Vec<(String, Vec<Page>)> {
    let mut noise = Noise(1);
    let mut inputs = vec![("heap".to_owned(), (0..PAGES).map(|_| heap_page(&mut noise)).collect())];
    inputs.push(("noise".to_owned(), (0..PAGES).map(|_| noise_page(&mut noise)).collect()));
    if let Some(folder) = std::env::var_os("ZSPOOL_PAGES") {
        let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "pages"));
        paths.sort();
        inputs.extend(paths.iter().map(|path| (path.file_stem().unwrap().to_string_lossy().into(), real_pages(path))));
    }
    inputs
}

fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Bytes(PAGE_SIZE as u64));
    for (name, pages) in inputs().iter().filter(|(_, pages)| !pages.is_empty()) {
        let mut next = pages.iter().cycle();
        let mut out = Page::zeroed();
        group.bench_function(format!("memcpy/{name}"), |b| {
            b.iter(|| {
                out.copy_from_slice(&next.next().unwrap()[..]);
                black_box(&out);
            });
        });
        group.bench_function(format!("same_filled/{name}"), |b| b.iter(|| same_filled(next.next().unwrap())));

        let mut context = Context::new();
        group.bench_function(format!("lz4/compress/{name}"), |b| {
            b.iter(|| {
                black_box(Lz4.compress(&mut context, next.next().unwrap()));
            });
        });

        // Objects one behind the other in one buffer, as a pool has them, and read in an order that is not theirs.
        let mut log = vec![];
        let mut objects: Vec<_> = pages
            .iter()
            .filter_map(|page| match Lz4.compress(&mut context, page) {
                Compressed::Bytes(bytes) => {
                    let start = log.len();
                    log.extend_from_slice(bytes);
                    Some(start..log.len())
                }
                Compressed::Incompressible => None,
            })
            .collect();
        println!("{name}: {} of {} pages shrink, to {} bytes", objects.len(), pages.len(), log.len());
        if objects.is_empty() {
            continue;
        }
        let mut noise = Noise(2);
        objects.sort_by_cached_key(|_| noise.next());
        let mut next = objects.iter().cycle();
        group.bench_function(format!("lz4/decompress/{name}"), |b| {
            b.iter(|| {
                Lz4.decompress(&log[next.next().unwrap().clone()], &mut out).unwrap();
                black_box(&out);
            });
        });
    }

    let zero = Page::zeroed();
    group.bench_function("same_filled/zero", |b| b.iter(|| same_filled(black_box(&zero))));
    // The worst case: the one odd byte is the last but one word's, so that all is compared.
    let mut late = Page::zeroed();
    late[PAGE_SIZE - 9] = 1;
    group.bench_function("same_filled/late", |b| {
        b.iter_batched_ref(|| late.clone(), |page| same_filled(page), BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
