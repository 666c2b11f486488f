//! What sampling saves and what it loses, by how soon it begins and how often it looks again.

use crate::inputs::{Noise, noise_page};
use crate::{Scale, pages_that_shrink};
use serde_json::{Value, json};
use std::hint::black_box;
use zspool::compress::{Codec, Compressed, Context, Lz4};
use zspool::units::{NodeId, Page};
use zspool::zswap::{Sampling, Zswap};

/// Pages in a row in vain, and one in so many then; none: off.
const SETTINGS: [Option<(u8, u8)>; 8] =
    [None, Some((4, 8)), Some((8, 8)), Some((8, 16)), Some((16, 8)), Some((16, 16)), Some((16, 32)), Some((32, 32))];

struct Mixture {
    name: String,
    pages: Vec<Page>,
}

/// Memory as it may lie in a guest, page after page.
fn mixtures(scale: Scale) -> Vec<Mixture> {
    let n = scale.pages;
    let mut noise = Noise(3);
    let (kind, shrinking) = pages_that_shrink(n);
    let n = n.min(shrinking.len());
    let mut mix = |name: String, is_noise: &mut dyn FnMut(usize, &mut Noise) -> bool| {
        let page = |k: usize| if is_noise(k, &mut noise) { noise_page(&mut noise) } else { shrinking[k].clone() };
        Mixture { name, pages: (0..n).map(page).collect() }
    };
    // Regions of 64 KiB to 4 MiB (media, keys, compressed files in a cache), a quarter of the memory.
    let (mut left, mut in_noise) = (0, true);
    let mut regions = |_: usize, noise: &mut Noise| {
        if left == 0 {
            in_noise = !in_noise;
            left = (16 + noise.below(1009)) * if in_noise { 1 } else { 3 };
        }
        left -= 1;
        in_noise
    };
    vec![
        mix("noise".to_owned(), &mut |_, _| true),
        mix(format!("noise, 1 page in 64 {kind}"), &mut |_, noise| noise.below(64) != 0),
        mix(format!("noise, 1 page in 16 {kind}"), &mut |_, noise| noise.below(16) != 0),
        mix(format!("noise and {kind} by turns"), &mut |k, _| k % 2 == 0),
        mix(format!("noise or {kind}, by chance"), &mut |_, noise| noise.below(2) == 0),
        mix(format!("{kind} with regions of noise"), &mut regions),
        mix(kind, &mut |_, _| false),
    ]
}

/// What a setting came to.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    in_vain: u64,
    passed_by: u64,
    payload: u64,
    nanoseconds: f64,
}

/// Nanoseconds that this thread has had a processor: what others do meanwhile disturbs that less than the time of day.
fn processor_time() -> f64 {
    let text =
        std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts time (CONFIG_SCHED_INFO)");
    text.split(' ').next().and_then(|first| first.parse().ok()).expect("a number first")
}

/// Store all pages in order, and then again in random order: neighbours come at different times.
fn run(pages: &[Page], order: &[usize], sampling: Option<Sampling>) -> Outcome {
    let zswap = Zswap::builder().pool_limit(4 << 30).sampling(sampling).worker(false).build().expect("an instance");
    let (slots, root) = (zswap.reserve(pages.len() as u64).expect("slots without end"), zswap.root());
    let start = processor_time();
    for k in (0..pages.len()).chain(order.iter().copied()) {
        black_box(zswap.store(slots.base() + k as u64, &root, NodeId(0), &pages[k]).expect("there is room"));
    }
    let elapsed = processor_time() - start;
    let stats = zswap.stats();
    Outcome {
        in_vain: stats.compressed_in_vain,
        passed_by: stats.passed_by,
        payload: root.stat().expect("the root is online").bytes.payload,
        nanoseconds: elapsed / (2 * pages.len()) as f64,
    }
}

/// The codec alone: ns per page of those that shrink, and of those that do not.
fn codec(pages: &[Page]) -> [Option<f64>; 2] {
    let mut context = Context::new();
    let mut shrinks = |page: &&Page| matches!(Lz4.compress(&mut context, page), Compressed::Bytes(_));
    let (shrinking, others): (Vec<&Page>, Vec<&Page>) = pages.iter().partition(&mut shrinks);
    [shrinking, others].map(|pages| {
        let start = processor_time();
        pages.iter().for_each(|page| _ = black_box(shrinks(page)));
        // The kernel counts by ticks and switches: less is not to be had.
        (pages.len() > 1000).then(|| (processor_time() - start) / pages.len() as f64)
    })
}

pub(crate) fn tables(scale: Scale) -> Vec<Value> {
    let mut numbers = vec![];
    println!("## Sampling of memory that does not shrink\n");
    println!("Each page is stored twice, in order and then in random order.\n");
    println!(
        "| pages | codec, ns: shrinks / in vain | after, every | in vain, % of all | passed by, % | bytes lost, % | \
         store, ns | over without |"
    );
    println!("|---|---|---|---:|---:|---:|---:|---:|");
    for Mixture { name, pages } in mixtures(scale) {
        let order = Noise(4).shuffled(pages.len());
        let settings = SETTINGS.map(|setting| setting.map(|(after, every)| Sampling { after, every }));
        let mut outcomes = [Outcome { nanoseconds: f64::INFINITY, ..Outcome::default() }; SETTINGS.len()];
        for _ in 0..scale.rounds {
            for (outcome, &sampling) in outcomes.iter_mut().zip(&settings) {
                let now = run(&pages, &order, sampling);
                *outcome = Outcome { nanoseconds: now.nanoseconds.min(outcome.nanoseconds), ..now };
            }
        }
        let [shrinks, in_vain] = codec(&pages);
        let without = outcomes[0];
        for (setting, outcome) in SETTINGS.iter().zip(outcomes) {
            let percent = |n: u64| 100.0 * n as f64 / (2 * pages.len()) as f64;
            let lost = 100.0 * (outcome.payload as f64 / without.payload as f64 - 1.0);
            let over = outcome.nanoseconds / without.nanoseconds;
            let setting = setting.map_or("off".to_owned(), |(after, every)| format!("{after}, {every}"));
            let time = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{time:.0}"));
            println!(
                "| {name} | {} / {} | {setting} | {:.1} | {:.1} | {lost:.2} | {:.0} | {over:.2} |",
                time(shrinks),
                time(in_vain),
                percent(outcome.in_vain),
                percent(outcome.passed_by),
                outcome.nanoseconds
            );
            numbers.push(json!({
                "pages": name, "setting": setting, "in_vain_percent": percent(outcome.in_vain),
                "passed_by_percent": percent(outcome.passed_by), "lost_percent": lost,
                "store_ns": outcome.nanoseconds, "over_without": over,
                "codec_shrinks_ns": shrinks, "codec_in_vain_ns": in_vain,
            }));
        }
    }
    println!();
    numbers
}
