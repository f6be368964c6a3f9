//! A launcher's socket, and the frames that come and go on it.
//! Knows nothing of what they say.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;

use anyhow::Context;
use farcc::wire::HEADER_BYTES;
use farcc::wire::Header;
use farcc::wire::Reply;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::dispatch::Presence;

/// What is read at once: most requests are no longer.
const READ_BYTES: usize = 16 << 10;

/// One end of a connection. The socket does not block; the runtime learns of it only when somebody has to wait, which most
/// commands that are hits never do.
pub(super) struct Stream {
    socket: Arc<OwnedFd>,
    /// The same socket, as the runtime has it.
    registered: OnceLock<UnixStream>,
    /// Whether an answer was begun.
    has_spoken: Mutex<bool>,
}

impl Stream {
    /// The connection of a socket that does not block.
    pub(super) fn new(socket: OwnedFd) -> Stream {
        Stream { socket: Arc::new(socket), registered: OnceLock::new(), has_spoken: Mutex::new(false) }
    }

    /// Asks the socket itself whether the other end waits, so that a thread which was blocked for long knows even before any
    /// task does.
    pub(super) fn presence(&self) -> Presence {
        // While this is held, the launcher sees no end of file: it never goes on beside an install.
        let socket = Arc::clone(&self.socket);
        Presence::new(move || {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            // A byte can only be of Cancel: the report of a race has been read before anything is installed.
            matches!(rustix::net::recv(&socket, &mut [0; 1], flags), Err(Errno::AGAIN | Errno::INTR))
        })
    }

    /// Appends what has come to `received`; returns how much, 0 at the end.
    ///
    /// Nothing is lost if the future is dropped.
    pub(super) async fn receive(&self, received: &mut Vec<u8>) -> io::Result<usize> {
        let mut receive = || {
            received.reserve(READ_BYTES);
            let room = rustix::buffer::spare_capacity(received);
            Ok(rustix::net::recv(&self.socket, room, RecvFlags::DONTWAIT)?.1)
        };
        self.when_ready(Interest::READABLE, &mut receive).await
    }

    async fn send_bytes(&self, mut bytes: &[u8]) -> io::Result<()> {
        *self.has_spoken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        while !bytes.is_empty() {
            let mut send =
                || Ok(rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?);
            let sent = self.when_ready(Interest::WRITABLE, &mut send).await?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Sends a frame, however long the other end takes.
    pub(super) async fn send(&self, reply: &Reply) -> anyhow::Result<()> {
        let frame = reply.encode().context("encode a reply")?;
        self.send_bytes(&frame).await.context("answer the launcher")
    }

    /// Says that the daemon lives, unless an answer was begun. Never waits: whoever has not even room for this frame has unread
    /// ones.
    pub(super) fn hearten(&self) {
        let Ok(frame) = Reply::Working.encode() else { return };
        let has_spoken = self.has_spoken.lock().unwrap_or_else(PoisonError::into_inner);
        if !*has_spoken {
            // Who has gone needs no comfort.
            let _ = rustix::net::send(&self.socket, &frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    /// Waits only if `attempt` would have blocked.
    async fn when_ready<T>(
        &self,
        interest: Interest,
        attempt: &mut impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                done => return done,
            }
            let registered = self.registered()?;
            registered.ready(interest).await?;
            // It may have become ready since the attempt: only one that comes after this tells.
            match registered.try_io(interest, &mut *attempt) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    fn registered(&self) -> io::Result<&UnixStream> {
        if let Some(registered) = self.registered.get() {
            return Ok(registered);
        }
        let registered = UnixStream::from_std(self.socket.try_clone()?.into())?;
        // Only one task has the stream.
        Ok(self.registered.get_or_init(|| registered))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The length of the frame with which the bytes begin, if all of it is there, or if it cannot be one.
pub(super) fn whole_frame(received: &[u8]) -> Option<usize> {
    let header = Header::decode(*received.first_chunk::<HEADER_BYTES>()?);
    let length = header.map_or(received.len(), |header| HEADER_BYTES + header.payload_bytes);
    (length <= received.len()).then_some(length)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::io::Read;
    use std::io::Write;
    use std::os::unix::net::UnixStream as Peer;
    use std::task::Context as Polling;
    use std::task::Poll;
    use std::task::Waker;

    use farcc::wire::Frame;

    use super::*;

    fn pair() -> (Stream, Peer) {
        let (ours, theirs) = Peer::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Stream::new(ours.into()), theirs)
    }

    fn once<T>(future: impl Future<Output = T>) -> Poll<T> {
        std::pin::pin!(future).poll(&mut Polling::from_waker(Waker::noop()))
    }

    fn frames(mut bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(length) = whole_frame(bytes) {
            frames.push(Frame::decode(&bytes[..length]).unwrap());
            bytes = &bytes[length..];
        }
        assert!(bytes.is_empty());
        frames
    }

    #[test]
    fn who_need_not_wait_needs_no_runtime() {
        let (stream, mut peer) = pair();
        let presence = stream.presence();
        assert!(presence.is_there());
        peer.write_all(b"words").unwrap();
        assert!(!presence.is_there(), "only Cancel comes before an answer");
        let mut received = Vec::new();
        assert!(matches!(once(stream.receive(&mut received)), Poll::Ready(Ok(5))));
        assert_eq!(received, b"words");
        assert!(matches!(once(stream.send(&Reply::Working)), Poll::Ready(Ok(()))));
        drop(peer);
        assert!(!presence.is_there());
        assert!(matches!(once(stream.receive(&mut received)), Poll::Ready(Ok(0))));
    }

    #[tokio::test]
    async fn who_waits_gets_everything_in_one_piece() {
        let (stream, mut peer) = pair();
        stream.hearten();
        let reply = Reply::Completed { exit_code: 3, stdout: vec![7; 3 << 20], stderr: b"text".to_vec() };
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            std::thread::sleep(std::time::Duration::from_millis(50));
            peer.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let comfort = async {
            for _ in 0..100 {
                // None of these may come in between.
                stream.hearten();
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        let (sent, ()) = tokio::join!(stream.send(&reply), comfort);
        sent.unwrap();
        drop(stream);
        let found = frames(&reader.join().unwrap());
        assert_eq!(found, [Frame::Reply(Reply::Working), Frame::Reply(reply)]);
    }
}
