//! An emulator in its smallest form: an interpreter of 22 instructions whose guest sorts and hashes in memory that has a limit of a
//! quarter of it, and gets what it gets without one.
//!
//! ```text
//!   host     | interpreter: registers r0..r15, pc |
//!                | load, store: plain accesses to ram[address]
//!   guest    | program | records ...                        | room for merging ...               |
//!            0         4096                                 4096 + 64n                           4096 + 128n
//! ```
//!
//! Faults are served in the interpreter's own thread (SIGBUS), so this needs no root, and no thread of its own.
//!
//! Run it: `cargo run --release --features guest --example guest_interpreter`

use memmap2::MmapMut;
use std::error::Error;
use std::time::Instant;
use zspool::guest::memory::Memory;
use zspool::guest::{Engine, VmOptions};
use zspool::memcg::Counter;
use zspool::zswap::Zswap;

/// Records to be sorted, of 64 bytes, the first 4 of which are the key.
const RECORDS: u32 = 1 << 15;
/// Where they lie in the guest.
const DATA: u32 = 4096;
/// The guest's memory: the program, the records, and as much room again for merging.
const BYTES: usize = DATA as usize + 128 * RECORDS as usize;

/// An enum, and all its values in their order.
macro_rules! operations {
    ($(#[$about:meta])* enum $name:ident as $all:ident: $($(#[$does:meta])* $op:ident,)*) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        enum $name {
            $($(#[$does])* $op,)*
        }

        const $all: &[$name] = &[$($name::$op),*];
    };
}

operations! {
    /// One instruction: 4 bytes, operation | a | b | c, where a, b and c are registers or small numbers.
    enum Op as OPS:
    /// End.
    Halt,
    /// a = the 32 bits after this instruction.
    Set,
    /// a = b.
    Move,
    Add,
    Sub,
    Mul,
    Xor,
    And,
    /// a = b << c, the number.
    ShiftLeft,
    /// a = b >> c, the number.
    ShiftRight,
    /// a = 32 bits at [b].
    Load,
    /// 32 bits at [b] = a.
    Store,
    /// a = 8 bits at [b].
    LoadByte,
    /// 8 bits at [b] = a.
    StoreByte,
    /// Go to the address in the 32 bits after this instruction: always,
    Jump,
    /// where a < b,
    JumpLess,
    /// where a >= b,
    JumpNotLess,
    /// where a = b,
    JumpEqual,
    /// or where not.
    JumpNotEqual,
    /// a = a + c, the number.
    Increase,
    /// The lesser of b and c.
    Least,
    /// Swap a and b.
    Swap,
}

/// Puts a program together: instructions, and labels that may be used before they are known.
#[derive(Default)]
struct Assembler {
    words: Vec<u32>,
    labels: Vec<(&'static str, u32)>,
    uses: Vec<(usize, &'static str)>,
}

impl Assembler {
    fn op(&mut self, op: Op, a: u8, b: u8, c: u8) -> &mut Self {
        self.words.push(u32::from_le_bytes([op as u8, a, b, c]));
        self
    }

    fn set(&mut self, a: u8, value: u32) -> &mut Self {
        self.op(Op::Set, a, 0, 0);
        self.words.push(value);
        self
    }

    fn label(&mut self, name: &'static str) -> &mut Self {
        self.labels.push((name, self.words.len() as u32 * 4));
        self
    }

    fn jump(&mut self, op: Op, a: u8, b: u8, to: &'static str) -> &mut Self {
        self.op(op, a, b, 0);
        self.uses.push((self.words.len(), to));
        self.words.push(0);
        self
    }

    fn bytes(mut self) -> Vec<u8> {
        for (at, name) in self.uses {
            self.words[at] = self.labels.iter().find(|(label, _)| *label == name).expect("a label").1;
        }
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// Make `RECORDS` records with keys of 16 bits from the seed in r0, sort them by merging, and leave the hash of their bytes (FNV-1a) in r0, the sum of the keys
/// in r1, and where they lie in r2; 0 in r0 if they are not sorted, or not the same.
fn program() -> Vec<u8> {
    use Op::*;
    let mut p = Assembler::default();
    let (bytes, from, to) = (3, 4, 5); // their length; where runs are merged from, and where to
    p.set(bytes, 64 * RECORDS).set(from, DATA).op(Add, to, from, bytes);
    // Make records: r0 xorshift, r6 at, r7 end.
    p.op(Move, 6, from, 0).op(Add, 7, from, bytes).set(10, 0xffff);
    p.label("make");
    p.op(ShiftLeft, 8, 0, 13)
        .op(Xor, 0, 0, 8)
        .op(ShiftRight, 8, 0, 17)
        .op(Xor, 0, 0, 8)
        .op(ShiftLeft, 8, 0, 5)
        .op(Xor, 0, 0, 8);
    p.op(And, 8, 0, 10).op(Store, 8, 6, 0).op(Increase, 6, 0, 64).jump(JumpLess, 6, 7, "make");
    // The sum of all keys before: r1, to be compared with the sum after.
    p.set(1, 0).op(Move, 6, from, 0);
    p.label("sum").op(Load, 8, 6, 0).op(Add, 1, 1, 8).op(Increase, 6, 0, 64).jump(JumpLess, 6, 7, "sum");
    // Merge runs of r9 bytes: 64, 128, 256, ...
    p.set(9, 64);
    p.label("pass").jump(JumpNotLess, 9, bytes, "sorted").set(11, 0); // r11: where the pair of runs begins
    p.label("pair").jump(JumpNotLess, 11, bytes, "passed");
    p.op(Add, 6, 11, 9).op(Least, 6, 6, bytes).op(Add, 12, from, 6); // r12: end of a, and beginning of b
    p.op(ShiftLeft, 8, 9, 1).op(Add, 8, 11, 8).op(Least, 8, 8, bytes).op(Add, 13, from, 8); // r13: end of b
    p.op(Add, 6, from, 11).op(Move, 7, 12, 0).op(Add, 14, to, 11); // r6 in a, r7 in b, r14 in the result
    p.label("next");
    p.jump(JumpNotLess, 6, 12, "from b").jump(JumpNotLess, 7, 13, "from a");
    p.op(Load, 8, 6, 0).op(Load, 10, 7, 0).jump(JumpLess, 10, 8, "b");
    p.label("a").op(Store, 8, 14, 0).op(Increase, 6, 0, 64).op(Increase, 14, 0, 64).jump(Jump, 0, 0, "next");
    p.label("b").op(Store, 10, 14, 0).op(Increase, 7, 0, 64).op(Increase, 14, 0, 64).jump(Jump, 0, 0, "next");
    p.label("from a").jump(JumpNotLess, 6, 12, "merged").op(Load, 8, 6, 0).jump(Jump, 0, 0, "a");
    p.label("from b").jump(JumpNotLess, 7, 13, "merged").op(Load, 10, 7, 0).jump(Jump, 0, 0, "b");
    p.label("merged").op(ShiftLeft, 8, 9, 1).op(Add, 11, 11, 8).jump(Jump, 0, 0, "pair");
    p.label("passed").op(Swap, from, to, 0).op(ShiftLeft, 9, 9, 1).jump(Jump, 0, 0, "pass");
    // Sorted: the sum must be as before, each key at least the one before it; then the hash of their bytes.
    p.label("sorted").op(Move, 6, from, 0).op(Add, 7, from, bytes).set(8, 0).set(11, 0);
    p.label("check")
        .op(Load, 10, 6, 0)
        .jump(JumpLess, 10, 11, "wrong")
        .op(Move, 11, 10, 0)
        .op(Add, 8, 8, 10)
        .op(Increase, 6, 0, 64);
    p.jump(JumpLess, 6, 7, "check").jump(JumpNotEqual, 8, 1, "wrong");
    p.set(0, 0x811c_9dc5).set(12, 0x0100_0193).op(Move, 6, from, 0);
    p.label("hash")
        .op(LoadByte, 8, 6, 0)
        .op(Xor, 0, 0, 8)
        .op(Mul, 0, 0, 12)
        .op(Increase, 6, 0, 1)
        .jump(JumpLess, 6, 7, "hash");
    p.op(Move, 2, from, 0).op(Halt, 0, 0, 0);
    p.label("wrong").set(0, 0).op(Halt, 0, 0, 0);
    p.bytes()
}

/// Run the program in `ram` until it halts: its registers, and how many instructions it took.
fn interpret(ram: &mut [u8], seed: u32) -> ([u32; 16], u64) {
    let mut r = [0u32; 16];
    r[0] = seed;
    let mut pc = 0usize;
    let word = |ram: &[u8], at: usize| u32::from_le_bytes(*ram[at..].first_chunk().expect("4 bytes"));
    for count in 1.. {
        let [op, a, b, c] = *ram[pc..].first_chunk::<4>().expect("4 bytes");
        let (a, b) = (usize::from(a), usize::from(b));
        pc += 4;
        let jumps = match OPS[usize::from(op)] {
            Op::Halt => return (r, count),
            Op::Set => {
                r[a] = word(ram, pc);
                pc += 4;
                None
            }
            Op::Jump => Some(true),
            Op::JumpLess => Some(r[a] < r[b]),
            Op::JumpNotLess => Some(r[a] >= r[b]),
            Op::JumpEqual => Some(r[a] == r[b]),
            Op::JumpNotEqual => Some(r[a] != r[b]),
            op => {
                let d = r[usize::from(c) % 16];
                match op {
                    Op::Move => r[a] = r[b],
                    Op::Add => r[a] = r[b].wrapping_add(d),
                    Op::Sub => r[a] = r[b].wrapping_sub(d),
                    Op::Mul => r[a] = r[b].wrapping_mul(d),
                    Op::Xor => r[a] = r[b] ^ d,
                    Op::And => r[a] = r[b] & d,
                    Op::ShiftLeft => r[a] = r[b] << c,
                    Op::ShiftRight => r[a] = r[b] >> c,
                    Op::Load => r[a] = word(ram, r[b] as usize),
                    Op::Store => ram[r[b] as usize..][..4].copy_from_slice(&r[a].to_le_bytes()),
                    Op::LoadByte => r[a] = u32::from(ram[r[b] as usize]),
                    Op::StoreByte => ram[r[b] as usize] = r[a] as u8,
                    Op::Increase => r[a] = r[a].wrapping_add(u32::from(c)),
                    Op::Least => r[a] = r[b].min(d),
                    Op::Swap => r.swap(a, b),
                    _ => unreachable!("matched above"),
                }
                None
            }
        };
        match jumps {
            Some(true) => pc = word(ram, pc) as usize,
            Some(false) => pc += 4,
            None => {}
        }
    }
    unreachable!("a program halts before 2^64 instructions")
}

/// Load the program, run it, and say how long it took.
fn run(ram: &mut [u8], seed: u32, what: &str) -> [u32; 3] {
    let program = program();
    assert!(program.len() <= DATA as usize);
    ram[..program.len()].copy_from_slice(&program);
    let start = Instant::now();
    let (r, count) = interpret(ram, seed);
    assert_ne!(r[0], 0, "the guest found its records wrong");
    println!("{what}: {count} instructions in {:.2} s, hash {:08x}", start.elapsed().as_secs_f64(), r[0]);
    [r[0], r[1], r[2]]
}

fn main() -> Result<(), Box<dyn Error>> {
    let bytes = BYTES.next_multiple_of(4096);
    let expected = run(&mut MmapMut::map_anon(bytes)?, 2463534242, "without a limit");

    let mut ram = MmapMut::map_anon(bytes)?;
    let engine = Engine::new(Zswap::builder().pool_limit(64 << 20).build()?)?;
    let group = engine.root().mkdir("guest")?;
    group.set_max(Counter::Memory, bytes as u64 / 4)?;
    let vm = engine.vm(&group, VmOptions::new())?;
    // SAFETY: `ram` stays mapped as it is until `unregister` below; an early return unregisters `region` before it unmaps `ram`.
    let region = unsafe { vm.register(Memory::anonymous(ram.as_mut_ptr(), bytes)) }?;
    let limited = run(&mut ram, 2463534242, "with a quarter ");
    assert_eq!(limited, expected);
    println!(
        "memory.current {} of {}, of {bytes} bytes of guest",
        group.current(Counter::Memory),
        group.max(Counter::Memory)
    );
    assert!(group.current(Counter::Memory) <= bytes as u64 / 4);
    let faults = vm.stats().fault_nanos();
    println!(
        "{} faults, half of them within {} ns, 99 of 100 within {} ns",
        faults.count(),
        faults.p50(),
        faults.p99()
    );

    group.set_max(Counter::Memory, u64::MAX)?;
    region.unregister().map_err(|(_, error)| error)?;
    Ok(())
}
