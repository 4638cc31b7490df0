//! Resolving of names for connections: the network guard sees every address before it is connected to, so that what a
//! name pointed to a moment ago does not count.

use std::net::SocketAddr;

use reqwest::dns;

use crate::Guard;

/// Resolves names and leaves out the addresses that the guard refuses.
pub(super) struct GuardedResolver(pub(super) Guard);

/// A name all of whose addresses are refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(pub(super) &'static str);

impl dns::Resolve for GuardedResolver {
    fn resolve(&self, name: dns::Name) -> dns::Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let mut refused = None;
            let allowed: Vec<SocketAddr> = found
                .filter(|address| match guard.check(address.ip()) {
                    Ok(()) => true,
                    Err(reason) => {
                        refused = Some(Refused(reason));
                        false
                    }
                })
                .collect();
            match refused {
                Some(refused) if allowed.is_empty() => Err(refused.into()),
                _ => Ok(Box::new(allowed.into_iter()) as dns::Addrs),
            }
        })
    }
}
