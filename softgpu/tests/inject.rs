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

use cudarc::driver::sys::{self, CUfunction, CUresult};
use parking_lot::{Mutex, MutexGuard};
use support::{
    Context, DEFAULT, alloc, download, function, last_fault, library, module, stream, upload,
};

const OK: CUresult = CUresult::CUDA_SUCCESS;
const HOUR: u64 = 3_600_000_000_000;

/// The kernels, each described where it stands.
const PTX: &str = include_str!("inject.ptx");

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
    functions: Vec<[CUfunction; NAMES.len()]>,
    _alone: MutexGuard<'static, ()>,
}

const NAMES: [&str; 8] = [
    "send", "bulk", "stamp", "listen", "await", "tile", "wide", "spread",
];

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

    /// Stores a box of 4 rows of 16 words to `to` and waits for the end.
    fn tile(&self, to: u64) {
        let tile = self.function(0, "tile");
        let map = box_map(to);
        assert_eq!(launch!(tile, [1; 3], [64, 1, 1], 0, DEFAULT, [map]), OK);
        cu!(cuCtxSynchronize());
    }

    /// Runs `wide` and waits for the end: what the atomics found.
    fn wide(&self, to: u64) -> Vec<u32> {
        let found = self.words(0, 8);
        let wide = self.function(0, "wide");
        assert_eq!(launch!(wide, [1; 3], [1; 3], 0, DEFAULT, [to, found]), OK);
        cu!(cuCtxSynchronize());
        download(found, 8)
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

/// A map over rows of 16 words, in boxes of 4 rows.
fn box_map(at: u64) -> sys::CUtensorMap {
    let mut map = sys::CUtensorMap { opaque: [0; 16] };
    cu!(cuTensorMapEncodeTiled(
        &mut map,
        sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT32,
        2,
        std::ptr::without_provenance_mut(usize::try_from(at).unwrap()),
        [16, 4].as_ptr(),
        [64].as_ptr(),
        [16, 4].as_ptr(),
        [1, 1].as_ptr(),
        sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
        sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
        sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    ));
    map
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
fn tensor_stores_are_lost_wrong_or_late() {
    let pair = Pair::new();
    let right: Vec<u32> = (100..164).collect();
    let peer = pair.words(1, 64);
    fault("drop 0->1 n=1");
    pair.tile(peer);
    assert_eq!(download::<u32>(peer, 64), [0; 64]);
    pair.tile(peer);
    assert_eq!(download::<u32>(peer, 64), right);
    clear();
    // The whole box is one store; the bit is one of its first row.
    cu!(cuMemsetD32_v2(peer, 0, 64));
    fault("corrupt 0->1 bit=100");
    pair.tile(peer);
    let mut wrong = right.clone();
    wrong[3] ^= 16;
    assert_eq!(download::<u32>(peer, 64), wrong);
    pair.tile(peer);
    assert_eq!(download::<u32>(peer, 64), right);
    clear();
    // A kernel ends with its last store, however late.
    cu!(cuMemsetD32_v2(peer, 0, 64));
    fault("delay 0->1 ns=300000 n=1");
    pair.tile(peer);
    pair.stamp(0, peer, 7);
    cu!(cuCtxSynchronize());
    let mut after = right.clone();
    after[0] = 7;
    assert_eq!(download::<u32>(peer, 64), after);
    clear();
    // Device 1 sees nothing of it meanwhile.
    let (flag, told) = (pair.words(1, 1), pair.words(1, 1));
    cu!(cuMemsetD32_v2(peer, 0, 64));
    fault(&format!("delay 0->1 ns={HOUR} n=1"));
    let tile = pair.function(0, "tile");
    let (map, boxes) = (box_map(peer), stream(1));
    assert_eq!(launch!(tile, [1; 3], [64, 1, 1], 0, boxes, [map]), OK);
    pair.on(1);
    let (listen, second) = (pair.function(1, "listen"), 1_000_000u64);
    let go = launch!(listen, [1; 3], [1; 3], 0, DEFAULT, [flag, told, second]);
    assert_eq!(go, OK);
    assert_eq!(download::<u32>(told, 1), [2]);
    assert_eq!(download::<u32>(peer, 64), [0; 64]);
    pair.on(0);
    assert_eq!(code!(cuStreamQuery(boxes)), CUresult::CUDA_ERROR_NOT_READY);
    clear();
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(peer, 64), right);
}

#[test]
fn wide_atomics_are_lost_but_never_late() {
    let pair = Pair::new();
    let peer = pair.words(1, 12);
    let (new, old) = ([1, 0, 2, 0], [9, 9, 9, 9]);
    cu!(cuMemsetD32_v2(peer, 9, 4));
    // They find what is there, and change nothing; the store behind them arrives.
    fault("drop 0->1 n=2");
    assert_eq!(pair.wide(peer), [old, [0; 4]].concat());
    assert_eq!(download::<u32>(peer, 12), [old, [0; 4], new].concat());
    clear();
    cu!(cuMemsetD32_v2(peer + 32, 0, 4));
    fault("delay 0->1 ns=1000; corrupt 0->1 n=9 bit=127");
    assert_eq!(pair.wide(peer), [old, [0; 4]].concat());
    assert_eq!(download::<u32>(peer, 12), [new, new, new].concat());
    clear();
    cu!(cuMemsetD32_v2(peer, 0, 12));
    fault("corrupt 0->1 bit=127");
    pair.wide(peer);
    let mut wrong = [new, new, new].concat();
    wrong[11] ^= 1 << 31;
    assert_eq!(download::<u32>(peer, 12), wrong);
}

/// Memory of a device that both devices map, with zeros at its start.
fn shared(device: i32) -> (u64, u64) {
    const BYTES: usize = 2 << 20;
    let mut handle = 0;
    let mut properties = std::mem::MaybeUninit::<sys::CUmemAllocationProp>::zeroed();
    // SAFETY: zeros are valid for every field.
    let properties = unsafe { properties.assume_init_mut() };
    properties.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = device;
    cu!(cuMemCreate(&mut handle, BYTES, properties, 0));
    let at = map_for(handle, device);
    cu!(cuMemsetD32_v2(at, 0, 4));
    (handle, at)
}

/// Maps a handle of 2 MiB for a device.
fn map_for(handle: u64, device: i32) -> u64 {
    const BYTES: usize = 2 << 20;
    let mut at = 0;
    cu!(cuMemAddressReserve(&mut at, BYTES, 0, 0, 0));
    cu!(cuMemMap(at, BYTES, 0, handle, 0));
    let access = sys::CUmemAccessDesc {
        location: sys::CUmemLocation {
            type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE,
            id: device,
        },
        flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
    };
    cu!(cuMemSetAccess(at, BYTES, &access, 1));
    at
}

#[test]
fn multimem_loses_single_replicas() {
    let pair = Pair::new();
    let mut object = 0;
    let team = sys::CUmulticastObjectProp {
        numDevices: 2,
        size: 2 << 20,
        handleTypes: 0,
        flags: 0,
    };
    cu!(cuMulticastCreate(&mut object, &team));
    let members = [0, 1].map(|device| {
        cu!(cuMulticastAddDevice(object, device));
        shared(device)
    });
    for (handle, _) in members {
        cu!(cuMulticastBindMem(object, 0, handle, 0, 2 << 20, 0));
    }
    let window = map_for(object, 0);
    let spread = || {
        let spread = pair.function(0, "spread");
        assert_eq!(launch!(spread, [1; 3], [1; 3], 0, DEFAULT, [window]), OK);
        cu!(cuCtxSynchronize());
        members.map(|(_, at)| download::<u32>(at, 2))
    };
    // The reduction is lost on its way to the peer, the store after it is not.
    fault("drop 0->1 n=1");
    assert_eq!(spread(), [[5, 6], [0, 6]]);
    clear();
    fault("drop 0->1 skip=1; delay 0->1 ns=1000; corrupt 0->1 n=9");
    cu!(cuMemsetD32_v2(members[1].1, 0, 2));
    assert_eq!(spread(), [[10, 6], [5, 0]]);
    clear();
    assert_eq!(spread(), [[15, 6], [10, 6]]);
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
    process_with(role, &[("SOFTGPU_FAULT", spec)])
}

fn process_with(role: &str, variables: &[(&str, &str)]) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads", "1"])
        .env(ROLE, role)
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

/// Device 0 waits for a store of device 1, which is stopped.
fn wait_for_the_stopped() {
    let pair = Pair::work();
    let flag = pair.words(0, 1);
    pair.on(1);
    let stamp = pair.function(1, "stamp");
    let go = launch!(stamp, [2, 1, 1], [1; 3], 0, DEFAULT, [flag, 1u32]);
    assert_eq!(go, OK);
    pair.on(0);
    let wait = pair.function(0, "await");
    assert_eq!(launch!(wait, [1; 3], [1; 3], 0, DEFAULT, [flag]), OK);
    println!("peer: {:?}", code!(cuCtxSynchronize()));
    println!("{}", last_fault());
    pair.on(1);
    println!("stopped: {:?}", code!(cuCtxSynchronize()));
    std::process::exit(0);
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
        Ok("deadlock") => wait_for_the_stopped(),
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
fn a_deadlock_report_names_the_clusters_of_stopped_devices() {
    for fault in ["stop 1", "stop 1 @launch=stamp"] {
        let variables = [("SOFTGPU_FAULT", fault), ("SOFTGPU_DEADLOCK_SECONDS", "1")];
        let output = process_with("deadlock", &variables);
        let said = String::from_utf8(output.stdout).unwrap();
        for expected in [
            "peer: CUDA_ERROR_LAUNCH_FAILED",
            "deadlock: kernel stamp launch ",
            " device 1, stopped by fault injection: clusters at CTA (0,0,0) (1,0,0); kernel await",
            "stopped: CUDA_ERROR_LAUNCH_FAILED",
        ] {
            assert!(
                said.contains(expected),
                "{fault}: {said}\n{:?}",
                output.stderr
            );
        }
    }
}

#[test]
fn a_mistake_in_the_environment_fails_the_initialisation() {
    for (variable, value, expected) in [
        (
            "SOFTGPU_FAULT",
            "drop 0->0",
            "fault \"drop 0->0\": \"0->0\": a device is no peer",
        ),
        ("SOFTGPU_SEED", "lucky", "expected a number from 0 to"),
        ("SOFTGPU_DEVICES", "17", "expected a number from 1 to 16"),
    ] {
        let output = process_with("init", &[(variable, value)]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("cuInit: 1 1"), "{said}");
        let complained = String::from_utf8(output.stderr).unwrap();
        let expected = format!("softgpu: {variable}: {expected}");
        assert!(complained.contains(&expected), "{complained}");
    }
}

/// All of these tests once more, each run under another seed.
#[test]
fn faults_happen_under_seeds_too() {
    if std::env::var_os("SOFTGPU_SEED").is_some() {
        return;
    }
    for seed in ["1", "2"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--test-threads", "1"])
            .env("SOFTGPU_SEED", seed)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "seed {seed}: {text}");
        assert!(text.contains("test tensor_stores_are_lost_wrong_or_late ... ok"));
    }
}
