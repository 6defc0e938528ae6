//! Bounds on the length of texts from programs and people that go into records and messages: one record or
//! message that is too large for a store or a server would block all others.

/// Maximum number of characters kept of a text.
const CHARS_MAX: usize = 1024;

/// Beginning of a text.
pub(crate) fn clipped_words(text: &str) -> String {
    text.chars().take(CHARS_MAX).collect()
}

/// Truncates the text to its bound.
pub(crate) fn clip_words(text: &mut String) {
    if text.len() > CHARS_MAX {
        *text = clipped_words(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_between_characters() {
        let mut text = "ä".repeat(CHARS_MAX + 1);
        clip_words(&mut text);
        assert_eq!(text.chars().count(), CHARS_MAX);
        let mut short = "ä".repeat(CHARS_MAX);
        clip_words(&mut short);
        assert_eq!(short.chars().count(), CHARS_MAX);
    }
}
