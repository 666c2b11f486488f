//! With the devices: 1 to 32, which is as many as there can be.

use crate::growing::{Growing, doublings, each, time};
use crate::inputs::Noise;
use crate::measure::Table;
use crate::subject::{Subject, write_back};
use zspool::memcg::Cancel;

pub(crate) fn tables(quick: bool) -> Vec<Table> {
    let pages = if quick { 20_000 } else { 200_000 };
    let costs = [
        "write back an object, ns",
        "load from them, ns",
        "free there, ns",
        "swapon and swapoff of one, us",
        "devices(), us",
    ];
    let title = format!("Devices in memory, of one tier: {pages} pages written back to them.");
    let mut table = Growing::new(&title, "devices", &costs);
    for devices in doublings(32) {
        let mut subject = Subject::new(pages, |builder| builder);
        let vm = subject.zswap.root().mkdir("vm").expect("a fresh name");
        let room = (pages * 400 / devices).next_multiple_of(256 << 10) + (2 << 20);
        let numbers: Vec<u8> = (0..devices - 1).map(|_| subject.swapon(room)).collect();
        let turn = each(20, |_| {
            let another = subject.swapon(1 << 20);
            let report = subject.zswap.swapoff(another, &Cancel::new(), |_| {}).expect("it can be emptied");
            assert_eq!(report.touched, 0, "nothing is on it");
        });
        subject.swapon(room);
        assert_eq!(subject.zswap.devices().len(), numbers.len() + 1);
        (0..pages).for_each(|k| subject.store(k, &vm));
        let (took, written) = time(|| write_back(&subject, &vm, 1 << 40));
        assert_eq!(written, pages as u64, "there is room for all");
        let write = took.as_nanos() as f64 / written as f64;
        let order = Noise(3).shuffled(pages);
        let load = each(pages / 4, |k| subject.load(order[k]));
        let free = each(pages, |k| subject.free(order[k]));
        let look = each(200, |_| drop(subject.zswap.devices()));
        table.row(devices, &[write, load, free, turn / 1e3, look / 1e3]);
    }
    vec![table.end()]
}
