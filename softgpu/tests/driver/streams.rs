//! Order and progress of streams and events.

#![expect(unsafe_code, reason = "callbacks and shared flags")]

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use cudarc::driver::sys::{self, CUresult};

use crate::support::{BASIC, Context, DEFAULT, alloc, download, function, library, module, stream};

const NOT_READY: CUresult = CUresult::CUDA_ERROR_NOT_READY;

/// A word of pinned host memory.
fn pinned_word() -> &'static AtomicU32 {
    let mut at = std::ptr::null_mut();
    cu!(cuMemHostAlloc(&mut at, 4, 0));
    // SAFETY: four zeroed bytes, page-aligned; the test's context outlives every use.
    unsafe { &*at.cast::<AtomicU32>() }
}

fn device_address(word: &AtomicU32) -> u64 {
    std::ptr::from_ref(word).addr() as u64
}

#[test]
fn kernels_wait_for_the_host_without_holding_it_up() {
    let _context = Context::new(0);
    let answer = function(module(BASIC), "answer");
    let (flag, reply) = (pinned_word(), pinned_word());
    let (a, b) = (device_address(flag), device_address(reply));
    let s = stream(1);
    let mut event = std::ptr::null_mut();
    cu!(cuEventCreate(&mut event, 0));
    assert_eq!(code!(cuEventQuery(event)), CUresult::CUDA_SUCCESS);
    let launched = launch!(answer, [1; 3], [1; 3], 0, s, [a, 41u32, b]);
    assert_eq!(launched, CUresult::CUDA_SUCCESS);
    cu!(cuEventRecord(event, s));
    assert_eq!(code!(cuStreamQuery(s)), NOT_READY);
    assert_eq!(code!(cuEventQuery(event)), NOT_READY);
    flag.store(41, Ordering::Release);
    cu!(cuEventSynchronize(event));
    assert_eq!(reply.load(Ordering::Acquire), 42);
    cu!(cuStreamQuery(s));
    cu!(cuStreamDestroy_v2(s));
    assert_eq!(code!(cuStreamQuery(s)), CUresult::CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn two_kernels_of_one_device_answer_each_other() {
    let _context = Context::new(1);
    let answer = function(module(BASIC), "answer");
    let words = alloc::<u32>(2);
    cu!(cuMemsetD32_v2(words, 0, 2));
    let (s, t) = (stream(1), stream(1));
    // t's kernel waits for s's, which waits for word 0 to be 0 at once.
    for (on, wait, value, reply) in [(t, words + 4, 1u32, words), (s, words, 0, words + 4)] {
        let launched = launch!(answer, [1; 3], [1; 3], 0, on, [wait, value, reply]);
        assert_eq!(launched, CUresult::CUDA_SUCCESS);
    }
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(words, 2), [2, 1]);
}

#[test]
fn events_order_streams() {
    let _context = Context::new(0);
    let words = alloc::<u32>(1);
    let (s, t) = (stream(1), stream(1));
    let gate = pinned_word();
    cu!(cuStreamWaitValue32_v2(s, device_address(gate), 1, 0));
    cu!(cuMemsetD32Async(words, 1, 1, s));
    let mut event = std::ptr::null_mut();
    cu!(cuEventCreate(&mut event, 0));
    cu!(cuEventRecord(event, s));
    cu!(cuStreamWaitEvent(t, event, 0));
    cu!(cuMemsetD32Async(words, 2, 1, t));
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(code!(cuStreamQuery(t)), NOT_READY);
    gate.store(1, Ordering::Release);
    cu!(cuStreamSynchronize(t));
    assert_eq!(download::<u32>(words, 1), [2]);
    let mut end = std::ptr::null_mut();
    cu!(cuEventCreate(&mut end, 0));
    cu!(cuEventRecord(end, s));
    cu!(cuEventSynchronize(end));
    let mut time = -1.0;
    cu!(cuEventElapsedTime_v2(&mut time, event, end));
    assert!(time >= 0.0);
    assert_eq!(
        code!(cuEventElapsedTime_v2(
            &mut time,
            event,
            std::ptr::null_mut()
        )),
        CUresult::CUDA_ERROR_INVALID_HANDLE
    );
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_only() {
    let _context = Context::new(0);
    let words = alloc::<u32>(1);
    let (blocking, free) = (stream(0), stream(1));
    let (gate, other) = (pinned_word(), pinned_word());
    cu!(cuStreamWaitValue32_v2(blocking, device_address(gate), 1, 1));
    cu!(cuStreamWaitValue32_v2(free, device_address(other), 1, 1));
    cu!(cuMemsetD32Async(words, 3, 1, DEFAULT));
    assert_eq!(code!(cuStreamQuery(DEFAULT)), NOT_READY);
    // And blocking streams wait for the legacy stream.
    let late = stream(0);
    cu!(cuMemsetD32Async(words, 4, 1, late));
    assert_eq!(code!(cuStreamQuery(late)), NOT_READY);
    gate.store(1, Ordering::Release);
    cu!(cuStreamSynchronize(late));
    cu!(cuStreamQuery(DEFAULT));
    assert_eq!(code!(cuStreamQuery(free)), NOT_READY);
    other.store(1, Ordering::Release);
    cu!(cuCtxSynchronize());
    assert_eq!(download::<u32>(words, 1), [4]);
}

#[test]
fn host_functions_run_in_order_and_may_block() {
    /// # Safety
    /// `data` leads to a receiver and a word.
    unsafe extern "C" fn receive(data: *mut c_void) {
        // SAFETY: the test passes a receiver and a word that outlive the call.
        let (gate, seen) = unsafe { &*data.cast::<(mpsc::Receiver<u32>, AtomicU32)>() };
        seen.store(gate.recv().unwrap(), Ordering::Release);
    }
    let _context = Context::new(0);
    let s = stream(1);
    let (sender, receiver) = mpsc::channel();
    let data = (receiver, AtomicU32::new(0));
    cu!(cuLaunchHostFunc(
        s,
        Some(receive),
        (&raw const data).cast_mut().cast()
    ));
    assert_eq!(code!(cuStreamQuery(s)), NOT_READY);
    sender.send(17).unwrap();
    cu!(cuStreamSynchronize(s));
    assert_eq!(data.1.load(Ordering::Acquire), 17);
}

#[test]
fn stream_writes_follow_earlier_work() {
    let _context = Context::new(0);
    let words = alloc::<u64>(2);
    let s = stream(1);
    cu!(cuMemsetD32Async(words, 0, 4, s));
    cu!(cuStreamWriteValue32_v2(s, words, 5, 0));
    cu!(cuStreamWriteValue64_v2(s, words + 8, 1 << 40, 0));
    cu!(cuStreamWaitValue64_v2(s, words + 8, 1 << 40, 1));
    cu!(cuStreamSynchronize(s));
    assert_eq!(download::<u64>(words, 2), [5, 1 << 40]);
    assert_eq!(
        code!(cuStreamWriteValue32_v2(s, words + 2, 5, 0)),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
}

#[test]
fn launches_record_events_and_streams_keep_attributes() {
    use sys::CUlaunchAttributeID_enum as Attribute;
    let _context = Context::new(0);
    let f = function(module(BASIC), "write_at");
    let words = alloc::<u32>(1);
    let s = stream(1);
    let (mut event, mut timing) = (std::ptr::null_mut(), std::ptr::null_mut());
    cu!(cuEventCreate(&mut event, 2));
    cu!(cuEventCreate(&mut timing, 0));
    let launch = |event: sys::CUevent| {
        let mut attribute = std::mem::MaybeUninit::<sys::CUlaunchAttribute>::zeroed();
        // SAFETY: zeros are valid for every field.
        let attribute = unsafe { attribute.assume_init_mut() };
        attribute.id = Attribute::CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT;
        attribute.value.launchCompletionEvent.event = event;
        let config = sys::CUlaunchConfig {
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 1,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: s,
            attrs: attribute,
            numAttrs: 1,
        };
        let value = 5u32;
        let mut params: [*mut c_void; 2] = [
            (&raw const words).cast_mut().cast(),
            (&raw const value).cast_mut().cast(),
        ];
        code!(cuLaunchKernelEx(
            &config,
            f,
            params.as_mut_ptr(),
            std::ptr::null_mut()
        ))
    };
    let gate = pinned_word();
    cu!(cuStreamWaitValue32_v2(s, device_address(gate), 1, 1));
    assert_eq!(launch(event), CUresult::CUDA_SUCCESS);
    assert_eq!(launch(timing), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(code!(cuEventQuery(event)), NOT_READY);
    gate.store(1, Ordering::Release);
    cu!(cuEventSynchronize(event));
    assert_eq!(download::<u32>(words, 1), [5]);
    // Attributes of streams.
    let t = stream(1);
    let id = Attribute::CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY;
    let mut value = sys::CUlaunchAttributeValue {
        syncPolicy: sys::CUsynchronizationPolicy::CU_SYNC_POLICY_YIELD,
    };
    cu!(cuStreamSetAttribute(s, id, &value));
    cu!(cuStreamCopyAttributes(t, s));
    value.syncPolicy = sys::CUsynchronizationPolicy::CU_SYNC_POLICY_AUTO;
    cu!(cuStreamGetAttribute(t, id, &mut value));
    // SAFETY: written by the call.
    let policy = unsafe { value.syncPolicy };
    assert_eq!(policy, sys::CUsynchronizationPolicy::CU_SYNC_POLICY_YIELD);
    assert_eq!(
        code!(cuStreamGetAttribute(
            t,
            Attribute::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            &mut value
        )),
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
}

#[test]
fn per_thread_names_use_a_stream_of_the_thread() {
    type Fill = unsafe extern "C" fn(u64, u32, usize, usize) -> u32;
    type Sync = unsafe extern "C" fn(usize) -> u32;
    let context = Context::new(0);
    let words = alloc::<u32>(1);
    let gate = pinned_word();
    // SAFETY: the signatures are those of cuda.h.
    let fill = unsafe { library().get::<Fill>(b"cuMemsetD32Async_ptsz") }.unwrap();
    // SAFETY: as above.
    let sync = unsafe { library().get::<Sync>(b"cuStreamSynchronize_ptsz") }.unwrap();
    // Hold up this thread's own default stream; another thread's goes on.
    const PER_THREAD: *mut sys::CUstream_st = std::ptr::without_provenance_mut(2);
    cu!(cuStreamWaitValue32_v2(
        PER_THREAD,
        device_address(gate),
        1,
        1
    ));
    // SAFETY: a word of device memory, a null stream.
    assert_eq!(unsafe { fill(words, 1, 1, 0) }, 0);
    assert_eq!(code!(cuStreamQuery(PER_THREAD)), NOT_READY);
    let shared = context.0.addr();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            cu!(cuCtxSetCurrent(std::ptr::without_provenance_mut(shared)));
            // SAFETY: as above.
            assert_eq!(unsafe { fill(words, 2, 1, 0) }, 0);
            // SAFETY: a null stream.
            assert_eq!(unsafe { sync(0) }, 0);
        });
    });
    gate.store(1, Ordering::Release);
    // SAFETY: a null stream.
    assert_eq!(unsafe { sync(0) }, 0);
    assert_eq!(download::<u32>(words, 1), [1]);
}

/// Calls the driver when its thread ends, as the destructors of a program's static objects do.
struct AtEnd {
    context: usize,
    memory: u64,
    codes: mpsc::Sender<[CUresult; 4]>,
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        const PER_THREAD: *mut sys::CUstream_st = std::ptr::without_provenance_mut(2);
        let mut current = std::ptr::null_mut();
        let codes = [
            code!(cuCtxGetCurrent(&mut current)),
            code!(cuMemsetD32Async(self.memory, 5, 1, PER_THREAD)),
            code!(cuStreamSynchronize(PER_THREAD)),
            code!(cuMemFree_v2(self.memory)),
        ];
        assert_eq!(current.addr(), self.context);
        let _ = self.codes.send(codes);
    }
}

#[test]
fn the_driver_answers_while_a_thread_ends() {
    thread_local! {
        static AT_END: std::cell::RefCell<Option<AtEnd>> = const { std::cell::RefCell::new(None) };
    }
    let context = Context::new(0);
    let (shared, memory) = (context.0.addr(), alloc::<u32>(1));
    let (codes, ended) = mpsc::channel();
    std::thread::spawn(move || {
        // Registered before the driver's own variables of the thread, so dropped after them.
        let at_end = AtEnd {
            context: shared,
            memory,
            codes,
        };
        AT_END.set(Some(at_end));
        const PER_THREAD: *mut sys::CUstream_st = std::ptr::without_provenance_mut(2);
        cu!(cuCtxSetCurrent(std::ptr::without_provenance_mut(shared)));
        cu!(cuMemsetD32Async(memory, 1, 1, PER_THREAD));
    })
    .join()
    .unwrap();
    let codes = ended.recv().expect("the destructor ended with a panic");
    assert_eq!(codes, [CUresult::CUDA_SUCCESS; 4]);
}
