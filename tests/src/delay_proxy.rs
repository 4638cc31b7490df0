//! A proxy on loopback that makes a server seem far away: what it takes on one side it gives out on the other after half of a
//! round trip, and a connection has at most so much on its way as Linux's default windows allow.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// What is read at once.
const PIECE: usize = 64 * 1024;
/// Pieces on their way in one direction: 3 MiB, which is 6 MiB for a round trip.
const PIECES: usize = 48;

/// A running proxy. Dropping it closes its port and every connection.
pub struct DelayProxy {
    address: SocketAddr,
    task: AbortHandle,
}

impl DelayProxy {
    /// Starts a proxy for the server at `target`, `round_trip` away. A connection takes a round trip more before it carries
    /// anything, as its opening would.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(target: String, round_trip: Duration) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let target = target.clone();
                connections.spawn(async move {
                    tokio::time::sleep(round_trip).await;
                    let Ok(far) = TcpStream::connect(target).await else {
                        return;
                    };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    let half = round_trip / 2;
                    tokio::join!(
                        pass(near_read, far_write, half),
                        pass(far_read, near_write, half)
                    );
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            task: task.abort_handle(),
        })
    }

    /// Where it listens.
    pub fn host(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for DelayProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries everything from one side to the other, each byte `delay` after it came, and then its end.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, delay: Duration) {
    let (send, mut queue) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let take = async move {
        let mut piece = vec![0; PIECE];
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            let piece = Bytes::copy_from_slice(&piece[..count]);
            if send.send((Instant::now() + delay, piece)).await.is_err() {
                break;
            }
        }
    };
    let give = async move {
        while let Some((due, piece)) = queue.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(take, give);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_takes_a_round_trip_and_the_opening_another() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = server.local_addr().expect("it is bound").to_string();
        tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.expect("a connection");
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await
        });
        let trip = Duration::from_millis(40);
        let proxy = DelayProxy::start(target, trip).await.expect("a proxy");
        let mut stream = TcpStream::connect(proxy.host()).await.expect("a stream");
        for least in [trip * 2, trip] {
            let begin = Instant::now();
            stream.write_all(b"word").await.expect("it takes it");
            let mut word = [0; 4];
            stream.read_exact(&mut word).await.expect("it comes back");
            assert_eq!(&word, b"word");
            assert!(begin.elapsed() >= least, "{:?}", begin.elapsed());
        }
    }
}
