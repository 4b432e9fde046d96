//! One repository's files on their way into the cache.

use std::path::{Path, PathBuf};

use hf_hub::CacheRepo;
use hf_hub::api::sync::{Api, ApiError, ApiRepo};

use super::{HubError, HubId, Parts};
use crate::model::Progress;
use crate::model::checkpoint::{CONFIG, INDEX, SINGLE, shard_names};
use crate::model::files::{Files, is_plain_name};

/// The files besides the weights, each optional but `config.json`.
const SMALL_FILES: [&str; 5] = [
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// One repository on the way into the cache.
pub(super) struct Download<'a> {
    pub(super) id: &'a HubId,
    pub(super) api: &'a Api,
    pub(super) repo: ApiRepo,
    pub(super) cached: CacheRepo,
    pub(super) commit: String,
    /// The folder of the commit.
    pub(super) snapshot: PathBuf,
    /// What the repository holds.
    pub(super) files: Vec<String>,
}

impl Download<'_> {
    /// The weights come last: a snapshot that has them has everything.
    pub(super) fn run(
        &self,
        parts: Parts,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Files, HubError> {
        self.demand(CONFIG)?;
        let mut wanted: Vec<String> = Vec::new();
        for name in SMALL_FILES {
            if self.has(name) {
                self.file(name, progress)?;
                wanted.push(name.into());
            }
        }
        if parts == Parts::All {
            if !self.has(SINGLE) && self.has(INDEX) {
                self.file(INDEX, progress)?;
                let shards = shard_names(&self.folder()?)?.unwrap_or_default();
                wanted.extend(shards);
            } else {
                self.demand(SINGLE)?;
                wanted.push(SINGLE.into());
            }
        }
        for name in &wanted {
            self.demand(name)?;
            self.file(name, progress)?;
        }
        let files = self.folder()?;
        match wanted.iter().find(|name| !files.has(name)) {
            Some(name) => Err(HubError::Changed {
                id: self.id.to_string(),
                name: name.clone(),
            }),
            None => {
                // Without downloads nobody has told the cache that the revision moved on.
                let noted = self.cached.create_ref(&self.commit);
                noted.map_err(|error| self.failed("refs", error))?;
                Ok(files)
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file == name)
    }

    fn demand(&self, name: &str) -> Result<(), HubError> {
        match self.has(name) {
            true => Ok(()),
            false => Err(HubError::MissingFile {
                id: self.id.to_string(),
                name: name.to_owned(),
            }),
        }
    }

    fn folder(&self) -> Result<Files, HubError> {
        Files::folder(&self.snapshot).map_err(|_| HubError::Changed {
            id: self.id.to_string(),
            name: CONFIG.into(),
        })
    }

    fn failed(&self, name: &str, reason: impl std::fmt::Display) -> HubError {
        HubError::Download {
            id: self.id.to_string(),
            name: name.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// Brings one file into the cache, unless it is there.
    fn file(&self, name: &str, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), HubError> {
        let pointer = self.snapshot.join(name);
        if pointer.exists() {
            return Ok(());
        }
        let metadata = self.api.metadata(&self.repo.url(name));
        let metadata = metadata.map_err(|error| match status(&error) {
            Some(404) => HubError::MissingFile {
                id: self.id.to_string(),
                name: name.to_owned(),
            },
            _ => self.failed(name, error),
        })?;
        if !is_plain_name(metadata.etag()) || !is_plain_name(metadata.commit_hash()) {
            return Err(self.failed(name, "the hub's answer names no blob of its cache"));
        }
        let expected = metadata.size() as u64;
        let blob = self.cached.blob_path(metadata.etag());
        // Another commit with the same file has left it in the cache.
        #[cfg(unix)]
        if length(&blob) == expected && blob.exists() {
            let link = Path::new("../../blobs").join(metadata.etag());
            let made = std::fs::create_dir_all(&self.snapshot)
                .and_then(|()| std::os::unix::fs::symlink(link, &pointer));
            return made.map_err(|error| self.failed(name, error));
        }
        let relay = Relay {
            name,
            progress,
            done: 0,
            total: expected,
        };
        let downloaded = self.repo.download_with_progress(name, relay);
        let (path, reason) = match &downloaded {
            Ok(path) => (path.clone(), String::new()),
            Err(error) => (blob.with_extension("part"), format!(" ({})", root(error))),
        };
        let found = length(&path);
        match downloaded {
            Ok(_) if found == expected => Ok(()),
            Err(error) if found >= expected || found == 0 => Err(self.failed(name, root(&error))),
            _ => {
                if downloaded.is_ok() {
                    // Renamed as if it were whole. Nothing better than an attempt can be made.
                    let _ = std::fs::remove_file(&path);
                    let _ = std::fs::remove_file(&blob);
                }
                Err(HubError::CutShort {
                    id: self.id.to_string(),
                    name: name.to_owned(),
                    found,
                    expected,
                    reason,
                })
            }
        }
    }
}

/// Bytes of a file; 0 where there is none.
fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

/// What hf-hub tells of a download, handed on.
struct Relay<'a> {
    name: &'a str,
    progress: &'a mut dyn FnMut(Progress<'_>),
    done: u64,
    total: u64,
}

impl hf_hub::api::Progress for Relay<'_> {
    fn init(&mut self, size: usize, _: &str) {
        (self.done, self.total) = (0, size as u64);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        let (file, done, total) = (self.name, self.done, self.total);
        (self.progress)(Progress::Downloading { file, done, total });
    }

    fn finish(&mut self) {}
}

/// The error under "too many retries".
fn root(error: &ApiError) -> &ApiError {
    match error {
        ApiError::TooManyRetries(error) => root(error),
        other => other,
    }
}

/// The HTTP status that an error is about, if there was an answer at all.
pub(super) fn status(error: &ApiError) -> Option<u16> {
    match root(error) {
        ApiError::RequestError(error) => match error.as_ref() {
            ureq::Error::StatusCode(status) => Some(*status),
            _ => None,
        },
        _ => None,
    }
}
