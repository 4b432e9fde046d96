//! The flags that record a trace, and what they do.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::engine::Engine;
use crate::engine::trace::Recording;
use crate::trace::file;
use crate::trace::perfetto::About;

/// Whether a trace is recorded.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Trace")]
pub struct TraceArgs {
    /// Record when each phase of each layer began and ended on every thread or block, and write it to
    /// this file for ui.perfetto.dev and `onegrid compare`; gzipped if it ends with .gz
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Steps that are recorded: pieces of the prompt, then one for each token
    #[arg(long, value_name = "N", default_value = "64")]
    pub trace_steps: NonZeroUsize,
}

impl TraceArgs {
    /// Begins to record, where that is asked for.
    ///
    /// # Errors
    /// An engine that records nothing; no memory.
    pub fn start(&self, engine: &mut dyn Engine) -> anyhow::Result<()> {
        match &self.trace {
            Some(_) => engine
                .start_trace(self.trace_steps.get())
                .context("--trace"),
            None => Ok(()),
        }
    }

    /// Ends the recording and writes it, where there is one.
    ///
    /// # Errors
    /// If it can't be read or written.
    pub fn finish(&self, engine: &mut dyn Engine, model: &str) -> anyhow::Result<()> {
        let recording = engine.take_trace().context("--trace")?;
        self.write(recording.as_ref(), &About::of(engine, model))
    }

    /// Writes `recording`, where there is one and it is asked for.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, recording: Option<&Recording>, about: &About) -> anyhow::Result<()> {
        let (Some(path), Some(recording)) = (&self.trace, recording) else {
            return Ok(());
        };
        file::write(path, recording, about)
            .with_context(|| format!("--trace: cannot write {}", path.display()))?;
        for shortfall in recording.shortfalls() {
            eprintln!("note: {shortfall}");
        }
        Ok(())
    }
}
