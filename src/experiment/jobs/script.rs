//! The batch script: one task of a job array measures one shard.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The variable that says which task a process is: Slurm's own name, which local tasks are given too.
pub const TASK_VARIABLE: &str = "SLURM_ARRAY_TASK_ID";

/// What each task runs.
#[derive(Clone, Debug)]
pub struct Script {
    /// This program.
    pub program: PathBuf,
    /// The folder that it runs in, absolute.
    pub work_folder: PathBuf,
    /// What the plan's paths start from, absolute.
    pub plan_folder: PathBuf,
    /// The flags that were given for engines and the like.
    pub flags: Vec<OsString>,
}

impl Script {
    /// The script for an experiment whose plan was copied to `plan` and whose result goes to the folder
    /// `output`; both are absolute.
    pub fn text(&self, experiment: &str, plan: &Path, output: &Path, shards: usize) -> Vec<u8> {
        let mut words = vec![self.program.as_os_str(), OsStr::new("experiment")];
        words.push(OsStr::new(experiment));
        let paths = [
            ("--plan", plan),
            ("--plan-folder", &self.plan_folder),
            ("--output", output),
        ];
        for (flag, path) in paths {
            words.extend([OsStr::new(flag), path.as_os_str()]);
        }
        words.extend(self.flags.iter().map(OsString::as_os_str));

        let mut text = format!(
            "#!/bin/sh\n# Written by `onegrid experiment {experiment} --submit`. Each task measures one shard, \
             cell by cell, and goes\n# on where it was stopped.\nset -eu\n"
        )
        .into_bytes();
        text.extend(b"cd -- ");
        text.extend(quoted(self.work_folder.as_os_str()));
        text.extend(b"\nexec");
        for word in words {
            text.push(b' ');
            text.extend(quoted(word));
        }
        // Its tables are for nobody; what it says on standard error is kept.
        text.extend(format!(" --shard \"${TASK_VARIABLE}/{shards}\" >/dev/null\n").bytes());
        text
    }
}

/// A word as a shell reads it.
fn quoted(word: &OsStr) -> Vec<u8> {
    let quoted = shlex::bytes::try_quote(word.as_bytes());
    quoted
        .expect("an argument or path of a system holds no NUL")
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_gives_the_program_every_argument_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("it's an $odd `folder`\n%a; rm \"x\"");
        std::fs::create_dir(&odd).unwrap();
        let script = Script {
            program: "/usr/bin/printf".into(),
            work_folder: odd.clone(),
            plan_folder: odd.clone(),
            flags: ["--threads=2", "--trace=a b.pftrace", "--x=*"]
                .map(OsString::from)
                .to_vec(),
        };
        // What printf prints first is `experiment`, its format, so it repeats that for no argument.
        let text = script.text("quality", Path::new("p.toml"), &odd.join("out"), 7);
        let text = String::from_utf8(text).unwrap();
        let text = text.replace("printf experiment", "printf '%s\\n' experiment");
        let text = text.replace(" >/dev/null", "");
        let path = folder.path().join("script");
        std::fs::write(&path, text).unwrap();
        let output = std::process::Command::new("sh")
            .arg(&path)
            .env(TASK_VARIABLE, "3")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let odd = odd.to_str().unwrap();
        let expected = format!(
            "experiment\nquality\n--plan\np.toml\n--plan-folder\n{odd}\n--output\n{odd}/out\n--threads=2\n\
             --trace=a b.pftrace\n--x=*\n--shard\n3/7\n"
        );
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}
