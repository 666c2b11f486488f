;; A program that sorts: records are made, sorted by merging, and hashed, in a memory that it grows itself. A record is 64 bytes, of
;; which the first 4 are its key: so pages compress as well as those of programs do.
;;
;;   0        64 KiB             64 KiB + 64n         64 KiB + 128n
;;   | data   | records: n * 64  | room for merging   |
(module
  (memory (export "memory") 1 1024)
  (data (i32.const 16) "a data segment of nineteen and more bytes")

  ;; Grow by so many pages of 64 KiB; the old size, or -1.
  (func (export "grow") (param $pages i32) (result i32)
    (memory.grow (local.get $pages)))

  (func (export "peek") (param $at i32) (result i32)
    (i32.load (local.get $at)))

  (func (export "poke") (param $at i32) (param $value i32)
    (i32.store (local.get $at) (local.get $value)))

  ;; Keys of 20 bits by xorshift.
  (func (export "fill") (param $seed i32) (param $n i32)
    (local $at i32) (local $end i32)
    (local.set $at (i32.const 65536))
    (local.set $end (i32.add (local.get $at) (i32.shl (local.get $n) (i32.const 6))))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $seed (i32.xor (local.get $seed) (i32.shl (local.get $seed) (i32.const 13))))
        (local.set $seed (i32.xor (local.get $seed) (i32.shr_u (local.get $seed) (i32.const 17))))
        (local.set $seed (i32.xor (local.get $seed) (i32.shl (local.get $seed) (i32.const 5))))
        (i32.store (local.get $at) (i32.and (local.get $seed) (i32.const 0xfffff)))
        (local.set $at (i32.add (local.get $at) (i32.const 64)))
        (br $next))))

  ;; Merge runs of 1, 2, 4, ... records to and fro; where the sorted ones lie.
  (func (export "sort") (param $n i32) (result i32)
    (local $from i32) (local $to i32) (local $swap i32)
    (local $width i32) (local $bytes i32) (local $left i32)
    (local $a i32) (local $a_end i32) (local $b i32) (local $b_end i32) (local $out i32)
    (local.set $bytes (i32.shl (local.get $n) (i32.const 6)))
    (local.set $from (i32.const 65536))
    (local.set $to (i32.add (local.get $from) (local.get $bytes)))
    (local.set $width (i32.const 64))
    (block $sorted
      (loop $pass
        (br_if $sorted (i32.ge_u (local.get $width) (local.get $bytes)))
        (local.set $left (i32.const 0))
        (block $merged
          (loop $pair
            (br_if $merged (i32.ge_u (local.get $left) (local.get $bytes)))
            (local.set $a (i32.add (local.get $from) (local.get $left)))
            (local.set $a_end (call $least (i32.add (local.get $left) (local.get $width)) (local.get $bytes)))
            (local.set $b_end (call $least (i32.add (local.get $left) (i32.shl (local.get $width) (i32.const 1))) (local.get $bytes)))
            (local.set $a_end (i32.add (local.get $from) (local.get $a_end)))
            (local.set $b_end (i32.add (local.get $from) (local.get $b_end)))
            (local.set $b (local.get $a_end))
            (local.set $out (i32.add (local.get $to) (local.get $left)))
            (block $pair_done
              (loop $record
                (br_if $pair_done (i32.and (i32.ge_u (local.get $a) (local.get $a_end)) (i32.ge_u (local.get $b) (local.get $b_end))))
                (if (call $take_a (local.get $a) (local.get $a_end) (local.get $b) (local.get $b_end))
                  (then
                    (i32.store (local.get $out) (i32.load (local.get $a)))
                    (local.set $a (i32.add (local.get $a) (i32.const 64))))
                  (else
                    (i32.store (local.get $out) (i32.load (local.get $b)))
                    (local.set $b (i32.add (local.get $b) (i32.const 64)))))
                (local.set $out (i32.add (local.get $out) (i32.const 64)))
                (br $record)))
            (local.set $left (i32.add (local.get $left) (i32.shl (local.get $width) (i32.const 1))))
            (br $pair)))
        (local.set $swap (local.get $from))
        (local.set $from (local.get $to))
        (local.set $to (local.get $swap))
        (local.set $width (i32.shl (local.get $width) (i32.const 1)))
        (br $pass)))
    (local.get $from))

  (func $least (param $a i32) (param $b i32) (result i32)
    (select (local.get $a) (local.get $b) (i32.lt_u (local.get $a) (local.get $b))))

  (func $take_a (param $a i32) (param $a_end i32) (param $b i32) (param $b_end i32) (result i32)
    (if (i32.ge_u (local.get $a) (local.get $a_end)) (then (return (i32.const 0))))
    (if (i32.ge_u (local.get $b) (local.get $b_end)) (then (return (i32.const 1))))
    (i32.le_u (i32.load (local.get $a)) (i32.load (local.get $b))))

  ;; FNV-1a over keys.
  (func (export "hash") (param $at i32) (param $n i32) (result i64)
    (local $end i32) (local $hash i64)
    (local.set $hash (i64.const 0xcbf29ce484222325))
    (local.set $end (i32.add (local.get $at) (i32.shl (local.get $n) (i32.const 6))))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $hash
          (i64.mul
            (i64.xor (local.get $hash) (i64.load32_u (local.get $at)))
            (i64.const 0x100000001b3)))
        (local.set $at (i32.add (local.get $at) (i32.const 64)))
        (br $next)))
    (local.get $hash)))
