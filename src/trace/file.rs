//! Files that hold traces, compressed or not.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::perfetto::{self, About};
use super::proto::PACKET_TAG;
use crate::engine::trace::Recording;
use crate::report::pending_file::PendingFile;

/// The first bytes of gzip's files.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// In so many bytes of JSON a profiler has said that it is one.
const BEGINNING: u64 = 1 << 16;

/// What wrote a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Perfetto's format: what `--trace` writes.
    Perfetto,
    /// JSON of PyTorch's profiler.
    PyTorch,
}

/// A trace that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file can't be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file of Perfetto's format with something wrong in it.
    #[error("damaged at byte {at}: {what}")]
    Damaged {
        /// Where the packet begins, decompressed.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// A trace of another program.
    #[error("no trace of onegrid: it has no '{ABOUT}' event", ABOUT = perfetto::ABOUT)]
    NotOfOnegrid,
    /// JSON that is none, or not a profiler's.
    #[error("no trace of PyTorch's profiler: {0}")]
    Json(#[from] serde_json::Error),
    /// A trace with nothing in it to compare.
    #[error("nothing to compare in it: {0}")]
    Empty(String),
}

/// The content of a file, decompressed where it is compressed.
///
/// # Errors
/// If it can't be read.
pub fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
    Ok(match file.fill_buf()?.starts_with(&GZIP) {
        true => Box::new(BufReader::new(MultiGzDecoder::new(file))),
        false => Box::new(file),
    })
}

/// What kind of trace a file begins like; `None` if like none.
///
/// # Errors
/// If it can't be read.
pub fn kind(path: &Path) -> io::Result<Option<Kind>> {
    let mut beginning = Vec::new();
    let read = open(path)?.take(BEGINNING).read_to_end(&mut beginning);
    match read {
        // A damaged end of a compressed file is for its reader to tell.
        Err(error) if beginning.is_empty() => return Err(error),
        _ => {}
    }
    let first = beginning.iter().find(|byte| !byte.is_ascii_whitespace());
    let is_word = |word: &str| {
        beginning
            .windows(word.len())
            .any(|at| at == word.as_bytes())
    };
    Ok(match first {
        // A line feed is both white space and the tag of a packet, behind which comes its length.
        _ if beginning.first() == Some(&PACKET_TAG) && first != Some(&b'{') => Some(Kind::Perfetto),
        Some(b'{') if is_word("\"traceEvents\"") => Some(Kind::PyTorch),
        _ => None,
    })
}

/// Writes a recording for Perfetto, beside its place and then renamed; compressed if the name ends with
/// `.gz`, which Perfetto reads too.
///
/// # Errors
/// If it can't be written.
pub fn write(path: &Path, recording: &Recording, about: &About) -> io::Result<()> {
    let mut file = PendingFile::create(path)?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        let mut encoder = GzEncoder::new(&mut file, Compression::default());
        perfetto::write(recording, about, &mut encoder)?;
        encoder.finish()?;
    } else {
        perfetto::write(recording, about, &mut file)?;
    }
    file.flush()?;
    file.commit()
}
