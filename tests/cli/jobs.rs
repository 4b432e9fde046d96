//! `onegrid experiment --submit`: local processes, and Slurm's programs played by scripts. A real Slurm is
//! checked by `scripts/slurm-check`.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::shards::{PLAN, command, errors, merge, without_times};
use super::*;

/// A plan in a folder.
fn planned(folder: &Path, plan: &str) -> PathBuf {
    let path = folder.join("plan.toml");
    std::fs::write(&path, plan).unwrap();
    path
}

/// What was submitted into `results`.
fn jobs(results: &Path) -> Vec<Value> {
    let record = results.join("shards/constraints.submission.json");
    let record: Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
    record["jobs"].as_array().unwrap().clone()
}

fn shards_of(job: &Value) -> Vec<u64> {
    let shards = job["shards"].as_array().unwrap().iter();
    shards.map(|shard| shard.as_u64().unwrap()).collect()
}

/// Standard output and standard error of a command that succeeds.
fn both(mut command: Command) -> (String, String) {
    let output = command.assert().success().get_output().clone();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "waited for {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn local_jobs_give_what_a_run_in_one_piece_writes() {
    let folder = tempfile::tempdir().unwrap();
    let plan = planned(folder.path(), PLAN);
    let [whole, parts] = ["whole", "it's parts"].map(|name| folder.path().join(name));
    let whole = json_of(command(&plan, &whole, &["--format", "json"]));
    let submit = [
        "--submit",
        "local",
        "--shards",
        "2",
        "--max-parallel",
        "2",
        "--wait",
    ];
    let (joined, notes) = both(command(
        &plan,
        &parts,
        &[&submit[..], &["--format", "json"]].concat(),
    ));
    let joined: Value = serde_json::from_str(&joined).unwrap();
    assert_eq!(without_times(joined), without_times(whole));
    assert!(
        notes.contains("shards 1-2 of 2") && notes.contains("3/3 cells, 2/2 shards"),
        "{notes}"
    );

    // A second time there is nothing to do, whether or not the number of shards is given.
    for more in [&[][..], &["--shards", "2"]] {
        let (id, notes) = both(command(
            &plan,
            &parts,
            &[&["--submit", "local"], more].concat(),
        ));
        assert!(
            id.is_empty() && notes.contains("nothing is missing"),
            "{notes}"
        );
    }
    assert_eq!(jobs(&parts).len(), 1);

    // What lies there is of this plan, and of two shards.
    let refused = errors(
        command(&plan, &parts, &["--submit", "local", "--shards", "3"]),
        2,
    );
    assert_says(
        &refused,
        &["holds 2 shards", "--shards asks for 3", "--output"],
    );
    let other = planned(folder.path(), &PLAN.replace("rounds = 2", "rounds = 4"));
    let refused = errors(command(&other, &parts, &["--submit", "local"]), 2);
    assert_says(&refused, &["another plan", "--output"]);
    let refused = errors(
        command(&plan, &parts, &["--submit", "local", "--partition", "p"]),
        2,
    );
    assert_says(&refused, &["--partition", "Slurm"]);
}

#[test]
fn a_shard_that_fails_is_named_and_is_all_that_a_second_submission_runs() {
    let folder = tempfile::tempdir().unwrap();
    let models = "model = \"demo\"\n\n[[models]]\nmodel = \"./later\"";
    let plan = PLAN
        .replace("model = \"demo\"", models)
        .replace("[1, 2, 3]", "[2]");
    let plan = planned(folder.path(), &plan);
    let parts = folder.path().join("parts");
    let submit = |more: &[&str]| {
        let mut command = command(
            &plan,
            &parts,
            &[&["--submit", "local", "--wait"], more].concat(),
        );
        command.current_dir(folder.path());
        command
    };
    let failed = errors(submit(&["--shards", "7"]), 1);
    assert_says(
        &failed,
        &[
            "2 shards are enough",
            "2/2 cells, 1/2 shards, 1 FAILED",
            "FAILED: ./later/point/batch-2",
        ],
    );

    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    std::os::unix::fs::symlink(demo, folder.path().join("later")).unwrap();
    let joined = json_of(submit(&["--format", "json"]));
    assert_eq!(joined["status"], "done");
    let submitted: Vec<_> = jobs(&parts).iter().map(shards_of).collect();
    assert_eq!(submitted, [vec![1, 2], vec![2]]);
}

#[test]
fn killed_jobs_go_on_where_they_were_and_a_follower_that_is_stopped_leaves_them() {
    let folder = tempfile::tempdir().unwrap();
    // The first cell is soon there, and the third takes a while.
    let plan = planned(
        folder.path(),
        &PLAN
            .replace("[1, 2, 3]", "[1, 2, 8]")
            .replace("rounds = 2", "rounds = 400"),
    );
    let parts = folder.path().join("parts");
    let submit = |more: &[&str]| {
        command(
            &plan,
            &parts,
            &[&["--submit", "local", "--shards", "1"], more].concat(),
        )
    };
    let group = stdout(submit(&[]));
    let group: i32 = group.trim().parse().unwrap();
    let shard = parts.join("shards/constraints.1-of-1.json");
    wait_until("a first cell", || shard.exists());

    let (id, notes) = both(submit(&[]));
    assert!(
        id.is_empty() && notes.contains("all that is missing is under way"),
        "{notes}"
    );
    let cancel = format!("kill -- -{group}");
    assert!(notes.contains(&cancel), "{notes}");

    let mut follower = std::process::Command::new(env!("CARGO_BIN_EXE_onegrid"));
    follower
        .args(submit(&["--wait"]).get_args())
        .stderr(std::process::Stdio::piped());
    let mut follower = follower.spawn().unwrap();
    // SAFETY: sends a signal to a process that this test started and has not waited for.
    let interrupt = |id: u32| unsafe { libc::kill(id.cast_signed(), libc::SIGINT) };
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(interrupt(follower.id()), 0);
    let mut notes = String::new();
    std::io::Read::read_to_string(&mut follower.stderr.take().unwrap(), &mut notes).unwrap();
    assert_eq!(follower.wait().unwrap().code(), Some(130), "{notes}");
    assert!(
        notes.contains("the jobs run on") && notes.contains(&cancel),
        "{notes}"
    );
    // SAFETY: asks whether a group of processes that this test started lives.
    assert_eq!(unsafe { libc::kill(-group, 0) }, 0);

    let before: Value = serde_json::from_slice(&std::fs::read(&shard).unwrap()).unwrap();
    assert!(
        before["cells"].as_array().unwrap().len() < 3,
        "it was too fast for this test"
    );
    // SAFETY: ends a group of processes that this test started.
    assert_eq!(unsafe { libc::kill(-group, libc::SIGKILL) }, 0);
    let lock = PathBuf::from(jobs(&parts)[0]["lock"].as_str().unwrap());
    let file = std::fs::File::open(lock).unwrap();
    wait_until("the killed processes to be gone", || {
        file.try_lock_shared().is_ok()
    });
    file.unlock().unwrap();
    let joined = json_of(submit(&["--wait", "--format", "json"]));
    assert_eq!(joined["status"], "done");
    assert_eq!(joined["cells"][0], before["cells"][0]);
    assert_eq!(jobs(&parts).len(), 2);
}

/// Scripts in the place of Slurm's programs. `sbatch` notes what it was asked for, and answers as
/// `answer` says; `squeue` shows what is in the file `queue`, or says that there is no such job.
fn play_slurm(folder: &Path, answer: &str) -> String {
    let programs = folder.join("programs");
    std::fs::create_dir_all(&programs).unwrap();
    let play = |name: &str, script: String| {
        let path = programs.join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let folder = folder.display();
    play(
        "sbatch",
        format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >'{folder}/asked'\n{answer}\n"),
    );
    let unknown = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1";
    play(
        "squeue",
        format!("#!/bin/sh\ncat '{folder}/queue' 2>/dev/null || {{ {unknown}; }}\n"),
    );
    format!("{}:{}", programs.display(), std::env::var("PATH").unwrap())
}

#[test]
fn one_array_is_submitted_and_its_script_measures_a_shard_for_each_task() {
    let folder = tempfile::tempdir().unwrap();
    let plan = planned(folder.path(), PLAN);
    let parts = folder.path().join("parts");
    let path = play_slurm(folder.path(), "echo '4711;east'");
    let submit = |more: &[&str]| {
        let mut command = command(&plan, &parts, &[&["--submit", "slurm"], more].concat());
        command.env("PATH", &path);
        command
    };
    let asked = || std::fs::read_to_string(folder.path().join("asked")).unwrap();
    let (id, notes) = both(submit(&["--partition", "long", "--max-parallel", "2"]));
    assert_eq!(id, "4711\n");
    assert!(notes.contains("scancel --clusters=east 4711"), "{notes}");
    for word in [
        "--parsable",
        "--array=1-3%2",
        "--partition=long",
        "--cpus-per-task=1",
        "--requeue",
    ] {
        assert!(asked().lines().any(|line| line == word), "{}", asked());
    }

    // The plan's file may go away: the tasks have a copy.
    let kept = std::fs::read(&plan).unwrap();
    std::fs::remove_file(&plan).unwrap();
    let script = asked().lines().last().unwrap().to_owned();
    let task = |number: &str| {
        let mut task = Command::new("sh");
        task.arg(&script).env("SLURM_ARRAY_TASK_ID", number);
        stdout(task)
    };
    assert_eq!(task("2"), "");
    let listed = errors(merge(&parts), 1);
    assert_says(&listed, &["missing: demo/point/batch-1 of shard 1/3"]);
    std::fs::write(&plan, kept).unwrap();

    // While task 3 is in the queue, task 1 alone is missing.
    std::fs::write(
        folder.path().join("queue"),
        "CLUSTER: east\n3|PENDING|Priority\n",
    )
    .unwrap();
    both(submit(&[]));
    assert!(asked().contains("--array=1\n"), "{}", asked());
    std::fs::remove_file(folder.path().join("queue")).unwrap();
    assert_eq!((task("1"), task("3")), (String::new(), String::new()));
    let joined = json_of(submit(&["--wait", "--format", "json"]));
    assert_eq!(joined["status"], "done");
    assert_eq!(jobs(&parts).len(), 2);
}

#[test]
fn a_queue_that_is_not_there_or_says_no_is_told_in_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let plan = planned(folder.path(), PLAN);
    let parts = folder.path().join("parts");
    let submit = |path: &str| {
        let mut command = command(&plan, &parts, &["--submit", "slurm"]);
        command.env("PATH", path);
        command
    };
    let none = errors(submit("/nowhere"), 2);
    assert_says(&none, &["no sbatch on PATH", "--submit local"]);
    let refusing = play_slurm(
        folder.path(),
        "echo 'invalid partition specified: x' >&2; exit 1",
    );
    assert_says(
        &errors(submit(&refusing), 1),
        &["sbatch refused", "invalid partition specified: x"],
    );
    let odd = play_slurm(folder.path(), "echo 'Submitted batch job 7'");
    assert_says(&errors(submit(&odd), 1), &["Submitted batch job 7"]);
    assert!(!parts.join("shards/constraints.submission.json").exists());

    // Whether earlier jobs are at their end must be known before their shards are measured again.
    let path = play_slurm(folder.path(), "echo 12");
    stdout(submit(&path));
    let down = folder.path().join("programs/squeue");
    std::fs::write(
        &down,
        "#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n",
    )
    .unwrap();
    let unknown = errors(submit(&path), 1);
    assert_says(
        &unknown,
        &[
            "job 12",
            "Unable to contact slurm controller",
            "submission.json",
        ],
    );
    // Nor can anything be followed where there is no one to ask.
    std::fs::remove_file(&down).unwrap();
    let programs = folder.path().join("programs");
    let elsewhere = folder.path().join("elsewhere");
    let mut follow = command(&plan, &elsewhere, &["--submit", "slurm", "--wait"]);
    follow.env("PATH", programs);
    assert_says(&errors(follow, 2), &["no squeue on PATH"]);
    let record = parts.join("shards/constraints.submission.json");
    std::fs::write(&record, "{}").unwrap();
    assert_says(
        &errors(submit(&path), 2),
        &["submission.json", "missing field"],
    );
}
