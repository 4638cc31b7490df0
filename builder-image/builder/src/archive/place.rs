//! Where images are on a command line: in a registry, or in a directory or file, by the names of transports that skopeo has.
//! Pure.

use std::path::PathBuf;

use oci::Reference;

/// Where an image is, or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a registry.
    Registry(Reference),
    /// In an archive on this machine.
    Archive(ArchivePlace),
}

/// An archive, and which of its images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivePlace {
    /// What it is.
    pub form: ArchiveForm,
    /// The directory or file.
    pub path: PathBuf,
    /// What the image is called in it.
    pub name: Option<String>,
}

/// How images are kept in directories and files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveForm {
    /// A directory in the OCI image layout.
    Layout,
    /// Such a directory as a tar file.
    Oci,
    /// What `docker load` reads as well.
    Docker,
}

/// Why a text names no place.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It is no name of an image.
    #[error(transparent)]
    Reference(#[from] oci::ReferenceError),
    /// The path is missing.
    #[error("`{0}` lacks a path: write {0}:PATH or {0}:PATH:NAME")]
    NoPath(&'static str),
    /// The archive is to be loaded by a name that is none.
    #[error("`{name}` is no name that docker gives to images: {source}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: oci::ReferenceError,
    },
}

const FORMS: [(&str, ArchiveForm); 3] = [
    ("oci", ArchiveForm::Layout),
    ("oci-archive", ArchiveForm::Oci),
    ("docker-archive", ArchiveForm::Docker),
];

impl std::str::FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(name.parse()?));
        }
        let Some((transport, rest)) = text.split_once(':') else {
            return Ok(Self::Registry(text.parse()?));
        };
        let Some((transport, form)) = FORMS.iter().find(|(name, _)| *name == transport) else {
            return Ok(Self::Registry(text.parse()?));
        };
        let (path, name) = match rest.split_once(':') {
            Some((path, name)) => (path, Some(name.to_owned()).filter(|name| !name.is_empty())),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(PlaceError::NoPath(transport));
        }
        if let (ArchiveForm::Docker, Some(name)) = (form, &name) {
            let parsed: Result<Reference, _> = name.parse();
            parsed.map_err(|source| PlaceError::Name {
                name: name.clone(),
                source,
            })?;
        }
        Ok(Self::Archive(ArchivePlace {
            form: *form,
            path: path.into(),
            name,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_told_from_registries() {
        let archive = |form, path: &str, name: Option<&str>| {
            Place::Archive(ArchivePlace {
                form,
                path: path.into(),
                name: name.map(str::to_owned),
            })
        };
        let registry = |name: &str| Place::Registry(name.parse().unwrap());
        for (text, expected) in [
            ("nginx", registry("nginx")),
            ("nginx:1", registry("nginx:1")),
            ("h.example:5000/a:1", registry("h.example:5000/a:1")),
            (
                "docker://h.example:5000/a:1",
                registry("h.example:5000/a:1"),
            ),
            ("ocicat:1", registry("ocicat:1")),
            ("oci:dir", archive(ArchiveForm::Layout, "dir", None)),
            ("oci:dir:", archive(ArchiveForm::Layout, "dir", None)),
            (
                "oci:/a/b:1",
                archive(ArchiveForm::Layout, "/a/b", Some("1")),
            ),
            (
                "oci-archive:a.tar:team/app:1",
                archive(ArchiveForm::Oci, "a.tar", Some("team/app:1")),
            ),
            (
                "docker-archive:a.tar:app:1",
                archive(ArchiveForm::Docker, "a.tar", Some("app:1")),
            ),
        ] {
            assert_eq!(text.parse::<Place>().unwrap(), expected, "{text}");
        }
        for text in ["oci:", "oci::1", "docker-archive:a.tar:UP", "A/b"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
