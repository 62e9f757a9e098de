//! How ranks of different processes find each other.
//!
//! Rank 0 listens at an address that all know. The others tell it where they listen, it tells everyone
//! where all do, and then each pair of ranks is connected: through a Unix socket on one host,
//! which passes file descriptors too, else through TCP. Whoever does not know the secret gets nothing.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::door::{Door, knock_tcp, knock_unix, listen_unix};
use super::environment::Place;
use super::link::{Frame, Link, LinkError};
use super::proof::{Hello, Key, Keys, LEAST_SECRET, Purpose};
use super::{Bootstrap, DEFAULT_DEADLINE, MOST_RANKS};
use crate::memory::MemoryError;

const OPERATION: &str = "rendezvous";
/// Holds the secret that all ranks share.
const SECRET: &str = "HADAL_SECRET";
const PAUSE: Duration = Duration::from_millis(20);

/// Where this process is among its peers, and how they meet.
#[derive(Debug, Clone)]
pub struct Rendezvous {
    rank: u32,
    ranks: u32,
    local_rank: Option<u32>,
    host: String,
    port: u16,
    secret: Key,
    deadline: Duration,
}

/// Where a rank listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Contact {
    /// The same for ranks that reach each other through Unix sockets.
    machine: String,
    unix: String,
    port: u16,
    /// As rank 0 sees it; none for rank 0.
    ip: Option<IpAddr>,
}

impl Rendezvous {
    /// Rank `rank` of `ranks`, where rank 0 listens at `host`:`port`. The secret, at least 16 bytes,
    /// is known to all ranks and nobody else.
    ///
    /// # Errors
    /// [`MemoryError::Ranks`] for a rank that is none of `ranks`, or more than 64 of them, [`MemoryError::Secret`] for a
    /// secret that is too short.
    pub fn new(
        [rank, ranks]: [u32; 2],
        (host, port): (&str, u16),
        secret: &[u8],
    ) -> Result<Self, MemoryError> {
        if rank >= ranks || ranks > MOST_RANKS {
            return Err(MemoryError::Ranks { rank, ranks });
        }
        if secret.len() < LEAST_SECRET {
            return Err(MemoryError::Secret {
                bytes: secret.len(),
                least: LEAST_SECRET,
            });
        }
        Ok(Self {
            rank,
            ranks,
            local_rank: None,
            host: host.into(),
            port,
            secret: Key::new(secret).map_err(failed)?,
            deadline: DEFAULT_DEADLINE,
        })
    }

    /// As the launcher says: `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, or what Open MPI or Slurm set
    /// instead; `MASTER_ADDR` (under Slurm the first node, if unset) and `MASTER_PORT`; the secret in
    /// `HADAL_SECRET`.
    ///
    /// # Errors
    /// [`MemoryError::Environment`] naming the variable, and those of [`Self::new`].
    pub fn from_env() -> Result<Self, MemoryError> {
        let variable = |name: &str| std::env::var(name).ok();
        let place = Place::read(&variable)?;
        let secret = variable(SECRET).ok_or(MemoryError::Environment {
            variable: SECRET,
            value: None,
            expected: "a secret of at least 16 bytes that all ranks share",
        })?;
        let master = (place.host.as_str(), place.port);
        Ok(Self {
            local_rank: place.local_rank,
            ..Self::new([place.rank, place.ranks], master, secret.as_bytes())?
        })
    }

    /// Sets how long all of it may take, and later meetings wait for their ranks.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// All ranks.
    #[must_use]
    pub fn ranks(&self) -> u32 {
        self.ranks
    }

    /// The rank among those of this host, where the launcher tells: the usual choice of device.
    #[must_use]
    pub fn local_rank(&self) -> Option<u32> {
        self.local_rank
    }

    /// Meets the other ranks, each of which calls it.
    ///
    /// # Errors
    /// [`MemoryError::Timeout`] naming who did not come, [`MemoryError::Gone`],
    /// [`MemoryError::Disagreement`] about the ranks, [`MemoryError::Connect`].
    pub fn connect(&self) -> Result<Bootstrap, MemoryError> {
        let start = Instant::now();
        let (unix, name) = listen_unix().map_err(failed)?;
        let tcp = TcpListener::bind((IpAddr::from([0; 16]), 0))
            .or_else(|_| TcpListener::bind((IpAddr::from([0; 4]), 0)))
            .map_err(failed)?;
        let mine = Contact {
            machine: machine().map_err(failed)?,
            unix: name,
            port: tcp.local_addr().map_err(failed)?.port(),
            ip: None,
        };
        let door = Door::open(tcp, Some(unix), &self.secret).map_err(failed)?;
        let (contacts, master) = if self.rank == 0 {
            (self.gather(mine, start)?, None)
        } else {
            let (contacts, master) = self.enlist(&mine, start)?;
            (contacts, Some(master))
        };
        let links = self.link(&door, &contacts, master, start)?;
        Ok(Bootstrap::of(self.rank, links, self.deadline))
    }

    fn left(&self, start: Instant) -> Duration {
        self.deadline.saturating_sub(start.elapsed())
    }

    fn hello(&self, purpose: Purpose) -> Hello {
        Hello {
            purpose,
            rank: self.rank,
            ranks: self.ranks,
        }
    }

    fn timeout(&self, start: Instant, present: impl Fn(u32) -> bool) -> MemoryError {
        let missing = (0..self.ranks).filter(|&rank| rank != self.rank && !present(rank));
        MemoryError::Timeout {
            operation: OPERATION,
            missing: missing.collect(),
            waited: start.elapsed(),
        }
    }

    /// Rank 0: learns where everyone listens, and tells all.
    fn gather(&self, mine: Contact, start: Instant) -> Result<Vec<Contact>, MemoryError> {
        let listener = TcpListener::bind((self.host.as_str(), self.port))
            .map_err(|e| self.unreachable(e.to_string()))?;
        let door = Door::open(listener, None, &self.secret).map_err(failed)?;
        let mut links: Vec<Option<(Link, Contact)>> = (0..self.ranks).map(|_| None).collect();
        let missing = |links: &[Option<_>]| links.iter().skip(1).any(Option::is_none);
        while missing(&links) {
            let Some(guest) = door.guest(self.left(start)) else {
                return Err(self.timeout(start, |rank| links[rank as usize].is_some()));
            };
            let rank = guest.hello.rank;
            self.agree_on(guest.hello)?;
            let link = Link::socket(guest.socket, guest.keys).map_err(failed)?;
            let contact: Contact = self.hear(&link, rank, start)?;
            let contact = Contact {
                ip: guest.ip,
                ..contact
            };
            let place = &mut links[rank as usize];
            if rank == 0 || place.is_some() {
                return Err(self.twice(rank));
            }
            *place = Some((link, contact));
        }
        let others = links.iter().flatten().map(|(_, contact)| contact.clone());
        let contacts: Vec<Contact> = std::iter::once(mine).chain(others).collect();
        for (link, _) in links.iter_mut().flatten() {
            let body = serde_json::to_vec(&contacts).map_err(|e| failed(e.into()))?;
            // A rank that left since is missed when it is connected to.
            let _ = link.send(&Frame { body, file: None });
        }
        // Their answers say that the list arrived, so that closing the connections loses nothing.
        for (rank, link) in (0..).zip(&links) {
            if let Some((link, _)) = link {
                self.hear::<()>(link, rank, start)?;
            }
        }
        Ok(contacts)
    }

    /// The others: tell rank 0 where they listen, and learn where all do. Also where rank 0 is.
    fn enlist(
        &self,
        mine: &Contact,
        start: Instant,
    ) -> Result<(Vec<Contact>, IpAddr), MemoryError> {
        let (socket, keys, ip) = self.find_master(start)?;
        let mut link = Link::socket(socket, keys).map_err(failed)?;
        let mut say = |body: serde_json::Result<Vec<u8>>| {
            let body = body.map_err(|e| failed(e.into()))?;
            let sent = link.send(&Frame { body, file: None });
            sent.map_err(|_| gone(0))
        };
        say(serde_json::to_vec(mine))?;
        let contacts: Vec<Contact> = self.hear(&link, 0, start)?;
        let mut say = |body| link.send(&Frame { body, file: None }).map_err(|_| gone(0));
        say(b"null".to_vec())?;
        if contacts.len() != self.ranks as usize {
            return Err(disagreement(0, contacts.len(), self.ranks));
        }
        Ok((contacts, ip))
    }

    /// Knocks until rank 0 opens.
    fn find_master(&self, start: Instant) -> Result<(OwnedFd, Keys, IpAddr), MemoryError> {
        let hello = self.hello(Purpose::Rendezvous);
        let mut refused = None;
        loop {
            let left = self.left(start);
            if left.is_zero() {
                return Err(refused.map_or_else(
                    || self.timeout(start, |rank| rank != 0),
                    |e: io::Error| self.unreachable(e.to_string()),
                ));
            }
            let addresses = (self.host.as_str(), self.port).to_socket_addrs();
            for address in addresses.map_err(|e| self.unreachable(e.to_string()))? {
                match knock_tcp(address, left, (&self.secret, hello)) {
                    Ok((socket, keys)) => return Ok((socket, keys, address.ip())),
                    Err(e) => refused = Some(e),
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Connects this rank to every other: it knocks at those before it, and lets the others in.
    fn link(
        &self,
        door: &Door,
        contacts: &[Contact],
        master: Option<IpAddr>,
        start: Instant,
    ) -> Result<Vec<Option<Link>>, MemoryError> {
        let mut links: Vec<Option<Link>> = (0..self.ranks).map(|_| None).collect();
        let mine = &contacts[self.rank as usize];
        for (rank, contact) in (0..self.rank).zip(contacts) {
            let proof = (&self.secret, self.hello(Purpose::Rank));
            let knocked = if contact.machine == mine.machine {
                knock_unix(&contact.unix, proof)
            } else {
                let ip = contact.ip.or(master);
                let ip =
                    ip.ok_or_else(|| self.unreachable(format!("no address of rank {rank}")))?;
                knock_tcp(SocketAddr::new(ip, contact.port), self.left(start), proof)
            };
            let (socket, keys) = knocked.map_err(|_| gone(rank))?;
            links[rank as usize] = Some(Link::socket(socket, keys).map_err(failed)?);
        }
        let incomplete = |links: &[Option<Link>]| {
            let after = links.iter().skip(self.rank as usize + 1);
            after.clone().any(Option::is_none)
        };
        while incomplete(&links) {
            let Some(guest) = door.guest(self.left(start)) else {
                return Err(self.timeout(start, |rank| links[rank as usize].is_some()));
            };
            let rank = guest.hello.rank;
            self.agree_on(guest.hello)?;
            if rank <= self.rank || links[rank as usize].is_some() {
                return Err(self.twice(rank));
            }
            let link = Link::socket(guest.socket, guest.keys).map_err(failed)?;
            links[rank as usize] = Some(link);
        }
        Ok(links)
    }

    fn agree_on(&self, hello: Hello) -> Result<(), MemoryError> {
        if hello.ranks == self.ranks && hello.rank < self.ranks {
            return Ok(());
        }
        Err(disagreement(hello.rank, hello.ranks, self.ranks))
    }

    /// The next thing that `rank` says.
    fn hear<T: for<'de> Deserialize<'de>>(
        &self,
        link: &Link,
        rank: u32,
        start: Instant,
    ) -> Result<T, MemoryError> {
        let frame = link.receive(self.left(start)).map_err(|e| match e {
            LinkError::Closed => gone(rank),
            LinkError::Timeout => self.timeout(start, |other| other != rank),
        })?;
        serde_json::from_slice(&frame.body).map_err(|e| MemoryError::Message {
            operation: OPERATION,
            rank,
            message: e.to_string(),
        })
    }

    fn unreachable(&self, message: String) -> MemoryError {
        MemoryError::Connect {
            address: format!("{}:{}", self.host, self.port),
            message,
        }
    }

    fn twice(&self, rank: u32) -> MemoryError {
        MemoryError::Disagreement {
            what: "number of this rank",
            rank,
            found: rank.to_string(),
            expected: "one process per rank".into(),
        }
    }
}

fn disagreement(rank: u32, found: impl ToString, expected: u32) -> MemoryError {
    MemoryError::Disagreement {
        what: "number of ranks",
        rank,
        found: found.to_string(),
        expected: expected.to_string(),
    }
}

fn gone(rank: u32) -> MemoryError {
    MemoryError::Gone {
        operation: OPERATION,
        rank,
    }
}

fn failed(error: io::Error) -> MemoryError {
    MemoryError::Connect {
        address: "this host".into(),
        message: error.to_string(),
    }
}

/// What two ranks have in common that reach each other through Unix sockets: the running kernel and
/// the network namespace, which containers have of their own.
fn machine() -> io::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let namespace = fs::read_link("/proc/self/ns/net")?;
    Ok(format!("{} {}", boot.trim(), namespace.display()))
}
