//! One end of the socket between launcher and daemon, for code that blocks; the daemon's own end is async and
//! uses [`wire`](crate::wire) alone.
//! Knows frames and time-outs, not what the frames mean.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::RecvFlags;
use rustix::net::SendFlags;

use crate::wire::Frame;
use crate::wire::HEADER_BYTES;
use crate::wire::Header;
use crate::wire::WireError;

/// Most answers are a few bytes long, and every page of what they could fill takes time.
const READ_BYTES: usize = 16 * 1024;

/// A connected socket, and the bytes that were read from it but not yet understood.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Link {
    /// Over a connected socket in blocking mode.
    pub fn new(stream: UnixStream) -> Link {
        Link { stream, received: Vec::new() }
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends a frame. Never raises SIGPIPE.
    ///
    /// # Errors
    /// `InvalidInput` when the message is too long for a frame, else what the socket answers: `TimedOut` when it
    /// has a send time-out and nothing was taken for that long.
    pub fn send(&self, frame: &Frame) -> io::Result<()> {
        let bytes = frame.encode().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match rustix::net::send(&self.stream, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = &rest[sent..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(timed_out_if_again(error)),
            }
        }
        Ok(())
    }

    /// How long [`receive`](Link::receive) bears silence; none means for ever.
    ///
    /// # Errors
    /// What `setsockopt` answers.
    pub fn set_patience(&self, silence: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(silence)
    }

    /// Whether bytes were read that no frame was made of yet: the socket need not become readable for them.
    pub fn has_received(&self) -> bool {
        !self.received.is_empty()
    }

    /// Waits for the next frame.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer has closed, `TimedOut` after the patience that was set, `InvalidData` for
    /// bytes that are no frame, else what the socket answers.
    pub fn receive(&mut self) -> io::Result<Frame> {
        let header = self.fill(HEADER_BYTES)?;
        let header =
            header.first_chunk().ok_or(WireError::Truncated).and_then(|header| Header::decode(*header));
        let header = header.map_err(invalid_data)?;
        let frame_bytes = HEADER_BYTES + header.payload_bytes;
        let frame = self.fill(frame_bytes)?;
        let frame = Frame::from_parts(header.kind, &frame[HEADER_BYTES..frame_bytes]).map_err(invalid_data);
        self.received.drain(..frame_bytes);
        frame
    }

    /// Reads until `len` bytes are there, and returns all that are.
    fn fill(&mut self, len: usize) -> io::Result<&[u8]> {
        while self.received.len() < len {
            let have = self.received.len();
            // Memory grows with what has come, not with what a header promises.
            self.received.resize(have + READ_BYTES.max(have.min(len - have)), 0);
            let read = rustix::net::recv(&self.stream, &mut self.received[have..], RecvFlags::empty());
            self.received.truncate(have + read.as_ref().map_or(0, |(read, _)| *read));
            match read {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(timed_out_if_again(error)),
            }
        }
        Ok(&self.received)
    }
}

fn invalid_data(error: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A blocking socket says EAGAIN when its time-out has passed.
fn timed_out_if_again(error: rustix::io::Errno) -> io::Error {
    match error {
        rustix::io::Errno::AGAIN => io::ErrorKind::TimedOut.into(),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::wire::Reply;
    use crate::wire::Request;

    fn pair() -> (UnixStream, Link) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours, Link::new(theirs))
    }

    #[test]
    fn frames_arrive_whole_however_they_are_cut() {
        let (mut peer, mut link) = pair();
        let frames = [
            Frame::Reply(Reply::Working),
            Frame::Reply(Reply::Text(vec![5; 200_000])),
            Frame::Request(Request::Cancel),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.encode().unwrap()).collect();
        let writer =
            std::thread::spawn(move || bytes.chunks(777).for_each(|chunk| peer.write_all(chunk).unwrap()));
        for frame in frames {
            assert_eq!(link.receive().unwrap(), frame);
        }
        writer.join().unwrap();
        assert_eq!(link.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn silence_and_garbage_are_told_apart() {
        let (mut peer, mut link) = pair();
        link.set_patience(Some(Duration::from_millis(20))).unwrap();
        assert_eq!(link.receive().unwrap_err().kind(), io::ErrorKind::TimedOut);
        peer.write_all(&[0, 0, 0, 0, 0x77]).unwrap();
        assert_eq!(link.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
        peer.write_all(&[0xff; 5]).unwrap();
        assert_eq!(link.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_closed_peer_is_an_error_and_no_signal() {
        let (peer, link) = pair();
        drop(peer);
        assert_eq!(
            link.send(&Frame::Request(Request::Cancel)).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}
