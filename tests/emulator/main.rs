//! The kernels on CPU threads, as programs of their own: plain, under ThreadSanitizer, and under
//! AddressSanitizer with UndefinedBehaviorSanitizer.

#![cfg(target_os = "linux")]

mod programs;
mod self_test;
