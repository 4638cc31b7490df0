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

pub(super) fn timeout(action: &str) -> Error {
    Error::Unavailable {
        action: action.to_owned(),
        outage: Outage::Timeout,
        retry_after: None,
    }
}

/// The error for an exchange that got no answer. The causes decide: a refused address and a certificate that is not
/// trusted stay so, everything else may pass.
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
        if let Some(rustls::Error::InvalidCertificate(problem)) = cause.downcast_ref() {
            return Error::Certificate {
                action: action.to_owned(),
                host: host(),
                problem: problem.to_string(),
            };
        }
        dns_failed |= cause.to_string().starts_with("dns error");
    }
    let outage = if dns_failed {
        Outage::Dns
    } else if error.is_timeout() {
        Outage::Timeout
    } else if error.is_connect() {
        Outage::Connect(innermost(error))
    } else {
        Outage::Broken(innermost(error))
    };
    Error::Unavailable {
        action: action.to_owned(),
        outage,
        retry_after: None,
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
