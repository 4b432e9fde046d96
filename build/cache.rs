//! What was made before, by what it was made from.
//!
//! It lies in the target folder, beside the folders of the profiles, so that a debug and a release
//! build share it; `cargo clean` removes it.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// A folder with a folder for each thing made.
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache for a build script whose `OUT_DIR` is `out`: TARGET/PROFILE/build/PACKAGE/out.
    pub fn beside(out: &Path) -> Cache {
        let target = out.ancestors().nth(4).unwrap_or(out);
        Cache {
            folder: target.join("onegrid-made"),
        }
    }

    /// The folder in which `make` put what it makes of `inputs`, now or earlier. An entry appears
    /// whole or not at all, and replaces those that `name` had with other inputs.
    pub fn made(
        &self,
        name: &str,
        inputs: &[&str],
        make: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<PathBuf, String> {
        let mut hasher = DefaultHasher::new();
        inputs.hash(&mut hasher);
        let entry = self.folder.join(format!("{name}-{:016x}", hasher.finish()));
        if entry.exists() {
            return Ok(entry);
        }
        let problem = |error| format!("{}: {error}", entry.display());
        let unfinished = entry.with_extension(std::process::id().to_string());
        fs::create_dir_all(&unfinished).map_err(problem)?;
        if let Err(error) = make(&unfinished) {
            let _ = fs::remove_dir_all(&unfinished);
            return Err(error);
        }
        self.remove(name);
        match fs::rename(&unfinished, &entry) {
            // Somebody else made the same meanwhile.
            Err(_) if entry.exists() => fs::remove_dir_all(&unfinished).map_err(problem)?,
            renamed => renamed.map_err(problem)?,
        }
        Ok(entry)
    }

    /// Removes the whole entries of `name`, as far as that can be done.
    fn remove(&self, name: &str) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let of_name = entry.file_name().to_str().is_some_and(|entry| {
                let (entry_name, key) = entry.rsplit_once('-').unwrap_or_default();
                entry_name == name && !key.contains('.')
            });
            if of_name {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}
