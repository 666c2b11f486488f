//! Whether all memcgs give alike, and what their number costs.

use crate::Scale;
use crate::measure::{Cell, Table, jain, median};
use crate::tenants::Tenants;
use std::time::Instant;
use zspool::memcg::{Memcg, Tree, TreeConfig};
use zspool::zswap::{Shrunk, WRITEBACK_BATCH};

/// Entries of each memcg: three batches, so that two can differ by more than one.
const EACH: usize = 3 * WRITEBACK_BATCH;

/// Fewest entries in all.
const LEAST: usize = 20_000;

/// Entries a proactive request asks for: less than a batch.
const ASKED: u64 = 16;

pub(crate) fn tables(scale: &Scale) -> Vec<Table> {
    vec![spread(scale), cost(scale), charge(scale)]
}

fn numbers(scale: &Scale) -> impl Iterator<Item = usize> {
    [1, 10, 1000, 10_000].into_iter().filter(|&n| n <= scale.memcgs)
}

/// Who asks for entries to be written, beside the worker.
#[derive(Clone, Copy)]
enum Asker {
    Worker,
    /// `memory.reclaim` of the tenant.
    Requests,
    /// From the first child again at each request, as upstream does it (T3.9).
    FirstChild,
}

fn spread(scale: &Scale) -> Table {
    let heads = [
        "half written by",
        "memcgs",
        "entries each",
        "least",
        "most",
        "apart, batches",
        "Jain's index",
        "ns per entry",
    ];
    let mut table =
        Table::new("Fairness: entries written back by each memcg when all have the same, and half of all go.", &heads);
    let askers = [
        (Asker::Worker, "the worker"),
        (Asker::Requests, "requests for 16 entries, memory.reclaim"),
        (Asker::FirstChild, "requests for 16, from the first child each (upstream)"),
    ];
    for (asker, name) in askers {
        for n in numbers(scale) {
            let each = EACH.max(LEAST / n);
            let tenants = Tenants::new(n, n, n * each);
            tenants.fill();
            let start = Instant::now();
            if !ask(&tenants, asker, (n * each / 2) as u64) {
                let mut cells = vec![Cell::text(name), Cell::count(n as u64), Cell::text("no such file yet")];
                cells.resize(heads.len(), Cell::none());
                table.row(cells);
                break;
            }
            let seconds = start.elapsed().as_secs_f64();
            let written = tenants.written_by_memcg();
            let least = written.iter().copied().fold(f64::INFINITY, f64::min);
            let most = written.iter().copied().fold(0.0, f64::max);
            let apart = Cell::number((most - least) / WRITEBACK_BATCH as f64, 2);
            table.row(vec![
                Cell::text(name),
                Cell::count(n as u64),
                Cell::count(each as u64),
                Cell::number(least, 0),
                Cell::number(most, 0),
                if matches!(asker, Asker::FirstChild) { apart } else { apart.at_most(1.0) },
                Cell::number(jain(&written), 4),
                Cell::number(seconds * 1e9 / tenants.written() as f64, 0),
            ]);
        }
    }
    table.end()
}

/// Have about `entries` written back. Whether that could be asked for.
fn ask(tenants: &Tenants, asker: Asker, entries: u64) -> bool {
    match asker {
        Asker::Worker => _ = tenants.run_down(0.5),
        Asker::Requests => {
            let text = format!("{} source=zswap", ASKED * tenants.entry_bytes());
            for _ in 0..entries / ASKED {
                if let Err(refused) = tenants.tenant.write_file("memory.reclaim", &text) {
                    // The first of all: there is plenty to write, so it is the file that is missing.
                    assert_eq!(tenants.written(), 0, "half of the entries are there: {refused}");
                    return false;
                }
            }
        }
        Asker::FirstChild => {
            for _ in 0..entries / ASKED {
                let shrink = |memcg: &Memcg| tenants.zswap.shrink_memcg(memcg, ASKED as usize);
                let _ = tenants.memcgs.iter().map(shrink).find(|shrunk| matches!(shrunk, Shrunk::Written(_)));
            }
        }
    }
    true
}

/// CPU time of the worker for an entry written: many memcgs over one.
fn cost(scale: &Scale) -> Table {
    let heads = ["memcgs", "with entries", "entries each", "ns per entry", "over one memcg"];
    let mut table =
        Table::new("Cost: the process's CPU time for an entry that the worker writes back, half of all.", &heads);
    let most = scale.memcgs;
    let shapes = [(10, 1), (most, 1), (10, 10), (most / 10, most / 10), (most, most)];
    for (memcgs, used) in shapes {
        let entries = LEAST.max(used * WRITEBACK_BATCH);
        let entries = entries / used * used;
        let (one, many) = (Tenants::new(1, 1, entries), Tenants::new(memcgs, used, entries));
        let each = |tenants: &Tenants| {
            tenants.fill();
            let (seconds, written) = tenants.run_down(0.5);
            seconds * 1e9 / written as f64
        };
        let times: Vec<_> = (0..scale.rounds).map(|_| (each(&one), each(&many))).collect();
        let ratio = Cell::number(median(times.iter().map(|(one, many)| many / one).collect()), 2);
        table.row(vec![
            Cell::count(memcgs as u64),
            Cell::count(used as u64),
            Cell::count((entries / used) as u64),
            Cell::number(median(times.iter().map(|time| time.1).collect()), 0),
            if used == 1 { ratio.at_most(1.5) } else { ratio },
        ]);
    }
    table.end()
}

/// What a charge and its uncharge cost, without stocks: every one climbs to the root.
fn charge(scale: &Scale) -> Table {
    const PAIRS: usize = 2000;
    let heads = ["memcgs", "depth", "ns", "over depth 1 of 10 memcgs"];
    let mut table =
        Table::new("Charge and uncharge of 4096 bytes by depth below the root, and by memcgs in the tree.", &heads);
    let tree = |memcgs: usize| {
        let tree = Tree::new(TreeConfig { stocks: 0, ..TreeConfig::default() });
        let mut chain = vec![tree.root().mkdir("1").expect("a fresh name")];
        for depth in 2..=8 {
            let next = chain.last().expect("it begins with one").mkdir(&depth.to_string()).expect("a fresh name");
            chain.push(next);
        }
        // Siblings of all depths.
        (chain.len()..memcgs).for_each(|k| _ = chain[k % 8].mkdir(&format!("sibling{k}")).expect("a fresh name"));
        chain
    };
    let trees: Vec<_> = numbers(scale).skip(1).map(|n| (n, tree(n))).collect();
    let all: Vec<_> =
        trees.iter().flat_map(|(n, chain)| [1, 2, 4, 8].map(|depth| (*n, depth, &chain[depth - 1]))).collect();
    let mut times = vec![vec![]; all.len()];
    for _ in 0..scale.rounds * 20 {
        for ((_, _, memcg), times) in all.iter().zip(&mut times) {
            let objcg = memcg.objcg().expect("it is online");
            let start = Instant::now();
            for _ in 0..PAIRS {
                objcg.try_charge(4096).expect("there is no limit");
                objcg.uncharge(4096);
            }
            times.push(start.elapsed().as_nanos() as f64 / PAIRS as f64);
        }
    }
    for (k, (n, depth, _)) in all.iter().enumerate() {
        let ratio = median(times[k].iter().zip(&times[0]).map(|(time, first)| time / first).collect());
        table.row(vec![
            Cell::count(*n as u64),
            Cell::count(*depth as u64),
            Cell::number(median(times[k].clone()), 0),
            Cell::number(ratio, 2),
        ]);
    }
    table.end()
}
