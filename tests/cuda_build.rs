//! What the build made of `cuda/`: the Rust side of its header, and the kernels for GPUs.
//!
//! Where the build had no libclang or no nvcc, these tests say so and hold nothing;
//! `ONEGRID_REQUIRE_CUDA=1` makes that a failure. `ONEGRID_RENEW=1` writes the checked-in files anew.

#[path = "../build/resources.rs"]
mod resources;
#[path = "cuda_build/sass.rs"]
mod sass;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use onegrid::engine::cuda::device_code;
use resources::{Resources, Table};

include!(concat!(env!("OUT_DIR"), "/cuda_tools.rs"));

const RENEW: &str = "ONEGRID_RENEW=1 cargo test --release --test cuda_build";
const BUILT_BINDINGS: &str = include_str!(concat!(env!("OUT_DIR"), "/abi.rs"));
const BUILT_RESOURCES: &str = include_str!(concat!(env!("OUT_DIR"), "/resources.txt"));

/// Says on standard error, past the harness, why a test holds nothing here.
fn skip(what: &str, why: &str) {
    assert!(
        std::env::var_os("ONEGRID_REQUIRE_CUDA").is_none_or(|value| value.is_empty()),
        "{what} can't be checked: {why}"
    );
    let _ = writeln!(std::io::stderr(), "note: {what} not checked: {why}");
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Whether the checked-in files are to be written anew.
fn renewing() -> bool {
    std::env::var_os("ONEGRID_RENEW").is_some_and(|value| !value.is_empty())
}

#[test]
fn the_copy_of_the_bindings_is_what_bindgen_makes() {
    let from = env!("ONEGRID_ABI_FROM");
    if from != "bindgen" {
        return skip("cuda/abi.rs", from);
    }
    let path = in_repository("cuda/abi.rs");
    if renewing() {
        std::fs::write(&path, BUILT_BINDINGS).unwrap();
    }
    let copy = std::fs::read_to_string(&path).unwrap();
    let lines = copy.lines().zip(BUILT_BINDINGS.lines()).enumerate();
    if let Some((line, (old, new))) = lines.into_iter().find(|(_, (old, new))| old != new) {
        panic!(
            "cuda/abi.rs is stale, first in line {}:\n- {old}\n+ {new}\nrenew it: {RENEW}",
            line + 1
        );
    }
    assert!(
        copy == BUILT_BINDINGS,
        "cuda/abi.rs is stale; renew it: {RENEW}"
    );
}

/// The table of this build and what compiled it, where something did.
fn built_table() -> Option<(Table, &'static str)> {
    match device_code::compiled_by() {
        Ok(compiler) => Some((resources::parse_text(BUILT_RESOURCES).unwrap().0, compiler)),
        Err(why) => {
            skip("the kernels for GPUs", why);
            None
        }
    }
}

#[test]
fn kernels_take_what_the_checked_in_table_says() {
    let Some((built, compiler)) = built_table() else {
        return;
    };
    let path = in_repository("cuda/resources.txt");
    if renewing() {
        std::fs::write(&path, BUILT_RESOURCES).unwrap();
    }
    let (mut expected, of_compiler) =
        resources::parse_text(&std::fs::read_to_string(&path).unwrap()).unwrap();
    if of_compiler != compiler {
        let why = format!("it is of {of_compiler}, and {compiler} compiled this build");
        return skip("cuda/resources.txt", &why);
    }
    // A build may be narrowed to some architectures.
    let architectures: BTreeSet<u32> = device_code::images()
        .iter()
        .map(|image| image.arch)
        .collect();
    expected.retain(|(_, arch), _| architectures.contains(arch));
    let changes = differences(&expected, &built);
    assert!(
        changes.is_empty(),
        "kernels take something else than cuda/resources.txt says:\n{changes}if that is right, renew it: {RENEW}"
    );
}

/// A line for each kernel and architecture that differs.
fn differences(expected: &Table, built: &Table) -> String {
    let keys: BTreeSet<_> = expected.keys().chain(built.keys()).collect();
    let mut text = String::new();
    for key @ (kernel, arch) in keys {
        let change = match (expected.get(key), built.get(key)) {
            (Some(old), Some(new)) if old == new => continue,
            (Some(old), Some(new)) => changed_fields(old, new),
            (Some(_), None) => "is in the table only".into(),
            (None, _) => "is in the build only".into(),
        };
        text += &format!("  {kernel} sm_{arch}: {change}\n");
    }
    text
}

fn changed_fields(old: &Resources, new: &Resources) -> String {
    let fields = [
        ("registers", old.registers, new.registers),
        ("spilled", old.spilled, new.spilled),
        ("shared", old.shared, new.shared),
        ("stack", old.stack, new.stack),
    ];
    let changed = fields.iter().filter(|(_, old, new)| old != new);
    let changed: Vec<_> = changed
        .map(|(name, old, new)| format!("{name} {old} -> {new}"))
        .collect();
    changed.join(", ")
}

#[test]
fn a_difference_is_told_by_kernel_architecture_and_field() {
    let resources = Resources {
        registers: 96,
        ..Resources::default()
    };
    let spilling = Resources {
        registers: 128,
        spilled: 8,
        ..resources
    };
    let old = Table::from([
        (("gone".into(), 80), resources),
        (("same".into(), 80), resources),
        (("worse".into(), 90), resources),
    ]);
    let new = Table::from([
        (("new".into(), 80), resources),
        (("same".into(), 80), resources),
        (("worse".into(), 90), spilling),
    ]);
    assert_eq!(
        differences(&old, &new),
        "  gone sm_80: is in the table only\n  new sm_80: is in the build only\n  \
         worse sm_90: registers 96 -> 128, spilled 0 -> 8\n"
    );
}

#[test]
fn no_kernel_spills_and_a_block_of_each_fits_a_multiprocessor() {
    // Of every architecture from sm_80 to sm_120.
    const REGISTERS: u32 = 65_536;
    const THREADS: u32 = onegrid::engine::megakernel::abi::OG_MAX_THREADS;
    let Some((built, _)) = built_table() else {
        return;
    };
    for ((kernel, arch), of) in built {
        assert_eq!(of.spilled, 0, "{kernel} spills on sm_{arch}: {of:?}");
        assert!(
            of.registers * THREADS <= REGISTERS,
            "{kernel} on sm_{arch}: {of:?}"
        );
    }
}

#[test]
fn nvcc_warns_of_nothing() {
    assert_eq!(NVCC_WARNINGS, "");
}

#[test]
fn every_architecture_has_the_same_kernels() {
    let Some((built, _)) = built_table() else {
        return;
    };
    let kernels_of = |of: u32| -> BTreeSet<&String> {
        built
            .keys()
            .filter(|(_, arch)| *arch == of)
            .map(|(kernel, _)| kernel)
            .collect()
    };
    let architectures: BTreeSet<u32> = device_code::images()
        .iter()
        .map(|image| image.arch)
        .collect();
    for pair in Vec::from_iter(architectures).windows(2) {
        assert_eq!(
            kernels_of(pair[0]),
            kernels_of(pair[1]),
            "sm_{} and sm_{}",
            pair[0],
            pair[1]
        );
    }
}

/// Of what is compiled as CUDA: `build/cuda.rs` makes the code of several architectures from the PTX of one.
#[test]
fn no_source_asks_which_architecture_it_is_compiled_for() {
    let mut folders = vec![in_repository("cuda")];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if path.is_dir() {
                folders.push(path);
            } else if extension.is_some_and(|extension| ["h", "cu"].contains(&extension)) {
                seen += 1;
                let text = std::fs::read_to_string(&path).unwrap();
                // Whether it is compiled for a GPU at all may be asked.
                let text = text.replace("defined(__CUDA_ARCH__)", "");
                let place = path.display();
                assert!(
                    !text.contains("__CUDA_ARCH"),
                    "{place} asks for its architecture"
                );
                assert!(
                    !text.contains("NV_IF_TARGET"),
                    "{place} asks for its architecture"
                );
            }
        }
    }
    assert!(seen > 20, "{seen} sources");
}

#[test]
fn weights_are_loaded_sixteen_bytes_at_a_time() {
    let Some(cuobjdump) = sass::cuobjdump(NVCC) else {
        return skip(
            "the width of weight loads",
            "there is no cuobjdump beside nvcc or on the PATH",
        );
    };
    for image in device_code::images() {
        let functions = match sass::disassemble(&cuobjdump, image.code) {
            Ok(functions) => functions,
            Err(why) => return skip("the width of weight loads", &why),
        };
        for function in &functions {
            let at = format!("{} on sm_{}", function.name, image.arch);
            let loads = function.weight_loads();
            let narrow: Vec<_> = loads.iter().filter(|load| load.bytes < 16).collect();
            assert!(
                narrow.is_empty(),
                "{at} loads weights in small pieces: {narrow:#?}"
            );
            if ["megakernel_", "traced_"]
                .iter()
                .any(|name| function.name.starts_with(name))
            {
                // One for each of the products QKV, O, gate and up, down, and the head.
                let loops: BTreeSet<_> = loads
                    .iter()
                    .filter_map(|load| load.innermost_loop)
                    .collect();
                assert!(
                    loops.len() >= 5,
                    "{at} has weight loads in {} loops: {loads:#?}",
                    loops.len()
                );
            }
        }
    }
}
