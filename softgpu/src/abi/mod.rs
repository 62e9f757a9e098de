//! The C symbols: every public function of CUDA 13.0's `cuda.h` and `cudaProfiler.h`.
//!
//! Functions only convert arguments and call [`crate::driver`]. What softgpu lacks answers 801
//! (`CUDA_ERROR_NOT_SUPPORTED`); those names stand in one list (`unsupported.rs`). Enumerations
//! are plain 32-bit integers, handles 64-bit numbers, `size_t` is `u64` (hosts are 64-bit).
//! Pointers arrive as [`pointers::In`] and [`pointers::Out`], which answer null with
//! `INVALID_VALUE`. No panic crosses the boundary: it becomes 999 (`CUDA_ERROR_UNKNOWN`).
//!
//! `_ptsz` and `_ptds` names take the per-thread default stream for a null stream handle.
//!
//! # Beyond CUDA
//!
//! For tools, the library also exports (declarations in C):
//!
//! ```c
//! // Text of the last guest fault, refused module or rejected launch; "" if none. Writes at most
//! // n bytes, NUL included, and returns the length of the whole text without the NUL.
//! size_t softgpuLastFault(char* buffer, size_t n);
//! // One line per kernel that finished since the start or the last reset:
//! // name TAB launches=N TAB counter=value TAB … NEWLINE. Returns as above.
//! size_t softgpuLaunchLog(char* buffer, size_t n);
//! // The same as a JSON array with one object per kernel, with more counters and the hash of the
//! // schedule. Returns as above. SOFTGPU_COUNTERS=FILE appends such an object per launch to a
//! // file, SOFTGPU_TRACE=FILE one with the hash alone: equal hashes mean equal schedules.
//! size_t softgpuCounters(char* buffer, size_t n);
//! // Launches that begin while this is on also count bank conflicts of shared memory and the bytes
//! // by device ("traffic" in the JSON; the module `crate::exec::traffic` says how). It costs time.
//! // On from the start if SOFTGPU_COUNTERS is set, else off.
//! void softgpuCountTraffic(int on);
//! void softgpuLaunchLogReset(void);
//! // Adds faults to inject; SOFTGPU_FAULT does so at cuInit. The grammar stands in
//! // `crate::exec::inject`. Answers 1 (CUDA_ERROR_INVALID_VALUE) to what it does not understand,
//! // adds nothing then, and prints why (also in softgpuLastFault).
//! int softgpuFault(const char* spec);
//! // Ends all faults; stopped devices go on.
//! void softgpuFaultClear(void);
//! // Announces a phase, for faults that wait for it (@phase=NAME).
//! int softgpuPhase(const char* name);
//! ```

#[macro_use]
mod entry;

mod capture;
mod code;
mod context;
mod copy;
mod device;
mod event;
mod function;
mod graph;
mod graph_exec;
mod graph_nodes;
mod graph_types;
mod ipc;
mod launch;
mod memory;
mod multicast;
mod pointers;
mod pool;
mod proc_address;
mod stream;
mod stream_value;
mod tensor_map;
mod tools;
mod types;
mod unsupported;
mod virtual_memory;
