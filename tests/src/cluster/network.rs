//! Addresses of a cluster, and the veth pair between the host and its network namespace.
//!
//! Every cluster has a /16 of its own, so that pods and Services of several are
//! reachable from the host, side by side, without translation. There is no way
//! from a cluster to anywhere but the host's end of the pair: anything else is
//! refused at once (`unreachable`), not lost.

use std::net::Ipv4Addr;

use super::error::Result;
use super::namespace::{Node, run};

/// The addresses of cluster number `index` of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    second: u8,
}

impl Addresses {
    /// Block `10.(128 + index).0.0/16`; `index` is below 100.
    pub(crate) fn new(index: u8) -> Self {
        Self {
            second: 128_u8.saturating_add(index),
        }
    }

    /// The host's end of the pair: how pods and the node reach a server of the test.
    pub fn host(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.second, 255, 1)
    }

    /// The node's address: API server (6443), kubelet, CoreDNS (53), node ports.
    pub fn node(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.second, 255, 2)
    }

    /// The Service `kubernetes`.
    pub fn api_service(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.second, 128, 1)
    }

    /// All of them, in CIDR notation.
    pub fn block(self) -> String {
        format!("10.{}.0.0/16", self.second)
    }

    /// Addresses of pods, in CIDR notation.
    pub fn pods(self) -> String {
        format!("10.{}.0.0/24", self.second)
    }

    /// Addresses of Services, in CIDR notation.
    pub fn services(self) -> String {
        format!("10.{}.128.0/20", self.second)
    }
}

/// Connects the node to the host: `key` names the host's end, `<key>p` the other.
pub(crate) async fn connect(node: &Node, key: &str, addresses: Addresses) -> Result<()> {
    let peer = format!("{key}p");
    let (host, inside) = (
        format!("{}/30", addresses.host()),
        format!("{}/30", addresses.node()),
    );
    let node_pid = node.pid.to_string();
    let services = addresses.services();
    let block = addresses.block();
    let gateway = addresses.node().to_string();
    run(super::namespace::host_command(
        "ip",
        &["link", "set", &peer, "netns", &node_pid, "name", "eth0"],
    ))
    .await?;
    for arguments in [
        &["address", "add", &inside, "dev", "eth0"][..],
        &["link", "set", "eth0", "up"],
        // Translated before it would leave; a program of the node needs a route to begin with.
        &["route", "add", &services, "dev", "eth0"],
        &["route", "add", "unreachable", "default"],
    ] {
        run(node.command("ip", arguments)).await?;
    }
    for arguments in [
        &["address", "add", &host, "dev", key][..],
        &["link", "set", key, "up"],
        &["route", "add", &block, "via", &gateway, "dev", key],
    ] {
        run(super::namespace::host_command("ip", arguments)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_do_not_share_addresses() {
        let (first, second) = (Addresses::new(0), Addresses::new(1));
        assert_eq!(first.block(), "10.128.0.0/16");
        assert_eq!(first.services(), "10.128.128.0/20");
        assert_eq!(second.pods(), "10.129.0.0/24");
        assert_ne!(first.host(), second.host());
        assert_eq!(Addresses::new(99).node(), Ipv4Addr::new(10, 227, 255, 2));
    }
}
