//! Shards as the job array of a Slurm cluster.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::{Command, Output, Stdio};

use super::{Activity, Job, JobsError, Queue, TaskFiles};

/// What can be chosen of a job array.
#[derive(Clone, Debug, Default)]
pub struct SlurmOptions {
    /// The partition; without it the cluster's own choice.
    pub partition: Option<String>,
    /// Generic resources of each task: `gpu:1`.
    pub gres: Option<String>,
    /// How many tasks run at a time, at most.
    pub max_parallel: Option<usize>,
    /// Processors of each task. Without them, and without generic resources, a task has its node for
    /// itself, since what is measured beside another's work is not worth much.
    pub cpus: Option<usize>,
}

/// Submits one job array.
pub(super) fn submit(files: &TaskFiles, options: &SlurmOptions) -> Result<Job, JobsError> {
    let mut command = Command::new("sbatch");
    command.arg("--parsable").args(arguments(files, options));
    let output = run("sbatch", command)?;
    let answer = String::from_utf8_lossy(&output.stdout);
    let (id, cluster) = parse_answer(&answer).ok_or_else(|| JobsError::Refused {
        program: "sbatch",
        reason: format!(
            "it answered '{}', and not with a job's number",
            answer.trim()
        ),
    })?;
    Ok(Job {
        cluster,
        ..files.job(Queue::Slurm, id)
    })
}

/// What `sbatch` is asked for, on its command line: there it goes before the user's `SBATCH_` variables.
fn arguments(files: &TaskFiles, options: &SlurmOptions) -> Vec<OsString> {
    let mut array = ranges(&files.missing);
    if let Some(most) = options.max_parallel {
        array += &format!("%{most}");
    }
    // Its own names in file names, as `%a`, begin with this sign.
    let folder = files
        .folder
        .as_os_str()
        .to_string_lossy()
        .replace('%', "%%");
    let (name, shards) = (files.experiment, files.shards);
    let mut arguments = vec![
        format!("--job-name=onegrid-{name}"),
        format!("--array={array}"),
        format!("--output={folder}/{name}.%a-of-{shards}.log"),
        "--open-mode=append".to_owned(),
        "--requeue".to_owned(),
    ];
    match (options.cpus, &options.gres) {
        (Some(cpus), _) => arguments.push(format!("--cpus-per-task={cpus}")),
        (None, None) => arguments.push("--exclusive".to_owned()),
        (None, Some(_)) => {}
    }
    arguments.extend(
        options
            .partition
            .iter()
            .map(|name| format!("--partition={name}")),
    );
    arguments.extend(options.gres.iter().map(|gres| format!("--gres={gres}")));
    let mut arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
    arguments.push(files.script.into());
    arguments
}

/// `1-3,7`.
pub fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let words = runs.map(|run| match run {
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => unreachable!("chunks are not empty"),
    });
    words.collect::<Vec<_>>().join(",")
}

/// `4711`, or `4711;cluster`.
fn parse_answer(answer: &str) -> Option<(u64, Option<String>)> {
    let answer = answer.trim();
    let (id, cluster) = match answer.split_once(';') {
        Some((id, cluster)) => (id, Some(cluster.to_owned())),
        None => (answer, None),
    };
    Some((id.parse().ok()?, cluster))
}

/// Which tasks wait or run.
pub(super) fn activity(job: &Job) -> Result<Activity, JobsError> {
    let mut command = Command::new("squeue");
    command
        .args(["--noheader", "--array", "--format=%K|%T|%r"])
        .arg(format!("--jobs={}", job.id));
    command.args(job.cluster.iter().map(|name| format!("--clusters={name}")));
    match run("squeue", command) {
        Ok(output) => Ok(parse_queue(&String::from_utf8_lossy(&output.stdout))),
        // Jobs at their end are soon forgotten.
        Err(JobsError::Refused { reason, .. }) if reason.contains("Invalid job id") => {
            Ok(Activity::default())
        }
        Err(error) => Err(error),
    }
}

/// Lines of `3|PENDING|Resources`.
fn parse_queue(lines: &str) -> Activity {
    let mut activity = Activity::default();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines.lines() {
        let mut fields = line.trim().splitn(3, '|');
        let task = fields.next().and_then(|task| task.parse().ok());
        let (Some(task), Some(state)) = (task, fields.next()) else {
            // With --clusters it begins with a line that names the cluster.
            continue;
        };
        activity.shards.insert(task);
        let words = match (state, fields.next()) {
            ("RUNNING" | "COMPLETING", _) => "running".to_owned(),
            (_, None | Some("None" | "")) => "waiting".to_owned(),
            (_, Some(reason)) => format!("waiting ({reason})"),
        };
        *counts.entry(words).or_default() += 1;
    }
    let words = counts
        .iter()
        .map(|(words, count)| format!("{count} {words}"));
    activity.words = words.collect::<Vec<_>>().join(", ");
    activity
}

/// Runs one of Slurm's programs.
fn run(program: &'static str, mut command: Command) -> Result<Output, JobsError> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| match error.kind() {
        ErrorKind::NotFound => JobsError::NoProgram {
            program,
            advice: "run this where jobs of the cluster are submitted, or take --submit local",
        },
        _ => super::system(program, error),
    })?;
    match output.status.success() {
        true => Ok(output),
        false => Err(JobsError::Refused {
            program,
            reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn asked(missing: &[usize], options: &SlurmOptions) -> Vec<String> {
        let files = TaskFiles {
            experiment: "quality",
            folder: Path::new("/data/50% done/shards"),
            script: Path::new("/data/s"),
            shards: 9,
            missing: missing.to_vec(),
        };
        let words = arguments(&files, options).into_iter();
        words.map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn sbatch_is_asked_for_the_missing_shards_alone() {
        let plain = asked(&[1, 2, 3, 7, 9], &SlurmOptions::default());
        let expected = [
            "--job-name=onegrid-quality",
            "--array=1-3,7,9",
            "--output=/data/50%% done/shards/quality.%a-of-9.log",
            "--open-mode=append",
            "--requeue",
            "--exclusive",
            "/data/s",
        ];
        assert_eq!(plain, expected);
        let options = SlurmOptions {
            partition: Some("long".into()),
            gres: Some("gpu:1".into()),
            max_parallel: Some(4),
            cpus: None,
        };
        let chosen = asked(&[5], &options);
        for word in ["--array=5%4", "--partition=long", "--gres=gpu:1"] {
            assert!(chosen.iter().any(|given| given == word), "{chosen:?}");
        }
        assert!(!chosen.contains(&"--exclusive".to_owned()));
        let cpus = Some(16);
        let shared = asked(&[5], &SlurmOptions { cpus, ..options });
        assert!(shared.contains(&"--cpus-per-task=16".to_owned()));
    }

    #[test]
    fn what_slurm_answers_is_read() {
        assert_eq!(parse_answer("4711\n"), Some((4711, None)));
        assert_eq!(parse_answer("12;east\n"), Some((12, Some("east".into()))));
        assert_eq!(parse_answer("Submitted batch job 12\n"), None);
        let queue = "CLUSTER: east\n2|RUNNING|None\n1|COMPLETING|None\n5|PENDING|Resources\n";
        let activity = parse_queue(queue);
        assert_eq!(activity.shards, [1, 2, 5].into());
        assert_eq!(activity.words, "2 running, 1 waiting (Resources)");
        assert_eq!(parse_queue(""), Activity::default());
    }
}
