//! Reads the machine code of kernels: its loads of weights, and the loops that they are in.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The machine code of one kernel.
pub struct Function {
    /// Its name.
    pub name: String,
    instructions: Vec<Instruction>,
}

struct Instruction {
    address: u64,
    /// "LDG.E.NA.128.CONSTANT R8, desc[UR10][R8.64]", with its predicate before it if it has one.
    text: String,
}

/// An instruction that reads weights: `load_streamed` of `cuda/core/platform.h`, which goes through
/// the read-only path and leaves nothing in L1.
#[derive(Debug)]
#[allow(dead_code, reason = "shown by assertions")]
pub struct WeightLoad {
    /// The instruction.
    pub text: String,
    /// Bytes that a thread reads.
    pub bytes: u32,
    /// Where the smallest loop around it begins and ends, if it is in one.
    pub innermost_loop: Option<(u64, u64)>,
}

/// The disassembler: beside `nvcc` or on the PATH.
pub fn cuobjdump(nvcc: Option<&str>) -> Option<PathBuf> {
    let beside = nvcc
        .and_then(|nvcc| Path::new(nvcc).parent())
        .map(Path::to_path_buf);
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = beside.into_iter().chain(std::env::split_paths(&folders));
    folders.find_map(|folder| Some(folder.join("cuobjdump")).filter(|path| path.is_file()))
}

/// The functions of a fatbin.
pub fn disassemble(cuobjdump: &Path, image: &[u8]) -> Result<Vec<Function>, String> {
    let mut file = tempfile::Builder::new()
        .suffix(".fatbin")
        .tempfile()
        .unwrap();
    file.write_all(image).unwrap();
    // It runs nvdisasm, which lies beside it.
    let beside = cuobjdump.parent().into_iter().map(Path::to_path_buf);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(beside.chain(std::env::split_paths(&path))).unwrap();
    let mut command = Command::new(cuobjdump);
    let output = command
        .env("PATH", path)
        .arg("-sass")
        .arg(file.path())
        .output();
    let output = output.map_err(|error| format!("{}: {error}", cuobjdump.display()))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(format!("cuobjdump failed: {error}"));
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads what `cuobjdump -sass` prints.
fn parse(listing: &str) -> Vec<Function> {
    let mut functions: Vec<Function> = Vec::new();
    for line in listing.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("Function : ") {
            functions.push(Function {
                name: name.to_owned(),
                instructions: Vec::new(),
            });
        } else if let Some(function) = functions.last_mut() {
            // "/*0370*/   @P0 LDG.E R8, [R8.64] ;   /* 0x0000000808087981 */"
            let instruction = line
                .strip_prefix("/*")
                .and_then(|line| line.split_once("*/"));
            let Some((address, text)) = instruction else {
                continue;
            };
            let text = text
                .split("/*")
                .next()
                .unwrap_or_default()
                .trim()
                .trim_end_matches(';');
            if let (Ok(address), false) = (u64::from_str_radix(address, 16), text.is_empty()) {
                function.instructions.push(Instruction {
                    address,
                    text: text.trim().to_owned(),
                });
            }
        }
    }
    functions
}

impl Function {
    /// Its loads of weights.
    pub fn weight_loads(&self) -> Vec<WeightLoad> {
        let loops = self.loops();
        let loads = self.instructions.iter().filter_map(|instruction| {
            let operation = instruction.operation();
            let mut parts = operation.split('.');
            let is_load = parts.next() == Some("LDG");
            let parts: Vec<&str> = parts.collect();
            if !is_load || !parts.contains(&"NA") || !parts.contains(&"CONSTANT") {
                return None;
            }
            // A load of 4 bytes doesn't say so; "U8", "S16" and the like are less.
            let bits = parts
                .iter()
                .find_map(|part| part.parse().ok())
                .unwrap_or(32);
            let around = loops
                .iter()
                .filter(|(first, last)| (*first..=*last).contains(&instruction.address));
            Some(WeightLoad {
                text: instruction.text.clone(),
                bytes: bits / 8,
                innermost_loop: around.min_by_key(|(first, last)| last - first).copied(),
            })
        });
        loads.collect()
    }

    /// The first and last address of every loop: what a branch back jumps over.
    fn loops(&self) -> Vec<(u64, u64)> {
        let back = self.instructions.iter().filter_map(|instruction| {
            let is_branch = instruction.operation().split('.').next() == Some("BRA");
            let target = instruction
                .text
                .rsplit([' ', ','])
                .next()?
                .strip_prefix("0x")?;
            let target = u64::from_str_radix(target, 16).ok().filter(|_| is_branch)?;
            // Behind the end of a function, padding branches to itself.
            (target < instruction.address).then_some((target, instruction.address))
        });
        back.collect()
    }
}

impl Instruction {
    /// "LDG.E.NA.128.CONSTANT".
    fn operation(&self) -> &str {
        let mut words = self.text.split_whitespace();
        words
            .find(|word| !word.starts_with('@'))
            .unwrap_or_default()
    }
}

#[test]
fn loads_are_found_with_their_width_and_their_loop() {
    let listing = "
		Function : megakernel
	.headerflags	@\"EF_CUDA_SM90\"
        /*0000*/                   LDG.E.NA.128.CONSTANT R4, desc[UR10][R8.64] ;   /* 0x0000000a08087981 */
                                                                                   /* 0x001ea2000c1e9d00 */
        /*0010*/              @!P0 LDG.E.NA.CONSTANT R8, desc[UR10][R8.64+0xc] ;   /* 0x0000000a08087981 */
        /*0020*/                   LDG.E.CONSTANT R2, desc[UR10][R2.64] ;          /* 0x0000000a08087981 */
        /*0030*/              @!P1 BRA 0x10 ;                                      /* 0x0000000000549947 */
        /*0040*/                   BRA.U UP0, 0x0 ;                                /* 0x0000000000549947 */
        /*0050*/                   BRA 0x50;                                       /* 0xfffffffc00fc7947 */
";
    let functions = parse(listing);
    assert_eq!(functions.len(), 1);
    assert_eq!(functions[0].name, "megakernel");
    let loads = functions[0].weight_loads();
    let loads: Vec<_> = loads
        .iter()
        .map(|load| (load.bytes, load.innermost_loop))
        .collect();
    assert_eq!(loads, [(16, Some((0, 0x40))), (4, Some((0x10, 0x30)))]);
}
