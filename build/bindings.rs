//! `OUT_DIR/abi.rs`, the Rust side of `cuda/abi.h`: made by bindgen, or copied from `cuda/abi.rs`
//! where there is no libclang for it. `tests/cuda_build.rs` holds the copy against what bindgen makes.

use bindgen::callbacks::{DeriveInfo, ParseCallbacks, TypeKind};

use crate::{Build, read, write};

/// Writes `abi.rs`, and says in `ONEGRID_ABI_FROM` whether that is bindgen's or the copy.
pub fn generate(build: &Build) -> Result<(), String> {
    println!("cargo::rerun-if-env-changed=LIBCLANG_PATH");
    let header = build.root.join("cuda/abi.h");
    let (bindings, from) = match bindgen(&header.to_string_lossy()) {
        Ok(bindings) => (bindings, "bindgen".to_owned()),
        Err(why) => (read(&build.root.join("cuda/abi.rs"))?, why),
    };
    println!(
        "cargo::rustc-env=ONEGRID_ABI_FROM={}",
        from.replace('\n', " ")
    );
    write(&build.out.join("abi.rs"), &bindings)
}

fn bindgen(header: &str) -> Result<String, String> {
    clang_sys::load().map_err(|error| format!("no libclang: {error}"))?;
    bindgen::Builder::default()
        .header(header)
        // The header's comments are the documentation.
        .clang_arg("-fparse-all-comments")
        .allowlist_item("Og.*|OG_.*")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_default(true)
        .derive_partialeq(true)
        .parse_callbacks(Box::new(PlainBytes))
        .formatter(bindgen::Formatter::Prettyplease)
        .generate()
        .map(|bindings| bindings.to_string())
        .map_err(|error| format!("bindgen: {error}"))
}

/// Structs whose bytes the host copies to a device and back.
#[derive(Debug)]
struct PlainBytes;

impl ParseCallbacks for PlainBytes {
    fn add_derives(&self, info: &DeriveInfo<'_>) -> Vec<String> {
        match info.kind {
            TypeKind::Struct => vec!["bytemuck::Pod".into(), "bytemuck::Zeroable".into()],
            _ => Vec::new(),
        }
    }
}
