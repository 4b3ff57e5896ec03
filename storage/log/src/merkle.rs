//! Merkle trees over chunk records, and over runs (RFC 6962 §2.1): a hash that stands for many records, and short proofs that a
//! record is one of them.
//!
//! Constraints: no I/O. Memory for a root is one hash per level of the tree, whatever the number of leaves.

use crate::Run;
use sha2::{Digest, Sha256};
use sidetone_model::MerkleRoot;

/// Told apart by their first byte, so that no leaf can pass for a node.
const LEAF_PREFIX: u8 = 0;
const NODE_PREFIX: u8 = 1;

type Hash = [u8; 32];

/// Hash of one leaf: for a run's tree the whole chunk record as it is stored, without the fill behind it.
pub fn leaf_hash(leaf: &[u8]) -> MerkleRoot {
    MerkleRoot(Sha256::new().chain_update([LEAF_PREFIX]).chain_update(leaf).finalize().into())
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([NODE_PREFIX]).chain_update(left).chain_update(right).finalize().into()
}

/// Takes leaves in order and gives the root of the tree over them.
#[derive(Clone, Debug, Default)]
pub struct MerkleTree {
    /// Roots of the complete subtrees at the left, from the largest to the smallest: one for each bit of `leaves`.
    subtrees: Vec<Hash>,
    leaves: u64,
}

impl MerkleTree {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, leaf: &[u8]) {
        self.push_hash(leaf_hash(leaf));
    }

    /// As [`Self::push`], of a leaf whose [`leaf_hash`] is known.
    pub fn push_hash(&mut self, leaf: MerkleRoot) {
        let mut hash = leaf.0;
        // As adding one carries over the trailing ones of a binary number.
        for _ in 0..self.leaves.trailing_ones() {
            let left = self.subtrees.pop().expect("a subtree for each bit of the number of leaves");
            hash = node_hash(&left, &hash);
        }
        self.subtrees.push(hash);
        self.leaves += 1;
    }

    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// Of the leaves so far; without any, the hash of nothing.
    pub fn root(&self) -> MerkleRoot {
        let root = self.subtrees.iter().rev().copied().reduce(|right, left| node_hash(&left, &right));
        MerkleRoot(root.unwrap_or_else(|| Sha256::digest([]).into()))
    }
}

/// Root over the runs of a recording: its leaves are their roots, in the order of (first grid step, volume, segment, offset).
pub fn recording_root(runs: &[Run]) -> MerkleRoot {
    let mut runs: Vec<&Run> = runs.iter().collect();
    runs.sort_by_key(|run| (run.first_tick, run.volume, run.segment, run.offset));
    let mut tree = MerkleTree::new();
    for run in runs {
        tree.push(&run.root.0);
    }
    tree.root()
}

/// The hashes that lead from the leaf at `index` up to the root over `leaves` (their [`leaf_hash`]es), nearest first: one for
/// each level at which the leaf's subtree has a sibling. `None` when there is no such leaf.
pub fn inclusion_proof(leaves: &[MerkleRoot], index: usize) -> Option<Vec<MerkleRoot>> {
    if index >= leaves.len() {
        return None;
    }
    let (mut leaves, mut index) = (leaves, index);
    let mut path = Vec::new();
    while leaves.len() > 1 {
        let (left, right) = leaves.split_at(left_leaves(leaves.len()));
        let (inside, sibling) = if index < left.len() { (left, right) } else { (right, left) };
        if index >= left.len() {
            index -= left.len();
        }
        let mut tree = MerkleTree::new();
        sibling.iter().for_each(|&leaf| tree.push_hash(leaf));
        path.push(tree.root());
        leaves = inside;
    }
    path.reverse();
    Some(path)
}

/// Whether `path` proves that `leaf` (its [`leaf_hash`]) is number `index` of the `leaves` under `root`.
pub fn check_inclusion(leaf: MerkleRoot, index: u64, leaves: u64, path: &[MerkleRoot], root: MerkleRoot) -> bool {
    if index >= leaves {
        return false;
    }
    // From the root down: on which side of each node the leaf lies.
    let (mut index, mut leaves) = (index, leaves);
    let mut at_left = Vec::new();
    while leaves > 1 {
        let left = 1 << (leaves - 1).ilog2();
        at_left.push(index < left);
        (index, leaves) = if index < left { (index, left) } else { (index - left, leaves - left) };
    }
    if at_left.len() != path.len() {
        return false;
    }
    let hash = at_left.iter().rev().zip(path).fold(leaf.0, |hash, (&at_left, sibling)| {
        if at_left { node_hash(&hash, &sibling.0) } else { node_hash(&sibling.0, &hash) }
    });
    hash == root.0
}

/// Of `leaves` > 1, so many lie under the root's left child: the largest power of two below `leaves`.
fn left_leaves(leaves: usize) -> usize {
    1 << (leaves - 1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition of RFC 6962 §2.1, word by word.
    fn definition(leaves: &[Vec<u8>]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [leaf] => Sha256::digest([&[0], &leaf[..]].concat()).into(),
            _ => {
                let mut split = 1;
                while split * 2 < leaves.len() {
                    split *= 2;
                }
                let (left, right) = (definition(&leaves[..split]), definition(&leaves[split..]));
                Sha256::digest([&[1], &left[..], &right[..]].concat()).into()
            }
        }
    }

    fn tree_of(leaves: &[Vec<u8>]) -> MerkleTree {
        let mut tree = MerkleTree::new();
        leaves.iter().for_each(|leaf| tree.push(leaf));
        tree
    }

    /// The leaves with which implementations of certificate transparency are tested, and the roots of the first 0 ..= 8.
    #[test]
    fn the_roots_are_those_of_certificate_transparency() {
        let leaves =
            ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
        let leaves: Vec<Vec<u8>> = leaves
            .iter()
            .map(|text| {
                (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
            })
            .collect();
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        for (count, root) in roots.iter().enumerate() {
            assert_eq!(tree_of(&leaves[..count]).root().to_string(), *root, "{count} leaves");
        }
    }

    proptest! {
        #[test]
        fn a_root_is_what_the_definition_says(leaves in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..70)) {
            let tree = tree_of(&leaves);
            prop_assert_eq!(tree.root(), MerkleRoot(definition(&leaves)));
            prop_assert_eq!(tree.leaves(), leaves.len() as u64);
            // One hash a level.
            prop_assert!(tree.subtrees.len() <= 7);
        }

        #[test]
        fn a_proof_holds_for_its_leaf_and_for_nothing_else(
            count in 1usize..40, index in 0usize..40, other in 0usize..40, bit in 0usize..256, part in 0usize..8,
        ) {
            let leaves: Vec<Vec<u8>> = (0..count).map(|number| vec![number as u8; number]).collect();
            let hashes: Vec<MerkleRoot> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
            let root = tree_of(&leaves).root();
            let Some(path) = inclusion_proof(&hashes, index) else {
                prop_assert!(index >= count);
                return Ok(());
            };
            let (index, count) = (index as u64, count as u64);
            let leaf = hashes[index as usize];
            prop_assert!(check_inclusion(leaf, index, count, &path, root));
            // Another place, another leaf, another path, another root, another number of leaves that shapes the path anew.
            let other = other % count as usize;
            prop_assert_eq!(check_inclusion(leaf, other as u64, count, &path, root), other as u64 == index);
            prop_assert_eq!(check_inclusion(hashes[other], index, count, &path, root), other as u64 == index);
            let flip = |hash: &mut MerkleRoot| hash.0[bit / 8] ^= 1 << (bit % 8);
            let (mut bad_path, mut bad_root) = (path.clone(), root);
            flip(&mut bad_root);
            prop_assert!(!check_inclusion(leaf, index, count, &path, bad_root));
            if let Some(hash) = bad_path.get_mut(part) {
                flip(hash);
                prop_assert!(!check_inclusion(leaf, index, count, &bad_path, root));
            }
            let longer = [&path[..], &[root]].concat();
            prop_assert!(!check_inclusion(leaf, index, count, &longer, root));
            if let Some((_, shorter)) = path.split_last() {
                prop_assert!(!check_inclusion(leaf, index, count, shorter, root));
            }
            prop_assert!(!check_inclusion(leaf, count, count, &path, root));
        }
    }

    #[test]
    fn a_huge_number_of_leaves_is_checked_without_overflow() {
        let hash = leaf_hash(b"");
        assert!(!check_inclusion(hash, u64::MAX - 1, u64::MAX, &[], hash));
        assert!(!check_inclusion(hash, 5, u64::MAX, &[hash; 64], hash));
    }

    #[test]
    fn the_root_of_a_recording_does_not_depend_on_the_order_in_which_its_runs_are_told() {
        let run = |first_tick: u64, segment: u32, offset: u64| Run {
            volume: crate::VolumeNumber(0),
            segment: crate::SegmentNumber(segment),
            offset,
            length: 1,
            index_offset: 0,
            chunks: 1,
            payload_bytes: 1,
            first_tick: sidetone_model::Tick(first_tick),
            end_tick: sidetone_model::Tick(first_tick + 1),
            root: leaf_hash(&[first_tick as u8, segment as u8, offset as u8]),
        };
        let runs = [run(1, 9, 9), run(2, 1, 5), run(2, 2, 4), run(3, 1, 1)];
        let mut tree = MerkleTree::new();
        runs.iter().for_each(|run| tree.push(&run.root.0));
        let mut shuffled = runs.to_vec();
        shuffled.reverse();
        shuffled.swap(0, 2);
        assert_eq!(recording_root(&shuffled), tree.root());
    }
}
