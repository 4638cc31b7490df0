//! What the registry's log of access says: how much of a base was pulled.

/// How many bytes of `layers` the registry sent, by its log of access:
/// `ADDRESS - - [TIME] "GET /v2/NAME/blobs/DIGEST HTTP/1.1" STATUS BYTES …`.
pub(crate) fn pulled(log: &str, layers: &[String]) -> u64 {
    let bytes = |line: &str| -> Option<u64> {
        let (_, rest) = line.split_once("\"GET /v2/")?;
        let (request, rest) = rest.split_once('"')?;
        let is_layer = |layer: &String| request.contains(&format!("/blobs/{layer} "));
        let size = rest.split_whitespace().nth(1)?;
        layers.iter().any(is_layer).then(|| size.parse().ok())?
    };
    log.lines().filter_map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_registry_sent_of_layers_is_counted() {
        let line = |method: &str, digest: &str, status| {
            format!(
                "::1 - - [21/Nov/2026:18:00:00 +0000] \"{method} /v2/base/x/blobs/{digest} HTTP/1.1\" {status} 70 \"\" \"Go\"\n"
            )
        };
        let log = line("GET", "sha256:a", 200)
            + &line("HEAD", "sha256:a", 200)
            + &line("GET", "sha256:b", 206)
            + &line("GET", "sha256:config", 200)
            + "time=now level=error msg=\"GET /v2/\"\n";
        assert_eq!(pulled(&log, &["sha256:a".into(), "sha256:b".into()]), 140);
    }
}
