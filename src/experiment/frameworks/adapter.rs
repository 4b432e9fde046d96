//! Another program as a child process that decodes on request: the bench contract.
//!
//! An adapter is started with a checkpoint's folder and prints one line of JSON when it is ready
//! ([`Hello`]). Then it reads a line of JSON for each request and answers with one line, until its input
//! ends. `experiments/frameworks/README.md` shows the lines.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::experiment::{ExperimentError, Watch};
use crate::model::TokenId;

/// Time between two looks at Ctrl-C while an adapter computes.
const NAP: Duration = Duration::from_millis(100);

/// Characters of standard error that an error quotes, from its end.
const QUOTED: u64 = 1500;

/// The first line of an adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Name and version of the program.
    pub framework: String,
    /// How it was set up: types, attention, compilation.
    pub setup: String,
    /// `cpu` or `cuda`.
    pub device: String,
    /// Threads that compute, where that can be told.
    pub threads: Option<usize>,
    /// Seconds to load the checkpoint, and to compile what it compiles.
    pub load_seconds: f64,
    /// Versions of what it is made of.
    #[serde(default)]
    pub versions: serde_json::Map<String, Value>,
    /// Whether it answers requests for logits.
    pub has_logits: bool,
}

/// What an adapter decoded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The tokens, greedily, without regard to tokens that end a text.
    pub tokens: Vec<TokenId>,
    /// Seconds from the prompt to the first token.
    pub first_token_seconds: f64,
    /// Seconds from the first token to the last.
    pub decode_seconds: f64,
}

/// An adapter that runs.
#[derive(Debug)]
pub struct Adapter {
    name: String,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<std::io::Result<String>>,
    stderr: std::fs::File,
    limit: Duration,
    hello: Hello,
}

/// How an adapter is started.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// Its name, for errors.
    pub name: &'a str,
    /// The folder in which it runs.
    pub folder: &'a Path,
    /// Program and arguments.
    pub command: &'a [String],
    /// The checkpoint: a Hugging Face folder.
    pub checkpoint: &'a Path,
    /// Threads that it may use.
    pub threads: usize,
    /// `cpu` or `cuda`.
    pub device: &'a str,
    /// The most positions of a text.
    pub context: usize,
    /// How long it may take to be ready, and for each answer.
    pub limit: Duration,
}

impl Adapter {
    /// Starts an adapter and waits until it is ready.
    ///
    /// # Errors
    /// A program that can't be started, ends, takes too long or says something else; the user's end.
    pub fn start(start: &Start, watch: &Watch) -> Result<Self, ExperimentError> {
        let system = |what: &str| {
            let what = format!("{}: {what}", start.name);
            move |source| ExperimentError::System { what, source }
        };
        let stderr = tempfile::tempfile().map_err(system("cannot make a temporary file"))?;
        let for_child = stderr
            .try_clone()
            .map_err(system("cannot make a temporary file"))?;
        let (program, arguments) = start.command.split_first().expect("checked with the plan");
        // A program within the folder is named from there; others are searched as a shell would.
        let program = match program.contains('/') {
            true => start.folder.join(program),
            false => program.into(),
        };
        let absolute = std::path::absolute(&program).map_err(system("cannot find itself"))?;
        let program = if program.components().count() > 1 {
            absolute
        } else {
            program
        };
        let mut child = Command::new(program)
            .args(arguments)
            .arg(start.checkpoint)
            .args(["--threads", &start.threads.to_string()])
            .args(["--device", start.device])
            .args(["--context", &start.context.to_string()])
            .current_dir(start.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(for_child)
            // A group of its own: Ctrl-C is for this program, which then ends the whole group.
            .process_group(0)
            .spawn()
            .map_err(system("cannot start it"))?;
        let stdin = child.stdin.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut adapter = Self {
            name: start.name.to_owned(),
            child,
            stdin,
            lines,
            stderr,
            limit: start.limit,
            hello: Hello {
                framework: String::new(),
                setup: String::new(),
                device: String::new(),
                threads: None,
                load_seconds: 0.0,
                versions: serde_json::Map::new(),
                has_logits: false,
            },
        };
        adapter.hello = adapter.answer(watch)?;
        Ok(adapter)
    }

    /// What it said of itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Has it decode `count` tokens behind `prompt`.
    ///
    /// # Errors
    /// As [`start`](Self::start); an answer that is no decode of so many tokens, or that claims less time
    /// than a token takes to be thought of.
    pub fn decode(
        &mut self,
        prompt: &[TokenId],
        count: usize,
        watch: &Watch,
    ) -> Result<Reply, ExperimentError> {
        let started = Instant::now();
        self.ask(&json!({"prompt": prompt, "max_tokens": count}))?;
        let reply: Reply = self.answer(watch)?;
        let elapsed = started.elapsed().as_secs_f64();
        let times = [reply.first_token_seconds, reply.decode_seconds];
        let wrong = if reply.tokens.len() != count {
            format!("{} tokens, expected {count}", reply.tokens.len())
        } else if !times.iter().all(|time| time.is_finite() && *time > 0.0) {
            format!("times of {times:?} seconds")
        } else if times.iter().sum::<f64>() > elapsed {
            format!(
                "{:.3} seconds in all, though the answer came after {elapsed:.3}",
                times.iter().sum::<f64>()
            )
        } else {
            return Ok(reply);
        };
        Err(ExperimentError::WrongOutput {
            reason: format!("{} answered with {wrong}", self.name),
        })
    }

    /// Has it write the logits after each of `tokens` to the file `path`, as `onegrid logits` would.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn logits(
        &mut self,
        tokens: &[TokenId],
        path: &Path,
        watch: &Watch,
    ) -> Result<(), ExperimentError> {
        self.ask(&json!({"logits": tokens, "file": path}))?;
        let Value::Object(_) = self.answer::<Value>(watch)? else {
            return Err(
                self.failed("answered a request for logits with something else than an object")
            );
        };
        Ok(())
    }

    fn ask(&mut self, request: &Value) -> Result<(), ExperimentError> {
        let sent = writeln!(self.stdin, "{request}").and_then(|()| self.stdin.flush());
        sent.map_err(|error| self.failed(&format!("takes no requests any more: {error}")))
    }

    fn answer<T: DeserializeOwned>(&mut self, watch: &Watch) -> Result<T, ExperimentError> {
        let until = Instant::now() + self.limit;
        loop {
            watch.check()?;
            match self.lines.recv_timeout(NAP) {
                Ok(Ok(line)) => {
                    return serde_json::from_str(&line).map_err(|error| {
                        let start: String = line.chars().take(200).collect();
                        self.failed(&format!("said what is no answer ({error}): {start}"))
                    });
                }
                Ok(Err(error)) => return Err(self.failed(&format!("can't be read: {error}"))),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self
                        .child
                        .wait()
                        .map_or_else(|error| error.to_string(), |status| status.to_string());
                    return Err(self.failed(&format!("ended ({status})")));
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => {
                    let limit = self.limit.as_secs_f64();
                    return Err(self.failed(&format!("did not answer within {limit} seconds")));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// An error with the end of what it wrote to standard error.
    fn failed(&mut self, what: &str) -> ExperimentError {
        let mut said = String::new();
        let end = self.stderr.seek(SeekFrom::End(0)).unwrap_or(0);
        let from = SeekFrom::Start(end.saturating_sub(QUOTED));
        let mut bytes = Vec::new();
        if self.stderr.seek(from).is_ok() && self.stderr.read_to_end(&mut bytes).is_ok() {
            said = String::from_utf8_lossy(&bytes).trim().to_owned();
        }
        let said = match said.is_empty() {
            true => "it wrote nothing to standard error".to_owned(),
            false => format!("its standard error ends with: {said}"),
        };
        ExperimentError::Adapter {
            name: self.name.clone(),
            reason: format!("{what}; {said}"),
        }
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        // Its own group, which this program started: whatever it started goes with it.
        if let Ok(group) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: kill has no preconditions; the child has not been waited for, or its number would not
            // be in use again so soon.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        let _ = self.child.wait();
    }
}
