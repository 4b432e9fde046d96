//! Checkpoints from the Hugging Face hub, by way of its cache.
//!
//! Through hf-hub 0.5, whose API blocks, on ureq: 67 crates in all, against 297 of hf-hub 1.0
//! (reqwest, tokio, the Xet client), most of a minute more to compile, for downloads that don't
//! resume. 0.5 goes on where a download broke off, and the hub serves it every file over plain
//! HTTP. What it leaves out is here: `HF_HUB_OFFLINE`, `HF_HUB_CACHE` and `HF_TOKEN`, the cache
//! where there is no network, and a check that a file is as long as the hub says.
//!
//! The cache is the one that Python's huggingface_hub uses: `refs/<revision>` holds a commit,
//! `snapshots/<commit>/<file>` links to `blobs/<etag>`.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::Progress;
use super::checkpoint::{CONFIG, CheckpointError, INDEX, SINGLE, shard_names};
use super::files::{Files, is_plain_name};

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

/// A repository on the hub: `owner/name`, and the revision if it is not `main`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    /// `owner/name`.
    pub repository: String,
    /// A branch, a tag or a commit.
    pub revision: Option<String>,
}

impl HubId {
    /// Reads `owner/name[@revision]`; `None` if `text` is not of that form.
    pub fn parse(text: &str) -> Option<Self> {
        let (repository, revision) = match text.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (text, None),
        };
        let (owner, name) = repository.split_once('/')?;
        let part = |part: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            (1..=96).contains(&part.len())
                && part.chars().all(plain)
                && !part.starts_with(['.', '-'])
                && !part.contains("..")
        };
        let revision_parts = |revision: &str| revision.split('/').all(is_plain_name);
        (part(owner) && part(name) && revision.is_none_or(revision_parts)).then(|| HubId {
            repository: repository.to_owned(),
            revision: revision.map(str::to_owned),
        })
    }
}

impl std::fmt::Display for HubId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.revision {
            Some(revision) => write!(f, "{}@{revision}", self.repository),
            None => f.write_str(&self.repository),
        }
    }
}

/// Which files of a checkpoint are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parts {
    /// All that are read.
    #[default]
    All,
    /// The configuration, the tokenizer and the chat template.
    WithoutWeights,
}

/// The files besides the weights, each optional but `config.json`.
const SMALL_FILES: [&str; 5] = [
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// A hub and a cache of it.
#[derive(Clone, Debug)]
pub struct Hub {
    /// The address, without a slash at its end.
    pub endpoint: String,
    /// The folder that holds `models--owner--name`.
    pub cache: PathBuf,
    /// A token for private and gated repositories.
    pub token: Option<String>,
    /// Whether to use the cache alone.
    pub offline: bool,
}

impl Hub {
    /// The hub that the environment names, as huggingface_hub reads it: `HF_ENDPOINT`; `HF_HUB_CACHE`
    /// or `HF_HOME`; `HF_TOKEN` or the token that a login left in the cache; `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// As [`from_env`](Self::from_env), with `variable` for the environment.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = variable("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
            cache.map(|cache| cache.join("huggingface"))
        });
        // Without a home there is nowhere better for a cache than where the program was started.
        let home = home.unwrap_or_else(|| PathBuf::from(".cache/huggingface"));
        let cache = variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from);
        let token = variable("HF_TOKEN").or_else(|| {
            let path = variable("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
            let token = std::fs::read_to_string(path).ok()?;
            Some(token.trim().to_owned()).filter(|token| !token.is_empty())
        });
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let is_true =
            |value: String| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        Hub {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            // hf-hub makes links between paths and panics on a relative one.
            cache: std::path::absolute(&cache).unwrap_or(cache),
            token,
            offline: variable("HF_HUB_OFFLINE").is_some_and(is_true),
        }
    }

    /// The files of a repository: downloaded, as far as they are not in the cache, or from the cache
    /// if the hub can't be reached.
    ///
    /// # Errors
    /// If there is no such repository, a file is missing in it, a download fails, or the hub can't
    /// be reached and the cache doesn't have everything.
    pub fn fetch(
        &self,
        id: &HubId,
        parts: Parts,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Files, HubError> {
        let revision = id.revision.clone().unwrap_or_else(|| "main".into());
        let repo = Repo::with_revision(id.repository.clone(), RepoType::Model, revision);
        let cached = Cache::new(self.cache.clone()).repo(repo.clone());
        if self.offline {
            return self
                .cached(&repo, parts)
                .map_err(|lacks| HubError::Offline {
                    id: id.to_string(),
                    cache: self.cache.display().to_string(),
                    lacks,
                });
        }
        let builder = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_user_agent("onegrid", env!("CARGO_PKG_VERSION"))
            .with_progress(false)
            .with_retries(2);
        let asked = builder.build().and_then(|api| {
            let info = api.repo(repo.clone()).info()?;
            Ok((api, info))
        });
        let (api, info) = match asked {
            Ok(asked) => asked,
            Err(error) => match status(&error) {
                Some(status @ 400..500) => {
                    return Err(HubError::NoSuchRepository {
                        id: id.to_string(),
                        endpoint: self.endpoint.clone(),
                        status,
                    });
                }
                _ => return self.without_network(id, &repo, parts, &error, progress),
            },
        };
        let files = info
            .siblings
            .into_iter()
            .map(|sibling| sibling.rfilename)
            .collect();
        let commit = info.sha;
        if !is_plain_name(&commit) {
            return Err(HubError::Download {
                id: id.to_string(),
                name: "the list of files".into(),
                reason: format!("'{commit}' is no commit"),
            });
        }
        let download = Download {
            id,
            api: &api,
            repo: api.repo(repo),
            snapshot: cached.pointer_path(&commit),
            cached,
            files,
        };
        download.run(parts, progress)
    }

    /// What the cache has of a repository whose hub can't be reached.
    fn without_network(
        &self,
        id: &HubId,
        repo: &Repo,
        parts: Parts,
        error: &ApiError,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Files, HubError> {
        let reason = error.to_string();
        match self.cached(repo, parts) {
            Ok(files) => {
                let endpoint = &self.endpoint;
                let note = format!("{id}: {endpoint} can't be reached ({reason}); using the cache");
                progress(Progress::Note(&note));
                Ok(files)
            }
            Err(lacks) => Err(HubError::Unreachable {
                id: id.to_string(),
                reason,
                cache: self.cache.display().to_string(),
                lacks,
            }),
        }
    }

    /// The snapshot in the cache if it is whole, or what it lacks.
    fn cached(&self, repo: &Repo, parts: Parts) -> Result<Files, String> {
        let folder = self.cache.join(repo.folder_name());
        let commit = std::fs::read_to_string(folder.join("refs").join(repo.revision()));
        // A revision may be a commit itself.
        let commit = commit.unwrap_or_else(|_| repo.revision().to_owned());
        let commit = commit.trim();
        let nothing = || "doesn't have it".to_owned();
        if !is_plain_name(commit) {
            return Err(nothing());
        }
        let snapshot = folder.join("snapshots").join(commit);
        let files = Files::folder(&snapshot).map_err(|_| nothing())?;
        let lacks = |name: &str| format!("has only a part of it: {name} is missing");
        let mut wanted = vec![CONFIG.to_owned()];
        if parts == Parts::All && !files.has(SINGLE) {
            match shard_names(&files) {
                Ok(Some(shards)) => wanted.extend(shards),
                Ok(None) => wanted.push(SINGLE.into()),
                Err(error) => return Err(format!("is damaged: {error}")),
            }
        }
        match wanted.iter().find(|name| !files.has(name)) {
            Some(name) => Err(lacks(name)),
            None => Ok(files),
        }
    }
}

/// One repository on the way into the cache.
struct Download<'a> {
    id: &'a HubId,
    api: &'a Api,
    repo: ApiRepo,
    cached: CacheRepo,
    /// The folder of the commit.
    snapshot: PathBuf,
    /// What the repository holds.
    files: Vec<String>,
}

impl Download<'_> {
    /// The weights come last: a snapshot that has them has everything.
    fn run(&self, parts: Parts, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Files, HubError> {
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
            None => Ok(files),
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
fn status(error: &ApiError) -> Option<u16> {
    match root(error) {
        ApiError::RequestError(error) => match error.as_ref() {
            ureq::Error::StatusCode(status) => Some(*status),
            _ => None,
        },
        _ => None,
    }
}
