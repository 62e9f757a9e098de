//! A seed replays what one host thread does with streams, dependent launches and graphs: in each
//! of several processes all launches end in the same order, after the same turns of clusters.

use std::path::Path;
use std::process::Command;
use std::ptr::null_mut;

use cudarc::driver::sys::{self, CUevent, CUfunction, CUresult, CUstream};

use crate::dependents::launch_programmatic;
use crate::support::{Context, alloc, function, module, stream};

/// `work` draws tickets for long turns. `naps` lets successors start and sleeps between its tickets,
/// so that its turns are many and short.
const TEXT: &str = r"
.version 8.3
.target sm_90a
.address_size 64
.visible .entry work(.param .u64 p0)
{
    .reg .b32 %r<4>; .reg .b64 %rd<2>; .reg .pred %p<2>;
    ld.param.u64 %rd1, [p0];
    mov.u32 %r1, 0;
L:  atom.global.add.u32 %r2, [%rd1], 1;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p1, %r1, 30000;
    @%p1 bra L;
    ret;
}
.visible .entry naps(.param .u64 p0)
{
    .reg .b32 %r<4>; .reg .b64 %rd<2>; .reg .pred %p<2>;
    ld.param.u64 %rd1, [p0];
    griddepcontrol.launch_dependents;
    mov.u32 %r1, 0;
L:  atom.global.add.u32 %r2, [%rd1], 1;
    nanosleep.u32 100;
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p1, %r1, 100;
    @%p1 bra L;
    griddepcontrol.wait;
    ret;
}";

const ROLE: &str = "SOFTGPU_REPLAY_ROLE";

fn event() -> CUevent {
    let mut event = null_mut();
    cu!(cuEventCreate(&mut event, 0));
    event
}

fn work_on(f: CUfunction, blocks: u32, on: CUstream, word: u64) {
    let go = launch!(f, [blocks, 1, 1], [32, 1, 1], 0, on, [word]);
    assert_eq!(go, CUresult::CUDA_SUCCESS);
}

/// Each stream waits for its neighbour now and then.
fn streams(work: CUfunction, word: u64) {
    let lanes = [stream(1), stream(1), stream(1)];
    for round in 0..4 {
        for (i, blocks) in (1..=3).enumerate() {
            work_on(work, blocks, lanes[i], word);
            let passed = event();
            cu!(cuEventRecord(passed, lanes[i]));
            cu!(cuStreamWaitEvent(lanes[(i + 1) % 3], passed, 0));
            work_on(work, 1, lanes[(i + round) % 3], word);
        }
        if round % 2 == 1 {
            cu!(cuCtxSynchronize());
        }
    }
}

/// Every launch may overlap with the one before.
fn dependents(naps: CUfunction, word: u64) {
    let s = stream(1);
    for blocks in [2, 1, 3, 1, 2, 2] {
        launch_programmatic(naps, blocks, s, word, 1);
    }
    cu!(cuStreamSynchronize(s));
}

/// One node, then three chains side by side, then one node.
fn forks(work: CUfunction, word: u64) {
    let lanes = [stream(1), stream(1), stream(1)];
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    cu!(cuStreamBeginCapture_v2(lanes[0], mode));
    work_on(work, 1, lanes[0], word);
    let fork = event();
    cu!(cuEventRecord(fork, lanes[0]));
    for lane in &lanes[1..] {
        cu!(cuStreamWaitEvent(*lane, fork, 0));
    }
    for (blocks, lane) in (1..).zip(lanes) {
        work_on(work, blocks, lane, word);
        work_on(work, 1, lane, word);
    }
    for lane in &lanes[1..] {
        let join = event();
        cu!(cuEventRecord(join, *lane));
        cu!(cuStreamWaitEvent(lanes[0], join, 0));
    }
    work_on(work, 1, lanes[0], word);
    let (mut graph, mut exec) = (null_mut(), null_mut());
    cu!(cuStreamEndCapture(lanes[0], &mut graph));
    cu!(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
    for lane in &lanes[..2] {
        cu!(cuGraphLaunch(exec, *lane));
    }
    cu!(cuCtxSynchronize());
}

/// What the others start; nothing on its own.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let _context = Context::new(0);
    let text = module(TEXT);
    let (work, naps) = (function(text, "work"), function(text, "naps"));
    let word = alloc::<u32>(1);
    match role.as_str() {
        "streams" => streams(work, word),
        "dependents" => dependents(naps, word),
        _ => forks(work, word),
    }
}

/// The order in which launches end, with the hash of all turns until then.
fn trace(role: &str, seed: &str) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("replay-{role}-{}", std::process::id()));
    let _ = std::fs::remove_file(&file);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["replay::child", "--exact", "--test-threads=1"])
        .env(ROLE, role)
        .env("SOFTGPU_SEED", seed)
        .env("SOFTGPU_TRACE", &file)
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    text
}

fn check(role: &str, launches: usize) {
    let first = trace(role, "3");
    assert_eq!(first.lines().count(), launches, "{first}");
    for run in 1..5 {
        assert_eq!(trace(role, "3"), first, "run {run}");
    }
    assert_ne!(trace(role, "4"), first, "another seed");
}

#[test]
fn streams_replay() {
    check("streams", 24);
}

#[test]
fn dependent_launches_replay() {
    check("dependents", 6);
}

#[test]
fn forks_of_graphs_replay() {
    check("forks", 16);
}
