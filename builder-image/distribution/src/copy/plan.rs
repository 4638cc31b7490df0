//! What is to be done for one image, and in which order: its blobs, then its manifests rank by rank, children before the
//! indexes that name them. The root, which gets the tags, follows last of all. Pure.

use std::collections::HashMap;

use oci::{Descriptor, Digest, Repository};

use super::image::{Image, Node};
use super::known::{Known, Offer};
use crate::RawManifest;

/// What is to be done for one image.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// Blobs that the destination is not known to have, those that must be sent first: a mount takes no time.
    pub(super) blobs: Vec<Step<'a>>,
    /// Manifests to put by their digests; those of one rank in any order.
    pub(super) ranks: Vec<Vec<&'a RawManifest>>,
}

/// What is to be done for one blob.
#[derive(Debug)]
pub(super) struct Step<'a> {
    pub(super) blob: &'a Descriptor,
    /// How the destination comes to it, as things are now.
    pub(super) offer: Offer,
}

impl<'a> Plan<'a> {
    /// What is to be done to copy `image` of `from` to `to`.
    pub(super) fn of(image: &'a Image, from: &Repository, to: &Repository, known: &Known) -> Self {
        if from == to {
            // Another name for what is there.
            return Self {
                blobs: Vec::new(),
                ranks: Vec::new(),
            };
        }
        let steps = image.blobs.iter().map(|blob| Step {
            blob,
            offer: known.offer(&blob.digest, from, to),
        });
        let mut blobs: Vec<_> = steps.filter(|step| step.offer != Offer::Present).collect();
        blobs.sort_by_key(|step| step.offer != Offer::Send);
        let ranks = ranks(&image.below)
            .into_iter()
            .map(|rank| {
                let missing = rank
                    .into_iter()
                    .map(|node| &node.manifest)
                    .filter(|manifest| !known.has_manifest(&manifest.digest, to));
                missing.collect::<Vec<_>>()
            })
            .filter(|rank| !rank.is_empty())
            .collect();
        Self { blobs, ranks }
    }

    /// Whether a ledger might know of a better way for some blob.
    pub(super) fn is_in_the_dark(&self) -> bool {
        self.blobs.iter().any(|step| step.offer == Offer::Send)
    }
}

/// The nodes by how much lies below them: a node comes after all of its children.
fn ranks(nodes: &[Node]) -> Vec<Vec<&Node>> {
    let by_digest: HashMap<&Digest, &Node> = nodes
        .iter()
        .map(|node| (&node.manifest.digest, node))
        .collect();
    let mut heights = HashMap::new();
    let mut ranks: Vec<Vec<&Node>> = Vec::new();
    // Children were read after what names them first, so that most are known when they are asked for.
    for node in nodes.iter().rev() {
        let height = height(node, &by_digest, &mut heights);
        if ranks.len() <= height {
            ranks.resize_with(height + 1, Vec::new);
        }
        ranks[height].push(node);
    }
    for rank in &mut ranks {
        rank.reverse();
    }
    ranks
}

/// How many ranks lie below `node`. It ends: nothing can be below itself, since it would have to contain its own hash.
fn height<'a>(
    node: &'a Node,
    nodes: &HashMap<&Digest, &'a Node>,
    heights: &mut HashMap<&'a Digest, usize>,
) -> usize {
    if let Some(height) = heights.get(&node.manifest.digest) {
        return *height;
    }
    let mut above = 0;
    for child in node.children.iter().filter_map(|child| nodes.get(child)) {
        above = above.max(1 + height(child, nodes, heights));
    }
    heights.insert(&node.manifest.digest, above);
    above
}

#[cfg(test)]
mod tests {
    use oci::MediaType;

    use super::*;

    fn node(name: &str, children: &[&str]) -> Node {
        Node {
            manifest: RawManifest {
                media_type: MediaType::OciIndex,
                digest: Digest::of(name.as_bytes()),
                bytes: name.to_owned().into(),
            },
            children: children
                .iter()
                .map(|child| Digest::of(child.as_bytes()))
                .collect(),
        }
    }

    fn names(rank: &[&RawManifest]) -> Vec<String> {
        let text = |manifest: &&RawManifest| String::from_utf8(manifest.bytes.to_vec()).unwrap();
        rank.iter().map(text).collect()
    }

    fn blob(name: &str, size: u64) -> Descriptor {
        Descriptor::new(MediaType::OciLayerGzip, Digest::of(name.as_bytes()), size)
    }

    #[test]
    fn children_come_before_what_names_them() {
        let (from, to): (Repository, Repository) = (
            "s.example/a".parse().unwrap(),
            "t.example/a".parse().unwrap(),
        );
        for (nodes, expected) in [
            (vec![], vec![]),
            (vec![node("a", &[]), node("b", &[])], vec![vec!["a", "b"]]),
            // `b` is an index of its own, and a child of `a`.
            (
                vec![node("a", &["b"]), node("b", &["c"]), node("c", &[])],
                vec![vec!["c"], vec!["b"], vec!["a"]],
            ),
            // A child that is not copied does not count.
            (vec![node("a", &["absent"])], vec![vec!["a"]]),
        ] {
            let image = Image::of(node("root", &[]).manifest, nodes, Vec::new());
            let known = Known::default();
            let plan = Plan::of(&image, &from, &to, &known);
            let ranks: Vec<_> = plan.ranks.iter().map(|rank| names(rank)).collect();
            assert_eq!(ranks, expected);
        }
    }

    #[test]
    fn what_is_there_is_left_out_and_what_must_be_sent_comes_first() {
        let (from, to): (Repository, Repository) = (
            "s.example/a".parse().unwrap(),
            "t.example/a".parse().unwrap(),
        );
        let blobs = vec![blob("large", 9), blob("there", 8), blob("new", 7)];
        let nodes = vec![node("a", &[]), node("b", &[])];
        let image = Image::of(node("root", &["a", "b"]).manifest, nodes, blobs);
        let mut known = Known::default();
        let other: Repository = "t.example/b".parse().unwrap();
        known.arrived(&image.blobs[0].digest, &other);
        known.arrived(&image.blobs[1].digest, &to);
        known.put(&image.below[0].manifest.digest, &to);
        let plan = Plan::of(&image, &from, &to, &known);
        let steps: Vec<_> = plan
            .blobs
            .iter()
            .map(|step| (step.blob.size, step.offer.clone()))
            .collect();
        assert_eq!(steps, [(7, Offer::Send), (9, Offer::Mount(other))]);
        assert!(plan.is_in_the_dark());
        assert_eq!(names(&plan.ranks[0]), ["b"]);
        assert_eq!(plan.ranks.len(), 1);
        // Within one registry, the source is known to have everything.
        let plan = Plan::of(&image, &"t.example/s".parse().unwrap(), &to, &known);
        assert!(!plan.is_in_the_dark());
        let plan = Plan::of(&image, &to, &to, &known);
        assert!(plan.blobs.is_empty() && plan.ranks.is_empty());
    }
}
