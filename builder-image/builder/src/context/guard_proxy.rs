//! A proxy on loopback through which `git` makes its one connection, so that the network guard judges the address that is
//! really connected to. It tunnels to a single host and port, and lives as long as the fetch.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use distribution::Guard;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// How long a request and a connection may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// The longest request in bytes.
const MAX_REQUEST: usize = 8 << 10;

/// A running proxy; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct GuardProxy {
    address: SocketAddr,
    refused: Arc<Mutex<Option<&'static str>>>,
    task: JoinHandle<()>,
}

impl GuardProxy {
    /// Starts a proxy to `host` (without brackets) and `port`.
    pub(super) async fn start(guard: Guard, host: &str, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let refused = Arc::new(Mutex::new(None));
        let tunnel = Arc::new(Tunnel {
            guard,
            host: host.to_owned(),
            port,
            refused: Arc::clone(&refused),
        });
        let task = tokio::spawn(async move {
            // The tunnels end with the set, and the set with the task.
            let mut tunnels = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let tunnel = Arc::clone(&tunnel);
                tunnels.spawn(async move {
                    // A tunnel that breaks is seen by both of its ends.
                    let _ = tunnel.serve(client).await;
                });
            }
        });
        Ok(Self {
            address,
            refused,
            task,
        })
    }

    /// The URL of the proxy.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Why the guard refused a connection, if it did.
    pub(super) fn refused(&self) -> Option<&'static str> {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for GuardProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Tunnel {
    guard: Guard,
    host: String,
    port: u16,
    refused: Arc<Mutex<Option<&'static str>>>,
}

impl Tunnel {
    async fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let request = tokio::time::timeout(PATIENCE, read_request(&mut client)).await??;
        if target(&request) != Some((self.host.as_str(), self.port)) {
            return client.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await;
        }
        let mut server = match tokio::time::timeout(PATIENCE, self.connect()).await? {
            Ok(server) => server,
            Err(error) => {
                client
                    .write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
                    .await?;
                return Err(error);
            }
        };
        client
            .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        Ok(())
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
        for address in tokio::net::lookup_host((self.host.as_str(), self.port)).await? {
            if let Err(reason) = self.guard.check(address.ip()) {
                *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
                last = io::Error::new(io::ErrorKind::PermissionDenied, reason);
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The head of a request, as far as the empty line.
async fn read_request(client: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.push(client.read_u8().await?);
    }
    String::from_utf8(head).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Host and port of a CONNECT request.
fn target(request: &str) -> Option<(&str, u16)> {
    let authority = request.strip_prefix("CONNECT ")?.split(' ').next()?;
    let (host, port) = authority.rsplit_once(':')?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    Some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    async fn ask(proxy: &GuardProxy, target: &str) -> String {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = read_request(&mut stream).await.unwrap();
        if answer.starts_with("HTTP/1.1 200") {
            stream.write_all(b"ping").await.unwrap();
            stream.shutdown().await.unwrap();
        }
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn one_host_is_reached_and_the_guard_judges_its_address() {
        let server = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = server.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                let mut text = String::new();
                stream.read_to_string(&mut text).await.unwrap();
                stream
                    .write_all(format!("pong to {text}").as_bytes())
                    .await
                    .unwrap();
            }
        });
        let allowed = GuardProxy::start(Guard::closed(["127.0.0.0/8"]).unwrap(), "127.0.0.1", port)
            .await
            .unwrap();
        assert_eq!(
            ask(&allowed, &format!("127.0.0.1:{port}")).await,
            "HTTP/1.1 200 Connection established\r\n\r\npong to ping"
        );
        assert!(
            ask(&allowed, "127.0.0.1:1")
                .await
                .starts_with("HTTP/1.1 403")
        );
        assert!(
            ask(&allowed, "example.com:443")
                .await
                .starts_with("HTTP/1.1 403")
        );
        assert_eq!(allowed.refused(), None);
        let closed = GuardProxy::start(Guard::default(), "localhost", port)
            .await
            .unwrap();
        assert!(
            ask(&closed, &format!("localhost:{port}"))
                .await
                .starts_with("HTTP/1.1 502")
        );
        assert!(closed.refused().is_some());
    }

    #[test]
    fn targets() {
        let rows = [
            (
                "CONNECT a.example:443 HTTP/1.1\r\n\r\n",
                Some(("a.example", 443)),
            ),
            ("CONNECT [::1]:8443 HTTP/1.1\r\n\r\n", Some(("::1", 8443))),
            ("GET http://a.example/ HTTP/1.1\r\n\r\n", None),
            ("CONNECT a.example HTTP/1.1\r\n\r\n", None),
            ("CONNECT a.example:99999 HTTP/1.1\r\n\r\n", None),
        ];
        for (request, expected) in rows {
            assert_eq!(target(request), expected, "{request}");
        }
    }
}
