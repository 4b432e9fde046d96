use crate::model::checkpoint::CheckpointError;

/// What is wrong with a hub id, or on the way to its files.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No such repository, or none that the token opens.
    #[error(
        "{id}: the hub at {endpoint} has no such repository or revision ({status}), and there is \
         no folder of that name; for a private or gated one set HF_TOKEN"
    )]
    NoSuchRepository {
        /// As asked for.
        id: String,
        /// The hub.
        endpoint: String,
        /// Its answer, an HTTP status.
        status: u16,
    },
    /// A repository without a file that every checkpoint has.
    #[error("{id}: the repository has no {name}; it holds no checkpoint that can be read here")]
    MissingFile {
        /// The repository.
        id: String,
        /// The file.
        name: String,
    },
    /// Neither the network nor the cache has it.
    #[error("{id}: the hub can't be reached ({reason}), and the cache {cache} {lacks}")]
    Unreachable {
        /// The repository.
        id: String,
        /// Why.
        reason: String,
        /// The folder.
        cache: String,
        /// What is missing in it.
        lacks: String,
    },
    /// Offline by choice, and not in the cache.
    #[error(
        "{id}: the cache {cache} {lacks}, and HF_HUB_OFFLINE or --offline forbids to download it"
    )]
    Offline {
        /// The repository.
        id: String,
        /// The folder.
        cache: String,
        /// What is missing in it.
        lacks: String,
    },
    /// A download that ended early.
    #[error(
        "{id}: the download of {name} ended at {found} of {expected} bytes{reason}; run it again \
         to go on from there"
    )]
    CutShort {
        /// The repository.
        id: String,
        /// The file.
        name: String,
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
        /// What the connection said, in parentheses.
        reason: String,
    },
    /// A file that could not be downloaded.
    #[error("{id}: downloading {name}: {reason}")]
    Download {
        /// The repository.
        id: String,
        /// The file.
        name: String,
        /// What the hub or the connection said.
        reason: String,
    },
    /// Files of two commits.
    #[error("{id}: the repository changed during the download ({name} is missing); run it again")]
    Changed {
        /// The repository.
        id: String,
        /// The file that is not in the snapshot.
        name: String,
    },
    /// An index that can't be followed.
    #[error(transparent)]
    Index(#[from] CheckpointError),
}
