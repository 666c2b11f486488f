//! [`Topology`]: the nodes frames can lie on, this machine's or simulated ones.
//!
//! ```text
//! NodeId (dense)          N0    N1    N2
//! kernel's number          0     1     4        online nodes with memory, in order
//! capacity in bytes        -     -     -        simulated nodes may have one
//! ```

use crate::units::{MAX_NODES, NodeId};
use std::fs;
use std::path::Path;

/// Distance of a node to itself, as the firmware tables have it.
const LOCAL: u32 = 10;
/// Distance to another node where nothing says otherwise.
const REMOTE: u32 = 20;

/// The nodes frames can lie on, numbered densely, and how far they are from each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    nodes: Vec<Node>,
    simulated: bool,
    /// Simulated nodes that are full send frames elsewhere, as the kernel's do.
    falls_back: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    /// The kernel's number; of a simulated node, its own.
    kernel: u32,
    /// Bytes that may be backed there; `None`: what the kernel gives.
    capacity: Option<u64>,
    /// Distance to each node.
    distances: Vec<u32>,
    /// All nodes, nearest first, itself before any.
    order: Vec<NodeId>,
}

impl Topology {
    /// This machine's online nodes with memory (the first [`MAX_NODES`] of them). One node where the system does not
    /// tell.
    pub fn detect() -> Self {
        Self::read(Path::new("/sys/devices/system/node"))
    }

    /// `n` nodes of one's own on any machine, without capacities, all as far from each other.
    ///
    /// ```
    /// use zspool::arena::Topology;
    /// use zspool::units::NodeId;
    ///
    /// let topology = Topology::simulated(3).with_capacity(NodeId(1), 1 << 20).with_distance(NodeId(0), NodeId(2), 15);
    /// assert_eq!(topology.by_distance(NodeId(0)), [NodeId(0), NodeId(2), NodeId(1)]);
    /// ```
    ///
    /// # Panics
    /// When `n` is 0 or above [`MAX_NODES`].
    pub fn simulated(n: usize) -> Self {
        assert!((1..=MAX_NODES).contains(&n), "a topology has 1 to {MAX_NODES} nodes, not {n}");
        let distances = |from| (0..n).map(|to| if to == from { LOCAL } else { REMOTE }).collect();
        Self::new((0..n).map(|k| (k as u32, distances(k))).collect(), true)
    }

    /// The same with room for `bytes` on a node. Whole frames fit: the rest of the last one is not used.
    ///
    /// # Panics
    /// When there is no such node, or the nodes are this machine's: their capacity is the kernel's to say.
    pub fn with_capacity(mut self, node: NodeId, bytes: u64) -> Self {
        assert!(self.simulated, "only a simulated topology has capacities of one's own");
        self.nodes[node.index()].capacity = Some(bytes);
        self
    }

    /// The same with `distance` between two nodes, in both directions (10 is a node to itself, 20 the default).
    ///
    /// # Panics
    /// When there is no such node, or the nodes are this machine's.
    pub fn with_distance(mut self, a: NodeId, b: NodeId, distance: u32) -> Self {
        assert!(self.simulated, "only a simulated topology has distances of one's own");
        self.nodes[a.index()].distances[b.index()] = distance;
        self.nodes[b.index()].distances[a.index()] = distance;
        self.sort();
        self
    }

    /// The same with nodes that do as a kernel's: where one is full, each frame that does not fit comes to lie on the nearest
    /// other that has room, and only when all are full is anything refused. Without it, a full node refuses.
    ///
    /// # Panics
    /// When the nodes are this machine's.
    pub fn with_fallback(mut self) -> Self {
        assert!(self.simulated, "the kernel decides itself what it does when a node is full");
        self.falls_back = true;
        self
    }

    fn new(nodes: Vec<(u32, Vec<u32>)>, simulated: bool) -> Self {
        let nodes = nodes
            .into_iter()
            .map(|(kernel, distances)| Node { kernel, capacity: None, distances, order: Vec::new() })
            .collect();
        let mut topology = Topology { nodes, simulated, falls_back: false };
        topology.sort();
        topology
    }

    fn sort(&mut self) {
        let count = self.nodes.len();
        for (from, node) in self.nodes.iter_mut().enumerate() {
            node.order = (0..count).map(|to| NodeId(to as u8)).collect();
            // Equal distances stay in the order of numbers, counted on from the node, so that neighbours differ in whom they
            // burden.
            let around = |to: NodeId| (to.index() + count - from) % count;
            node.order.sort_by_key(|&to| (to.index() != from, node.distances[to.index()], around(to)));
        }
    }

    fn read(dir: &Path) -> Self {
        let list = |name: &str| parse_list(&fs::read_to_string(dir.join(name)).ok()?);
        let online = list("online").unwrap_or_default();
        let with_memory = list("has_memory").unwrap_or_else(|| online.clone());
        let used: Vec<(usize, u32)> = (online.iter().copied().enumerate())
            .filter(|(_, kernel)| with_memory.contains(kernel))
            .take(MAX_NODES)
            .collect();
        if used.is_empty() {
            return Self::new(vec![(0, vec![LOCAL])], false);
        }
        let nodes = used.iter().map(|&(own_column, kernel)| {
            // A row has one column per online node.
            let row = fs::read_to_string(dir.join(format!("node{kernel}/distance"))).unwrap_or_default();
            let row: Vec<Option<u32>> = row.split_whitespace().map(|word| word.parse().ok()).collect();
            let otherwise = |column| if column == own_column { LOCAL } else { REMOTE };
            let distance =
                |&(column, _): &(usize, u32)| row.get(column).copied().flatten().unwrap_or(otherwise(column));
            (kernel, used.iter().map(distance).collect())
        });
        Self::new(nodes.collect(), false)
    }

    /// Number of nodes, at least 1.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u8).map(NodeId)
    }

    /// Whether the nodes are made up.
    pub fn is_simulated(&self) -> bool {
        self.simulated
    }

    /// Bytes that may be backed on the node; `None` where the kernel decides.
    ///
    /// # Panics
    /// When there is no such node (so do the questions below).
    pub fn capacity(&self, node: NodeId) -> Option<u64> {
        self.nodes[node.index()].capacity
    }

    /// Distance between two nodes; 10 is a node to itself.
    pub fn distance(&self, from: NodeId, to: NodeId) -> u32 {
        self.nodes[from.index()].distances[to.index()]
    }

    /// All nodes, `from` first, then the nearest: the order to spill in.
    pub fn by_distance(&self, from: NodeId) -> &[NodeId] {
        &self.nodes[from.index()].order
    }

    /// The kernel's number of a node.
    pub fn kernel_node(&self, node: NodeId) -> u32 {
        self.nodes[node.index()].kernel
    }

    /// The node that the kernel has under this number, if it is one of ours.
    pub fn from_kernel(&self, kernel: u32) -> Option<NodeId> {
        self.nodes.iter().position(|node| node.kernel == kernel).map(|index| NodeId(index as u8))
    }

    /// Whether frames must be told where to lie: several real nodes.
    pub(super) fn is_numa(&self) -> bool {
        !self.simulated && self.nodes.len() > 1
    }

    /// The nodes to try for a frame wanted on `node`, in order.
    pub(super) fn homes(&self, node: NodeId) -> &[NodeId] {
        let order = self.by_distance(node);
        if self.falls_back { order } else { &order[..1] }
    }

    /// A topology that claims nodes of the kernel, whether it has them or not.
    #[cfg(test)]
    pub(super) fn claiming(kernel_nodes: &[u32]) -> Self {
        let distances = vec![REMOTE; kernel_nodes.len()];
        Self::new(kernel_nodes.iter().map(|&kernel| (kernel, distances.clone())).collect(), false)
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self::detect()
    }
}

/// `"0-2,4"`, as sysfs writes sets, ascending. `None` for anything else. Not a [`NodeMask`](crate::units::NodeMask): the kernel's
/// numbers go beyond what a mask has bits for.
fn parse_list(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        // The kernel has at most 1024 nodes; a longer range is no such file.
        if first > last || last > 4096 {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> Topology {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Topology::read(dir.path())
    }

    fn order(topology: &Topology, from: u8) -> Vec<u8> {
        topology.by_distance(NodeId(from)).iter().map(|node| node.0).collect()
    }

    #[test]
    fn nodes_with_memory_are_numbered_densely() {
        let topology = machine(&[
            ("online", "0-1,4-5\n"),
            ("has_memory", "0,4-5\n"),
            ("node0/distance", "10 11 30 21\n"),
            ("node4/distance", "30 31 10 40\n"),
            ("node5/distance", "21 22 40 10\n"),
        ]);
        assert_eq!(topology.len(), 3);
        assert_eq!([0, 1, 2].map(|n| topology.kernel_node(NodeId(n))), [0, 4, 5]);
        assert_eq!(
            [0, 1, 4, 5].map(|k| topology.from_kernel(k)),
            [Some(NodeId(0)), None, Some(NodeId(1)), Some(NodeId(2))]
        );
        assert_eq!(topology.distance(NodeId(0), NodeId(2)), 21);
        assert_eq!([order(&topology, 0), order(&topology, 1), order(&topology, 2)], [[0, 2, 1], [1, 0, 2], [2, 0, 1]]);
        assert!(topology.is_numa() && !topology.is_simulated());
    }

    #[test]
    fn a_machine_that_tells_nothing_has_one_node() {
        for files in [&[][..], &[("online", "what\n")], &[("online", "\n")], &[("online", "5-2\n")]] {
            let topology = machine(files);
            assert_eq!((topology.len(), topology.kernel_node(NodeId(0)), topology.is_numa()), (1, 0, false));
        }
    }

    #[test]
    fn missing_or_odd_distances_count_as_remote() {
        let topology = machine(&[("online", "0-2\n"), ("node1/distance", "17 10\n"), ("node2/distance", "x 12 10")]);
        let row = |from| [0, 1, 2].map(|to| topology.distance(NodeId(from), NodeId(to)));
        assert_eq!([row(0), row(1), row(2)], [[10, 20, 20], [17, 10, 20], [20, 12, 10]]);
    }

    #[test]
    fn this_machine_has_a_node_that_is_nearest_to_itself() {
        let topology = Topology::detect();
        for node in topology.nodes() {
            assert_eq!(topology.by_distance(node)[0], node);
            assert_eq!(topology.from_kernel(topology.kernel_node(node)), Some(node));
        }
        assert!(topology.len() >= 1);
    }

    #[test]
    fn every_order_starts_at_home_and_names_each_node_once() {
        for n in [1, 2, 7, MAX_NODES] {
            let topology = Topology::simulated(n);
            for from in topology.nodes() {
                let order = topology.by_distance(from);
                assert_eq!(order[0], from);
                let mut sorted = order.to_vec();
                sorted.sort();
                assert_eq!(sorted, topology.nodes().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    #[should_panic(expected = "1 to 64 nodes")]
    fn no_nodes_panic() {
        Topology::simulated(0);
    }
}
