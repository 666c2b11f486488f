//! What a page costs that is read back, against a direct read of the same span; and many of them at once.
//!
//! ```text
//!   512 pages at random:   codec alone | reads alone | loads        in turns, the same pages in the same order
//!                                                       loads - codec  over  reads
//! ```

use crate::Scale;
use crate::inputs::Noise;
use crate::measure::{Cell, Histogram, Table, median};
use crate::subject::{Subject, compressed};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use zspool::compress::{Codec, Lz4};
use zspool::units::{PAGE_SIZE, Page};

/// Pages of a turn.
const TURN: usize = 512;

/// Pages that are wanted together.
const RUN: usize = 64;

fn timed(times: &mut Histogram, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    let time = start.elapsed();
    times.note(time);
    time.as_secs_f64()
}

/// What turns came to.
#[derive(Default)]
struct Reads {
    ratios: Vec<f64>,
    loads: Histogram,
    reads: Histogram,
    codec: Histogram,
}

impl Reads {
    /// `turns` turns of pages at random, of which `alone` is what the codec makes.
    fn measure(&mut self, subject: &Subject, alone: &[Option<Box<[u8]>>], turns: usize, noise: &mut Noise) {
        let (mut plain, mut page) = (subject.plain(), Page::zeroed());
        for turn in 0..turns {
            let picked: Vec<_> = (0..TURN).map(|_| noise.below(alone.len())).collect();
            let codec: f64 = picked.iter().filter_map(|&k| alone[k].as_ref()).fold(0.0, |sum, bytes| {
                sum + timed(&mut self.codec, || Lz4.decompress(bytes, &mut page).expect("it was compressed"))
            });
            let mut load = |times: &mut Histogram| -> f64 {
                picked.iter().map(|&k| timed(times, || subject.load(k, &mut page))).sum()
            };
            // Which spans they are is learned by loading them once; then whatever caches they are in helps both alike.
            subject.device.take();
            load(&mut Histogram::default());
            let spans = subject.device.take().reads;
            let mut read =
                |times: &mut Histogram| -> f64 { spans.iter().map(|&span| timed(times, || plain.read(span))).sum() };
            let (loads, reads) = if turn % 2 == 0 {
                (load(&mut self.loads), read(&mut self.reads))
            } else {
                let reads = read(&mut self.reads);
                (load(&mut self.loads), reads)
            };
            self.ratios.push((loads - codec) / reads);
        }
    }

    fn row(self, encryption: bool, what: &str, pages_written: f64, bounded: bool) -> Vec<Cell> {
        let ratio = Cell::number(median(self.ratios), 3);
        let mut row = vec![
            Cell::text(if encryption { "on" } else { "off" }),
            Cell::text(what),
            if bounded { ratio.at_most(1.15) } else { ratio },
        ];
        for times in [&self.loads, &self.reads] {
            row.extend([0.5, 0.99].map(|share| Cell::number(times.quantile(share) / 1e3, 1)));
        }
        row.extend([Cell::number(self.codec.quantile(0.5) / 1e3, 1), Cell::number(pages_written / 1e3, 0)]);
        row
    }
}

/// One page at a time.
pub(crate) fn single(pages: &[Page], scale: &Scale) -> Table {
    let heads = [
        "encryption",
        "meanwhile",
        "load without the codec over pread",
        "load p50, us",
        "p99, us",
        "pread p50, us",
        "p99, us",
        "codec p50, us",
        "1000 pages/s written meanwhile",
    ];
    let mut table = Table::new("Read-back: a written page at random, against a direct read of its span.", &heads);
    for encryption in [false, true] {
        rows(&mut table, encryption, pages, scale);
    }
    table.end()
}

fn rows(table: &mut Table, encryption: bool, pages: &[Page], scale: &Scale) {
    // One half is read, the other is for the writer.
    let half = pages.len() / 2;
    let subject = Subject::new(pages, scale, encryption);
    let (alone, mut noise) = (compressed(&pages[..half]), Noise(3));
    subject.store(noise.shuffled(half).into_iter());
    subject.write_back();
    subject.check(0..half);
    let mut calm = Reads::default();
    calm.measure(&subject, &alone, 4 * scale.rounds, &mut noise);
    table.row(calm.row(encryption, "nothing", 0.0, true));

    let (stop, mut busy, mut written, start) = (AtomicBool::new(false), Reads::default(), 0, Instant::now());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                subject.store(half..pages.len());
                subject.ask_to_write();
                written += pages.len() - half;
            }
            written
        });
        busy.measure(&subject, &alone, 4 * scale.rounds, &mut noise);
        stop.store(true, Ordering::Relaxed);
        written = writer.join().expect("stores do not panic");
    });
    table.row(busy.row(
        encryption,
        "stores and writeback without end",
        written as f64 / start.elapsed().as_secs_f64(),
        false,
    ));
    subject.check(0..half);
}

/// Many at once.
pub(crate) fn run(pages: &[Page], scale: &Scale) -> Table {
    let heads =
        ["64 pages that lie", "a run, us a page", "one by one, us a page", "run over one by one", "reads of a run"];
    let mut table = Table::new("Read-back: runs of 64 slots in a row, against their pages one by one.", &heads);
    let runs = pages.len() / RUN;
    let mut noise = Noise(4);
    for (where_, order) in
        [("in order of the slots", (0..runs * RUN).collect()), ("anywhere", noise.shuffled(runs * RUN))]
    {
        let subject = Subject::new(pages, scale, true);
        subject.store(order.into_iter());
        subject.write_back();
        let mut back = vec![[0; PAGE_SIZE]; RUN];
        let (mut together, mut single, mut reads) = (vec![], vec![], 0);
        for turn in 0..scale.rounds * 32 {
            let first = noise.below(runs) * RUN;
            let mut load_run = || {
                subject.device.take();
                let start = Instant::now();
                let (loaded, result) = subject.zswap.load_run(subject.slot(first), &mut back);
                let time = start.elapsed().as_secs_f64();
                assert!(loaded == RUN && result.is_ok(), "{loaded} of {RUN}: {result:?}");
                reads += subject.device.take().reads.len();
                assert!((0..RUN).all(|k| back[k] == pages[first + k][..]), "the run from {first} is another");
                time
            };
            let mut page = Page::zeroed();
            let mut singly = || {
                let start = Instant::now();
                (0..RUN).for_each(|k| subject.load(first + k, &mut page));
                start.elapsed().as_secs_f64()
            };
            let (run, one) = if turn % 2 == 0 {
                (load_run(), singly())
            } else {
                let one = singly();
                (load_run(), one)
            };
            together.push(run);
            single.push(one);
        }
        let (run, one) = (median(together), median(single));
        table.row(vec![
            Cell::text(where_),
            Cell::number(run / RUN as f64 * 1e6, 1),
            Cell::number(one / RUN as f64 * 1e6, 1),
            Cell::number(run / one, 2),
            Cell::number(reads as f64 / (scale.rounds * 32) as f64, 1),
        ]);
    }
    table.end()
}
