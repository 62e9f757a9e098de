//! Where a rank lets its peers in: listening sockets, and a thread that admits who proves itself.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, set_tcp_nodelay};

use super::proof::{Hello, Key, Keys, admit, prove};

/// How long a peer may take to prove itself.
const PROOF_LIMIT: Duration = Duration::from_secs(5);
/// Peers that prove themselves at a time; more are turned away, and come again.
const MOST_PROVING: usize = 64;
const PAUSE: Duration = Duration::from_millis(2);

/// A peer that has proved itself.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) hello: Hello,
    pub(super) keys: Keys,
    pub(super) socket: OwnedFd,
    /// Where it came from; none on this host.
    pub(super) ip: Option<IpAddr>,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn accept(&self) -> io::Result<(OwnedFd, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (socket, from) = listener.accept()?;
                Ok((tcp(socket)?, Some(from.ip())))
            }
            Self::Unix(listener) => {
                let (socket, _) = listener.accept()?;
                Ok((socket.into(), None))
            }
        }
    }
}

/// Open until it is dropped.
#[derive(Debug)]
pub(super) struct Door {
    guests: Receiver<Guest>,
    closed: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Door {
    /// Admits who comes to `tcp` or `unix` and knows the secret.
    pub(super) fn open(
        tcp: TcpListener,
        unix: Option<UnixListener>,
        secret: &Key,
    ) -> io::Result<Self> {
        tcp.set_nonblocking(true)?;
        let mut listeners = vec![Listener::Tcp(tcp)];
        if let Some(unix) = unix {
            unix.set_nonblocking(true)?;
            listeners.push(Listener::Unix(unix));
        }
        let (sender, guests) = channel();
        let mut door = Self {
            guests,
            closed: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        };
        for listener in listeners {
            let (sender, secret, closed) =
                (sender.clone(), secret.clone(), Arc::clone(&door.closed));
            let thread = std::thread::Builder::new().name("hadal-door".into());
            let thread = thread.spawn(move || serve(&listener, &secret, &sender, &closed))?;
            door.threads.push(thread);
        }
        Ok(door)
    }

    /// The next peer, within `limit`.
    pub(super) fn guest(&self, limit: Duration) -> Option<Guest> {
        self.guests.recv_timeout(limit).ok()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &Listener, secret: &Key, guests: &Sender<Guest>, closed: &AtomicBool) {
    let proving = Arc::new(AtomicUsize::new(0));
    while !closed.load(Ordering::Relaxed) {
        let Ok((socket, ip)) = listener.accept() else {
            std::thread::sleep(PAUSE);
            continue;
        };
        if proving.load(Ordering::Relaxed) >= MOST_PROVING {
            continue;
        }
        // A stranger that says nothing must not keep the others waiting.
        let (secret, guests, mine) = (secret.clone(), guests.clone(), Arc::clone(&proving));
        proving.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::Builder::new().name("hadal-proof".into());
        let thread = thread.spawn(move || {
            if let Ok((hello, keys)) = limited(socket.as_fd(), |socket| admit(socket, &secret)) {
                // Fails when the door was closed, and then nobody is let in.
                let _ = guests.send(Guest {
                    hello,
                    keys,
                    socket,
                    ip,
                });
            }
            mine.fetch_sub(1, Ordering::Relaxed);
        });
        if thread.is_err() {
            proving.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Knocks at a door of another host, or of this one.
pub(super) fn knock_tcp(
    address: SocketAddr,
    limit: Duration,
    (secret, hello): (&Key, Hello),
) -> io::Result<(OwnedFd, Keys)> {
    let socket = tcp(TcpStream::connect_timeout(&address, limit)?)?;
    let keys = limited(socket.as_fd(), |socket| prove(socket, secret, hello))?;
    Ok((socket, keys))
}

/// Knocks at a door of this host, through which descriptors pass.
pub(super) fn knock_unix(
    name: &str,
    (secret, hello): (&Key, Hello),
) -> io::Result<(OwnedFd, Keys)> {
    let address = UnixAddr::from_abstract_name(name)?;
    let socket = OwnedFd::from(UnixStream::connect_addr(&address)?);
    let keys = limited(socket.as_fd(), |socket| prove(socket, secret, hello))?;
    Ok((socket, keys))
}

/// A listener of this host at an unguessable abstract name.
pub(super) fn listen_unix() -> io::Result<(UnixListener, String)> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let name = format!("hadal-{:032x}", u128::from_le_bytes(random));
    let address = UnixAddr::from_abstract_name(&name)?;
    Ok((UnixListener::bind_addr(&address)?, name))
}

fn tcp(socket: TcpStream) -> io::Result<OwnedFd> {
    socket.set_nonblocking(false)?;
    set_tcp_nodelay(&socket, true)?;
    Ok(socket.into())
}

/// Runs `proof` with a limit on every step; afterwards only sends are limited.
fn limited<T>(
    socket: BorrowedFd<'_>,
    proof: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
) -> io::Result<T> {
    set_socket_timeout(socket, Timeout::Recv, Some(PROOF_LIMIT))?;
    set_socket_timeout(socket, Timeout::Send, Some(PROOF_LIMIT))?;
    let result = proof(socket)?;
    set_socket_timeout(socket, Timeout::Recv, None)?;
    Ok(result)
}
