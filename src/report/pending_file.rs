//! Files that appear whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file under construction. It is written beside its place, under another name, and takes its
/// place with [`commit`](PendingFile::commit). A run that fails or is killed before that leaves
/// what was there before.
#[derive(Debug)]
pub struct PendingFile {
    path: PathBuf,
    beside: PathBuf,
    /// `None` once committed.
    file: Option<BufWriter<File>>,
}

impl PendingFile {
    /// Begins the file that is to be at `path`.
    ///
    /// # Errors
    /// If its folder does not exist or can't be written, or `path` is a folder.
    pub fn create(path: &Path) -> io::Result<Self> {
        let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        };
        let mut beside_name = name.to_owned();
        beside_name.push(format!(".{}.part", std::process::id()));
        let beside = path.with_file_name(beside_name);
        let file = Some(BufWriter::new(File::create(&beside)?));
        Ok(Self {
            path: path.to_owned(),
            beside,
            file,
        })
    }

    /// Where the file will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// If what is left to write can't be written, or the file can't be renamed.
    pub fn commit(mut self) -> io::Result<()> {
        let file = self.file.take().expect("only commit takes the file");
        let placed = file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_data())
            .and_then(|()| std::fs::rename(&self.beside, &self.path));
        if placed.is_err() {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&self.beside);
        }
        placed
    }

    fn file(&mut self) -> &mut BufWriter<File> {
        self.file.as_mut().expect("only commit takes the file")
    }
}

impl Write for PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Nobody is left to tell, and the next run under this name overwrites it.
            let _ = std::fs::remove_file(&self.beside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_committed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        std::fs::write(&path, "old").unwrap();
        let mut file = PendingFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        file.flush().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        file.commit().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.json");
        drop(PendingFile::create(&path).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_is_no_place_for_a_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(PendingFile::create(folder.path()).is_err());
    }
}
