//! What the registry's log of access says: how much of a base was pulled.

use ::tests::plain_registry::Asked;

/// How many bytes of `layers` the registry sent where it was `asked` so.
pub(crate) fn pulled(asked: &[Asked], layers: &[String]) -> u64 {
    let is_layer = |asked: &&Asked| layers.iter().any(|layer| asked.downloads(layer));
    asked.iter().filter(is_layer).map(|asked| asked.bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_registry_sent_of_layers_is_counted() {
        let asked = |method: &str, digest: &str, status| Asked {
            method: method.to_owned(),
            path: format!("/v2/base/x/blobs/{digest}"),
            status,
            bytes: 70,
        };
        let all = [
            asked("GET", "sha256:a", 200),
            asked("HEAD", "sha256:a", 200),
            asked("GET", "sha256:b", 206),
            asked("GET", "sha256:config", 200),
        ];
        assert_eq!(pulled(&all, &["sha256:a".into(), "sha256:b".into()]), 140);
    }
}
