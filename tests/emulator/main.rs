//! The kernels on CPU threads: phase by phase, and as programs of their own, plain, under
//! ThreadSanitizer, and under AddressSanitizer with UndefinedBehaviorSanitizer.

#![cfg(target_os = "linux")]

mod cases;
mod kernels;
mod missing_kernels;
mod phases;
mod programs;
mod recorder;
mod self_test;
