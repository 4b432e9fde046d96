use crate::model::config_json::ConfigError;
use crate::model::files::FilesError;

/// What is wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file that can't be opened or read, or a name that leads out of the folder.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// What `config.json` says.
    #[error("{place}/{source}")]
    Config {
        /// The folder.
        place: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// A file that every checkpoint has.
    #[error("{place}: there is no {name}; {hint}")]
    MissingFile {
        /// The folder.
        place: String,
        /// The file.
        name: String,
        /// Why it is needed, or what to do.
        hint: String,
    },
    /// A header that can't be a safetensors header.
    #[error("{file}: not a valid safetensors file: {reason}; download or export it again")]
    Header {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A file that was cut short, or that something was appended to.
    #[error("{file}: {found} bytes, but its header describes {expected}; download it again")]
    Length {
        /// The file.
        file: String,
        /// Bytes that the header describes, itself included.
        expected: u64,
        /// Bytes that the file has.
        found: u64,
    },
    /// An index that is no index.
    #[error("{file}: not a valid index of shards: {reason}")]
    Index {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor that the configuration asks for.
    #[error(
        "{place}: tensor '{tensor}' is missing; config.json asks for one of shape {expected:?}"
    )]
    MissingTensor {
        /// The file, or the folder.
        place: String,
        /// The tensor.
        tensor: String,
        /// The shape it must have.
        expected: Vec<usize>,
    },
    /// A tensor of another shape.
    #[error("{file}: tensor '{tensor}' has shape {found:?}; config.json asks for {expected:?}")]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it must have.
        expected: Vec<usize>,
    },
    /// Numbers of a type that is not read.
    #[error(
        "{file}: tensor '{tensor}' is of type {found}; supported: BF16, F16, F32 \
         (a quantized checkpoint must be converted to one of them)"
    )]
    ElementType {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
    },
    /// Memory that the system refused.
    #[error("no memory for {bytes} bytes of weights: {source}")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
        /// The system's word.
        source: std::io::Error,
    },
    /// A file that could not be read to its end, although it was long enough when it was opened.
    #[error("{file}: reading {bytes} bytes at {offset}: {source}")]
    Read {
        /// The file.
        file: String,
        /// Where the read began.
        offset: u64,
        /// How long it was.
        bytes: usize,
        /// The system's word.
        source: std::io::Error,
    },
    /// A file that could not be mapped into memory.
    #[error("{file}: cannot be mapped into memory: {source}; try huge pages instead")]
    Map {
        /// The file.
        file: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// A file that could not be written.
    #[error("{file}: cannot be written: {source}")]
    Write {
        /// The file.
        file: String,
        /// The system's word.
        source: std::io::Error,
    },
}
