//! What overload is compared with: the same writes alone, and codec and writes overlapped.
//!
//! ```text
//! alone     |write|write|write|                          as fast as the device takes them, from one thread
//! pipeline  threads: codec, copy --full buffer--> writer: write --empty buffer--> ...
//! ```
//!
//! The pipeline is what a program would do that throws every page at the device and never wants one back: no pool, no index, no
//! limits, no checksum, nobody to choose from.

use crate::measure::cpu_of_process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use zspool::compress::{Codec, Compressed, Context, Lz4};
use zspool::swap::{BLOCK_BYTES, Device, Geometry, IoBuffer, MAX_BATCH_PAGES, Op, Request};
use zspool::units::{PAGE_SIZE, Page};

/// Most bytes of a write.
const MOST: usize = MAX_BATCH_PAGES * PAGE_SIZE;

/// Buffers of the pipeline: one is written, one is full, and one for each thread to fill.
const SPARE: usize = 2;

fn write(device: &dyn Device, offset: u64, len: usize, buffer: IoBuffer) -> IoBuffer {
    let mut request = [Request::new(Op::Write, offset % (device.len_bytes() - MOST as u64), len, buffer)];
    device.submit(&mut request);
    request[0].result().expect("the floor's writes succeed");
    request[0].take_buffer()
}

/// Seconds for these writes and nothing else.
pub(crate) fn alone(device: &dyn Device, writes: &[(u64, usize)]) -> f64 {
    let mut buffer = IoBuffer::new(MOST);
    buffer.iter_mut().enumerate().for_each(|(k, byte)| *byte = k as u8);
    let start = Instant::now();
    for &(offset, len) in writes {
        buffer = write(device, offset, len, buffer);
    }
    start.elapsed().as_secs_f64()
}

/// What the pipeline came to.
pub(crate) struct Flow {
    pub(crate) bytes_per_second: f64,
    /// CPU seconds of a page, of all threads.
    pub(crate) cpu: f64,
}

/// `threads` that compress pages into buffers of `len` bytes while another writes them.
pub(crate) fn pipeline(device: &dyn Device, pages: &[Page], threads: usize, len: usize, time: Duration) -> Flow {
    let (full, to_write) = mpsc::channel::<IoBuffer>();
    let (empty, to_fill) = mpsc::channel::<IoBuffer>();
    (0..threads + SPARE).for_each(|_| empty.send(IoBuffer::new(MOST)).expect("it is open"));
    let to_fill = std::sync::Mutex::new(to_fill);
    let next = AtomicUsize::new(0);
    let (start, cpu) = (Instant::now(), cpu_of_process());
    let mut written = 0;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let full = full.clone();
            let (to_fill, next) = (&to_fill, &next);
            scope.spawn(move || {
                let mut context = Context::new();
                let take = || to_fill.lock().expect("nobody panics with it").recv().ok();
                while start.elapsed() < time
                    && let Some(mut buffer) = take()
                {
                    let mut filled = 0;
                    while filled < len {
                        let page = &pages[next.fetch_add(1, Ordering::Relaxed) % pages.len()];
                        let bytes = match Lz4.compress(&mut context, page) {
                            Compressed::Bytes(bytes) => bytes,
                            Compressed::Incompressible => &page[..],
                        };
                        let room = (len - filled).min(bytes.len());
                        buffer[filled..filled + room].copy_from_slice(&bytes[..room]);
                        filled += Geometry::blocks_for(bytes.len()) * BLOCK_BYTES;
                    }
                    if full.send(buffer).is_err() {
                        return;
                    }
                }
            });
        }
        drop(full);
        let mut offset = 0;
        while let Ok(buffer) = to_write.recv() {
            // Those who fill may be through.
            let _ = empty.send(write(device, offset, len, buffer));
            (offset, written) = (offset + len as u64, written + len);
        }
    });
    Flow {
        bytes_per_second: written as f64 / start.elapsed().as_secs_f64(),
        cpu: (cpu_of_process() - cpu) / next.load(Ordering::Relaxed) as f64,
    }
}
