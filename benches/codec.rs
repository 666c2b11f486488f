//! The floors under a store and a load: copying a page, looking whether it is same-filled, compressing and decompressing it.
//!
//! Pages are made here, with the shape of a program's heap; with `ZSPOOL_PAGES=FOLDER` also real ones, from the `*.pages` files
//! (flat 4096-byte pages) in that folder.

mod inputs;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use inputs::{Input, Noise};
use std::hint::black_box;
use zspool::compress::{Codec, Compressed, Context, Lz4, same_filled};
use zspool::units::{PAGE_SIZE, Page};

/// Pages per input: 16 MiB, more than the caches near a core hold, as a store finds its pages.
const PAGES: usize = 4096;

fn inputs() -> Vec<(String, Vec<Page>)> {
    let mut inputs = vec![Input::Heap, Input::Noise];
    inputs.extend(inputs::files());
    let mut all: Vec<_> = inputs.iter().map(|input| (input.name(), input.pages(PAGES))).collect();
    // What decoders differ most on: a page that is nearly empty, and one that is a repeated word but for its first bytes.
    let mut noise = Noise(7);
    for (name, word) in [("sparse", 0u64), ("words", 0x7f3a_4000_1230)] {
        let mut make = || {
            let mut page = Page::zeroed();
            page.0.as_chunks_mut::<8>().0.iter_mut().enumerate().for_each(|(k, bytes)| {
                *bytes = if k < 16 { noise.next() } else { word }.to_le_bytes();
            });
            page
        };
        all.push((name.to_owned(), (0..256).map(|_| make()).collect()));
    }
    all
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
