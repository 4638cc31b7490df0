//! What `prune` does: which images nothing needs. Pure.

use oci::Digest;

use crate::{Catalog, Filter, Image, Line, Plan, RemovalOptions, Users, removal::delete};

/// Which images are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PruneWhat {
    /// Those without a name that no other image was made from.
    Dangling,
    /// All that no container uses.
    Unused,
}

/// What is removed: of `what`, that which all of `filters` let pass.
pub fn plan_prune(catalog: &Catalog, what: PruneWhat, filters: &[Filter], users: &Users) -> Plan {
    let mut plan = Plan::default();
    let mut gone: Vec<Digest> = Vec::new();
    let options = RemovalOptions {
        force: true,
        keep_parents: true,
    };
    let goes = |image: &&Image| {
        !users.contains_key(&image.id)
            && filters.iter().all(|filter| filter.passes(catalog, image))
            && (what == PruneWhat::Unused || image.is_dangling())
    };
    // An image whose last child goes may go itself.
    loop {
        let next = catalog.images().iter().filter(goes).find(|image| {
            let mut children = catalog.children(image);
            !gone.contains(&image.id)
                && (what == PruneWhat::Unused || children.all(|child| gone.contains(&child.id)))
        });
        let Some(image) = next else { return plan };
        let names = image.tags.iter().chain(&image.digests);
        let mut removed = Plan::default();
        removed.lines.extend(names.cloned().map(Line::Untagged));
        delete(catalog, image, options, users, &mut gone, &mut removed);
        plan.extend(removed);
    }
}

#[cfg(test)]
mod tests {

    use super::{
        PruneWhat::{Dangling, Unused},
        *,
    };
    use crate::test_image::{TestImage, catalog};

    #[test]
    fn what_nothing_needs_is_removed() {
        let base = TestImage::new("base").layers(&["1"]);
        let named = base.clone().layers(&["1", "2"]).named(&["named"]);
        let alone = TestImage::new("alone").layers(&["3"]).label("keep", "yes");
        let parent = TestImage::new("parent").layers(&["4"]);
        let child = parent.clone().layers(&["4", "5"]);
        let used = TestImage::new("used").named(&["used"]);
        let all = [&base, &named, &alone, &parent, &child, &used];
        let catalog = catalog(&all.map(Clone::clone));
        let users = Users::from([(used.id(), vec!["c".to_owned()])]);
        let removed = |what, filters: &[&str]| {
            let filters: Vec<Filter> = filters
                .iter()
                .map(|text| Filter::parse(text, "2021-06-02T00:00:00Z".parse().unwrap()).unwrap())
                .collect();
            let plan = plan_prune(&catalog, what, &filters, &users);
            let names = ["base", "named", "alone", "parent", "child", "used"];
            let gone: Vec<_> = (all.iter().zip(names))
                .filter(|(image, _)| plan.images().contains(&image.id()))
                .map(|(_, name)| name)
                .collect();
            (gone.join(" "), plan.names().len(), plan.layers.len())
        };
        for (what, filters, expected) in [
            (Dangling, &[][..], ("alone parent child", 0, 3)),
            (Dangling, &["label!=keep=yes"], ("parent child", 0, 2)),
            (Dangling, &["label=keep"], ("alone", 0, 1)),
            (Dangling, &["until=12h"], ("alone parent child", 0, 3)),
            (Dangling, &["until=48h"], ("", 0, 0)),
            (Unused, &[], ("base named alone parent child", 1, 5)),
        ] {
            let (gone, names, layers) = removed(what, filters);
            assert_eq!(
                (gone.as_str(), names, layers),
                expected,
                "{what:?} {filters:?}"
            );
        }
    }
}
