//! All models as one program: what they are made of is compiled once. `.ci/loom` runs each test of it in a process of its own.
#![cfg(loom)]

mod arena_frames;
mod compaction;
mod guest_children;
mod guest_gate;
mod guest_pages;
mod handles;
mod mailbox;
mod memcg;
mod memcg_counters;
mod memcg_cursor;
mod memcg_stall;
mod memcg_stock;
mod slots;
mod stale_location;
mod swap_area;
mod swap_devices;
mod swap_quarantine;
mod zram;
mod zsmalloc;
mod zsmalloc_nodes;
mod zsmalloc_zspages;
mod zswap;
mod zswap_lru;
mod zswap_moves;
mod zswap_nodes;
mod zswap_reclaim;
mod zswap_swapins;
mod zswap_swapoff;
