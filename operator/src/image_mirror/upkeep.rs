//! What a mirror does besides copying: it keeps a report of what it wrote. Pure.

use crds::{ImageMirror, ImageMirrorStatus};
use kube::ResourceExt;
use oci::{Digest, Reference, RegistryHost, Repository};
use protocol::ReportRequest;

use super::observed::{Found, Observed, current_pod};
use crate::image_build::observed::RegistryState;

/// Name of the repository, below the namespace's, that keeps the ledger of copies.
const LEDGER: &str = "coopery-ledger";
/// Name of the repository, below the namespace's, that keeps the reports of its mirrors.
const REPORT: &str = "coopery-report";

/// A repository for what is kept beside images: in a Registry that of the namespace of `mirror`, which nobody else reads or
/// writes; elsewhere one below its prefix, where it may write.
fn own(mirror: &ImageMirror, host: &RegistryHost, name: &str) -> Option<Repository> {
    let destination = &mirror.spec.destination;
    let path = match &destination.registry {
        Some(_) => format!("{}/{name}", mirror.namespace()?),
        None => format!("{}/{name}", destination.prefix.as_deref()?),
    };
    Repository::new(host.clone(), &path).ok()
}

/// The repository that keeps what is known of the destination's blobs: one for all mirrors of a namespace, which may
/// read each other's repositories, and for nobody else. Elsewhere than in a Registry others may write it: there is none.
pub fn ledger(mirror: &ImageMirror, observed: &Observed) -> Option<Repository> {
    mirror.spec.destination.registry.as_ref()?;
    own(mirror, host(observed)?, LEDGER)
}

const fn host(observed: &Observed) -> Option<&RegistryHost> {
    match &observed.registry {
        RegistryState::Ready { host } => Some(host),
        _ => None,
    }
}

/// The report that the present pod says it wrote, where the status does not name it yet.
pub fn told_report(mirror: &ImageMirror, observed: &Observed) -> Option<Reference> {
    let status = mirror.status.clone().unwrap_or_default();
    let told = current_pod(&status, &observed.pods)?.mirrored()?.report?;
    let digest: Digest = told.parse().ok()?;
    let report = own(mirror, host(observed)?, REPORT)?.at(digest);
    (status.report != Some(report.to_string())).then_some(report)
}

/// Names the report of the present pod in `status`, where it is there.
pub fn record(status: &mut ImageMirrorStatus, observed: &Observed) {
    if let Some((report, Found::Digest(_))) = &observed.report {
        status.report = Some(report.to_string());
    }
}

/// Whether the next pod must wait for an answer to whether the report of this one is there: it would go on from an older one.
pub fn waits_for_report(observed: &Observed) -> bool {
    matches!(
        &observed.report,
        Some((_, Found::Failed { .. } | Found::NotLookedAt))
    )
}

/// Where the next pod keeps its account, and from where it goes on. A report that the status does not name is not read:
/// anybody may have written it.
pub fn report(
    mirror: &ImageMirror,
    observed: &Observed,
    status: &ImageMirrorStatus,
) -> Option<ReportRequest> {
    let repository = own(mirror, host(observed)?, REPORT)?;
    let named = status.report.as_deref();
    let named = named.and_then(|name| name.parse::<Reference>().ok());
    // A destination never changes its repository, but names of hosts do.
    let previous = named.filter(|name| name.repository().path() == repository.path());
    Some(ReportRequest {
        repository: repository.to_string(),
        owner: mirror.uid()?,
        previous: previous.and_then(|name| name.digest().map(Digest::to_string)),
    })
}
