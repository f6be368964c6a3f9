//! A way to a server that counts its bytes and may be as long as one around the world.
//! Knows nothing of what passes.

use std::io::Read as _;
use std::io::Write as _;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

/// A proxy on a port of loopback. Dropping it ends it for new connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: String,
    /// From one end to the other.
    delay: Duration,
    bytes_there: AtomicU64,
    bytes_back: AtomicU64,
    turns: AtomicU64,
    is_over: AtomicBool,
    /// Both ends of all that is connected.
    connected: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// A proxy to `host:port` `to`, with this time for one round trip.
    ///
    /// # Panics
    /// When there is no port for it.
    pub fn start(to: &str, round_trip: Duration) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to: to.to_owned(),
            delay: round_trip / 2,
            bytes_there: AtomicU64::new(0),
            bytes_back: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            connected: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || shared.join(&client));
            }
        });
        Proxy { address, shared }
    }

    /// `127.0.0.1:port`.
    pub fn host_and_port(&self) -> String {
        self.address.to_string()
    }

    /// Cuts all connections, as they are. New ones can be made.
    ///
    /// # Panics
    /// Never: nobody panics while the list is locked.
    pub fn cut(&self) {
        for stream in self.shared.connected.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Bytes that went to the server so far.
    pub fn bytes_there(&self) -> u64 {
        self.shared.bytes_there.load(Ordering::Relaxed)
    }

    /// How often a client has said something after it had heard something: so many round trips at most was anything waited for.
    pub fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::Relaxed)
    }

    /// Bytes that came from the server so far.
    pub fn bytes_back(&self) -> u64 {
        self.shared.bytes_back.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn join(&self, client: &TcpStream) {
        let Ok(server) = TcpStream::connect(&self.to) else { return };
        // One more round trip, as a connection takes.
        std::thread::sleep(self.delay * 2);
        for stream in [client, &server] {
            let _ = stream.set_nodelay(true);
            self.connected.lock().unwrap().extend(stream.try_clone());
        }
        // Who connects speaks first.
        let is_heard = AtomicBool::new(true);
        let there = |bytes| {
            self.bytes_there.fetch_add(bytes, Ordering::Relaxed);
            let is_turn = is_heard.swap(false, Ordering::Relaxed);
            self.turns.fetch_add(is_turn.into(), Ordering::Relaxed);
        };
        let back = |bytes| {
            self.bytes_back.fetch_add(bytes, Ordering::Relaxed);
            is_heard.store(true, Ordering::Relaxed);
        };
        std::thread::scope(|scope| {
            scope.spawn(|| self.pass(client, &server, &there));
            scope.spawn(|| self.pass(&server, client, &back));
        });
    }

    /// Passes on what comes, each piece when its time has come, until one end closes.
    fn pass(&self, mut from: &TcpStream, mut to: &TcpStream, count: &dyn Fn(u64)) {
        let (sender, pieces) = mpsc::channel::<(Instant, Vec<u8>)>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for (due, piece) in pieces {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    if to.write_all(&piece).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Write);
                let _ = from.shutdown(Shutdown::Read);
            });
            let mut buffer = vec![0; 256 << 10];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                count(read as u64);
                if sender.send((Instant::now() + self.delay, buffer[..read].to_vec())).is_err() {
                    break;
                }
            }
            drop(sender);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_whole_counted_and_late() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(&server.local_addr().unwrap().to_string(), Duration::from_millis(100));
        std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut asked = [0; 3];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(&vec![asked[2]; 1 << 20]).unwrap();
        });
        let started = Instant::now();
        let mut client = TcpStream::connect(proxy.host_and_port()).unwrap();
        client.write_all(b"abc").unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, vec![b'c'; 1 << 20]);
        assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
        assert_eq!((proxy.bytes_there(), proxy.bytes_back(), proxy.turns()), (3, 1 << 20, 1));
    }
}
