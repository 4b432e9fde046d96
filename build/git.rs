//! Records what a result must say of the program that made it: git revision and compiler.

use std::path::Path;
use std::process::Command;

/// Sets `ONEGRID_GIT_REVISION` and `ONEGRID_RUSTC_VERSION` for the crate.
pub fn record_revision(root: &Path, compiler: &Path) {
    let revision = revision(root).unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=ONEGRID_GIT_REVISION={revision}");
    let version = output(Command::new(compiler).arg("--version"));
    let version = version.unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=ONEGRID_RUSTC_VERSION={version}");
}

/// The commit checked out in `root`, with `-dirty` where tracked files differ from it; `None` if
/// this is no git checkout (but, say, a source archive unpacked inside somebody else's). A revision
/// is dirty from the first build after an edit, and clean from the first build after a commit.
fn revision(root: &Path) -> Option<String> {
    let git = |arguments: &[&str]| output(Command::new("git").current_dir(root).args(arguments));
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    // Appended to by every commit and checkout.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!(
        "cargo::rerun-if-changed={}",
        root.join(log).to_string_lossy()
    );
    let revision = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
    let dirty = if changes.is_empty() { "" } else { "-dirty" };
    Some(format!("{revision}{dirty}"))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then_some(())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
