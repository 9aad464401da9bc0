//! External programs that tests need: detected, installed on first use, or a reason to skip the test.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

/// The installed program, or `None` to skip the test.
///
/// # Panics
///
/// If it is missing and `RELAY_TEST_REQUIRE_ALL=1` forbids skipping.
pub fn or_skip<'a, T>(needs: &str, installed: &'a Result<T, String>) -> Option<&'a T> {
    match installed {
        Ok(installed) => Some(installed),
        Err(why) if std::env::var_os("RELAY_TEST_REQUIRE_ALL").is_some_and(|all| all == "1") => {
            panic!("needs {needs} ({why})")
        }
        Err(why) => {
            println!("skipped: needs {needs} ({why})");
            None
        }
    }
}

/// Runs `install` once for each version of this lock file, even with concurrent tests and processes.
///
/// `directory` contains the installation, and is marked when complete.
pub fn install_once(
    directory: &Path,
    lock_file: &Path,
    install: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let words = |error: std::io::Error| error.to_string();
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let guard = crate::process::temporary_directory().join(format!("{name}.lock"));
    let guard = File::create(guard).map_err(words)?;
    guard.lock().map_err(words)?;
    let wanted = fs::read(lock_file).map_err(words)?;
    let mark = directory.join(".installed");
    if fs::read(&mark).ok().as_ref() != Some(&wanted) {
        install()?;
        fs::write(&mark, wanted).map_err(words)?;
    }
    Ok(())
}

/// Runs a command to completion. Standard error is the error.
pub fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}
