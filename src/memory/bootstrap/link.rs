//! A connection between two ranks: frames in order, each with at most one file descriptor.
//!
//! Ranks of one process are connected by channels. Ranks of different processes are connected by a
//! socket; a thread takes frames off it, so that no rank waits for another to listen. A frame on a
//! socket is
//!
//! ```text
//! length u32 | file u8 (1: a descriptor travels with the header) | body | tag: 32 bytes
//! ```
//!
//! in little-endian order, where the tag authenticates a counter, the header and the body with the
//! key of its direction ([`super::proof`]). The body is not encrypted.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};

use super::proof::{Key, Keys, TAG_BYTES};

/// Longest body.
const MOST_BYTES: u32 = 1 << 24;
const HEADER_BYTES: usize = 5;

/// What one rank sends another.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) body: Vec<u8>,
    pub(super) file: Option<Arc<OwnedFd>>,
}

/// Why no frame came or went.
#[derive(Debug)]
pub(super) enum LinkError {
    /// The peer ended the connection, or broke its rules.
    Closed,
    /// The time was up.
    Timeout,
}

/// This rank's end.
#[derive(Debug)]
pub(super) struct Link {
    sender: To,
    receiver: Receiver<Frame>,
}

#[derive(Debug)]
enum To {
    Channel(Sender<Frame>),
    Socket {
        socket: Arc<OwnedFd>,
        seal: Seal,
        reader: Option<JoinHandle<()>>,
    },
}

impl Link {
    /// Both ends of a connection within the process.
    pub(super) fn pair() -> [Self; 2] {
        let ((to_left, left), (to_right, right)) = (channel(), channel());
        let end = |sender, receiver| Self {
            sender: To::Channel(sender),
            receiver,
        };
        [end(to_right, left), end(to_left, right)]
    }

    /// The end at `socket`, whose peer has proved itself.
    pub(super) fn socket(socket: OwnedFd, keys: Keys) -> io::Result<Self> {
        let socket = Arc::new(socket);
        let (sender, receiver) = channel();
        let from = Arc::clone(&socket);
        let reader = std::thread::Builder::new()
            .name("hadal-bootstrap".into())
            .spawn(move || {
                let mut seal = Seal::new(keys.from_peer);
                // Whatever ends the loop, dropping the sender tells the rank.
                while let Ok(frame) = receive_frame(from.as_fd(), &mut seal) {
                    if sender.send(frame).is_err() {
                        return;
                    }
                }
            })?;
        let sender = To::Socket {
            socket,
            seal: Seal::new(keys.to_peer),
            reader: Some(reader),
        };
        Ok(Self { sender, receiver })
    }

    /// Sends `frame`; does not wait for the peer to take it.
    pub(super) fn send(&mut self, frame: &Frame) -> Result<(), LinkError> {
        let sent = match &mut self.sender {
            To::Channel(sender) => sender.send(frame.clone()).is_ok(),
            To::Socket { socket, seal, .. } => send_frame(socket.as_fd(), seal, frame).is_ok(),
        };
        if sent { Ok(()) } else { Err(LinkError::Closed) }
    }

    /// The next frame of the peer, within `limit`.
    pub(super) fn receive(&self, limit: Duration) -> Result<Frame, LinkError> {
        self.receiver.recv_timeout(limit).map_err(|e| match e {
            RecvTimeoutError::Timeout => LinkError::Timeout,
            RecvTimeoutError::Disconnected => LinkError::Closed,
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let To::Socket { socket, reader, .. } = &mut self.sender {
            // Fails when the peer has closed already; either way the reader's loop ends.
            let _ = shutdown(&**socket, Shutdown::Both);
            let _ = reader.take().map(JoinHandle::join);
        }
    }
}

/// The key of one direction and the number of its next frame.
struct Seal {
    key: Key,
    next: u64,
}

impl Seal {
    fn new(key: Key) -> Self {
        Self { key, next: 0 }
    }

    fn parts<'a>(number: &'a [u8], header: &'a [u8], body: &'a [u8]) -> [&'a [u8]; 3] {
        [number, header, body]
    }

    fn tag(&mut self, header: &[u8], body: &[u8]) -> [u8; TAG_BYTES] {
        let number = self.next.to_le_bytes();
        self.next += 1;
        self.key.tag(&Self::parts(&number, header, body))
    }

    fn holds(&mut self, header: &[u8], body: &[u8], tag: &[u8]) -> bool {
        let number = self.next.to_le_bytes();
        self.next += 1;
        self.key.proves(&Self::parts(&number, header, body), tag)
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

fn send_frame(socket: BorrowedFd<'_>, seal: &mut Seal, frame: &Frame) -> io::Result<()> {
    let length = u32::try_from(frame.body.len()).unwrap_or(u32::MAX);
    if length > MOST_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = frame.file.is_some().into();
    let tag = seal.tag(&header, &frame.body);
    let file = frame.file.as_ref().map(|file| file.as_fd());
    // The descriptor goes with the first byte.
    let sent = send_some(socket, &header, file)?;
    send_all(socket, &header[sent..])?;
    send_all(socket, &frame.body)?;
    send_all(socket, &tag)
}

fn send_some(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    file: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(file) = &file {
        control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(file)));
    }
    let sent = sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    if sent == 0 && !bytes.is_empty() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(sent)
}

/// Sends all of `bytes`.
pub(super) fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match send_some(socket, bytes, None) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Fills `bytes`; returns the last descriptor that came with them.
pub(super) fn receive_all(
    socket: BorrowedFd<'_>,
    mut bytes: &mut [u8],
) -> io::Result<Option<OwnedFd>> {
    let mut file = None;
    while !bytes.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = match recvmsg(socket, &mut parts, &mut control, flags) {
            Ok(message) => message.bytes,
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                file = files.last().or(file);
            }
        }
        if received == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[received..];
    }
    Ok(file)
}

fn receive_frame(socket: BorrowedFd<'_>, seal: &mut Seal) -> io::Result<Frame> {
    let mut header = [0; HEADER_BYTES];
    let file = receive_all(socket, &mut header)?;
    let [a, b, c, d, has_file] = header;
    let length = u32::from_le_bytes([a, b, c, d]);
    if length > MOST_BYTES || (has_file == 1) != file.is_some() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length as usize];
    receive_all(socket, &mut body)?;
    let mut tag = [0; TAG_BYTES];
    receive_all(socket, &mut tag)?;
    if !seal.holds(&header, &body, &tag) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Frame {
        body,
        file: file.map(Arc::new),
    })
}
