//! Fault injection with two devices, and with processes. Faults are the whole process's, so these
//! tests have one of their own, and run one after the other.

#![expect(unsafe_code, reason = "softgpu's own entry points are C")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::print_stdout,
    reason = "a child tells its parent what happened"
)]

#[macro_use]
#[path = "driver/support.rs"]
#[expect(dead_code, reason = "the driver tests use the rest of it")]
mod support;

use std::ffi::{CString, c_char};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use cudarc::driver::sys::{CUfunction, CUresult};
use parking_lot::{Mutex, MutexGuard};
use support::{
    Context, DEFAULT, alloc, download, function, last_fault, library, module, stream, upload,
};

const OK: CUresult = CUresult::CUDA_SUCCESS;
const HOUR: u64 = 3_600_000_000_000;

/// `send(to, flag, found)`: one warp writes 11 to `to[0]` (lane 0), the vector 21..24 to `to[4..8]`
/// (lane 1), adds 5 to `to[8]` by `red` (lane 2) and 7 to `to[9]` by `atom` (lane 3; what it found
/// goes to `found`), 64 bits to `to[10..12]` (lane 4), and then 1 to `flag`.
/// `bulk(to, add)`: copies the words 100, 101, 102, 103 to `to`, and adds them to those of `add`.
/// `stamp(to, value)`: writes one word.
/// `listen(flag, told, ns)`: waits until `flag` is not zero (tells 1), or so long (tells 2).
const PTX: &str = "
.version 8.0
.target sm_90
.address_size 64
.visible .entry send(.param .u64 to, .param .u64 flag, .param .u64 found)
{
    .reg .pred %p<6>;
    .reg .b32 %r<9>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [to];
    ld.param.u64 %rd2, [flag];
    ld.param.u64 %rd3, [found];
    mov.u32 %r1, %tid.x;
    setp.eq.u32 %p1, %r1, 0;
    @%p1 st.global.u32 [%rd1], 11;
    setp.eq.u32 %p2, %r1, 1;
    mov.u32 %r2, 21;
    mov.u32 %r3, 22;
    mov.u32 %r4, 23;
    mov.u32 %r5, 24;
    @%p2 st.global.v4.u32 [%rd1+16], {%r2, %r3, %r4, %r5};
    setp.eq.u32 %p3, %r1, 2;
    @%p3 red.global.add.u32 [%rd1+32], 5;
    setp.eq.u32 %p4, %r1, 3;
    @%p4 atom.global.add.u32 %r6, [%rd1+36], 7;
    @%p4 st.global.u32 [%rd3], %r6;
    setp.eq.u32 %p5, %r1, 4;
    mov.u64 %rd4, 0x1234567890;
    @%p5 st.global.u64 [%rd1+40], %rd4;
    bar.warp.sync 0xFFFFFFFF;
    @%p1 st.release.sys.global.u32 [%rd2], 1;
    ret;
}
.visible .entry bulk(.param .u64 to, .param .u64 add)
{
    .reg .b32 %r<5>;
    .reg .b64 %rd<3>;
    .shared .align 16 .b8 words[16];
    ld.param.u64 %rd1, [to];
    ld.param.u64 %rd2, [add];
    mov.u32 %r1, 100;
    mov.u32 %r2, 101;
    mov.u32 %r3, 102;
    mov.u32 %r4, 103;
    st.shared.v4.u32 [words], {%r1, %r2, %r3, %r4};
    fence.proxy.async.shared::cta;
    cp.async.bulk.global.shared::cta.bulk_group [%rd1], [words], 16;
    cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd2], [words], 16;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
    ret;
}
.visible .entry stamp(.param .u64 to, .param .u32 value)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [to];
    ld.param.u32 %r1, [value];
    st.global.u32 [%rd1], %r1;
    ret;
}
.visible .entry listen(.param .u64 flag, .param .u64 told, .param .u64 ns)
{
    .reg .pred %p<3>;
    .reg .b32 %r<3>;
    .reg .b64 %rd<7>;
    ld.param.u64 %rd1, [flag];
    ld.param.u64 %rd2, [told];
    ld.param.u64 %rd3, [ns];
    mov.u64 %rd4, %globaltimer;
    mov.u32 %r2, 1;
wait:
    ld.acquire.sys.global.u32 %r1, [%rd1];
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra done;
    mov.u64 %rd5, %globaltimer;
    sub.u64 %rd6, %rd5, %rd4;
    setp.lt.u64 %p2, %rd6, %rd3;
    @%p2 bra wait;
    mov.u32 %r2, 2;
done:
    st.global.u32 [%rd2], %r2;
    ret;
}
";

fn call(name: &[u8], text: &str) -> u32 {
    type Entry = unsafe extern "C" fn(*const c_char) -> u32;
    // SAFETY: the signature is the library's.
    let entry = unsafe { library().get::<Entry>(name) }.unwrap();
    let text = CString::new(text).unwrap();
    // SAFETY: the text ends with NUL.
    unsafe { entry(text.as_ptr()) }
}

fn clear() {
    // SAFETY: the signature is the library's.
    let entry = unsafe { library().get::<unsafe extern "C" fn()>(b"softgpuFaultClear") }.unwrap();
    // SAFETY: no arguments.
    unsafe { entry() };
}

/// Contexts on devices 0 and 1 that may access each other's memory; 0 is current.
struct Pair {
    contexts: [Context; 2],
    functions: Vec<[CUfunction; 4]>,
    _alone: MutexGuard<'static, ()>,
}

const NAMES: [&str; 4] = ["send", "bulk", "stamp", "listen"];

impl Pair {
    fn new() -> Self {
        let pair = Self::work();
        clear();
        pair
    }

    /// With the faults of the environment.
    fn work() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock();
        let contexts = [Context::new(0), Context::new(1)];
        let functions = [0, 1].map(|this: usize| {
            cu!(cuCtxSetCurrent(contexts[this].0));
            cu!(cuCtxEnablePeerAccess(contexts[1 - this].0, 0));
            let module = module(PTX);
            NAMES.map(|name| function(module, name))
        });
        let pair = Self {
            contexts,
            functions: functions.into(),
            _alone: alone,
        };
        pair.on(0);
        pair
    }

    fn on(&self, device: usize) {
        cu!(cuCtxSetCurrent(self.contexts[device].0));
    }

    fn function(&self, device: usize, name: &str) -> CUfunction {
        let index = NAMES.iter().position(|known| *known == name).unwrap();
        self.functions[device][index]
    }

    /// Zeroed words on a device.
    fn words(&self, device: usize, count: usize) -> u64 {
        self.on(device);
        let words = upload(&vec![0u32; count]);
        self.on(0);
        words
    }

    fn stamp(&self, device: usize, to: u64, value: u32) {
        self.on(device);
        let stamp = self.function(device, "stamp");
        let go = launch!(stamp, [1; 3], [1; 3], 0, DEFAULT, [to, value]);
        assert_eq!(go, OK);
    }

    /// Runs `send` on device 0.
    fn send(&self, to: u64, flag: u64, found: u64) {
        let send = self.function(0, "send");
        let go = launch!(send, [1; 3], [32, 1, 1], 0, DEFAULT, [to, flag, found]);
        assert_eq!(go, OK);
    }

    fn bulk(&self, to: u64, add: u64) {
        let bulk = self.function(0, "bulk");
        let go = launch!(bulk, [1; 3], [1; 3], 0, DEFAULT, [to, add]);
        assert_eq!(go, OK);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        clear();
    }
}

fn fault(spec: &str) {
    assert_eq!(call(b"softgpuFault", spec), 0, "{spec}: {}", last_fault());
}

/// What `send` writes to zeroed words.
const SENT: [u32; 12] = [11, 0, 0, 0, 21, 22, 23, 24, 5, 7, 0x3456_7890, 0x12];
const NOTHING: [u32; 12] = [0; 12];

#[test]
fn a_mistake_is_named_and_adds_nothing() {
    let pair = Pair::new();
    assert_eq!(call(b"softgpuFault", "drop 0->1; stop 77"), 1);
    let why = last_fault();
    assert!(
        why.contains("\"stop 77\"") && why.contains("device below 8"),
        "{why}"
    );
    let to = pair.words(1, 1);
    pair.stamp(0, to, 5);
    assert_eq!(download::<u32>(to, 1), [5]);
    assert_eq!(call(b"softgpuFault", "flip 0x1000"), 1);
}

#[test]
fn dropped_stores_never_arrive_and_others_do() {
    let pair = Pair::new();
    let (peer, own, found) = (pair.words(1, 13), pair.words(0, 13), pair.words(0, 1));
    fault("drop 0->1");
    pair.send(peer, peer + 48, found);
    pair.send(own, own + 48, found);
    pair.bulk(peer, peer + 16);
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(peer, 13), [0; 13]);
    assert_eq!(download::<u32>(own, 12), SENT);
    // The other direction is another link.
    pair.stamp(1, own, 9);
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(own, 1), [9]);
    clear();
    pair.on(0);
    pair.send(peer, peer + 48, found);
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(peer, 12), SENT);
}

#[test]
fn a_lost_atomic_tells_what_it_found() {
    let pair = Pair::new();
    let (peer, found) = (pair.words(1, 13), pair.words(0, 1));
    cu!(cuMemsetD32_v2(peer, 40, 12));
    fault("drop 0->1 skip=3 n=1");
    pair.send(peer, peer + 48, found);
    cu!(cuCtxSynchronize());
    // Store, vector and red go by; the atomic is the fourth.
    assert_eq!(download::<u32>(found, 1), [40]);
    let mut expected = SENT.map(|word| if word == 0 { 40 } else { word });
    (expected[8], expected[9]) = (45, 40);
    assert_eq!(download::<u32>(peer, 12), expected);
    assert_eq!(download::<u32>(peer + 48, 1), [1]);
}

#[test]
fn later_stores_overtake_delayed_ones() {
    let pair = Pair::new();
    let (peer, found) = (pair.words(1, 13), pair.words(0, 1));
    fault(&format!("delay 0->1 ns={HOUR} n=4"));
    pair.send(peer, peer + 48, found);
    let told = pair.words(1, 1);
    pair.on(1);
    let listen = pair.function(1, "listen");
    let go = launch!(listen, [1; 3], [1; 3], 0, DEFAULT, [peer + 48, told, HOUR]);
    assert_eq!(go, OK);
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(told, 1), [1]);
    // Only the atomic, which waits for its answer, has happened.
    let mut expected = NOTHING;
    expected[9] = 7;
    assert_eq!(download::<u32>(peer, 12), expected);
    pair.on(0);
    assert_eq!(
        code!(cuStreamQuery(DEFAULT)),
        CUresult::CUDA_ERROR_NOT_READY
    );
    clear();
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(peer, 12), SENT);
}

#[test]
fn delayed_stores_arrive_in_time_and_before_the_kernel_ends() {
    let pair = Pair::new();
    let (peer, found) = (pair.words(1, 13), pair.words(0, 1));
    fault("delay *->1 ns=200000");
    pair.send(peer, peer + 48, found);
    pair.bulk(peer + 16, peer);
    cu!(cuCtxSynchronize());
    let mut expected = SENT;
    expected[4..8].copy_from_slice(&[100, 101, 102, 103]);
    expected[..4].copy_from_slice(&[111, 101, 102, 103]);
    assert_eq!(download::<u32>(peer, 12), expected);
}

#[test]
fn corrupted_stores_have_one_wrong_bit() {
    let pair = Pair::new();
    let (peer, found) = (pair.words(1, 13), pair.words(0, 1));
    // Of the store, the vector, the red and the store of 64 bits.
    for (skip, bit, word, wrong) in [
        (0, 1, 0, 11 ^ 2),
        (1, 5, 4, 21 ^ 32),
        (2, 3, 8, 5 ^ 8),
        (3, 37, 11, 0x12 ^ 32),
    ] {
        cu!(cuMemsetD32_v2(peer, 0, 13));
        fault(&format!("corrupt 0->1 skip={skip} bit={bit}"));
        pair.send(peer, peer + 48, found);
        cu!(cuCtxSynchronize());
        let mut expected = SENT;
        expected[word] = wrong;
        assert_eq!(download::<u32>(peer, 12), expected, "store {skip}");
        clear();
    }
    cu!(cuMemsetD32_v2(peer, 0, 13));
    // Whatever the first leaves alone, the second takes.
    fault("corrupt 0->1 bit=33; drop 0->1");
    pair.bulk(peer, peer + 16);
    cu!(cuCtxSynchronize());
    let expected = [100, 101 ^ 2, 102, 103, 0, 0, 0, 0];
    let mut found = download::<u32>(peer, 8);
    if found[4] != 0 {
        // Both operations are in flight; the reduction may have been the first.
        found.rotate_left(4);
    }
    assert_eq!(found, expected);
}

#[test]
fn a_bit_flips_at_a_phase() {
    let pair = Pair::new();
    let word = pair.words(1, 1);
    fault(&format!("flip {word:#x} bit=9 @phase=combine#2"));
    for (phase, expected) in [
        ("combine", 0),
        ("dispatch", 0),
        ("combine", 512),
        ("combine", 512),
    ] {
        assert_eq!(call(b"softgpuPhase", phase), 0);
        assert_eq!(download::<u32>(word, 1), [expected]);
    }
    fault(&format!("flip {word:#x}"));
    assert_eq!(download::<u32>(word, 1), [513]);
}

#[test]
fn a_stopped_device_harms_nobody_and_goes_on_when_told() {
    let pair = Pair::new();
    let (word, flag, told) = (pair.words(1, 1), pair.words(0, 1), pair.words(0, 1));
    fault("stop 1 @launch=tam#2");
    // Launches on another device do not count.
    pair.stamp(0, word, 1);
    pair.stamp(0, word, 2);
    cu!(cuCtxSynchronize());
    pair.stamp(1, word, 3);
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(word, 1), [3]);
    pair.stamp(1, flag, 4);
    pair.on(0);
    let (listen, second) = (pair.function(0, "listen"), 1_000_000u64);
    let go = launch!(listen, [1; 3], [1; 3], 0, DEFAULT, [flag, told, second]);
    assert_eq!(go, OK);
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(told, 1), [2], "the peer's deadline expires");
    pair.on(1);
    assert_eq!(
        code!(cuStreamQuery(DEFAULT)),
        CUresult::CUDA_ERROR_NOT_READY
    );
    // A copy in context 1 would wait for its kernel.
    pair.on(0);
    assert_eq!(download::<u32>(flag, 1), [0]);
    pair.on(1);
    clear();
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(flag, 1), [4]);
}

#[test]
fn a_context_on_a_stopped_device_can_be_destroyed() {
    let _pair = Pair::new();
    fault("stop 1");
    let context = Context::new(1);
    let stamp = function(module(PTX), "stamp");
    let word = alloc::<u32>(1);
    let go = launch!(stamp, [1; 3], [1; 3], 0, stream(1), [word, 1u32]);
    assert_eq!(go, OK);
    drop(context);
}

const ROLE: &str = "SOFTGPU_TEST_ROLE";

/// Runs [`child`] in a process of its own.
fn process(role: &str, spec: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads", "1"])
        .env(ROLE, role)
        .env("SOFTGPU_FAULT", spec)
        .output()
        .unwrap()
}

/// The other processes of these tests.
#[test]
fn child() {
    match std::env::var(ROLE).as_deref() {
        Ok("init") => {
            let path = std::env::current_exe().unwrap();
            let path = path.with_file_name("libsoftgpu.so");
            // SAFETY: the library's initialisers do nothing.
            let library = unsafe { libloading::Library::new(path) }.unwrap();
            type Init = unsafe extern "C" fn(u32) -> u32;
            // SAFETY: the signature is cuda.h's.
            let init = unsafe { library.get::<Init>(b"cuInit") }.unwrap();
            // SAFETY: no pointers.
            let first = unsafe { init(0) };
            // SAFETY: as above.
            let second = unsafe { init(0) };
            println!("cuInit: {first} {second}");
            std::process::exit(0);
        }
        Ok(_) => {
            let pair = Pair::work();
            let word = pair.words(0, 1);
            for value in 1..=3 {
                call(b"softgpuPhase", &format!("round {value}"));
                pair.stamp(0, word, value);
                cu!(cuCtxSynchronize());
                println!("round {:?}", download::<u32>(word, 1));
            }
        }
        Err(_) => {}
    }
}

#[test]
fn a_process_is_killed_at_a_phase_or_launch() {
    for (spec, rounds) in [
        ("kill @phase=nothing", 3),
        ("kill @phase=bogus; kill @launch=stamp#3", 2),
        ("kill @launch=stamp", 0),
    ] {
        let output = process("work", spec);
        let said = String::from_utf8(output.stdout).unwrap();
        let complained = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.matches("round [").count(), rounds, "{spec}: {said}");
        let killed = output.status.signal() == Some(9);
        assert_eq!(killed, rounds < 3, "{spec}: {}", output.status);
        let told = complained.contains("softgpu: fault injection: kill @launch=stamp");
        assert_eq!(told, rounds < 3, "{complained}");
    }
}

#[test]
fn a_mistake_in_the_environment_fails_the_initialisation() {
    let output = process("init", "drop 0->0");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("cuInit: 1 1"), "{said}");
    let complained = String::from_utf8(output.stderr).unwrap();
    let expected = "softgpu: SOFTGPU_FAULT: fault \"drop 0->0\": \"0->0\": a device is no peer";
    assert!(complained.contains(expected), "{complained}");
}
