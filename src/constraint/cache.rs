//! Compiled tables on disk, by what they were made from.
//!
//! A file is used only if all of it is as it was written. One that is not, for whatever reason,
//! is as good as none: the tables are compiled again and the file is replaced.

use std::io::{self, Write};
use std::path::PathBuf;

use bytemuck::{Pod, Zeroable};
use rustc_hash::FxHashMap;
use tempfile::NamedTempFile;
use twox_hash::XxHash3_128;

use super::tables::{MOST_LISTED, StateId, StateRow, Tables};
use crate::model::TokenId;

/// Changes with the layout of the files and with what the compiler makes of a constraint.
const VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"ogtables";
const EXTENSION: &str = "tables";
/// No file that this program writes is as large.
const MOST_BYTES: u64 = 256 << 20;

/// A folder of compiled tables.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// What tables were made from, as a hash (XXH3, 128 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u128);

impl Key {
    /// The key of a constraint for a tokenizer ([`Tokenizer::fingerprint`]), a model of so many
    /// rows and its end tokens.
    ///
    /// [`Tokenizer::fingerprint`]: crate::model::tokenizer::Tokenizer::fingerprint
    pub fn of(tokenizer: u128, rows: usize, end_tokens: &[TokenId], source: &[u8]) -> Self {
        let mut text = Vec::with_capacity(source.len() + 64);
        text.extend_from_slice(MAGIC);
        text.extend_from_slice(&VERSION.to_le_bytes());
        text.extend_from_slice(&tokenizer.to_le_bytes());
        text.extend_from_slice(&(rows as u64).to_le_bytes());
        text.extend_from_slice(&(end_tokens.len() as u64).to_le_bytes());
        for token in end_tokens {
            text.extend_from_slice(&token.to_le_bytes());
        }
        text.extend_from_slice(source);
        Self(XxHash3_128::oneshot(&text))
    }
}

impl Cache {
    /// The cache in `folder`, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The folder of a user: `$ONEGRID_CACHE/constraints`, else `onegrid/constraints` in the folder
    /// for caches, `$XDG_CACHE_HOME` or `~/.cache`. `None` for users who have no home.
    pub fn default_folder(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
        let variable = |name: &str| {
            let value = variable(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        let own = variable("ONEGRID_CACHE").or_else(|| {
            let caches = variable("XDG_CACHE_HOME");
            let caches = caches.or_else(|| Some(std::env::home_dir()?.join(".cache")));
            caches.map(|caches| caches.join("onegrid"))
        });
        own.map(|own| own.join("constraints"))
    }

    /// Where the tables of `key` are, or would be.
    pub fn path(&self, key: Key) -> PathBuf {
        self.folder.join(format!("{:032x}.{EXTENSION}", key.0))
    }

    /// The tables of `key`, if they are there and whole.
    pub fn read(&self, key: Key) -> Option<Tables> {
        let path = self.path(key);
        let length = std::fs::metadata(&path).ok()?.len();
        if length > MOST_BYTES {
            return None;
        }
        decode(&std::fs::read(path).ok()?, key)
    }

    /// Keeps the tables of `key`. They are written beside their place and then take it, so that
    /// nobody reads half a file, and two who write it at once don't meet.
    ///
    /// # Errors
    /// The system's word, if the folder or the file can't be written.
    pub fn write(&self, key: Key, tables: &Tables) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let mut file = NamedTempFile::new_in(&self.folder)?;
        file.write_all(&encode(tables, key))?;
        file.persist(self.path(key))?;
        Ok(())
    }
}

/// The numbers at the beginning of a file, little-endian as all of it.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Header {
    magic: [u8; 8],
    version: u32,
    start: u32,
    key: [u8; 16],
    tokens: u64,
    states: u64,
    classes: u64,
    steps: u64,
    listed: u64,
    shortest: u64,
}

/// What stands at the end of a file: the hash of all that comes before.
fn checksum(before: &[u8]) -> [u8; CHECKSUM_BYTES] {
    XxHash3_128::oneshot(before).to_le_bytes()
}

const CHECKSUM_BYTES: usize = 16;

fn encode(tables: &Tables, key: Key) -> Vec<u8> {
    let header = Header {
        magic: *MAGIC,
        version: VERSION.to_le(),
        start: u32::from(tables.start).to_le(),
        key: key.0.to_le_bytes(),
        tokens: (tables.class_of_token.len() as u64).to_le(),
        states: (tables.rows.len() as u64).to_le(),
        classes: (tables.classes as u64).to_le(),
        steps: (tables.steps.len() as u64).to_le(),
        listed: (tables.listed.len() as u64).to_le(),
        shortest: (tables.shortest as u64).to_le(),
    };
    let mut file = Vec::with_capacity(size_of::<Header>() + tables.bytes() + CHECKSUM_BYTES);
    file.extend_from_slice(bytemuck::bytes_of(&header));
    for row in &tables.rows {
        let StateRow {
            kind,
            accepting,
            first,
            count,
            steps,
            classes,
            base,
        } = *row;
        let (kind, classes) = (pair(kind, accepting), pair(classes, base));
        for word in [kind, first, count, steps, classes] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    }
    for token in &tables.listed {
        file.extend_from_slice(&token.to_le_bytes());
    }
    for number in tables.steps.iter().chain(&tables.class_of_token) {
        file.extend_from_slice(&number.to_le_bytes());
    }
    let sum = checksum(&file);
    file.extend_from_slice(&sum);
    file
}

/// Two halves of a word, the low one first.
fn pair(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

/// The tables in `file`, if it is whole, of this version and of `key`, and every index in it
/// leads somewhere.
fn decode(file: &[u8], key: Key) -> Option<Tables> {
    let (file, sum) = file.split_last_chunk()?;
    let (header, body) = file.split_at_checked(size_of::<Header>())?;
    let header: Header = bytemuck::pod_read_unaligned(header);
    let ours = header.magic == *MAGIC
        && u32::from_le(header.version) == VERSION
        && header.key == key.0.to_le_bytes()
        && *sum == checksum(file);
    if !ours {
        return None;
    }
    let number = |number: u64| usize::try_from(u64::from_le(number)).ok();
    let (tokens, states) = (number(header.tokens)?, number(header.states)?);
    let (classes, listed) = (number(header.classes)?, number(header.listed)?);
    let steps = number(header.steps)?;

    let mut rest = body;
    let mut take = |count: usize, size: usize| {
        let (taken, after) = rest.split_at_checked(count.checked_mul(size)?)?;
        rest = after;
        Some(taken)
    };
    let words = |bytes: &[u8]| -> Vec<u32> {
        (bytes.as_chunks().0.iter())
            .map(|&bytes| u32::from_le_bytes(bytes))
            .collect()
    };
    let halves = |bytes: &[u8]| -> Vec<u16> {
        (bytes.as_chunks().0.iter())
            .map(|&bytes| u16::from_le_bytes(bytes))
            .collect()
    };
    let rows = (words(take(states, size_of::<StateRow>())?)
        .as_chunks()
        .0
        .iter())
    .map(|&[kind, first, count, steps, classes]| StateRow {
        kind: kind as u16,
        accepting: (kind >> 16) as u16,
        first,
        count,
        steps,
        classes: classes as u16,
        base: (classes >> 16) as u16,
    })
    .collect();
    let tables = Tables {
        rows,
        listed: words(take(listed, size_of::<u32>())?),
        steps: halves(take(steps, size_of::<u16>())?),
        class_of_token: halves(take(tokens, size_of::<u16>())?),
        classes,
        start: u16::try_from(u32::from_le(header.start)).ok()?,
        shortest: number(header.shortest)?,
    };
    (rest.is_empty() && is_sound(&tables)).then_some(tables)
}

/// Whether stepping the tables never leaves them, and what states list is what they allow.
fn is_sound(tables: &Tables) -> bool {
    let states = tables.rows.len();
    let below = |numbers: &[u16], limit: usize| numbers.iter().all(|&n| usize::from(n) < limit);
    let indices = usize::from(tables.start) < states
        && tables.start != Tables::DEAD
        && tables.classes <= usize::from(u16::MAX)
        && below(&tables.class_of_token, tables.classes)
        && steps_are_sound(tables);
    indices
        && (tables.rows.iter().enumerate()).all(|(state, row)| {
            let listed = match row.kind {
                StateRow::NOTHING => return row.count == 0 && row.accepting <= 1,
                StateRow::MANY => return row.count as usize > MOST_LISTED && row.accepting <= 1,
                StateRow::FORCED | StateRow::FEW => (tables.listed.get(row.first as usize..))
                    .and_then(|listed| listed.get(..row.count as usize)),
                _ => None,
            };
            listed.is_some_and(|listed| {
                row.kind == StateRow::kind_of(listed.len())
                    && row.accepting <= 1
                    && listed.is_sorted_by(|a, b| a < b)
                    && listed
                        .iter()
                        .all(|&token| tables.allows(state as StateId, token))
            })
        })
}

/// Whether every state has its steps, and they lead to states.
fn steps_are_sound(tables: &Tables) -> bool {
    // Most states have the steps of another one: their longest is looked up once.
    let mut longest: FxHashMap<(u32, u16), u16> = FxHashMap::default();
    tables.rows.iter().all(|row| {
        let place = (row.steps, row.classes);
        let steps = (tables.steps.get(row.steps as usize..))
            .and_then(|steps| steps.get(..usize::from(row.classes)));
        steps.is_some_and(|steps| {
            let longest =
                *(longest.entry(place)).or_insert_with(|| steps.iter().copied().max().unwrap_or(0));
            usize::from(row.classes) <= tables.classes
                && (longest == 0
                    || usize::from(row.base) + usize::from(longest) < tables.rows.len())
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::constraint::{CacheUse, Compiler, Source, test_vocabulary};

    const KEY: Key = Key(7);

    static TABLES: LazyLock<Tables> = LazyLock::new(|| {
        let tokenizer = test_vocabulary::demo().padded_to(300);
        let compiler = Compiler::new(&tokenizer, &[263]).unwrap();
        let source = Source::Regex(r"-?\d+\.\d{4}|[^x]{1,3}".into());
        let compiled = compiler.compile(&source).unwrap();
        Tables::clone(compiled.tables().unwrap())
    });

    /// A file whose header was changed and whose checksum is right.
    fn with_header(mut file: Vec<u8>, change: impl FnOnce(&mut Header)) -> Vec<u8> {
        file.truncate(file.len() - CHECKSUM_BYTES);
        let head = &mut file[..size_of::<Header>()];
        let mut header: Header = bytemuck::pod_read_unaligned(head);
        change(&mut header);
        head.copy_from_slice(bytemuck::bytes_of(&header));
        let sum = checksum(&file);
        file.extend_from_slice(&sum);
        file
    }

    #[test]
    fn tables_come_back_as_they_were() {
        assert_eq!(decode(&encode(&TABLES, KEY), KEY).as_ref(), Some(&*TABLES));
    }

    #[test]
    fn tables_of_another_key_version_or_kind_of_file_are_not_taken() {
        let file = encode(&TABLES, KEY);
        assert!(decode(&file, Key(8)).is_none());
        assert!(decode(&with_header(file.clone(), |h| h.version += 1), KEY).is_none());
        assert!(decode(&with_header(file.clone(), |h| h.magic[0] ^= 1), KEY).is_none());
        assert!(decode(&with_header(file, |_| ()), KEY).is_some());
    }

    #[test]
    fn lengths_that_lie_are_not_believed() {
        let file = encode(&TABLES, KEY);
        for lie in [0, 1, u64::MAX, u64::MAX / 2, 1 << 40] {
            for change in [
                |h: &mut Header, lie| h.tokens = lie,
                |h: &mut Header, lie| h.states = lie,
                |h: &mut Header, lie| h.classes = lie,
                |h: &mut Header, lie| h.steps = lie,
                |h: &mut Header, lie| h.listed = lie,
            ] {
                assert!(decode(&with_header(file.clone(), |h| change(h, lie)), KEY).is_none());
            }
        }
    }

    /// Uses tables in every way there is, which panics if an index leads out of them.
    fn use_everywhere(tables: &Tables) {
        for state in 0..tables.states() as StateId {
            tables.allowed(state);
            for token in 0..=tables.vocab_size() as TokenId {
                let next = tables.next(state, token);
                assert!(usize::from(next) < tables.states());
            }
        }
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_not_taken(
            flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
            length in any::<prop::sample::Index>(),
            cut in any::<bool>(),
        ) {
            let whole = encode(&TABLES, KEY);
            let mut file = whole.clone();
            for (place, flip) in flips {
                let place = place.index(file.len());
                file[place] ^= flip;
            }
            if cut {
                file.truncate(length.index(file.len()));
            }
            // Two changes may undo each other.
            prop_assert_eq!(decode(&file, KEY).is_some(), file == whole);
        }

        #[test]
        fn no_body_leads_out_of_the_tables_even_with_its_checksum(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut file = encode(&TABLES, KEY);
            for (place, byte) in changes {
                let body = &mut file[size_of::<Header>()..];
                let place = place.index(body.len());
                body[place] = byte;
            }
            if let Some(tables) = decode(&with_header(file, |_| ()), KEY) {
                use_everywhere(&tables);
            }
        }
    }

    #[test]
    fn the_folder_is_where_the_environment_says() {
        let folder = |set: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = set.iter().find(|(other, _)| *other == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            Cache::default_folder(variable).unwrap()
        };
        let xdg = ("XDG_CACHE_HOME", "/x");
        let is = |folder: PathBuf, expected: &str| assert_eq!(folder, PathBuf::from(expected));
        is(folder(&[xdg]), "/x/onegrid/constraints");
        is(folder(&[xdg, ("ONEGRID_CACHE", "/o")]), "/o/constraints");
        is(
            folder(&[xdg, ("ONEGRID_CACHE", "")]),
            "/x/onegrid/constraints",
        );
        assert!(folder(&[]).ends_with(".cache/onegrid/constraints"));
    }

    #[test]
    fn a_damaged_file_is_compiled_again_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("not/there/yet");
        let tokenizer = test_vocabulary::demo();
        let compile = |pattern: &str, ends: &[TokenId]| {
            let compiler = Compiler::new(&tokenizer, ends).unwrap().with_cache(&folder);
            compiler.compile(&Source::Regex(pattern.into())).unwrap()
        };
        let first = compile("[a-c]+", &[263]);
        assert_eq!(first.cache, CacheUse::Written);
        let again = compile("[a-c]+", &[263]);
        assert_eq!(
            (&again.cache, again.tables()),
            (&CacheUse::Read, first.tables())
        );
        // Other end tokens and another constraint are other tables.
        assert_eq!(compile("[a-c]+", &[264]).cache, CacheUse::Written);
        assert_eq!(compile("[a-d]+", &[263]).cache, CacheUse::Written);

        let files: Vec<PathBuf> = (std::fs::read_dir(&folder).unwrap())
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(files.len(), 3);
        for file in files {
            std::fs::write(file, b"ogtables and then nonsense").unwrap();
        }
        assert_eq!(compile("[a-c]+", &[263]).cache, CacheUse::Written);
        let again = compile("[a-c]+", &[263]);
        assert_eq!(
            (&again.cache, again.tables()),
            (&CacheUse::Read, first.tables())
        );
    }

    #[test]
    fn a_folder_that_can_not_be_written_costs_only_time() {
        let file = NamedTempFile::new().unwrap();
        let tokenizer = test_vocabulary::demo();
        let compiler = Compiler::new(&tokenizer, &[])
            .unwrap()
            .with_cache(file.path());
        let compiled = compiler.compile(&Source::Regex("a".into())).unwrap();
        assert!(
            matches!(compiled.cache, CacheUse::NotWritten(_)),
            "{compiled:?}"
        );
    }
}
