//! What registries hold of a build: its image at the destinations, and the images that it starts from.

use crds::ImageBuild;
use crds::image_build::BaseImage;
use distribution::ErrorKind;
use kube::ResourceExt;
use oci::Reference;
use protocol::BuildOutcome;
use std::time::Duration;

use super::Secrets;
use crate::context::Context;
use crate::image_build::observed::{
    BaseLook, BaseNow, Observed, ReadBack, SourceFailure, SourceState, ToVerify, Verification,
};
use crate::image_build::plan::POLL_FAILED;
use crate::image_build::split::Made;
use crate::image_build::validate::{DestinationSpec, SourceSpec, Target, ValidatedBuild};
use crate::network::RegistryAccess;
use crate::reason::Reason;
use crate::request::requested_at;

/// How often the base images of an image that is there are looked up.
const BASES_INTERVAL: Duration = Duration::from_secs(300);
/// How often, where one could not be looked up.
const BASES_RETRY: Duration = Duration::from_secs(60);

/// Who asks registries, and for what.
pub(super) struct Asker<'a> {
    pub context: &'a Context,
    pub build: &'a ImageBuild,
    pub spec: &'a ValidatedBuild,
    pub secrets: &'a Secrets,
}

impl Asker<'_> {
    /// Looks at the destinations: the manifest by its digest, and every tag.
    pub(super) async fn read_back(&self, observed: &Observed, wanted: &ToVerify) -> ReadBack {
        let mut read = ReadBack {
            digest: wanted.digest.clone(),
            destinations: Vec::new(),
        };
        for destination in &self.spec.destinations {
            if !wanted.only.is_empty() && !wanted.only.contains(&destination.name) {
                continue;
            }
            let access = self.writing(destination);
            let found = self.verify(destination, observed, wanted, &access).await;
            read.destinations.push((destination.name.clone(), found));
        }
        read
    }

    /// How a destination is asked: with the credentials with which it is pushed to.
    fn writing(&self, destination: &DestinationSpec) -> RegistryAccess {
        RegistryAccess {
            credentials: destination
                .secret()
                .iter()
                .filter_map(|name| self.secrets.docker_config(name))
                .collect(),
            plain_http: matches!(destination.target, Target::Registry { .. }),
            ca_pem: None,
        }
    }

    /// What of `made` is still what a build would make: every destination holds it under its tag, which keeps it from being
    /// collected, and the images that it was built from are what their names stand for. What cannot be seen is built anew.
    pub(super) async fn kept(&self, observed: &Observed, made: Vec<Made>) -> Vec<Made> {
        let mut kept = Vec::new();
        for image in made {
            if self.is_held(&image).await && self.is_of_present_bases(observed, &image.built).await
            {
                kept.push(image);
            }
        }
        kept
    }

    async fn is_held(&self, image: &Made) -> bool {
        for destination in &image.destinations {
            let mut all = self.spec.destinations.iter();
            let Some(spec) = all.find(|d| d.name == destination.name) else {
                return false;
            };
            let access = self.writing(spec);
            for tag in &destination.tags {
                let name = format!("{}:{tag}", destination.repository);
                if !self.stands_for(&name, &image.built.digest, &access).await {
                    return false;
                }
            }
        }
        image.destinations.len() == self.spec.destinations.len()
    }

    async fn is_of_present_bases(&self, observed: &Observed, built: &BuildOutcome) -> bool {
        for base in &built.base_images {
            let Ok(reference) = base.reference.parse::<Reference>() else {
                return false;
            };
            let access = self.reading(observed, &reference);
            if reference.digest().is_none()
                && !self
                    .stands_for(&base.reference, &base.digest, &access)
                    .await
            {
                return false;
            }
        }
        true
    }

    /// Whether the image `name` is known to have that digest.
    async fn stands_for(&self, name: &str, digest: &str, access: &RegistryAccess) -> bool {
        let Ok(reference) = name.parse::<Reference>() else {
            return false;
        };
        if !self.context.budget.spend(reference.repository().host()) {
            return false;
        }
        let found = self.look(&reference, access).await;
        found.is_ok_and(|found| found.is_some_and(|found| found.to_string() == digest))
    }

    async fn verify(
        &self,
        destination: &DestinationSpec,
        observed: &Observed,
        wanted: &ToVerify,
        access: &RegistryAccess,
    ) -> Verification {
        let Some(repository) = destination.parsed(&observed.registries) else {
            return Verification::Unknown("its Registry is not ready".to_owned());
        };
        let Ok(digest) = wanted.digest.parse::<oci::Digest>() else {
            return Verification::Differs(
                "the builder reported something that is no digest".to_owned(),
            );
        };
        let values = self.spec.source.values(wanted.commit.as_deref());
        let tags = destination
            .tags
            .iter()
            .filter_map(|tag| tag.expand(&values).ok());
        let mut images = Vec::new();
        for image in &wanted.images {
            let Ok(image) = image.parse::<oci::Digest>() else {
                let what = "the builder reported an image of the index that has no digest";
                return Verification::Differs(what.to_owned());
            };
            images.push((repository.at(image.clone()), image));
        }
        let tagged = tags.map(|tag| (repository.tagged(tag), digest.clone()));
        let root = (repository.at(digest.clone()), digest.clone());
        for (reference, digest) in std::iter::once(root).chain(images).chain(tagged) {
            match self.look(&reference, access).await {
                Err(why) => return Verification::Unknown(why),
                Ok(Some(found)) if found == digest => {}
                Ok(Some(found)) => {
                    return Verification::Differs(format!("{reference} is {found}"));
                }
                Ok(None) => return Verification::Differs(format!("{reference} does not exist")),
            }
        }
        Verification::Same
    }

    /// Asks whether the image is there for want of which the build of `pod` failed: with the credentials that a pod has, and
    /// not before the last answer is as old as a failed build's interval.
    pub(super) async fn missing(&self, observed: &Observed, image: &str, pod: &str) -> BaseLook {
        let reference: Reference = match image.parse() {
            Ok(reference) => reference,
            Err(error) => return BaseLook::Unknown(format!("{error}")),
        };
        let access = self.reading(observed, &reference);
        let question = format!("{image} {pod} {:?}", observed.secrets);
        let ask = || async {
            let found = match self.look(&reference, &access).await {
                Ok(Some(_)) => BaseLook::There,
                Ok(None) => BaseLook::Absent,
                Err(why) => BaseLook::Unknown(why),
            };
            (found, POLL_FAILED)
        };
        let uid = self.build.uid().unwrap_or_default();
        self.context
            .base_lookups
            .answer(&uid, &question, ask)
            .await
            .0
    }

    async fn look(
        &self,
        reference: &Reference,
        access: &RegistryAccess,
    ) -> Result<Option<oci::Digest>, String> {
        match self.context.network.manifest(reference, access).await {
            Ok(found) => Ok(found.map(|descriptor| descriptor.digest)),
            Err(distribution::Error::DigestMismatch { found, .. }) => Ok(Some(found)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Looks up what a source in a registry is at present. One that is named by its digest is not asked for.
    pub(super) async fn source(&self, observed: &mut Observed) {
        let SourceSpec::Oci {
            image,
            secret,
            ca_secret,
            interval,
        } = &self.spec.source
        else {
            return;
        };
        if let Some(digest) = image.digest() {
            observed.source = SourceState::Oci(Ok(digest.to_string()));
            return;
        }
        let mut named = [secret, ca_secret].into_iter().flatten();
        if named.any(|name| self.secrets.get(name).is_none()) {
            observed.source = SourceState::NotLookedUp;
            return;
        }
        let mut access = self.reading(observed, image);
        access.ca_pem = observed.source_ca.clone().map(String::into_bytes);
        let asked = requested_at(self.build).unwrap_or_default();
        let question = format!("{image} {asked} {:?}", observed.secrets);
        let ask = || async {
            let answer = self.artifact(image, &access).await;
            let good_for = match answer {
                Ok(_) => *interval,
                Err(_) => POLL_FAILED.min(*interval),
            };
            (answer, good_for)
        };
        let uid = self.build.uid().unwrap_or_default();
        let (answer, good) = self.context.oci_sources.answer(&uid, &question, ask).await;
        observed.source = SourceState::Oci(answer);
        observed.look_again_in(good);
    }

    async fn artifact(
        &self,
        image: &Reference,
        access: &RegistryAccess,
    ) -> Result<String, SourceFailure> {
        let host = image.repository().host();
        if !self.context.budget.spend(host) {
            return Err(SourceFailure {
                reason: Reason::SourceUnavailable,
                message: format!("{host} was asked often enough for now; it is asked again soon"),
                transient: true,
            });
        }
        let found = self.context.network.manifest(image, access).await;
        match found {
            Ok(Some(descriptor)) => Ok(descriptor.digest.to_string()),
            Ok(None) => Err(SourceFailure {
                reason: Reason::SourceNotFound,
                message: format!("{image} does not exist"),
                transient: true,
            }),
            Err(error) => Err(SourceFailure {
                reason: match error.kind() {
                    ErrorKind::Unauthorized => Reason::SourceUnauthorized,
                    ErrorKind::AddressRefused => Reason::AddressRefused,
                    _ => Reason::SourceUnavailable,
                },
                message: error.to_string(),
                transient: error.is_transient(),
            }),
        }
    }

    /// How an image is asked for that the build reads: with the credentials that its pod has.
    fn reading(&self, observed: &Observed, reference: &Reference) -> RegistryAccess {
        RegistryAccess {
            credentials: observed
                .registry_secrets(self.spec)
                .iter()
                .filter_map(|name| self.secrets.docker_config(name))
                .collect(),
            plain_http: observed.is_registry_host(reference.repository().host()),
            ca_pem: None,
        }
    }

    /// What the base images of the last image are now, and how long that is good. One that is named by its digest cannot
    /// change and is not asked for.
    pub(super) async fn bases(
        &self,
        observed: &Observed,
        built: &[BaseImage],
    ) -> (Vec<BaseNow>, Duration) {
        let wanted: Vec<(Reference, Option<Reference>)> = built
            .iter()
            .filter_map(|base| Some((base.reference.parse::<Reference>().ok()?, base)))
            .filter(|(reference, _)| reference.digest().is_none())
            .map(|(reference, base)| {
                let mirror = at_mirror(&reference, base);
                (reference, mirror)
            })
            .collect();
        if wanted.is_empty() {
            return (Vec::new(), BASES_INTERVAL);
        }
        let asked = requested_at(self.build).unwrap_or_default();
        let question = format!("{built:?} {asked} {:?}", observed.secrets);
        let ask = || async {
            let mut bases = Vec::new();
            for (reference, mirror) in &wanted {
                let mut digest = None;
                // What the mirror does not have any more is taken from the registry itself.
                for place in mirror.iter().chain([reference]) {
                    let access = self.reading(observed, place);
                    if digest.is_none() && self.context.budget.spend(place.repository().host()) {
                        digest = self.look(place, &access).await.ok().flatten();
                    }
                }
                bases.push(BaseNow {
                    reference: reference.to_string(),
                    digest: digest.map(|digest| digest.to_string()),
                });
            }
            let all = bases.iter().all(|base| base.digest.is_some());
            (bases, if all { BASES_INTERVAL } else { BASES_RETRY })
        };
        let uid = self.build.uid().unwrap_or_default();
        self.context.moved_bases.answer(&uid, &question, ask).await
    }
}

/// Where the mirror that `base` was taken from has it, as long as builds are to use mirrors.
fn at_mirror(reference: &Reference, base: &BaseImage) -> Option<Reference> {
    let mirror: oci::Repository = base.mirror.as_deref()?.parse().ok()?;
    Some(mirror.tagged(reference.tag()?.clone()))
}
