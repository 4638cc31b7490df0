//! Why a reconcile could not go on: errors with a class (try again or not) and a static reason.
//!
//! Waiting for something that will come by itself is not an error but a plan with a reason.

use std::time::Duration;

use kube::core::Status;

use crate::reason::Reason;

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// Nothing will change until the object, or what it refers to, changes.
    Terminal,
    /// Trying again can help.
    Transient,
}

/// Why a reconcile could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object, or what it refers to, does not allow to go on.
    #[error("{message}")]
    Refused {
        /// Whether trying again can help.
        class: Class,
        /// Why.
        reason: Reason,
        /// What is the case, for people; lower case, no period.
        message: String,
    },
    /// A request to the API server failed.
    #[error("{action}")]
    Kube {
        /// What was being done, to what.
        action: String,
        /// What went wrong.
        #[source]
        source: kube::Error,
    },
    /// A value could not be written as JSON, or an answer not be read.
    #[error("{action}")]
    Json {
        /// What was being done, to what.
        action: String,
        /// What went wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The reconcile took too long.
    #[error("the reconcile took longer than {}s", .0.as_secs())]
    Timeout(Duration),
    /// The reconcile panicked.
    #[error("the reconcile panicked: {0}")]
    Panic(String),
    /// The lease was not renewed in time: another operator may lead, and nothing may be written.
    #[error("not written: the lease was not renewed in time and another operator may lead")]
    LeaseExpired,
}

/// A result with the operator's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A refusal that only a change of the object, or of what it refers to, cures.
    pub fn terminal(reason: Reason, message: impl Into<String>) -> Self {
        Self::Refused {
            class: Class::Terminal,
            reason,
            message: message.into(),
        }
    }

    /// A refusal that may pass by itself.
    pub fn transient(reason: Reason, message: impl Into<String>) -> Self {
        Self::Refused {
            class: Class::Transient,
            reason,
            message: message.into(),
        }
    }

    /// Makes an error of a failed request; `action` says what was being done.
    pub fn kube(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Kube { action, source }
    }

    /// Makes an error of a failed conversion; `action` says what was being done.
    pub fn json(action: impl Into<String>) -> impl FnOnce(serde_json::Error) -> Self {
        let action = action.into();
        move |source| Self::Json { action, source }
    }

    /// Whether trying again can help.
    pub fn class(&self) -> Class {
        match self {
            Self::Refused { class, .. } => *class,
            Self::Kube {
                source: kube::Error::Api(status),
                ..
            } if status.code == 422 || status.code == 400 => Class::Terminal,
            _ => Class::Transient,
        }
    }

    /// The static reason: word of the condition and label of the metric.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Refused { reason, .. } => *reason,
            Self::Kube {
                source: kube::Error::Api(status),
                ..
            } => api_reason(status),
            Self::Kube { .. } | Self::LeaseExpired => Reason::ApiUnavailable,
            Self::Timeout(_) => Reason::ReconcileTimeout,
            Self::Json { .. } | Self::Panic(_) => Reason::InternalError,
        }
    }

    /// The sentence for a condition: what failed, why, and what to do. Only texts of the API server and
    /// our own are in it, never the body of another server's answer.
    pub fn message(&self) -> String {
        let text = match self {
            Self::Kube {
                action,
                source: kube::Error::Api(status),
            } => format!("{action}: {}", status.message),
            Self::Kube { action, source } => format!("{action}: {source}"),
            Self::Json { action, source } => format!("{action}: {source}"),
            other => other.to_string(),
        };
        self.reason().explain(&text)
    }

    /// Whether the object was changed by somebody else meanwhile, so that looking again is all there is to do.
    pub fn is_conflict(&self) -> bool {
        self.reason() == Reason::Conflict
    }

    /// Whether the API server said that the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Kube { source: kube::Error::Api(status), .. } if status.is_not_found())
    }
}

/// The reason for an answer of the API server.
fn api_reason(status: &Status) -> Reason {
    let message = &status.message;
    match status.code {
        403 if message.contains("exceeded quota") || message.contains("failed quota") => {
            Reason::QuotaExceeded
        }
        403 if message.contains("violates PodSecurity") => Reason::PodSecurityForbidden,
        403 if message.contains("is being terminated") => Reason::Terminating,
        403 => Reason::Forbidden,
        409 => Reason::Conflict,
        400 | 422 => Reason::ChildRefused,
        _ => Reason::ApiUnavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16, message: &str) -> Error {
        Error::kube("create pod web-0")(kube::Error::Api(Box::new(
            Status::failure(message, "").with_code(code),
        )))
    }

    #[test]
    fn answers_of_the_api_server_have_class_and_reason() {
        for (code, message, class, reason) in [
            (
                403,
                "pods \"x\" is forbidden: exceeded quota: q, requested: pods=1",
                Class::Transient,
                Reason::QuotaExceeded,
            ),
            (
                403,
                "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\"",
                Class::Transient,
                Reason::PodSecurityForbidden,
            ),
            (
                403,
                "unable to create new content in namespace x because it is being terminated",
                Class::Transient,
                Reason::Terminating,
            ),
            (
                403,
                "pods is forbidden: User \"u\" cannot create",
                Class::Transient,
                Reason::Forbidden,
            ),
            (
                409,
                "the object has been modified",
                Class::Transient,
                Reason::Conflict,
            ),
            (
                422,
                "Pod \"x\" is invalid",
                Class::Terminal,
                Reason::ChildRefused,
            ),
            (
                429,
                "too many requests",
                Class::Transient,
                Reason::ApiUnavailable,
            ),
            (
                500,
                "etcdserver: leader changed",
                Class::Transient,
                Reason::ApiUnavailable,
            ),
            (
                404,
                "namespaces \"x\" not found",
                Class::Transient,
                Reason::ApiUnavailable,
            ),
        ] {
            let error = api(code, message);
            assert_eq!(
                (error.class(), error.reason()),
                (class, reason),
                "{code} {message}"
            );
            assert!(
                error.message().starts_with("create pod web-0: "),
                "{}",
                error.message()
            );
        }
    }

    #[test]
    fn refusals_keep_their_reason_and_name_the_remedy() {
        let error = Error::terminal(
            Reason::NameConflict,
            "Deployment main belongs to somebody else",
        );
        assert_eq!(error.class(), Class::Terminal);
        assert_eq!(
            error.message(),
            "Deployment main belongs to somebody else. Delete or rename that object, or give this resource another name."
        );
        assert_eq!(
            Error::Timeout(Duration::from_secs(5)).class(),
            Class::Transient
        );
        assert_eq!(Error::Panic("x".into()).reason(), Reason::InternalError);
    }
}
