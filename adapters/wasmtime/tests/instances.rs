//! A real program in several instances under one limit: results are those without a limit, the idle ones shrink, traps stay traps.

use std::sync::{Arc, mpsc};
use std::time::Duration;
use wasmtime::{Config, Instance, Module, ResourceLimiter, Store, Trap};
use zspool::guest::Engine;
use zspool::memcg::{Counter, Memcg};
use zspool::zswap::Zswap;
use zspool_wasmtime::Memories;

const PROGRAM: &str = include_str!("program.wat");
/// So many are sorted, of 64 bytes each.
const RECORDS: i32 = 16 << 10;
/// What a program needs: the records, as much for merging, and the first 64 KiB.
const MEMORY: u64 = (64 << 10) + 128 * RECORDS as u64;

/// A lost wake-up must be a failure and not a hang.
fn watched<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = mpsc::channel();
    let thread = std::thread::spawn(move || done.send(body()));
    match result.recv_timeout(Duration::from_secs(240)) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("still not done after 240 seconds"),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(thread.join().unwrap_err()),
    }
}

/// wasmtime's engine and module, with linear memories of our making or of its own.
struct Machine {
    engine: wasmtime::Engine,
    module: Module,
}

impl Machine {
    fn new(memories: Option<&Arc<Memories>>) -> Machine {
        let mut config = Config::new();
        if let Some(memories) = memories {
            memories.configure(&mut config);
        }
        let engine = wasmtime::Engine::new(&config).unwrap();
        let module = Module::new(&engine, PROGRAM).unwrap();
        Machine { engine, module }
    }

    fn program(&self) -> Program {
        let mut store = Store::new(&self.engine, ());
        let instance = Instance::new(&mut store, &self.module, &[]).unwrap();
        Program { store, instance }
    }
}

struct Program {
    store: Store<()>,
    instance: Instance,
}

impl Program {
    fn grow(&mut self, pages: i32) -> i32 {
        let grow = self.instance.get_typed_func::<i32, i32>(&mut self.store, "grow").unwrap();
        grow.call(&mut self.store, pages).unwrap()
    }

    fn peek(&mut self, at: u64) -> Result<i32, Trap> {
        let peek = self.instance.get_typed_func::<i32, i32>(&mut self.store, "peek").unwrap();
        peek.call(&mut self.store, at as u32 as i32).map_err(|e| e.downcast::<Trap>().unwrap())
    }

    fn poke(&mut self, at: u64, value: i32) -> Result<(), Trap> {
        let poke = self.instance.get_typed_func::<(i32, i32), ()>(&mut self.store, "poke").unwrap();
        poke.call(&mut self.store, (at as u32 as i32, value)).map_err(|e| e.downcast::<Trap>().unwrap())
    }

    fn fill(&mut self, seed: i32) {
        let fill = self.instance.get_typed_func::<(i32, i32), ()>(&mut self.store, "fill").unwrap();
        fill.call(&mut self.store, (seed, RECORDS)).unwrap();
    }

    fn hash(&mut self, at: i32) -> i64 {
        let hash = self.instance.get_typed_func::<(i32, i32), i64>(&mut self.store, "hash").unwrap();
        hash.call(&mut self.store, (at, RECORDS)).unwrap()
    }

    fn sort(&mut self) -> i32 {
        let sort = self.instance.get_typed_func::<i32, i32>(&mut self.store, "sort").unwrap();
        sort.call(&mut self.store, RECORDS).unwrap()
    }

    /// The main job: grow, make records, sort them; a hash before and one after.
    fn run(&mut self, seed: i32) -> [i64; 2] {
        assert_eq!(self.grow(((MEMORY - 1) >> 16) as i32), 1);
        self.fill(seed);
        let before = self.hash(65536);
        let at = self.sort();
        [before, self.hash(at)]
    }

    fn base(&mut self) -> *const u8 {
        self.instance.get_memory(&mut self.store, "memory").unwrap().data_ptr(&self.store)
    }

    fn bytes(&mut self) -> u64 {
        self.instance.get_memory(&mut self.store, "memory").unwrap().data_size(&self.store) as u64
    }

    /// Bytes in memory, as the kernel says.
    fn resident(&mut self) -> u64 {
        let (base, bytes) = (self.base(), self.bytes() as usize);
        let mut there = vec![0u8; bytes / 4096];
        // SAFETY: a question about a mapped range, with a byte for each of its pages.
        assert_eq!(unsafe { libc::mincore(base as *mut _, bytes, there.as_mut_ptr()) }, 0);
        there.iter().map(|page| u64::from(page & 1) * 4096).sum()
    }
}

fn group(max: Option<u64>) -> (Engine, Memcg) {
    let engine = Engine::new(Zswap::builder().pool_limit(256 << 20).build().unwrap()).unwrap();
    let group = engine.root().mkdir("programs").unwrap();
    if let Some(max) = max {
        group.set_max(Counter::Memory, max).unwrap();
    }
    (engine, group)
}

#[test]
fn instances_under_one_limit_sort_as_without_one() {
    watched(|| {
        let plain = Machine::new(None);
        let expected: Vec<_> = (1..=4).map(|seed| plain.program().run(seed)).collect();

        let limit = 3 * MEMORY / 2;
        let (engine, group) = group(Some(limit));
        let memories = Memories::new(&engine, &group);
        let machine = Machine::new(Some(&memories));
        let programs: Vec<_> = (1..=4)
            .map(|seed| {
                let mut program = machine.program();
                std::thread::spawn(move || {
                    let result = program.run(seed);
                    (result, program)
                })
            })
            .collect();
        let mut programs: Vec<_> = programs.into_iter().map(|thread| thread.join().unwrap()).collect();
        let results: Vec<_> = programs.iter().map(|(result, _)| *result).collect();
        assert_eq!(results, expected);

        // Four memories do not fit: the limit was at work, and what lies in memory is less than it.
        assert!(group.current(Counter::Memory) <= limit, "{}", group.current(Counter::Memory));
        let resident: u64 = programs.iter_mut().map(|(_, program)| program.resident()).sum();
        assert!(resident <= limit, "{resident} of {limit}");
        assert_eq!(memories.vms().len(), 4);
        drop(programs);
        assert_eq!(memories.vms().len(), 0);
        engine.quiesce();
        assert_eq!(group.current(Counter::Memory), 0, "what was freed is not charged");
        assert!(group.children().is_empty());
    });
}

#[test]
fn an_idle_instance_shrinks_for_a_busy_one_and_wakes_as_it_was() {
    watched(|| {
        let (engine, group) = group(Some(MEMORY + MEMORY / 2));
        let memories = Memories::new(&engine, &group);
        let machine = Machine::new(Some(&memories));
        let mut idle = machine.program();
        let before = idle.run(11);
        let was = idle.resident();
        for seed in 12..15 {
            machine.program().run(seed);
        }
        let is = idle.resident();
        assert!(is < was / 2, "{is} of {was} bytes of the idle one are in memory still");

        // Asked for, all of it goes, and all of it comes back.
        memories.vm_at(idle.base()).unwrap().evict_all();
        assert_eq!(idle.resident(), 0);
        let at = if before[1] == idle.hash(65536) { 65536 } else { 65536 + 64 * RECORDS };
        assert_eq!(idle.hash(at), before[1]);
    });
}

#[test]
fn a_data_segment_is_there_and_behind_the_end_it_traps() {
    watched(|| {
        let (engine, group) = group(None);
        let memories = Memories::new(&engine, &group);
        let machine = Machine::new(Some(&memories));
        let mut program = machine.program();
        assert_eq!(program.peek(16), Ok(i32::from_le_bytes(*b"a da")));
        let vm = memories.vm_at(program.base()).expect("a memory of ours");
        vm.evict_all();

        for size in [1u64 << 16, 4 << 16] {
            assert_eq!(program.bytes(), size);
            assert_eq!(program.peek(size - 4), Ok(0));
            for at in [size - 3, size, size + 4096, 1 << 30, u64::from(u32::MAX)] {
                assert_eq!(program.peek(at), Err(Trap::MemoryOutOfBounds), "at {at:#x} of {size:#x}");
                assert_eq!(program.poke(at, 1), Err(Trap::MemoryOutOfBounds), "at {at:#x} of {size:#x}");
            }
            vm.evict_all();
            // Also while everything that is there is out.
            assert_eq!(program.peek(size), Err(Trap::MemoryOutOfBounds));
            assert_eq!(program.peek(16), Ok(i32::from_le_bytes(*b"a da")));
            if size == 1 << 16 {
                assert_eq!(program.grow(3), 1);
            }
        }
        assert_eq!(program.grow(1 << 20), -1, "more than its maximum");
        assert_eq!(program.peek(16), Ok(i32::from_le_bytes(*b"a da")));
    });
}

#[test]
fn a_memory_that_grows_in_small_steps_has_few_regions() {
    watched(|| {
        let (engine, group) = group(None);
        let memories = Memories::new(&engine, &group);
        let machine = Machine::new(Some(&memories));
        let mut program = machine.program();
        let vm = memories.vm_at(program.base()).unwrap();
        for step in 0..80 {
            assert_eq!(program.grow(1), step + 1);
            program.poke(u64::from(step as u32 + 1) << 16, step).unwrap();
            if step % 7 == 0 {
                vm.evict_all();
            }
        }
        assert!(vm.regions().len() <= 6, "{} regions for 5 MiB", vm.regions().len());
        for step in 0..80 {
            assert_eq!(program.peek(u64::from(step as u32 + 1) << 16), Ok(step));
        }
        // One behind the other, as W1 has it.
        let mut regions: Vec<_> = vm.regions().iter().map(|region| region.addresses.clone()).collect();
        regions.sort_by_key(|range| range.start);
        assert_eq!(regions[0].start, program.base() as usize);
        assert!(regions.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert_eq!(regions.last().unwrap().end, program.base() as usize + program.bytes() as usize);
    });
}

/// Hears why memories could not grow, which wasmtime tells nobody else.
#[derive(Default)]
struct Listener {
    heard: Vec<String>,
}

impl ResourceLimiter for Listener {
    fn memory_growing(&mut self, _current: usize, _desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.heard.push(format!("{error:?}"));
        Ok(())
    }

    fn table_growing(&mut self, _current: usize, _desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}

#[test]
fn a_memory_that_would_have_to_move_says_what_to_raise() {
    watched(|| {
        let (engine, group) = group(None);
        let memories = Memories::new(&engine, &group);
        let mut config = Config::new();
        memories.configure(&mut config);
        config.memory_reservation(1 << 20).wasm_memory64(true);
        config.memory_guard_size(0);
        let engine = wasmtime::Engine::new(&config).unwrap();
        let module = Module::new(&engine, r#"(module (memory (export "memory") i64 1))"#).unwrap();
        let mut store = Store::new(&engine, Listener::default());
        store.limiter(|listener| listener);
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        memory.grow(&mut store, 15).unwrap();
        memory.grow(&mut store, 1).unwrap_err();
        assert_eq!(memory.data_size(&store), 1 << 20);
        let heard = &store.data().heard;
        assert!(heard.len() == 1 && heard[0].contains("raise `Config::memory_reservation`"), "{heard:?}");
    });
}
