//! Compiles programs from `cuda/`, once for each content of that folder, and runs them.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// A program that has not ended by then hangs.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Exit status of `check` when ThreadSanitizer has a report.
pub const RACE: i32 = 66;
/// Exit status of `check` when another sanitizer has one.
pub const BAD_MEMORY_ACCESS: i32 = 67;

/// What watches over a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sanitizer {
    None,
    Thread,
    AddressAndUndefined,
}

impl Sanitizer {
    pub const ALL: [Self; 3] = [Self::None, Self::Thread, Self::AddressAndUndefined];

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::None => &[],
            Self::Thread => &["-fsanitize=thread"],
            // Takes twice as long to compile with -O2.
            Self::AddressAndUndefined => &[
                "-O1",
                "-fsanitize=address,undefined",
                "-fno-sanitize-recover=all",
                "-fno-omit-frame-pointer",
            ],
        }
    }
}

/// `cuda/emulator/check.cpp` with the kernels of `sources`, which are paths from `cuda/` on.
pub fn check_program(sources: &[&str], sanitizer: Sanitizer) -> PathBuf {
    let emulator = ["emulator/emulator.cpp", "emulator/check.cpp"];
    program(&[&emulator, sources].concat(), sanitizer)
}

/// The program made of `sources`, which are paths from `cuda/` on.
pub fn program(sources: &[&str], sanitizer: Sanitizer) -> PathBuf {
    // A program that several tests ask for at once is compiled by one of them.
    type Programs = HashMap<String, Arc<OnceLock<PathBuf>>>;
    static PROGRAMS: LazyLock<Mutex<Programs>> = LazyLock::new(Mutex::default);
    let name = format!("{} {sanitizer:?}", sources.join(" ")).replace(['/', ' '], "-");
    let once = {
        let mut programs = PROGRAMS.lock().unwrap();
        Arc::clone(programs.entry(name.clone()).or_default())
    };
    once.get_or_init(|| compile(&name, sources, sanitizer))
        .clone()
}

fn compile(name: &str, sources: &[&str], sanitizer: Sanitizer) -> PathBuf {
    let cuda = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let mut hasher = DefaultHasher::new();
    hash_folder(&cuda, &mut hasher);
    format!("{:?}", compiler(sanitizer)).hash(&mut hasher);
    output(compiler(sanitizer).arg("--version")).hash(&mut hasher);
    // One folder for each program, so that what is out of date goes.
    let of_program = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("emulator")
        .join(name);
    let folder = of_program.join(format!("{:016x}", hasher.finish()));
    let program = folder.join("program");
    if program.exists() {
        return program;
    }
    drop(fs::remove_dir_all(&of_program));
    fs::create_dir_all(&folder).unwrap();

    let object = |source: &str| folder.join(source.replace('/', "-")).with_extension("o");
    let compiling: Vec<(Command, Child)> = sources
        .iter()
        .map(|source| {
            let mut command = compiler(sanitizer);
            command.args(["-x", "c++", "-c"]).arg(cuda.join(source));
            command.arg("-o").arg(object(source));
            command.stderr(Stdio::piped());
            let child = command.spawn().unwrap();
            (command, child)
        })
        .collect();
    for (command, child) in compiling {
        expect_success(&command, child, sanitizer);
    }
    let unfinished = folder.join("unfinished");
    let mut link = compiler(sanitizer);
    link.args(sources.iter().map(|source| object(source)));
    link.arg("-o").arg(&unfinished).stderr(Stdio::piped());
    let child = link.spawn().unwrap();
    expect_success(&link, child, sanitizer);
    fs::rename(&unfinished, &program).unwrap();
    program
}

/// The C++ compiler that a build script would find, with the flags of all programs here.
fn compiler(sanitizer: Sanitizer) -> Command {
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let tool = cc::Build::new()
        .cpp(true)
        .std("c++20")
        .target(&target)
        .host(&target)
        .opt_level(2)
        .cargo_metadata(false)
        .get_compiler();
    let mut command = tool.to_command();
    command.args(["-g1", "-pthread", "-ffp-contract=off"]);
    command.args(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]);
    command.arg("-DONEGRID_FEW_KERNELS");
    command.args(sanitizer.flags());
    command
}

fn expect_success(command: &Command, child: Child, sanitizer: Sanitizer) {
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return;
    }
    let missing = ["-ltsan", "-lasan", "-lubsan", "libtsan", "libasan"];
    if sanitizer != Sanitizer::None && missing.iter().any(|part| errors.contains(part)) {
        panic!(
            "the C++ compiler lacks its sanitizers: on Debian and Ubuntu install g++ (with libtsan2, \
             libasan8 and libubsan1), on Fedora libtsan, libasan and libubsan\n{errors}"
        );
    }
    panic!("{command:?} failed:\n{errors}");
}

fn hash_folder(folder: &Path, hasher: &mut DefaultHasher) {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            hash_folder(&path, hasher);
        } else {
            path.hash(hasher);
            fs::read(&path).unwrap().hash(hasher);
        }
    }
}

fn output(command: &mut Command) -> Vec<u8> {
    command.output().unwrap().stdout
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    #[track_caller]
    pub fn expect_code(self, code: i32, what: &str) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "{what}\n{}{}",
            self.stdout,
            self.stderr
        );
        self
    }
}

/// Runs a program to its end.
pub fn run(program: &Path, arguments: &[&str]) -> Ended {
    // ThreadSanitizer of GCC 12 ends at once where the kernel has put a library at an address that
    // it wants for itself. Without randomisation that doesn't happen; where it can't be turned off
    // (in some containers) another try gets other addresses.
    static SETARCH: LazyLock<bool> = LazyLock::new(|| {
        let status = Command::new("setarch").args(["-R", "true"]).output();
        status.is_ok_and(|output| output.status.success())
    });
    for _ in 0..10 {
        let mut command = if *SETARCH {
            let mut command = Command::new("setarch");
            command.arg("-R").arg(program);
            command
        } else {
            Command::new(program)
        };
        for options in ["TSAN_OPTIONS", "ASAN_OPTIONS", "UBSAN_OPTIONS"] {
            command.env_remove(options);
        }
        let ended = run_once(command.args(arguments));
        if !ended.stderr.contains("unexpected memory mapping") {
            return ended;
        }
    }
    panic!(
        "ThreadSanitizer doesn't get the addresses that it needs: try `sysctl vm.mmap_rnd_bits=28`"
    );
}

fn run_once(command: &mut Command) -> Ended {
    let mut stdout = tempfile::tempfile().unwrap();
    let mut stderr = tempfile::tempfile().unwrap();
    command.stdin(Stdio::null());
    command.stdout(stdout.try_clone().unwrap());
    command.stderr(stderr.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > TIME_LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{command:?} hangs: {}", read_all(&mut stderr));
        }
        thread::sleep(Duration::from_millis(5));
    };
    Ended {
        code: status.code(),
        stdout: read_all(&mut stdout),
        stderr: read_all(&mut stderr),
    }
}

fn read_all(file: &mut fs::File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
