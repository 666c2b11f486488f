//! [`Groups`]: a plain model of a memcg tree's limits and charges.

use zspool::memcg::{LimitHit, Memcg};
use zspool::units::NodeMask;

/// A memcg as the model knows it.
#[derive(Debug)]
struct Group {
    /// The real one.
    memcg: Memcg,
    parent: Option<usize>,
    limit: u64,
    /// Nodes it allows itself.
    nodes: NodeMask,
    /// Charged to it and all below.
    usage: u64,
    online: bool,
}

/// A tree. Groups are named by their place in the list, which offline ones keep.
#[derive(Debug)]
pub struct Groups(Vec<Group>);

impl Groups {
    /// Only the root.
    pub fn new(root: Memcg) -> Self {
        let nodes = root.own_nodes();
        Groups(vec![Group { memcg: root, parent: None, limit: u64::MAX, nodes, usage: 0, online: true }])
    }

    /// An online group by any number.
    pub fn pick(&self, n: u8) -> usize {
        let online: Vec<usize> = (0..self.0.len()).filter(|&g| self.0[g].online).collect();
        online[n as usize % online.len()]
    }

    /// The real one.
    pub fn memcg(&self, g: usize) -> &Memcg {
        &self.0[g].memcg
    }

    /// What is charged to the root.
    pub fn total(&self) -> u64 {
        self.0[0].usage
    }

    /// The nearest one online: who is charged for what the group left.
    fn current(&self, mut g: usize) -> usize {
        while !self.0[g].online {
            g = self.0[g].parent.expect("the root is online");
        }
        g
    }

    fn upwards(&self, g: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(Some(g), |&g| self.0[g].parent)
    }

    /// Whether the charge fits every limit.
    pub fn fits(&self, g: usize, bytes: u64) -> bool {
        self.upwards(g).all(|g| self.0[g].usage + bytes <= self.0[g].limit)
    }

    /// Check that the refusal of a charge is right, and that its numbers are.
    pub fn check_hit(&self, g: usize, bytes: u64, hit: &LimitHit) {
        assert!(!self.fits(g, bytes), "{hit}, but there is room");
        let at = self.upwards(g).find(|&g| self.0[g].memcg == *hit.memcg()).expect("a limit hit is one of an ancestor");
        let group = &self.0[at];
        assert_eq!((hit.usage(), hit.limit(), hit.asked()), (group.usage, group.limit, bytes), "{hit}");
        assert!(group.usage + bytes > group.limit, "{hit}, but that one has room");
    }

    /// Count a charge in.
    pub fn charge(&mut self, g: usize, bytes: u64) {
        let way: Vec<usize> = self.upwards(g).collect();
        way.into_iter().for_each(|g| self.0[g].usage += bytes);
    }

    /// Count what the group was charged out: of whoever has it now.
    pub fn uncharge(&mut self, g: usize, bytes: u64) {
        let way: Vec<usize> = self.upwards(self.current(g)).collect();
        way.into_iter().for_each(|g| self.0[g].usage -= bytes);
    }

    /// Make a child.
    pub fn mkdir(&mut self, parent: usize) {
        let memcg = self.0[parent].memcg.mkdir(&format!("m{}", self.0.len())).expect("the name is new");
        let nodes = self.0[0].memcg.tree().nodes();
        let nodes = NodeMask::first(nodes);
        self.0.push(Group { memcg, parent: Some(parent), limit: u64::MAX, nodes, usage: 0, online: true });
    }

    /// Groups ever made.
    pub fn made(&self) -> usize {
        self.0.len()
    }

    /// Set the limit.
    pub fn set_limit(&mut self, g: usize, limit: u64) {
        self.0[g].limit = limit;
        self.0[g].memcg.set_zswap_max(limit).expect("it is online");
    }

    /// The nodes that the group and all above it allow.
    pub fn nodes(&self, g: usize) -> NodeMask {
        self.upwards(self.current(g)).fold(NodeMask::from_bits(u64::MAX), |mask, g| mask & self.0[g].nodes)
    }

    /// Set the nodes it allows, if it is possible: whether it was.
    pub fn set_nodes(&mut self, g: usize, mask: NodeMask) -> bool {
        let all = NodeMask::first(self.0[0].memcg.tree().nodes());
        let old = std::mem::replace(&mut self.0[g].nodes, mask);
        let below = (0..self.0.len()).filter(|&other| self.0[other].online && self.upwards(other).any(|up| up == g));
        let possible = all.covers(mask) && below.into_iter().all(|other| !self.nodes(other).is_empty());
        if !possible {
            self.0[g].nodes = old;
        }
        assert_eq!(self.0[g].memcg.set_nodes(mask).is_ok(), possible, "{mask:?} for {}", self.0[g].memcg.path());
        possible
    }

    /// Take it offline, if it is possible. Returns what it was charged then.
    pub fn offline(&mut self, g: usize) -> Option<u64> {
        let possible = g != 0 && !self.0.iter().any(|other| other.online && other.parent == Some(g));
        assert_eq!(self.0[g].memcg.offline().is_ok(), possible, "{} is taken offline", self.0[g].memcg.path());
        if !possible {
            return None;
        }
        self.0[g].online = false;
        assert!(self.0[g].memcg.objcg().is_err() && self.0[g].memcg.offline().is_err());
        Some(self.0[g].usage)
    }

    /// Compare every group.
    pub fn check(&self) {
        for group in &self.0 {
            let expected = if group.online { group.usage } else { 0 };
            assert_eq!(group.memcg.usage(), expected, "{} is charged", group.memcg.path());
            if group.online {
                let way = self.upwards(self.0.iter().position(|other| std::ptr::eq(other, group)).expect("it is one"));
                let nodes = way.fold(NodeMask::from_bits(u64::MAX), |mask, g| mask & self.0[g].nodes);
                assert_eq!(group.memcg.nodes(), nodes, "{} may use", group.memcg.path());
                let stat = group.memcg.stat().expect("it is online");
                assert_eq!(stat.bytes.compressed, expected, "{} counts its slots", group.memcg.path());
            }
        }
    }
}
