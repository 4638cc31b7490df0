//! Every reason that a condition or an event can carry, with what it means and what to do.
//!
//! A reason is API: programs wait for it. `docs/reasons.md` is generated from this table. A remedy ends up
//! in messages, so it is one sentence in the imperative.

/// Declares the reasons once: variant, meaning, remedy.
macro_rules! reasons {
    ($($variant:ident: $meaning:literal, $remedy:literal;)*) => {
        /// Why an object is in the state that its conditions tell.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum Reason {
            $(#[doc = $meaning] $variant,)*
        }

        impl Reason {
            /// All reasons, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word in conditions, events and metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }

            /// What is the case.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// What to do about it; empty where there is nothing to do.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
}

reasons! {
    // Of every kind.
    Suspended: "The resource is suspended.", "Set spec.suspend to false to go on.";
    InvalidSpec: "The spec asks for something that cannot be.", "Correct the field that the message names.";
    InvalidObject: "The object cannot be read by this version of the operator.", "Correct the field that the message names, or upgrade the operator.";
    NameConflict: "An object that this resource does not own has the name of one that it needs.", "Delete or rename that object, or give this resource another name.";
    ChildRefused: "The API server refused an object that the operator made.", "Correct what the message names.";
    QuotaExceeded: "A ResourceQuota of the namespace leaves no room.", "Raise the quota or delete what is not needed.";
    PodSecurityForbidden: "The Pod Security level of the namespace refuses the pod.", "Let the namespace enforce baseline, or restricted with isolation NoRun.";
    Forbidden: "The operator lacks a right.", "Compare the operator's ClusterRole with the one in its chart.";
    ApiUnavailable: "The API server did not answer or was too busy.", "Nothing is to be done: the operator tries again.";
    Conflict: "The object was changed by somebody else meanwhile.", "Nothing is to be done: the operator looks again.";
    Terminating: "The namespace is being deleted.", "Nothing is to be done.";
    ReconcileTimeout: "One look at the object took too long.", "See the operator's log; the operator tries again.";
    InternalError: "The operator failed in a way that it should not.", "Report the message and the operator's log.";
    // Of pods.
    Pending: "A pod waits to be started.", "";
    Unschedulable: "No node can take the pod.", "Compare requests, nodeSelector and tolerations with the nodes.";
    ImagePullBackOff: "The node cannot pull the pod's image.", "Check the image's name and that the node may pull it.";
    ContainerConfig: "The node cannot set up the container.", "Check that the Secrets and ConfigMaps that the message names exist.";
    CrashLoopBackOff: "The container ends again and again.", "Look at its log: kubectl logs.";
    VolumeMountFailed: "The node cannot mount a volume of the pod.", "Check the claim and the Secrets that the message names.";
    // Of a Registry.
    Available: "The registry serves.", "";
    Deploying: "The registry's pod is being started.", "";
    ClaimPending: "The claim has no volume yet.", "Check that the storage class exists and can provide one.";
    ClaimLost: "The volume of the claim is gone.", "Restore the volume, or delete the claim to begin with an empty registry.";
    // What a build or mirror waits for.
    SecretNotFound: "A Secret that the spec names does not exist.", "Create the Secret or correct its name.";
    SecretInvalid: "A Secret that the spec names lacks a key or has another type.", "Give the Secret the type and keys that the message names.";
    ConfigMapNotFound: "A ConfigMap that the spec names does not exist.", "Create the ConfigMap or correct its name.";
    ClaimNotFound: "A PersistentVolumeClaim that the spec names does not exist.", "Create the claim or correct its name.";
    WaitingForCacheVolume: "The claim of the cache serves another builder pod.", "Nothing is to be done: the build starts when that pod has ended.";
    RegistryNotFound: "A Registry that the spec names does not exist.", "Create the Registry or correct its name.";
    InputNotFound: "An ImageBuild that the spec names as an input does not exist.", "Create the ImageBuild or correct its name.";
    InputNotReady: "An ImageBuild that the spec names as an input has no image of its present spec.", "Look at the conditions of that ImageBuild.";
    RegistryNotReady: "A Registry that the spec names is not ready.", "Look at the conditions of the Registry.";
    // Sources.
    SourceUnavailable: "The server of the source did not answer.", "Check the URL and the network; the operator tries again.";
    SourceUnauthorized: "The server of the source refused the credentials.", "Check the Secret that source names.";
    SourceNotFound: "The repository or archive does not exist, or may not be seen.", "Check the URL and the Secret.";
    SourceInvalid: "The source is not what the spec says: checksum, archive or directory.", "Check checksum, URL and subdirectory.";
    RevisionNotFound: "The repository has no such branch, tag or commit.", "Correct ref, or push the revision.";
    AddressRefused: "The address is one that builds and mirrors may not reach.", "Allow it with network.allowCIDRs of the chart if it is meant to be reached.";
    // Builds.
    Building: "The build runs.", "";
    Succeeded: "The image was built and is at every destination.", "";
    InvalidTag: "A tag is not one after its variables were replaced.", "Correct the tag that the message names.";
    InvalidDockerfile: "The Dockerfile cannot be built.", "Correct the line that the message names.";
    ForeignPlatform: "A RUN is for another processor than the node's, which cannot execute it.", "Cross-compile with FROM --platform=$BUILDPLATFORM, name the platform in dockerfile.platforms so that it is built on nodes of its own, or register an interpreter on the nodes (binfmt_misc).";
    BuildFailed: "A step of the Dockerfile failed.", "Read the last lines of output in the message, or the whole log with kubectl logs.";
    BaseImageNotFound: "An image that the Dockerfile names does not exist, or may not be seen.", "Correct its name, or name its credentials in imagePullSecrets.";
    ImageUnauthorized: "A registry refused the credentials for an image that is read, or there were none.", "Check the Secret with its credentials: imagePullSecrets of a build or source.secretRef of a mirror must name it.";
    RegistryUnauthorized: "A registry refused the credentials for an image that is written, or there were none.", "Check the Secret of the destination.";
    RegistryUnavailable: "A registry did not answer or was too busy.", "Check the registry; the operator tries again.";
    PushFailed: "A registry refused the image.", "See the registry's answer in the message.";
    DigestMismatch: "A registry served bytes that are not those of the digest.", "Check the registry; nothing was published.";
    ImageUntrusted: "An image has no signature by a key of spec.verify, so that it is not published.", "Sign the image with one of the keys that the message names, or correct the Secrets of spec.verify.";
    VerificationPending: "The operator could not read the image back from a destination.", "Check that the operator can reach the registry.";
    VerificationFailed: "A destination does not hold the image that the builder reported.", "Check who else writes to that repository.";
    Timeout: "The build took longer than spec.timeout.", "Raise spec.timeout or make the build faster.";
    Cancelled: "The build was cancelled.", "Change reconcile.coopery.dev/forceAt to build again.";
    SourceChanged: "The source is not what the image was built from, and rebuild.triggers does not name Source.", "Change reconcile.coopery.dev/forceAt to build.";
    InputChanged: "An input is not what the image was built from, and rebuild.triggers does not name Inputs.", "Change reconcile.coopery.dev/forceAt to build.";
    Superseded: "The spec changed while the build ran.", "";
    RetryPending: "The build failed for a reason outside of it and is started again soon.", "";
    // How a pod was lost.
    Evicted: "The node evicted the pod.", "Give the pod requests and limits that fit; it is retried.";
    OOMKilled: "A step or the builder needed more memory than its limit.", "Raise pod.resources.limits.memory.";
    Preempted: "A pod of higher priority took the place.", "Name a priorityClassName; it is retried.";
    NodeLost: "The node of the pod is gone.", "Nothing is to be done: it is retried.";
    PodLost: "The pod is gone and left no result.", "Nothing is to be done: it is retried.";
    BuilderFailed: "The builder ended without a result.", "Look at its log: kubectl logs.";
    OutOfDisk: "The workspace is full.", "Raise pod.workspace.sizeLimit or use a node with more disk.";
    // Isolation.
    UserNamespacesUnavailable: "The node gave the pod no user namespace.", "Use Kubernetes 1.33 or newer with containerd 2.0 or newer, or isolation NoRun.";
    IsolationUnavailable: "The node lacks what RUN needs to be isolated.", "See docs/isolation.md for the prerequisite that the message names.";
    VolumeNotIdmappable: "A volume cannot be used in a user namespace.", "Use a filesystem that supports idmapped mounts.";
    // Mirrors.
    Syncing: "Images are being copied.", "";
    Synced: "All selected tags are equal to the source.", "";
    SyncFailed: "Some tags could not be mirrored.", "See status.failures.";
    TagNotFound: "The source has no such tag.", "Correct the tag that the message names.";
    PruneRefused: "More tags would be deleted at once than prune.maxPercent allows.", "Look at status.prunePlan.";
    PruneFailed: "Tags that are not selected any more could not be deleted.", "Let the Registry delete, or set prune.mode to None.";
    CheckFailed: "The destination lacks parts of what was mirrored, and they could not be copied again.", "See status.lastCheck and the pod's log.";
}

impl Reason {
    /// Whether somebody should look although the operator goes on by itself: the event is a warning.
    pub fn is_alarming(self) -> bool {
        !matches!(
            self,
            Self::Suspended
                | Self::Pending
                | Self::Available
                | Self::Deploying
                | Self::ClaimPending
                | Self::RegistryNotReady
                | Self::InputNotReady
                | Self::WaitingForCacheVolume
                | Self::SourceChanged
                | Self::InputChanged
                | Self::Building
                | Self::Succeeded
                | Self::Superseded
                | Self::Cancelled
                | Self::Syncing
                | Self::Synced
                | Self::Conflict
                | Self::Terminating
        )
    }

    /// `message` and, where there is one, the remedy.
    pub fn explain(self, message: &str) -> String {
        let message = message.trim_end_matches('.');
        if self.remedy().is_empty() {
            message.to_owned()
        } else {
            format!("{message}. {}", self.remedy())
        }
    }
}

/// The page `docs/reasons.md`.
pub fn documentation() -> String {
    let head = "# Reasons\n\nGenerated by `make generate` from operator/src/reason.rs. Do not edit.\n\n\
                | Reason | Meaning | What to do |\n|---|---|---|\n";
    let rows = Reason::ALL.iter().map(|reason| {
        format!(
            "| `{}` | {} | {} |\n",
            reason.as_str(),
            reason.meaning(),
            reason.remedy()
        )
    });
    std::iter::once(head.to_owned()).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_camel_case_and_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for reason in Reason::ALL {
            let word = reason.as_str();
            assert!(word.starts_with(|c: char| c.is_ascii_uppercase()), "{word}");
            assert!(word.chars().all(|c| c.is_ascii_alphanumeric()), "{word}");
            assert!(word.len() <= 64, "{word}");
            assert!(seen.insert(word), "{word} twice");
            assert!(reason.meaning().ends_with('.'), "{word}");
        }
    }

    #[test]
    fn explanations_end_with_the_remedy() {
        assert_eq!(
            Reason::Suspended.explain("builds are suspended"),
            "builds are suspended. Set spec.suspend to false to go on."
        );
        assert_eq!(Reason::Building.explain("step 3 of 5"), "step 3 of 5");
    }
}
