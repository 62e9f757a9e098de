//! Several processes on one machine. The test binary starts itself as the other processes: they
//! run the test [`child`] and talk to the first one over pipes.

#![expect(
    unsafe_code,
    reason = "descriptors travel over sockets; handles are C structures"
)]
#![expect(clippy::print_stderr, reason = "figures of interest with --nocapture")]

use std::ffi::c_char;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use cudarc::driver::sys::{self, CUresult};

use crate::patience::shared_pool;
use crate::support::{BASIC, Context, alloc, download, function, module, stream, upload};
use crate::virtual_memory::{allow, properties};

/// `ring(turn, sum, me, n, rounds)`: in each round waits for its turn, adds `me + 1`, and passes
/// the turn on. `spin(turn)`: waits until the word at `turn` is 0xFFFFFFFF.
pub(crate) const RING: &str = "
.version 8.0
.target sm_90
.address_size 64
.visible .entry ring(.param .u64 turn, .param .u64 sum, .param .u32 me, .param .u32 n,
    .param .u32 rounds)
{
    .reg .pred %p<3>;
    .reg .b32 %r<9>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [turn];
    ld.param.u64 %rd2, [sum];
    ld.param.u32 %r1, [me];
    ld.param.u32 %r2, [n];
    ld.param.u32 %r3, [rounds];
    mov.u32 %r4, %r1;
    add.u32 %r5, %r1, 1;
    mul.lo.u32 %r6, %r2, %r3;
round:
    setp.ge.u32 %p1, %r4, %r6;
    @%p1 bra done;
wait:
    ld.acquire.sys.global.u32 %r7, [%rd1];
    setp.ne.u32 %p2, %r7, %r4;
    @%p2 bra wait;
    red.relaxed.sys.global.add.u32 [%rd2], %r5;
    add.u32 %r8, %r4, 1;
    st.release.sys.global.u32 [%rd1], %r8;
    add.u32 %r4, %r4, %r2;
    bra round;
done:
    ret;
}
.visible .entry spin(.param .u64 turn)
{
    .reg .pred %p<2>;
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [turn];
wait:
    ld.acquire.sys.global.u32 %r1, [%rd1];
    setp.ne.u32 %p1, %r1, 0xFFFFFFFF;
    @%p1 bra wait;
    ret;
}
";

const ROLE: &str = "SOFTGPU_TEST_ROLE";
const MARK: &str = "softgpu-test ";

/// Another process of this test. It searches early for deadlocks: waiting for others is none.
pub(crate) struct Peer {
    process: Child,
    /// None once the peer was told to end.
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start(role: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "processes::child",
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(ROLE, role)
            .env("SOFTGPU_DEADLOCK_SECONDS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let to = process.stdin.take();
        let from = BufReader::new(process.stdout.take().unwrap());
        Self { process, to, from }
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.to.as_ref().unwrap(), "{line}").unwrap();
    }

    /// The next line that the peer says.
    pub(crate) fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read = self.from.read_line(&mut line).unwrap();
            assert!(read > 0, "the other process is gone");
            if let Some((_, said)) = line.split_once(MARK) {
                return said.trim_end().to_owned();
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn end(mut self) {
        self.to = None;
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

/// A test that fails leaves no process behind.
impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail when the process has ended, which is as well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> [u8; 64] {
    let byte = |i: usize| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap();
    std::array::from_fn(byte)
}

pub(crate) fn handle_of(pointer: u64) -> String {
    let mut handle = sys::CUipcMemHandle { reserved: [0; 64] };
    cu!(cuIpcGetMemHandle(&mut handle, pointer));
    hex(&handle.reserved.map(c_char::cast_unsigned))
}

pub(crate) fn try_open(handle: &str) -> Result<u64, CUresult> {
    let reserved = unhex(handle).map(|b| b as c_char);
    let mut pointer = 0;
    match code!(cuIpcOpenMemHandle_v2(
        &mut pointer,
        sys::CUipcMemHandle { reserved },
        1
    )) {
        CUresult::CUDA_SUCCESS => Ok(pointer),
        error => Err(error),
    }
}

fn ring(words: u64, me: u32, n: u32, rounds: u32, on: sys::CUstream) {
    let f = function(module(RING), "ring");
    let launched = launch!(f, [1; 3], [1; 3], 0, on, [words, words + 4, me, n, rounds]);
    assert_eq!(launched, CUresult::CUDA_SUCCESS);
}

/// What this process hears, in a child.
pub(crate) fn listen() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

pub(crate) fn tell(line: &str) {
    let line = format!("{MARK}{line}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// The other processes. Does nothing unless one of the tests below has started it.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let words: Vec<&str> = role.split(' ').collect();
    match words[0] {
        "ring" => {
            let number = |at: usize| words[at].parse().unwrap();
            ring_member(number(1), number(2), number(3));
        }
        "idle" => idle(),
        "lend" => lend(),
        "look" => look(),
        "patient" => crate::patience::patient(words[1], words[2]),
        "event" => event_partner(),
        "descriptor" => descriptor_partner(words[1]),
        "fabric" => crate::fabric::partner(words[1]),
        "pool" => pool_partner(words[1]),
        "team" => team_partner(words[1]),
        "footprint" => footprint(),
        _ => panic!("{role}"),
    }
}

fn ring_member(me: u32, n: u32, rounds: u32) {
    let _context = Context::new(i32::try_from(me).unwrap());
    let words = try_open(&listen()).unwrap();
    ring(words, me, n, rounds, null_mut());
    tell("launched");
    cu!(cuCtxSynchronize());
    tell("done");
    cu!(cuIpcCloseMemHandle(words));
}

#[test]
fn kernels_of_several_processes_take_turns() {
    for (n, rounds) in [(2, 1000), (4, 250)] {
        let _context = Context::new(0);
        let words = upload(&[0u32, 0]);
        let handle = handle_of(words);
        let mut peers: Vec<Peer> = (1..n)
            .map(|me| Peer::start(&format!("ring {me} {n} {rounds}")))
            .collect();
        for peer in &mut peers {
            peer.say(&handle);
        }
        for peer in &mut peers {
            assert_eq!(peer.hear(), "launched");
        }
        let start = Instant::now();
        ring(words, 0, n, rounds, null_mut());
        cu!(cuCtxSynchronize());
        eprintln!("{rounds} rounds of {n} processes: {:?}", start.elapsed());
        for mut peer in peers {
            assert_eq!(peer.hear(), "done");
            peer.end();
        }
        let sum = rounds * n * (n + 1) / 2;
        assert_eq!(download::<u32>(words, 2), [rounds * n, sum]);
    }
}

/// Processor time of this process.
fn processor_time() -> Duration {
    // SAFETY: all-zero is a valid value of this plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live object of the type.
    let done = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    assert_eq!(done, 0);
    let part = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec.unsigned_abs())
            + Duration::from_micros(t.tv_usec.unsigned_abs())
    };
    part(usage.ru_utime) + part(usage.ru_stime)
}

/// Polls memory of another process and says which percentage of a core that costs.
fn idle() {
    let _context = Context::new(1);
    let words = try_open(&listen()).unwrap();
    let f = function(module(RING), "spin");
    let launched = launch!(f, [132, 1, 1], [128, 1, 1], 0, null_mut(), [words]);
    assert_eq!(launched, CUresult::CUDA_SUCCESS);
    std::thread::sleep(Duration::from_secs(1));
    let (wall, before) = (Instant::now(), processor_time());
    std::thread::sleep(Duration::from_secs(1));
    let share = (processor_time() - before).as_secs_f64() / wall.elapsed().as_secs_f64();
    tell(&format!("{:.1}", share * 100.0));
    cu!(cuCtxSynchronize());
    tell("done");
    cu!(cuIpcCloseMemHandle(words));
}

#[test]
fn processes_that_wait_for_each_other_are_nearly_idle() {
    let _context = Context::new(0);
    let words = upload(&[0u32]);
    let handle = handle_of(words);
    let mut peers = [Peer::start("idle"), Peer::start("idle")];
    for peer in &mut peers {
        peer.say(&handle);
    }
    for peer in &mut peers {
        let percent = peer.hear();
        eprintln!("{percent} % of a core");
        assert!(percent.parse::<f64>().unwrap() < 10.0, "{percent} %");
    }
    cu!(cuMemsetD32_v2(words, u32::MAX, 1));
    for mut peer in peers {
        assert_eq!(peer.hear(), "done");
        peer.end();
    }
}

fn lend() {
    let _context = Context::new(1);
    let words = upload(&[11u32, 22, 33]);
    tell(&handle_of(words + 4));
    let f = function(module(RING), "spin");
    let launched = launch!(f, [4; 3], [32, 1, 1], 0, null_mut(), [words]);
    assert_eq!(launched, CUresult::CUDA_SUCCESS);
    tell("spinning");
    cu!(cuCtxSynchronize());
    panic!("nobody answers");
}

fn look() {
    let _context = Context::new(0);
    loop {
        let line = listen();
        if line.is_empty() {
            return;
        }
        match try_open(&line) {
            Ok(words) => {
                let value = download::<u32>(words, 1)[0];
                cu!(cuMemsetD32_v2(words, value + 1, 1));
                tell(&value.to_string());
            }
            Err(error) => tell(&format!("{error:?}")),
        }
    }
}

#[test]
fn memory_outlives_the_process_that_lent_it() {
    let _context = Context::new(0);
    let mut lender = Peer::start("lend");
    let mut looker = Peer::start("look");
    let handle = lender.hear();
    assert_eq!(lender.hear(), "spinning");
    let words = try_open(&handle).unwrap();
    // Opened twice, the address is the same; it must be closed twice.
    assert_eq!(try_open(&handle), Ok(words));
    assert_eq!(download::<u32>(words, 3), [11, 22, 33]);
    looker.say(&handle);
    assert_eq!(looker.hear(), "11");
    lender.kill();
    // The survivors keep the memory, and still see each other.
    assert_eq!(download::<u32>(words, 3), [12, 22, 33]);
    let f = function(module(BASIC), "write_at");
    let launched = launch!(f, [1; 3], [1; 3], 0, null_mut(), [words, 90u32]);
    assert_eq!(launched, CUresult::CUDA_SUCCESS);
    cu!(cuCtxSynchronize());
    looker.say(&handle);
    assert_eq!(looker.hear(), "CUDA_ERROR_MAP_FAILED");
    cu!(cuIpcCloseMemHandle(words));
    assert_eq!(download::<u32>(words, 1), [90]);
    cu!(cuIpcCloseMemHandle(words));
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    assert_eq!(code!(cuIpcCloseMemHandle(words)), invalid);
    assert_eq!(code!(cuMemsetD32_v2(words, 0, 1)), invalid);
    // A handle is not for the process that made it, nor for other memory.
    let own = alloc::<u32>(1);
    assert_eq!(
        try_open(&handle_of(own)),
        Err(CUresult::CUDA_ERROR_INVALID_CONTEXT)
    );
    let mut none = sys::CUipcMemHandle { reserved: [0; 64] };
    assert_eq!(code!(cuIpcGetMemHandle(&mut none, 64)), invalid);
    assert_eq!(try_open(&hex(&[7; 64])), Err(invalid));
    looker.end();
}

fn event_partner() {
    let _context = Context::new(1);
    let words = try_open(&listen()).unwrap();
    let reserved = unhex(&listen()).map(|b| b as c_char);
    let mut event = null_mut();
    cu!(cuIpcOpenEventHandle(
        &mut event,
        sys::CUipcEventHandle { reserved }
    ));
    let s = stream(1);
    // Recorded by the other process, not reached yet.
    assert_eq!(code!(cuEventQuery(event)), CUresult::CUDA_ERROR_NOT_READY);
    cu!(cuStreamWaitEvent(s, event, 0));
    cu!(cuMemsetD32Async(words + 4, 2, 1, s));
    assert_eq!(code!(cuStreamQuery(s)), CUresult::CUDA_ERROR_NOT_READY);
    tell("waiting");
    cu!(cuStreamSynchronize(s));
    cu!(cuEventSynchronize(event));
    // Recorded here for the other process, behind a wait.
    cu!(cuStreamWaitValue32_v2(s, words + 8, 5, 1));
    cu!(cuEventRecord(event, s));
    tell("recorded");
    assert_eq!(listen(), "end");
}

#[test]
fn events_order_streams_of_two_processes() {
    let _context = Context::new(0);
    let words = upload(&[0u32; 4]);
    let mut event = null_mut();
    assert_eq!(
        code!(cuEventCreate(&mut event, 4)),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
    cu!(cuEventCreate(&mut event, 6));
    let mut handle = sys::CUipcEventHandle { reserved: [0; 64] };
    cu!(cuIpcGetEventHandle(&mut handle, event));
    let s = stream(1);
    cu!(cuStreamWaitValue32_v2(s, words, 1, 1));
    cu!(cuEventRecord(event, s));
    assert_eq!(code!(cuEventQuery(event)), CUresult::CUDA_ERROR_NOT_READY);
    let mut peer = Peer::start("event");
    peer.say(&handle_of(words));
    peer.say(&hex(&handle.reserved.map(c_char::cast_unsigned)));
    assert_eq!(peer.hear(), "waiting");
    assert_eq!(download::<u32>(words, 4), [0; 4]);
    cu!(cuMemsetD32_v2(words, 1, 1));
    assert_eq!(peer.hear(), "recorded");
    assert_eq!(download::<u32>(words, 4), [1, 2, 0, 0]);
    cu!(cuStreamWaitEvent(s, event, 0));
    cu!(cuMemsetD32Async(words + 12, 3, 1, s));
    assert_eq!(code!(cuStreamQuery(s)), CUresult::CUDA_ERROR_NOT_READY);
    cu!(cuMemsetD32_v2(words + 8, 5, 1));
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u32>(words, 4), [1, 2, 5, 3]);
    peer.say("end");
    peer.end();
}

/// Sends a descriptor over a socket.
fn send_descriptor(socket: &UnixStream, fd: RawFd) {
    let mut byte = [1u8];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = [0u64; 8];
    // SAFETY: zeros are a valid message header.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: pure arithmetic.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(4) } as usize;
    // SAFETY: the control buffer is long enough for one header.
    let head = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: as above; nothing else refers to it.
    let head = unsafe { &mut *head };
    head.cmsg_level = libc::SOL_SOCKET;
    head.cmsg_type = libc::SCM_RIGHTS;
    // SAFETY: pure arithmetic.
    head.cmsg_len = unsafe { libc::CMSG_LEN(4) } as usize;
    // SAFETY: four bytes of data follow the header.
    let data = unsafe { libc::CMSG_DATA(head) };
    // SAFETY: as above.
    unsafe { data.cast::<RawFd>().write_unaligned(fd) };
    // SAFETY: the message is complete.
    assert_eq!(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, 0) }, 1);
}

/// Receives a descriptor.
fn receive_descriptor(socket: &UnixStream) -> RawFd {
    let mut byte = [0u8];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = [0u64; 8];
    // SAFETY: zeros are a valid message header.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the buffers are as long as said.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, 0) };
    assert_eq!(received, 1);
    // SAFETY: filled by the call.
    let head = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    assert!(!head.is_null());
    // SAFETY: a descriptor follows the header.
    let data = unsafe { libc::CMSG_DATA(head) };
    // SAFETY: as above.
    unsafe { data.cast::<RawFd>().read_unaligned() }
}

pub(crate) const FD: sys::CUmemAllocationHandleType =
    sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
pub(crate) const BYTES: usize = 4 << 20;

pub(crate) fn export(handle: u64) -> RawFd {
    let mut fd = -1;
    cu!(cuMemExportToShareableHandle(
        (&raw mut fd).cast(),
        handle,
        FD,
        0
    ));
    fd
}

pub(crate) fn import(fd: RawFd) -> u64 {
    let mut handle = 0;
    let number = std::ptr::without_provenance_mut(usize::try_from(fd).unwrap());
    cu!(cuMemImportFromShareableHandle(&mut handle, number, FD));
    handle
}

pub(crate) fn map(handle: u64, device: i32) -> u64 {
    let mut at = 0;
    cu!(cuMemAddressReserve(&mut at, BYTES, 0, 0, 0));
    cu!(cuMemMap(at, BYTES, 0, handle, 0));
    allow(at, BYTES, device);
    at
}

fn descriptor_partner(path: &str) {
    let _context = Context::new(3);
    let socket = UnixStream::connect(path).unwrap();
    let at = map(import(receive_descriptor(&socket)), 3);
    // And one of this process's own the other way.
    let mut mine = 0;
    cu!(cuMemCreate(&mut mine, BYTES, &properties(3), 0));
    send_descriptor(&socket, export(mine));
    let own = map(mine, 3);
    cu!(cuMemsetD32_v2(own, 0, 4));
    ring(at, 1, 2, 10, null_mut());
    cu!(cuCtxSynchronize());
    tell("done");
    assert_eq!(listen(), "look");
    assert_eq!(download::<u32>(own, 1), [5]);
}

#[test]
fn descriptors_of_memory_cross_processes() {
    let _context = Context::new(2);
    let path = std::env::temp_dir().join(format!("softgpu-fd-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let mut peer = Peer::start(&format!("descriptor {}", path.display()));
    let mut handle = 0;
    cu!(cuMemCreate(&mut handle, BYTES, &properties(2), 0));
    let at = map(handle, 2);
    cu!(cuMemsetD32_v2(at, 0, 4));
    let (socket, _) = listener.accept().unwrap();
    std::fs::remove_file(&path).unwrap();
    send_descriptor(&socket, export(handle));
    let theirs = map(import(receive_descriptor(&socket)), 2);
    ring(at, 0, 2, 10, null_mut());
    cu!(cuCtxSynchronize());
    assert_eq!(peer.hear(), "done");
    assert_eq!(download::<u32>(at, 2), [20, 30]);
    cu!(cuMemsetD32_v2(theirs, 5, 1));
    peer.say("look");
    peer.end();
}

fn pool_partner(path: &str) {
    let _context = Context::new(1);
    let socket = UnixStream::connect(path).unwrap();
    let fd = receive_descriptor(&socket);
    let number = std::ptr::without_provenance_mut(usize::try_from(fd).unwrap());
    let mut pool = null_mut();
    cu!(cuMemPoolImportFromShareableHandle(&mut pool, number, FD, 0));
    let mut data = sys::CUmemPoolPtrExportData {
        reserved: unhex(&listen()),
    };
    let mut pointer = 0;
    cu!(cuMemPoolImportPointer(&mut pointer, pool, &mut data));
    assert_eq!(download::<u32>(pointer, 2), [5, 6]);
    cu!(cuMemsetD32_v2(pointer, 7, 1));
    tell("written");
    assert_eq!(
        code!(cuMemAllocFromPoolAsync(&mut pointer, 4, pool, null_mut())),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
    cu!(cuMemFree_v2(pointer));
    assert_eq!(
        code!(cuMemsetD32_v2(pointer, 7, 1)),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
}

/// A socket for descriptors, and where it is.
fn listener(what: &str) -> (UnixListener, std::path::PathBuf) {
    let name = format!("softgpu-{what}-{}.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    (UnixListener::bind(&path).unwrap(), path)
}

#[test]
fn pools_are_shared_by_descriptor() {
    let _context = Context::new(1);
    let (pool, fd) = shared_pool(1);
    let mut pointer = 0;
    cu!(cuMemAllocFromPoolAsync(&mut pointer, 8, pool, null_mut()));
    cu!(cuMemsetD32_v2(pointer, 5, 1));
    cu!(cuMemsetD32_v2(pointer + 4, 6, 1));
    let (listener, path) = listener("pool");
    let mut peer = Peer::start(&format!("pool {}", path.display()));
    let (socket, _) = listener.accept().unwrap();
    std::fs::remove_file(&path).unwrap();
    send_descriptor(&socket, fd);
    let mut data = sys::CUmemPoolPtrExportData { reserved: [0; 64] };
    cu!(cuMemPoolExportPointer(&mut data, pointer));
    peer.say(&hex(&data.reserved));
    assert_eq!(peer.hear(), "written");
    assert_eq!(download::<u32>(pointer, 2), [7, 6]);
    peer.end();
    // Access of other devices: none, until it is given.
    let mut at = sys::CUmemLocation {
        type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
        id: 0,
    };
    let mut flags = sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READ;
    cu!(cuMemPoolGetAccess(&mut flags, pool, &mut at));
    assert_eq!(flags, sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_NONE);
    let everything = sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    let desc = sys::CUmemAccessDesc {
        location: at,
        flags: everything,
    };
    cu!(cuMemPoolSetAccess(pool, &desc, 1));
    cu!(cuMemPoolGetAccess(&mut flags, pool, &mut at));
    assert_eq!(flags, everything);
    {
        let _other = Context::new(0);
        let f = function(module(BASIC), "write_at");
        let launched = launch!(f, [1; 3], [1; 3], 0, null_mut(), [pointer, 9u32]);
        assert_eq!(launched, CUresult::CUDA_SUCCESS);
        cu!(cuCtxSynchronize());
    }
    assert_eq!(download::<u32>(pointer, 2), [9, 6]);
    cu!(cuMemFreeAsync(pointer, null_mut()));
    cu!(cuCtxSynchronize());
    cu!(cuMemPoolDestroy(pool));
}

/// `add(at, value)` adds to all replicas; `sum(at, out)` sums them.
const MULTIMEM: &str = "
.version 8.1
.target sm_90
.address_size 64
.visible .entry add(.param .u64 at, .param .u32 value)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [at];
    ld.param.u32 %r1, [value];
    multimem.red.relaxed.sys.global.add.u32 [%rd1], %r1;
    ret;
}
.visible .entry sum(.param .u64 at, .param .u64 out)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [at];
    ld.param.u64 %rd2, [out];
    multimem.ld_reduce.relaxed.sys.global.add.u32 %r1, [%rd1];
    st.global.u32 [%rd2], %r1;
    ret;
}
";

fn team_size(size: usize) -> sys::CUmulticastObjectProp {
    sys::CUmulticastObjectProp {
        numDevices: 2,
        size,
        handleTypes: 1,
        flags: 0,
    }
}

/// Memory of a device, mapped, with zeros at its start.
fn member(device: i32) -> (u64, u64) {
    let mut handle = 0;
    cu!(cuMemCreate(&mut handle, BYTES, &properties(device), 0));
    let at = map(handle, device);
    cu!(cuMemsetD32_v2(at, 0, 4));
    (handle, at)
}

fn team_partner(path: &str) {
    let _context = Context::new(1);
    let socket = UnixStream::connect(path).unwrap();
    let object = import(receive_descriptor(&socket));
    cu!(cuMulticastAddDevice(object, 1));
    let (handle, at) = member(1);
    tell("added");
    assert_eq!(listen(), "bind");
    cu!(cuMulticastBindMem(object, 0, handle, 0, BYTES, 0));
    let window = map(object, 1);
    tell("bound");
    assert_eq!(listen(), "add");
    let f = function(module(MULTIMEM), "add");
    let launched = launch!(f, [1; 3], [1; 3], 0, null_mut(), [window + 4, 30u32]);
    assert_eq!(launched, CUresult::CUDA_SUCCESS);
    cu!(cuCtxSynchronize());
    tell(&format!("{:?}", download::<u32>(at, 2)));
    assert_eq!(listen(), "end");
}

#[test]
fn multicast_reaches_memory_of_several_processes() {
    let _context = Context::new(0);
    let mut object = 0;
    let prop = team_size(BYTES);
    cu!(cuMulticastCreate(&mut object, &prop));
    cu!(cuMulticastAddDevice(object, 0));
    let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
    assert_eq!(code!(cuMulticastAddDevice(object, 0)), invalid);
    let (handle, at) = member(0);
    // Nothing is bound before the team is complete.
    assert_eq!(
        code!(cuMulticastBindMem(object, 0, handle, 0, BYTES, 0)),
        invalid
    );
    let (listener, path) = listener("team");
    let mut peer = Peer::start(&format!("team {}", path.display()));
    let (socket, _) = listener.accept().unwrap();
    std::fs::remove_file(&path).unwrap();
    send_descriptor(&socket, export(object));
    assert_eq!(peer.hear(), "added");
    cu!(cuMulticastBindAddr(object, 0, at, BYTES, 0));
    let window = map(object, 0);
    peer.say("bind");
    assert_eq!(peer.hear(), "bound");
    // This process learns of the other's memory at its next launch.
    let m = module(MULTIMEM);
    let out = alloc::<u32>(1);
    let add = |value: u32| {
        let launched = launch!(
            function(m, "add"),
            [1; 3],
            [1; 3],
            0,
            null_mut(),
            [window, value]
        );
        assert_eq!(launched, CUresult::CUDA_SUCCESS);
        cu!(cuCtxSynchronize());
    };
    add(12);
    peer.say("add");
    assert_eq!(peer.hear(), "[12, 30]");
    assert_eq!(download::<u32>(at, 2), [12, 30]);
    let sum = launch!(
        function(m, "sum"),
        [1; 3],
        [1; 3],
        0,
        null_mut(),
        [window, out]
    );
    assert_eq!(sum, CUresult::CUDA_SUCCESS);
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(out, 1), [24]);
    peer.say("end");
    peer.end();
    cu!(cuMulticastUnbind(object, 0, 0, BYTES));
    assert_eq!(code!(cuMulticastUnbind(object, 0, 0, BYTES)), invalid);
    cu!(cuMemUnmap(window, BYTES));
    cu!(cuMemRelease(object));
    assert_eq!(code!(cuMulticastAddDevice(object, 1)), invalid);
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kilobytes = line.split_whitespace().nth(1).unwrap();
    kilobytes.parse::<usize>().unwrap() * 1024
}

fn footprint() {
    for device in 0..8 {
        let context = Context::new(device);
        let mut pointer = 0;
        cu!(cuMemAlloc_v2(&mut pointer, 16 << 30));
        let (mut free, mut total) = (0, 0);
        cu!(cuMemGetInfo_v2(&mut free, &mut total));
        assert_eq!(total - free, 16 << 30);
        assert!(total > 79 << 30);
        // Zeroed memory costs no more than untouched memory.
        cu!(cuMemsetD32_v2(pointer, 0, 4 << 30));
        cu!(cuCtxSynchronize());
        std::mem::forget(context);
    }
    tell(&resident().to_string());
}

#[test]
fn idle_devices_and_untouched_memory_cost_little() {
    let mut peer = Peer::start("footprint");
    let bytes: usize = peer.hear().parse().unwrap();
    peer.end();
    // Eight devices with 16 GB each: a device may cost 50 MB.
    assert!(bytes < 50 << 20, "{bytes} bytes resident");
}
