//! The latency-mode all-to-all, bit for bit against a plain model, on every number of ranks.
//!
//! The model ([`model`]) knows the routing of all ranks and says what each rank must receive and sum; it shares
//! no code with the kernels. The bodies of ranks run in threads ([`harness`]).
#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data: values are small, and a failure is a failed test"
)]

mod abandon;
mod arguments;
mod faults;
mod harness;
mod model;
mod rounds;
