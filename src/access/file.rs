//! The rule file: read at the start, and again when it has changed.
//!
//! The file is polled every second, which detects every kind of change: written in place, replaced
//! by a rename, or switched by a symbolic link to another directory, as in Kubernetes. It is read
//! when two polls have seen the same metadata, so that a partially written file is not used.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    parse::{self, Problems},
    rules::Rule,
};

/// Maximum length of the file in bytes.
pub const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// Interval of the polls.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which an unusable file is reported again.
const RELOG_INTERVAL: Duration = Duration::from_secs(60);

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It contains invalid lines.
    #[error("has invalid lines: {0}")]
    Content(#[from] Problems),
}

/// Identifies a version of the file by its metadata. Equal stamps mean equal content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileStamp {
    /// Device, inode, length, and times of modification and status change with nanoseconds.
    File([u64; 3], [i64; 4]),
    /// The metadata cannot be read.
    Failed(io::ErrorKind),
}

impl From<&Metadata> for FileStamp {
    fn from(metadata: &Metadata) -> Self {
        Self::File(
            [metadata.dev(), metadata.ino(), metadata.len()],
            [
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ],
        )
    }
}

impl FileStamp {
    fn at(path: &Path) -> Self {
        match std::fs::metadata(path) {
            Ok(metadata) => Self::from(&metadata),
            Err(error) => Self::Failed(error.kind()),
        }
    }
}

/// A rule file, and the last version seen. All operations may block.
#[derive(Debug)]
pub(super) struct WatchedFile {
    path: PathBuf,
    /// Version that was last read, or could not be read.
    read: FileStamp,
    /// A newer version seen by the last poll.
    changed: Option<FileStamp>,
    /// When the file was last found unusable; `None` while it is usable.
    failed: Option<Instant>,
}

impl WatchedFile {
    /// Reads the file for the first time.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Rule>), Error> {
        let mut watched = Self {
            path: path.to_owned(),
            read: FileStamp::at(path),
            changed: None,
            failed: None,
        };
        let rules = watched.read()?;
        Ok((watched, rules))
    }

    /// Polls the file. Returns its rules, or why it cannot be used, if it has changed and been
    /// stable since, and once a minute while it cannot be used.
    pub(super) fn poll(&mut self) -> Option<Result<Vec<Rule>, Error>> {
        let now = FileStamp::at(&self.path);
        let is_settled = self.changed == Some(now);
        self.changed = (now != self.read).then_some(now);
        let has_changed = is_settled && self.changed.is_some();
        let is_due = self
            .failed
            .is_some_and(|failed| failed.elapsed() >= RELOG_INTERVAL);
        if !has_changed && (!is_due || self.changed.is_some()) {
            return None;
        }
        self.read = now;
        self.changed = None;
        let rules = self.read();
        self.failed = rules.is_err().then(Instant::now);
        Some(rules)
    }

    fn read(&mut self) -> Result<Vec<Rule>, Error> {
        // Opening a pipe would block until it has a writer.
        if !std::fs::metadata(&self.path)?.is_file() {
            return Err(io::Error::other("not a file").into());
        }
        let file = File::open(&self.path)?;
        // If the file is replaced after this, the next poll detects it.
        self.read = FileStamp::from(&file.metadata()?);
        let mut bytes = Vec::new();
        let length = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        if length as u64 > MAX_FILE_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 8 MiB").into());
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))?;
        Ok(parse::parse_rules(&text)?)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// Polls up to three times, until there is an update.
    fn update(watched: &mut WatchedFile) -> Option<Result<usize, String>> {
        (0..3).find_map(|_| {
            let update = watched.poll()?;
            Some(match update {
                Ok(rules) => Ok(rules.len()),
                Err(error) => Err(error.to_string()),
            })
        })
    }

    fn rules(number: usize) -> String {
        "deny reserve 192.0.2.1\n".repeat(number)
    }

    #[test]
    fn every_kind_of_change_is_detected_when_the_file_is_stable() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("v1")).unwrap();
        fs::create_dir(at("v2")).unwrap();
        fs::write(at("v1/rules"), rules(1)).unwrap();
        fs::write(at("v2/rules"), rules(2)).unwrap();
        symlink("v1", at("data")).unwrap();
        symlink("data/rules", at("rules")).unwrap();
        let (mut watched, first) = WatchedFile::open(&at("rules")).unwrap();
        assert_eq!(first.len(), 1);
        assert_eq!(update(&mut watched), None);
        // As Kubernetes does it.
        symlink("v2", at("new")).unwrap();
        fs::rename(at("new"), at("data")).unwrap();
        assert!(watched.poll().is_none(), "it may be incomplete");
        assert_eq!(update(&mut watched), Some(Ok(2)));
        assert_eq!(update(&mut watched), None);
        // In place, in two steps.
        fs::write(at("v2/rules"), "").unwrap();
        assert!(watched.poll().is_none());
        fs::write(at("v2/rules"), rules(3)).unwrap();
        assert!(watched.poll().is_none());
        assert_eq!(update(&mut watched), Some(Ok(3)));
        // Replaced by another file.
        fs::write(at("other"), rules(4)).unwrap();
        fs::rename(at("other"), at("v2/rules")).unwrap();
        assert_eq!(update(&mut watched), Some(Ok(4)));
    }

    #[test]
    fn unusable_file_is_reported_once_and_again_after_the_interval() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules");
        let missing = WatchedFile::open(&path).unwrap_err().to_string();
        assert!(missing.starts_with("cannot be read: "), "{missing}");
        fs::write(&path, rules(1)).unwrap();
        let (mut watched, _) = WatchedFile::open(&path).unwrap();
        fs::write(&path, "nonsense").unwrap();
        let mistake = update(&mut watched).unwrap().unwrap_err();
        assert!(
            mistake.starts_with("has invalid lines: line 1"),
            "{mistake}"
        );
        assert_eq!(update(&mut watched), None);
        watched.failed = Instant::now().checked_sub(RELOG_INTERVAL);
        assert!(update(&mut watched).unwrap().is_err());
        fs::remove_file(&path).unwrap();
        assert!(update(&mut watched).unwrap().is_err());
        assert_eq!(update(&mut watched), None);
        fs::write(&path, rules(2)).unwrap();
        assert_eq!(update(&mut watched), Some(Ok(2)));
    }

    #[test]
    fn devices_directories_and_large_files_are_not_read() {
        let directory = tempfile::tempdir().unwrap();
        for path in [Path::new("/dev/zero"), directory.path()] {
            let error = WatchedFile::open(path).unwrap_err().to_string();
            assert_eq!(error, "cannot be read: not a file");
        }
        let path = directory.path().join("rules");
        let length = usize::try_from(MAX_FILE_BYTES).unwrap();
        fs::write(&path, "\n".repeat(length + 1)).unwrap();
        let error = WatchedFile::open(&path).unwrap_err().to_string();
        assert_eq!(error, "cannot be read: larger than 8 MiB");
        fs::write(&path, "\n".repeat(length)).unwrap();
        assert!(WatchedFile::open(&path).is_ok());
        fs::write(&path, [0xff]).unwrap();
        let error = WatchedFile::open(&path).unwrap_err().to_string();
        assert_eq!(error, "cannot be read: not UTF-8");
    }
}
