//! What a failed exchange means: the causes of an error of the HTTP library, sorted into errors of this crate.

use url::Url;

use super::resolver::Refused;
use crate::{Error, Outage};

pub(crate) fn protocol(action: &str, problem: &'static str) -> Error {
    Error::Protocol {
        action: action.to_owned(),
        problem,
    }
}

pub(super) fn outage(action: &str, outage: Outage) -> Error {
    Error::Unavailable {
        action: action.to_owned(),
        outage,
        retry_after: None,
    }
}

/// The error for an exchange that got no answer. The causes decide: a refused address and a certificate that is not
/// trusted stay so, as does the lack of TLS; everything else may pass.
pub(super) fn transport_error(action: &str, url: &Url, error: &reqwest::Error) -> Error {
    let host = || url.host_str().unwrap_or_default().to_owned();
    let mut dns_failed = false;
    for cause in causes(error) {
        if let Some(Refused(reason)) = cause.downcast_ref() {
            return Error::AddressRefused {
                host: host(),
                reason,
            };
        }
        if let Some(error) = cause.downcast_ref() {
            let action = action.to_owned();
            if let rustls::Error::InvalidCertificate(problem) = error {
                return Error::Certificate {
                    action,
                    host: host(),
                    problem: problem.to_string(),
                };
            }
            if let Some(problem) = tls_problem(error) {
                return Error::Tls {
                    action,
                    host: host(),
                    problem,
                };
            }
        }
        dns_failed |= cause.to_string().starts_with("dns error");
    }
    let kind = if dns_failed {
        Outage::Dns
    } else if error.is_timeout() {
        Outage::Timeout
    } else if error.is_connect() {
        Outage::Connect(innermost(error))
    } else {
        Outage::Broken(innermost(error))
    };
    outage(action, kind)
}

/// What keeps us from speaking TLS with a server, where that will not pass.
fn tls_problem(error: &rustls::Error) -> Option<String> {
    use rustls::{AlertDescription as Alert, Error as Tls};
    match error {
        Tls::InvalidMessage(_) => Some(
            "it answers by something else; a registry without TLS must be named as one of plain HTTP"
                .into(),
        ),
        Tls::PeerIncompatible(_) => Some("there is no version or cipher in common".into()),
        Tls::AlertReceived(Alert::InternalError | Alert::UserCanceled | Alert::CloseNotify) => None,
        Tls::AlertReceived(
            alert @ (Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::AccessDenied),
        ) => Some(format!(
            "it does not accept our client certificate, or wants one ({alert:?})"
        )),
        Tls::AlertReceived(alert) => Some(format!("it refuses the connection ({alert:?})")),
        _ => None,
    }
}

type Cause<'a> = &'a (dyn std::error::Error + 'static);

/// `error` and what caused it. The error inside of an I/O error is one of its causes, though `source` skips it.
fn causes<'a>(error: &'a (dyn std::error::Error + 'static)) -> impl Iterator<Item = Cause<'a>> {
    std::iter::successors(Some(error), |&error| {
        match error
            .downcast_ref::<std::io::Error>()
            .map(|io| io.get_ref())
        {
            Some(Some(inner)) => Some(inner as Cause<'a>),
            _ => error.source(),
        }
    })
}

/// The last cause, which tells what happened and names no URL.
fn innermost(error: &reqwest::Error) -> String {
    match causes(error).last() {
        Some(cause) if cause.downcast_ref::<reqwest::Error>().is_none() => cause.to_string(),
        _ => "no further cause is known".to_owned(),
    }
}

/// All causes of an error that came before any exchange.
pub(super) fn chain(error: &reqwest::Error) -> String {
    let parts: Vec<_> = causes(error).skip(1).map(ToString::to_string).collect();
    if parts.is_empty() {
        error.to_string()
    } else {
        parts.join(": ")
    }
}
