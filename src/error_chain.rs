//! Errors with their causes as one line.

/// An error and its sources, joined by colons.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error_message = error.to_string();
    let mut error = error;
    while let Some(source) = error.source() {
        error_message = format!("{error_message}: {source}");
        error = source;
    }
    error_message
}

/// The sources of an error, without its own message, which contains the URL.
pub(crate) fn causes(error: &reqwest::Error) -> String {
    std::error::Error::source(error).map_or_else(|| "the request failed".to_owned(), chain)
}
