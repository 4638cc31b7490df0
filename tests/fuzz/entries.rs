//! What is done with the bytes of a fuzz target. Nothing may panic, hang or need memory without bound; what is parsed is
//! looked at as the engine does. The fuzz targets and an ordinary test (`builder/tests/fuzz_corpus.rs`) share this file.

/// A target by name.
pub(crate) type Entry = (&'static str, fn(&[u8]));

/// All targets; each has a file in `fuzz_targets` and seeds in `corpus`.
pub(crate) const ENTRIES: &[Entry] = &[
    ("parser", parser),
    ("expansion", expansion),
    ("ignore", ignore),
    ("tar", tar),
    ("config", config),
    ("reference", reference),
    ("mount", mount),
];

/// A Dockerfile, with everything that is drawn and checked of it.
pub(crate) fn parser(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let parsed = dockerfile::parse("Dockerfile", text);
    let mut found = parsed.diagnostics.clone();
    if let Some(file) = &parsed.dockerfile {
        found.extend(dockerfile::lint(file, text));
        found.extend(dockerfile::unsupported(file, None, |_| true));
        found.extend(dockerfile::check_expansions(file, |_| true));
    }
    // Drawing is quadratic in the findings, of which a file of noise has many.
    for diagnostic in found.iter().take(20) {
        let _ = diagnostic.render("Dockerfile", text, false);
    }
}

/// A word, and the variables that it is expanded with.
pub(crate) fn expansion(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (word, value) = text.split_once('\n').unwrap_or((text, "a/b.c"));
    let scope = [("v", value), ("e", ""), ("PATH", "/bin:/usr/bin")];
    for escape in ['\\', '`'] {
        let _ = dockerfile::expand_traced(word, escape, &scope[..]);
        let _ = dockerfile::expand_words(word, escape, &scope[..]);
    }
    let _ = dockerfile::expand_heredoc(text, &scope[..]);
}

/// A path in the first line, and the `.dockerignore` below it.
pub(crate) fn ignore(bytes: &[u8]) {
    use builder::context::dockerignore::{Dockerignore, Matched};
    let text = String::from_utf8_lossy(bytes);
    let (path, patterns) = text.split_once('\n').unwrap_or(("a/b", &text));
    let Ok(ignore) = Dockerignore::parse(patterns) else {
        return;
    };
    let mut above = Matched::default();
    for (at, _) in path.match_indices('/') {
        above = ignore.matches(&path[..at], &above).1;
    }
    let _ = ignore.matches(path, &above);
    let _ = ignore.may_except_below(path);
}

/// An archive: what has members that can be put into a tree is listed, and its listing can be read again.
pub(crate) fn tar(bytes: &[u8]) {
    use builder::{layer, unpack};
    let _ = layer::count_members(bytes);
    let limits = unpack::Limits {
        entries: 1000,
        bytes: 1 << 20,
        ..unpack::Limits::default()
    };
    if let Ok((listing, _)) = unpack::list(bytes, &oci::MediaType::OciLayer, &limits) {
        let written = listing.as_bytes().to_vec();
        layer::Listing::from_bytes(written).expect("what was listed can be read");
    }
}

/// The documents of an image.
pub(crate) fn config(bytes: &[u8]) {
    if let Ok(config) = serde_json::from_slice::<oci::ImageConfig>(bytes) {
        let written = serde_json::to_vec(&config).expect("what was read can be written");
        let again: oci::ImageConfig = serde_json::from_slice(&written).expect("and read again");
        assert_eq!(config, again);
    }
    let _ = serde_json::from_slice::<oci::Manifest>(bytes);
}

/// The name of an image, which is the same after it was written.
pub(crate) fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(reference) = text.parse::<oci::Reference>() {
        let written = reference.to_string();
        assert_eq!(
            written.parse::<oci::Reference>().as_ref(),
            Ok(&reference),
            "{written}"
        );
    }
    let _ = text.parse::<oci::Platform>();
}

/// The value of a `--mount`, with a variable in the second line.
pub(crate) fn mount(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (value, variable) = text.split_once('\n').unwrap_or((text, "cache"));
    let file = format!("FROM a\nRUN --mount={} true\n", value.replace('\n', " "));
    let Some(file) = dockerfile::parse("Dockerfile", &file).dockerfile else {
        return;
    };
    for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
        if let dockerfile::InstructionKind::Run(run) = &instruction.kind {
            for mount in &run.mounts {
                let _ = mount.resolve('\\', &[("v", variable)][..]);
            }
        }
    }
}
