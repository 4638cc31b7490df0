//! Ports of EXPOSE: `[address:][host port:]port[/protocol]`, where a port may be a range.
//!
//! Only the container's port and the protocol count; an address and a host port are accepted and dropped, as the
//! reference frontend does.

/// How to write a port, for help lines.
pub(crate) const SYNTAX: &str =
    "write a port between 1 and 65535, such as `8080`, `8080/udp` or `8000-8010/tcp`";

/// Why a text is no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not a number up to 65535, or a range that runs backwards.
    #[error("invalid port `{0}`")]
    Number(String),
    /// Neither tcp, udp nor sctp.
    #[error("invalid protocol `{0}`")]
    Protocol(String),
    /// A range of host ports of another length than that of the container's.
    #[error("the port ranges of `{0}` differ in length")]
    Lengths(String),
}

/// A port of the container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// The number.
    pub number: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
}

impl std::fmt::Display for Port {
    /// As the image configuration writes it: `80/tcp`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

/// Reads one expanded word of EXPOSE; a range yields several ports.
pub fn parse(text: &str) -> Result<Vec<Port>, PortError> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, ""));
    let protocol = match protocol.to_lowercase().as_str() {
        "" | "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        _ => return Err(PortError::Protocol(protocol.to_owned())),
    };
    let (host, container) = match ports.rsplit_once(':') {
        // What stands before the last colon of the rest is an address, which may itself hold colons.
        Some((before, container)) => {
            let host = before.rsplit_once(':').map_or(before, |(_, host)| host);
            (host, container)
        }
        None => ("", ports),
    };
    let (first, last) = range(container).ok_or_else(|| PortError::Number(text.to_owned()))?;
    if !host.is_empty() {
        let (host_first, host_last) =
            range(host).ok_or_else(|| PortError::Number(text.to_owned()))?;
        // One container port may be published on any port of a range.
        if last - first != host_last - host_first && first != last {
            return Err(PortError::Lengths(text.to_owned()));
        }
    }
    Ok((first..=last)
        .map(|number| Port { number, protocol })
        .collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let number = |text: &str| Err(PortError::Number(text.to_owned()));
        for (text, expected) in [
            ("80", Ok("80/tcp")),
            ("80/tcp", Ok("80/tcp")),
            ("80/UDP", Ok("80/udp")),
            ("80/sctp", Ok("80/sctp")),
            ("80/", Ok("80/tcp")),
            ("80-82/udp", Ok("80/udp 81/udp 82/udp")),
            ("8080:80", Ok("80/tcp")),
            ("127.0.0.1:8080:80", Ok("80/tcp")),
            ("127.0.0.1::80", Ok("80/tcp")),
            ("[::1]:8080:80", Ok("80/tcp")),
            ("8080-8081:80-81", Ok("80/tcp 81/tcp")),
            ("8080-8082:80", Ok("80/tcp")),
            ("65535", Ok("65535/tcp")),
            ("65536", number("65536")),
            ("a", number("a")),
            ("", number("")),
            ("80-79", number("80-79")),
            ("+80", number("+80")),
            ("80-81-82", number("80-81-82")),
            ("x:80", number("x:80")),
            ("80/icmp", Err(PortError::Protocol("icmp".to_owned()))),
            (
                "80-82:80-81",
                Err(PortError::Lengths("80-82:80-81".to_owned())),
            ),
        ] {
            let ports = parse(text).map(|ports| {
                let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
                ports.join(" ")
            });
            assert_eq!(ports, expected.map(str::to_owned), "{text}");
        }
    }
}
