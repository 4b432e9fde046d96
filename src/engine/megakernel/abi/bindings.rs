//! The structs and constants of `cuda/abi.h`, as bindgen writes them when this crate is built; where
//! there is no libclang for it, `cuda/abi.rs`.

#![allow(missing_docs, reason = "the header documents what needs it")]
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "what the header has in brackets is a shape"
)]

include!(concat!(env!("OUT_DIR"), "/abi.rs"));
