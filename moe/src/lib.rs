//! The mixture-of-experts layer of DeepSeek-V3 and other families, composed of hadal's kernels: route, quantise,
//! dispatch, grouped FP8 or BF16 GEMMs with SwiGLU between them, combine, and the shared expert.

#![forbid(unsafe_code)]

pub mod bench;
pub mod check;
pub mod checkpoint;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod error;
pub mod family;
pub mod forward;
pub mod layer;
pub mod oracle;
pub mod plan;
pub mod quantise;
mod rank;
pub mod report;
pub mod seeded;
pub mod tensors;
