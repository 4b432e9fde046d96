//! The files of a checkpoint, wherever they are: in a folder, or in memory (the demo model is part
//! of the program).
//!
//! Everything that reads a checkpoint goes through [`Files`], which opens only plain names directly
//! inside the folder: no path that an `index.json` holds can lead out of it. (A symbolic link that
//! lies in the folder is followed, because the hub's cache is made of such links; whoever can
//! place a link there can place the file as well.)

use std::borrow::Cow;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// The most bytes that [`Files::read`] reads: a config, an index or a tokenizer is smaller.
pub const READ_LIMIT: u64 = 128 << 20;

/// What can go wrong with a file of a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A folder that is not there.
    #[error("{}: no such folder; give the path of a folder with config.json in it", path.display())]
    NoSuchFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A path where a folder is expected.
    #[error("{}: not a folder; give the folder that the checkpoint's files lie in", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// A name that could lead out of the folder.
    #[error(
        "{place}: '{name}' is no plain file name; a checkpoint's files lie directly in its folder"
    )]
    NotAPlainName {
        /// The folder.
        place: String,
        /// The name.
        name: String,
    },
    /// A directory, a pipe or a device where a file is expected.
    #[error("{place}/{name}: not a regular file")]
    NotAFile {
        /// The folder.
        place: String,
        /// The name.
        name: String,
    },
    /// A file that is far too large for what it is called.
    #[error("{place}/{name}: {bytes} bytes, more than the {READ_LIMIT} that such a file may have")]
    TooLarge {
        /// The folder.
        place: String,
        /// The name.
        name: String,
        /// Its size.
        bytes: u64,
    },
    /// The system's word on an open or a read.
    #[error("{place}/{name}: {source}")]
    Io {
        /// The folder.
        place: String,
        /// The name.
        name: String,
        /// What the system says.
        source: std::io::Error,
    },
}

/// The files of one checkpoint.
#[derive(Clone, Debug)]
pub struct Files(Place);

#[derive(Clone, Debug)]
enum Place {
    Folder(PathBuf),
    Memory {
        name: &'static str,
        files: Arc<[MemoryFile]>,
    },
}

/// The name and the contents of a file in memory.
pub type MemoryFile = (&'static str, Cow<'static, [u8]>);

/// A file that [`Files::open`] found.
#[derive(Debug)]
pub enum Opened<'a> {
    /// A regular file and its length in bytes.
    File(File, u64),
    /// The contents of a file in memory.
    Memory(&'a [u8]),
}

impl Files {
    /// The files of a folder.
    ///
    /// # Errors
    /// If there is no such folder.
    pub fn folder(path: impl Into<PathBuf>) -> Result<Self, FilesError> {
        let path = path.into();
        if path.is_dir() {
            Ok(Files(Place::Folder(path)))
        } else if path.exists() {
            Err(FilesError::NotAFolder { path })
        } else {
            Err(FilesError::NoSuchFolder { path })
        }
    }

    /// Files in memory, which messages call `name`.
    pub fn memory(name: &'static str, files: Vec<MemoryFile>) -> Self {
        let files = files.into();
        Files(Place::Memory { name, files })
    }

    /// The demo model's files, which are part of the program.
    pub fn demo() -> Self {
        demo::files()
    }

    /// The folder, if they lie in one.
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Place::Folder(path) => Some(path),
            Place::Memory { .. } => None,
        }
    }

    /// Where they are, for messages.
    pub fn describe(&self) -> String {
        match &self.0 {
            Place::Folder(path) => path.display().to_string(),
            Place::Memory { name, .. } => (*name).to_owned(),
        }
    }

    /// Opens the file `name`; `None` if there is none.
    ///
    /// # Errors
    /// If `name` is no plain file name, or the file is there and can't be opened.
    pub fn open(&self, name: &str) -> Result<Option<Opened<'_>>, FilesError> {
        if !is_plain_name(name) {
            return Err(FilesError::NotAPlainName {
                place: self.describe(),
                name: name.to_owned(),
            });
        }
        match &self.0 {
            Place::Folder(folder) => self.open_path(&folder.join(name), name),
            Place::Memory { files, .. } => {
                let found = files.iter().find(|(known, _)| *known == name);
                Ok(found.map(|(_, bytes)| Opened::Memory(bytes)))
            }
        }
    }

    fn open_path(&self, path: &Path, name: &str) -> Result<Option<Opened<'static>>, FilesError> {
        // Looked at before it is opened: opening a named pipe would wait for a writer.
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(name, error)),
        };
        if !metadata.is_file() {
            return Err(FilesError::NotAFile {
                place: self.describe(),
                name: name.to_owned(),
            });
        }
        let file = File::open(path).map_err(|error| self.io(name, error))?;
        let len = file.metadata().map_err(|error| self.io(name, error))?.len();
        Ok(Some(Opened::File(file, len)))
    }

    /// The contents of the file `name`; `None` if there is none.
    ///
    /// # Errors
    /// As [`open`](Self::open); a file of more than [`READ_LIMIT`] bytes; a read that fails.
    pub fn read(&self, name: &str) -> Result<Option<Cow<'_, [u8]>>, FilesError> {
        let (file, len) = match self.open(name)? {
            None => return Ok(None),
            Some(Opened::Memory(bytes)) => return Ok(Some(Cow::Borrowed(bytes))),
            Some(Opened::File(file, len)) => (file, len),
        };
        if len > READ_LIMIT {
            return Err(FilesError::TooLarge {
                place: self.describe(),
                name: name.to_owned(),
                bytes: len,
            });
        }
        let mut bytes = Vec::with_capacity(len as usize);
        file.take(READ_LIMIT)
            .read_to_end(&mut bytes)
            .map_err(|error| self.io(name, error))?;
        Ok(Some(Cow::Owned(bytes)))
    }

    /// Whether there is a file `name`.
    pub fn has(&self, name: &str) -> bool {
        matches!(self.open(name), Ok(Some(_)))
    }

    pub(super) fn io(&self, name: &str, source: std::io::Error) -> FilesError {
        FilesError::Io {
            place: self.describe(),
            name: name.to_owned(),
            source,
        }
    }
}

/// Whether `name` names a file directly inside a folder, on every platform.
pub fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let single = matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(only)), None) if only == name
    );
    single && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(feature = "demo")]
mod demo {
    use std::borrow::Cow;

    use super::Files;

    macro_rules! embedded {
        ($($name:literal),*) => {
            vec![$((
                $name,
                Cow::Borrowed(include_bytes!(concat!(
                    env!("CARGO_MANIFEST_DIR"), "/models/demo/", $name
                )).as_slice()),
            )),*]
        };
    }

    pub(super) fn files() -> Files {
        let files = embedded![
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
            "chat_template.jinja"
        ];
        Files::memory("demo", files)
    }
}

#[cfg(not(feature = "demo"))]
mod demo {
    use super::{Files, Place};

    /// Built without the `demo` feature, the program looks for the files beside its sources.
    pub(super) fn files() -> Files {
        Files(Place::Folder(
            concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo").into(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_plain() {
        for name in [
            "config.json",
            "model-00001-of-00002.safetensors",
            "..x",
            "a b",
        ] {
            assert!(is_plain_name(name), "{name:?}");
        }
        for name in [
            "",
            ".",
            "..",
            "../config.json",
            "/etc/passwd",
            "sub/config.json",
            "./config.json",
            "config.json/",
            "..\\config.json",
            "C:config.json",
            "a\0b",
        ] {
            assert!(!is_plain_name(name), "{name:?}");
        }
    }

    #[test]
    fn a_folder_is_read_by_plain_names_only() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("model");
        std::fs::create_dir_all(folder.join("sub.json")).unwrap();
        std::fs::write(outer.path().join("secret"), "secret").unwrap();
        std::fs::write(folder.join("config.json"), "{}").unwrap();
        let files = Files::folder(&folder).unwrap();
        assert_eq!(files.read("config.json").unwrap().unwrap().as_ref(), b"{}");
        assert!(files.read("tokenizer.json").unwrap().is_none());
        let outside = files.read("../secret").unwrap_err().to_string();
        assert!(
            outside.contains("'../secret' is no plain file name"),
            "{outside}"
        );
        let directory = files.read("sub.json").unwrap_err().to_string();
        assert!(
            directory.contains("sub.json: not a regular file"),
            "{directory}"
        );
    }

    #[test]
    fn files_in_memory_are_found_by_name() {
        let files = Files::memory("test", vec![("config.json", Cow::Borrowed(b"{}"))]);
        assert_eq!(files.read("config.json").unwrap().unwrap().as_ref(), b"{}");
        assert!(!files.has("model.safetensors"));
        assert_eq!((files.describe().as_str(), files.path()), ("test", None));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let missing = Files::folder("/no/such/folder").unwrap_err().to_string();
        assert!(
            missing.starts_with("/no/such/folder: no such folder"),
            "{missing}"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = Files::folder(file.path()).unwrap_err().to_string();
        assert!(file.contains("not a folder"), "{file}");
    }

    #[cfg(unix)]
    #[test]
    fn links_in_the_folder_are_followed_as_the_hubs_cache_needs() {
        let cache = tempfile::tempdir().unwrap();
        let snapshot = cache.path().join("snapshots/abc");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(cache.path().join("blobs")).unwrap();
        std::fs::write(cache.path().join("blobs/123"), "{}").unwrap();
        std::os::unix::fs::symlink("../../blobs/123", snapshot.join("config.json")).unwrap();
        let files = Files::folder(&snapshot).unwrap();
        assert_eq!(files.read("config.json").unwrap().unwrap().as_ref(), b"{}");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_of_absurd_size_is_refused_unread() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("config.json")).unwrap();
        file.set_len(1 << 40).unwrap();
        let files = Files::folder(folder.path()).unwrap();
        let error = files.read("config.json").unwrap_err().to_string();
        assert!(error.contains("1099511627776 bytes"), "{error}");
    }
}
