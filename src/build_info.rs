//! The build: version, source revision and target.

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The source revision, which builds of images and releases set in the environment of the compiler.
pub const REVISION: &str = match option_env!("DESCORD_RELAY_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// The platform for which the binary is compiled, such as `x86_64-linux-musl`: architecture, operating
/// system and C library.
pub fn target() -> String {
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    let libc = if cfg!(target_env = "gnu") {
        "-gnu"
    } else if cfg!(target_env = "musl") {
        "-musl"
    } else {
        ""
    };
    format!("{arch}-{os}{libc}")
}
