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

mod download;
mod error;

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::Progress;
use super::checkpoint::{CONFIG, SINGLE, shard_names};
use super::files::{Files, is_plain_name};
use download::{Download, status};

pub use error::HubError;

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
            commit,
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
