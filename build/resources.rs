//! Registers, spills and memory of each kernel, as ptxas reports them and as a table. Used by the
//! build script, and by the test that holds the table against `cuda/resources.txt`.

use std::collections::BTreeMap;
use std::fmt::Write;

/// What one kernel takes on one architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that a thread writes to memory and reads back for want of registers.
    pub spilled: u32,
    /// Bytes of static shared memory of a block.
    pub shared: u32,
    /// Bytes of stack of a thread.
    pub stack: u32,
}

/// By kernel and architecture (`90` for sm_90).
pub type Table = BTreeMap<(String, u32), Resources>;

/// Reads what `ptxas -v` wrote about one architecture.
///
/// A function that was not inlined is reported after the kernel that calls it: its spills are counted as
/// the kernel's.
pub fn parse_ptxas(log: &str, table: &mut Table) -> Result<(), String> {
    let mut kernel: Option<&mut Resources> = None;
    for line in log.lines() {
        if let Some(entry) = after(line, "Compiling entry function '") {
            let names = entry.split_once("' for 'sm_");
            let (name, arch) = names.ok_or_else(|| format!("ptxas wrote: {line}"))?;
            let arch = number_before(arch, "'").ok_or_else(|| format!("ptxas wrote: {line}"))?;
            kernel = Some(table.entry((name.into(), arch)).or_default());
        } else if let Some(kernel) = &mut kernel {
            let value = |unit| number_before(line, unit);
            kernel.registers = value(" registers").unwrap_or(kernel.registers);
            kernel.shared = value(" bytes smem").unwrap_or(kernel.shared);
            let stack = value(" bytes cumulative stack size").or(value(" bytes stack frame"));
            kernel.stack = kernel.stack.max(stack.unwrap_or(0));
            let stores = value(" bytes spill stores").unwrap_or(0);
            kernel.spilled += stores.max(value(" bytes spill loads").unwrap_or(0));
        }
    }
    Ok(())
}

fn after<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    line.split_once(start).map(|(_, rest)| rest)
}

/// The number that stands before `unit` in `line`.
fn number_before(line: &str, unit: &str) -> Option<u32> {
    let before = &line[..line.find(unit)?];
    let digits = before
        .rfind(|c: char| !c.is_ascii_digit())
        .map_or(0, |at| at + 1);
    before[digits..].parse().ok()
}

/// The table as text, with the compiler it is of: a line for each kernel and architecture.
pub fn to_text(table: &Table, compiler: &str) -> String {
    let width = table.keys().map(|(kernel, _)| kernel.len()).max();
    let width = width.unwrap_or(0).max("kernel".len());
    let mut text = format!("{COMPILER}{compiler}\n");
    text += "# Bytes, but for registers. Shared memory is the static part; spills must be 0.\n";
    let header = "architecture  registers  spilled  shared  stack";
    let _ = writeln!(text, "{:width$}  {header}", "kernel");
    for ((kernel, arch), of) in table {
        let Resources {
            registers,
            spilled,
            shared,
            stack,
        } = of;
        let arch = format!("sm_{arch}");
        let _ = writeln!(
            text,
            "{kernel:width$}  {arch:>12}  {registers:>9}  {spilled:>7}  {shared:>6}  {stack:>5}"
        );
    }
    text
}

const COMPILER: &str = "# Compiled by ";

/// Reads what [`to_text`] wrote: the table and its compiler.
#[allow(dead_code, reason = "the build script only writes")]
pub fn parse_text(text: &str) -> Result<(Table, String), String> {
    let mut table = Table::new();
    let compiler = text.lines().find_map(|line| line.strip_prefix(COMPILER));
    let rows = text.lines().filter(|line| !line.starts_with('#')).skip(1);
    for line in rows {
        let fields: Vec<_> = line.split_whitespace().collect();
        let row = || -> Option<_> {
            let [kernel, arch, numbers @ ..] = fields.as_slice() else {
                return None;
            };
            let numbers: Vec<u32> = numbers.iter().map_while(|n| n.parse().ok()).collect();
            let [registers, spilled, shared, stack] = numbers[..] else {
                return None;
            };
            let key = (kernel.to_string(), arch.strip_prefix("sm_")?.parse().ok()?);
            let resources = Resources {
                registers,
                spilled,
                shared,
                stack,
            };
            Some((key, resources))
        };
        let (key, resources) = row().ok_or_else(|| format!("no row of a table: {line}"))?;
        table.insert(key, resources);
    }
    Ok((table, compiler.unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'step_norm' for 'sm_90'
ptxas info    : Function properties for step_norm
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers
ptxas info    : Compile time = 1.496 ms
ptxas info    : Compiling entry function 'megakernel' for 'sm_90'
ptxas info    : Function properties for megakernel
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 56 registers, used 1 barriers, 48 bytes cumulative stack size, 128 bytes smem, 752 bytes cmem[0]
ptxas info    : Function properties for not_inlined
    32 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
";

    #[test]
    fn a_log_of_ptxas_is_read() {
        let mut table = Table::new();
        parse_ptxas(LOG, &mut table).unwrap();
        let norm = Resources {
            registers: 10,
            ..Resources::default()
        };
        let mega = Resources {
            registers: 56,
            spilled: 16,
            shared: 128,
            stack: 48,
        };
        let expected = [
            (("megakernel".to_owned(), 90), mega),
            (("step_norm".to_owned(), 90), norm),
        ];
        assert_eq!(table, Table::from(expected));
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let mut table = Table::new();
        parse_ptxas(LOG, &mut table).unwrap();
        let text = to_text(&table, "nvcc 13.0.88");
        assert_eq!(
            parse_text(&text).unwrap(),
            (table, "nvcc 13.0.88".to_owned())
        );
        assert!(parse_text(&text.replace("sm_90", "90")).is_err());
    }
}
