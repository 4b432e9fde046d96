//! Shards as processes of this machine, by the batch script that a cluster gets.
//!
//! `xargs` runs the tasks, some at a time, in a session of its own, so that they outlive the terminal. All
//! of its processes inherit a file as standard input that is locked: while it is, some of them live. A
//! number of a process would not say that, since numbers are given out again.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use super::script::TASK_VARIABLE;
use super::{Activity, Job, JobsError, Queue, TaskFiles, system, write};

/// Starts the tasks, `parallel` at a time. `number` tells submissions into a folder apart.
pub(super) fn submit(files: &TaskFiles, parallel: usize, number: usize) -> Result<Job, JobsError> {
    let in_folder = |ending: &str| files.folder.join(format!("{}.{ending}", files.experiment));
    let tasks_path = in_folder(&format!("tasks-{number}"));
    let lines = files.missing.iter().map(|task| format!("{task}\n"));
    let lines: String = lines.collect();
    // A new file, even where an earlier job of that number holds one locked.
    write(&tasks_path, |file| file.write_all(lines.as_bytes()))?;
    let open = || {
        let file = File::open(&tasks_path)?;
        file.lock()?;
        Ok(file)
    };
    let locked = open().map_err(|source| system(tasks_path.display(), source))?;
    let log_path = in_folder("local.log");
    let log = File::options().create(true).append(true).open(&log_path);
    let log = log.map_err(|source| system(log_path.display(), source))?;
    let errors = log.try_clone().map_err(|source| system("a file", source))?;
    // One that fails must not keep the others from running, as xargs has it for some ways to fail.
    let task = format!(
        "{TASK_VARIABLE}=$4 sh \"$1\" >>\"$2.$4-of-$3.log\" 2>&1; echo \"shard $4/$3: status $?\""
    );
    // A session begins with a process group of the same number, which is this process's.
    let mut command = Command::new("setsid");
    command
        .arg("xargs")
        .arg("--arg-file")
        .arg(&tasks_path)
        .args(["--max-args=1", &format!("--max-procs={parallel}")])
        .args(["sh", "-c", &task, "onegrid-shard"])
        .arg(files.script)
        .arg(files.folder.join(files.experiment))
        .arg(files.shards.to_string())
        .stdin(Stdio::from(locked))
        .stdout(log)
        .stderr(errors);
    let child = command.spawn();
    let child = child.map_err(|error| match error.kind() {
        ErrorKind::NotFound => JobsError::NoProgram {
            program: "setsid",
            advice: "install util-linux",
        },
        _ => system("setsid", error),
    })?;
    let job = files.job(Queue::Local, child.id().into());
    Ok(Job {
        lock: Some(tasks_path),
        ..job
    })
}

/// All of its shards while one of its processes lives, none otherwise.
pub(super) fn activity(job: &Job) -> Result<Activity, JobsError> {
    let Some(path) = &job.lock else {
        return Ok(Activity::default());
    };
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Activity::default()),
        file => file.map_err(|source| system(path.display(), source))?,
    };
    // Shared, so that those who ask don't see each other.
    match file.try_lock_shared() {
        Ok(()) => Ok(Activity::default()),
        Err(TryLockError::WouldBlock) => Ok(Activity {
            shards: job.shards.iter().copied().collect(),
            words: job.name(),
        }),
        Err(TryLockError::Error(source)) => Err(system(path.display(), source)),
    }
}
