//! How two processes prove to each other that they know the shared secret, before anything else is
//! said.
//!
//! ```text
//! accepting side    greeting, nonce a
//! connecting side   hello, nonce c, tag("connect", a, c, hello)
//! accepting side    tag("accept", a, c, hello)
//! ```
//!
//! Tags are HMAC-SHA256 (RFC 2104, FIPS 180-4) keyed with the secret; each direction of the
//! connection then has a key of its own, derived from secret and nonces. The accepting side says
//! nothing but its nonce to a peer that has not proved itself.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::link::{receive_all, send_all};

/// Bytes of an authentication tag.
pub(super) const TAG_BYTES: usize = 32;
/// Fewest bytes of a secret: a listener can try guesses against what a peer sends.
pub(super) const LEAST_SECRET: usize = 16;

const NONCE_BYTES: usize = 32;
const GREETING: [u8; 8] = *b"hadal  1";
const HELLO_BYTES: usize = 9;

type Nonce = [u8; NONCE_BYTES];

/// A key that authenticates.
#[derive(Clone)]
pub(super) struct Key(Hmac<Sha256>);

impl Key {
    /// HMAC takes a key of any length.
    pub(super) fn new(secret: &[u8]) -> io::Result<Self> {
        let mac = Hmac::new_from_slice(secret).map_err(io::Error::other)?;
        Ok(Self(mac))
    }

    fn of(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in parts {
            // Lengths keep parts apart.
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }

    /// The tag of some parts.
    pub(super) fn tag(&self, parts: &[&[u8]]) -> [u8; TAG_BYTES] {
        self.of(parts).finalize().into_bytes().into()
    }

    /// Whether `tag` is that of the parts, in constant time.
    pub(super) fn proves(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        self.of(parts).verify_slice(tag).is_ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// The keys of a connection.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) to_peer: Key,
    pub(super) from_peer: Key,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To learn where the ranks are.
    Rendezvous,
    /// To stay, between two ranks.
    Rank,
}

/// What the connecting side says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) purpose: Purpose,
    pub(super) rank: u32,
    pub(super) ranks: u32,
}

impl Hello {
    fn to_bytes(self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[0] = self.purpose as u8;
        bytes[1..5].copy_from_slice(&self.rank.to_le_bytes());
        bytes[5..].copy_from_slice(&self.ranks.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; HELLO_BYTES]) -> io::Result<Self> {
        let [purpose, r0, r1, r2, r3, n0, n1, n2, n3] = bytes;
        let purpose = match purpose {
            0 => Purpose::Rendezvous,
            1 => Purpose::Rank,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        Ok(Self {
            purpose,
            rank: u32::from_le_bytes([r0, r1, r2, r3]),
            ranks: u32::from_le_bytes([n0, n1, n2, n3]),
        })
    }
}

/// The connecting side.
pub(super) fn prove(socket: BorrowedFd<'_>, secret: &Key, hello: Hello) -> io::Result<Keys> {
    let mut greeting = [0; GREETING.len()];
    let mut accepting = [0; NONCE_BYTES];
    receive_all(socket, &mut greeting)?;
    receive_all(socket, &mut accepting)?;
    if greeting != GREETING {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let (connecting, said) = (nonce()?, hello.to_bytes());
    let tag = secret.tag(&[b"connect", &accepting, &connecting, &said]);
    send_all(socket, &said)?;
    send_all(socket, &connecting)?;
    send_all(socket, &tag)?;
    let mut tag = [0; TAG_BYTES];
    receive_all(socket, &mut tag)?;
    if !secret.proves(&[b"accept", &accepting, &connecting, &said], &tag) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let [to_peer, from_peer] = keys(secret, &accepting, &connecting)?;
    Ok(Keys { to_peer, from_peer })
}

/// The accepting side: what the peer said, once it has proved itself.
pub(super) fn admit(socket: BorrowedFd<'_>, secret: &Key) -> io::Result<(Hello, Keys)> {
    let accepting = nonce()?;
    send_all(socket, &GREETING)?;
    send_all(socket, &accepting)?;
    let mut said = [0; HELLO_BYTES];
    let mut connecting = [0; NONCE_BYTES];
    let mut tag = [0; TAG_BYTES];
    receive_all(socket, &mut said)?;
    receive_all(socket, &mut connecting)?;
    receive_all(socket, &mut tag)?;
    if !secret.proves(&[b"connect", &accepting, &connecting, &said], &tag) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let hello = Hello::from_bytes(said)?;
    let tag = secret.tag(&[b"accept", &accepting, &connecting, &said]);
    send_all(socket, &tag)?;
    let [from_peer, to_peer] = keys(secret, &accepting, &connecting)?;
    Ok((hello, Keys { to_peer, from_peer }))
}

/// The keys of what the connecting and the accepting side send.
fn keys(secret: &Key, accepting: &Nonce, connecting: &Nonce) -> io::Result<[Key; 2]> {
    let key = |side: &[u8]| Key::new(&secret.tag(&[b"key", side, accepting, connecting]));
    Ok([key(b"connecting")?, key(b"accepting")?])
}

fn nonce() -> io::Result<Nonce> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn meet(left: &[u8], right: &[u8]) -> (io::Result<Keys>, io::Result<(Hello, Keys)>) {
        let (connecting, accepting) = UnixStream::pair().unwrap();
        let hello = Hello {
            purpose: Purpose::Rank,
            rank: 3,
            ranks: 8,
        };
        let (left, right) = (Key::new(left).unwrap(), Key::new(right).unwrap());
        let admitting = std::thread::spawn(move || admit(accepting.as_fd(), &right));
        let proved = prove(connecting.as_fd(), &left, hello);
        drop(connecting);
        (proved, admitting.join().unwrap())
    }

    #[test]
    fn who_knows_the_secret_is_admitted_with_keys_that_fit() {
        let (proved, admitted) = meet(b"the same secret", b"the same secret");
        let (left, (hello, right)) = (proved.unwrap(), admitted.unwrap());
        assert_eq!((hello.rank, hello.ranks), (3, 8));
        let parts: [&[u8]; 2] = [b"some", b"thing"];
        assert_eq!(left.to_peer.tag(&parts), right.from_peer.tag(&parts));
        assert_eq!(left.from_peer.tag(&parts), right.to_peer.tag(&parts));
        assert_ne!(left.to_peer.tag(&parts), left.from_peer.tag(&parts));
    }

    #[test]
    fn who_does_not_is_told_nothing() {
        let (proved, admitted) = meet(b"the same secret", b"another secret!");
        assert_eq!(
            admitted.unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
        // The connection simply ends.
        assert!(proved.is_err());
    }

    #[test]
    fn parts_are_kept_apart() {
        let key = Key::new(b"key").unwrap();
        assert_ne!(key.tag(&[b"ab", b"c"]), key.tag(&[b"a", b"bc"]));
    }
}
