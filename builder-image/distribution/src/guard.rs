//! Which network addresses may be connected to: a pure decision over IP addresses, made for every connection at connect
//! time. Names are judged by what they resolve to, so a name that points to this machine is refused like the address.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use url::{Host, Url};

/// The network guard. Private networks are always allowed (cluster addresses are private).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// Nothing is refused: a person's own machine.
    Open,
    /// Loopback, link-local, metadata and other addresses that lead to the machine itself are refused.
    Closed {
        /// Networks that are let through nonetheless.
        allow: Vec<Cidr>,
    },
}

impl Default for Guard {
    /// Closed, without exceptions.
    fn default() -> Self {
        Self::Closed { allow: Vec::new() }
    }
}

impl Guard {
    /// A closed guard with the exceptions `allow`, each as `10.0.0.0/8`, `::1/128` or a single address.
    ///
    /// # Errors
    /// When one of them is not a network.
    pub fn closed<S: AsRef<str>>(allow: impl IntoIterator<Item = S>) -> Result<Self, CidrError> {
        let allow = allow
            .into_iter()
            .map(|text| text.as_ref().parse())
            .collect::<Result<_, _>>()?;
        Ok(Self::Closed { allow })
    }

    /// Whether `address` may be connected to; if not, why.
    ///
    /// # Errors
    /// The class of the address, as a phrase.
    pub fn check(&self, address: IpAddr) -> Result<(), &'static str> {
        let Self::Closed { allow } = self else {
            return Ok(());
        };
        if allow.iter().any(|network| network.contains(address)) {
            return Ok(());
        }
        match address {
            IpAddr::V4(v4) => check_v4(v4),
            IpAddr::V6(v6) => {
                if let Some(inner) = embedded_v4(v6) {
                    return if allow.iter().any(|network| network.contains(inner.into())) {
                        Ok(())
                    } else {
                        check_v4(inner)
                    };
                }
                check_v6(v6)
            }
        }
    }

    /// Whether the host of `url` may be connected to, as far as its text tells: addresses are judged, names are not.
    pub(crate) fn check_url(&self, url: &Url) -> Result<(), &'static str> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.check(address.into()),
            Some(Host::Ipv6(address)) => self.check(address.into()),
            Some(Host::Domain(_)) => Ok(()),
            None => Err("the URL has no host"),
        }
    }
}

fn check_v4(address: Ipv4Addr) -> Result<(), &'static str> {
    let [a, b, c, d] = address.octets();
    match (a, b) {
        (0, _) => Err("it is an unspecified address"),
        (127, _) => Err("it is a loopback address"),
        (169, 254) => Err("it is a link-local address (cloud metadata)"),
        // The metadata and host services of Azure, Alibaba and Oracle outside of the link-local range.
        (168, 63) if (c, d) == (129, 16) => Err("it is a metadata address"),
        (100, 100) if (c, d) == (100, 200) => Err("it is a metadata address"),
        (192, 0) if (c, d) == (0, 192) => Err("it is a metadata address"),
        (224..=239, _) => Err("it is a multicast address"),
        (240..=255, _) => Err("it is a reserved address"),
        _ => Ok(()),
    }
}

fn check_v6(address: Ipv6Addr) -> Result<(), &'static str> {
    let segments = address.segments();
    if address.is_unspecified() {
        Err("it is an unspecified address")
    } else if address.is_loopback() {
        Err("it is a loopback address")
    } else if address.is_multicast() {
        Err("it is a multicast address")
    } else if segments[0] & 0xffc0 == 0xfe80 || segments[0] & 0xffc0 == 0xfec0 {
        Err("it is a link-local address")
    } else if segments == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]
        || segments == [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
    {
        Err("it is a metadata address")
    } else {
        Ok(())
    }
}

/// The IPv4 address that packets to `address` end up at: v4-mapped, v4-compatible, NAT64, 6to4 and Teredo addresses.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
            if s[5] == 0xffff || !matches!((high, low), (0, 0 | 1)) =>
        {
            Some(join(high, low))
        }
        [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low]
        | [0x2002, high, low, ..] => Some(join(high, low)),
        [0x2001, 0, _, _, _, _, high, low] => Some(join(!high, !low)),
        _ => None,
    }
}

/// A network: an address and the number of leading bits that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

/// A text that is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a network: expected an address and a prefix length, for instance 10.0.0.0/8")]
pub struct CidrError(String);

impl Cidr {
    /// Whether `address` is in this network. A v4-mapped IPv6 address is not in an IPv4 network.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                let part = |a: Ipv4Addr| a.to_bits().checked_shr(shift).unwrap_or(0);
                part(network) == part(address)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                let part = |a: Ipv6Addr| a.to_bits().checked_shr(shift).unwrap_or(0);
                part(network) == part(address)
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.chars().take(64).collect());
        let (address, bits) = match text.trim().split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text.trim(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().map_err(|_| error())?,
            None => most,
        };
        if bits > most {
            return Err(error());
        }
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_machine_itself_are_refused() {
        let guard = Guard::default();
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "169.254.0.1",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001:0:0:0:0:0:80ff:fffe",
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert!(guard.check(address).is_err(), "{text}");
            assert!(Guard::Open.check(address).is_ok());
        }
    }

    #[test]
    fn private_and_public_addresses_are_allowed() {
        let guard = Guard::default();
        for text in [
            "10.96.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "1.1.1.1",
            "fd12::1",
            "2606:4700::1111",
            "::ffff:10.0.0.1",
            "64:ff9b::101:101",
        ] {
            assert_eq!(guard.check(text.parse().unwrap()), Ok(()), "{text}");
        }
    }

    #[test]
    fn exceptions_are_networks() {
        let guard = Guard::closed(["127.0.0.0/30", "::1"]).unwrap();
        for (text, allowed) in [
            ("127.0.0.1", true),
            ("127.0.0.3", true),
            ("127.0.0.4", false),
            ("::ffff:127.0.0.1", true),
            ("::1", true),
            ("169.254.169.254", false),
        ] {
            assert_eq!(
                guard.check(text.parse().unwrap()).is_ok(),
                allowed,
                "{text}"
            );
        }
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.1.2.3".parse().unwrap()));
        for text in ["", "a", "1.2.3.4/33", "::/129", "1.2.3.4/x", "1.2.3/8"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_in_disguise_are_seen_in_urls() {
        let guard = Guard::default();
        for text in [
            "http://2130706433/",
            "http://0x7f.1/",
            "http://017700000001/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://127.1/",
        ] {
            let url = Url::parse(text).unwrap();
            assert!(guard.check_url(&url).is_err(), "{text}");
        }
    }
}
