//! trial
mod tls;
use std::cell::Cell;
thread_local! { static X: Cell<u32> = const { Cell::new(7) }; static Y: Cell<Vec<u32>> = const { Cell::new(Vec::new()) }; }
extern "C" fn start() {
    tls::prepare().unwrap();
    X.set(X.get() + 1);
    let t = std::thread::spawn(|| { X.set(X.get() + 100); Y.set(vec![1]); X.get() });
    let r = t.join().unwrap();
    eprintln!("main {} other {}", X.get(), r);
}
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;
