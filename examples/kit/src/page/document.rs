//! [`Document`]: a page around its content.

use std::fmt::Write as _;

use axum::{
    http::header,
    response::{IntoResponse, Response},
};

use super::{GUARDS, STYLE_SHEET};

/// A page with the common style sheet and the headers that every page has.
#[derive(Clone, Debug)]
pub struct Document {
    title: String,
    body: String,
    scripts: Vec<&'static str>,
}

impl Document {
    /// A page with this title, and with this HTML as its body. Texts of others have to be escaped in it.
    #[must_use]
    pub fn new(title: &str, body: &str) -> Self {
        Self { title: title.into(), body: body.into(), scripts: Vec::new() }
    }

    /// Adds a script of this server, by its path. It runs when the page is there.
    #[must_use]
    pub fn script(mut self, path: &'static str) -> Self {
        self.scripts.push(path);
        self
    }

    fn html(&self) -> String {
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{}</title>\n<link rel=\"icon\" href=\"data:,\">\n<link rel=\"stylesheet\" href=\"{STYLE_SHEET}\">\n",
            escape(&self.title)
        );
        for script in &self.scripts {
            let _ = writeln!(html, "<script src=\"{script}\" defer></script>");
        }
        let _ = write!(html, "</head>\n<body>\n{}\n</body>\n</html>\n", self.body);
        html
    }
}

impl IntoResponse for Document {
    fn into_response(self) -> Response {
        (GUARDS, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], self.html()).into_response()
    }
}

/// Text for HTML: in content, and in attributes between quotes.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_break_out_of_their_place() {
        assert_eq!(escape("<a href='x'>&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;");
        let html = Document::new("</title><script>", "<p>body</p>").script("/x.js").html();
        assert!(html.contains("<title>&lt;/title&gt;&lt;script&gt;</title>"), "{html}");
        assert!(
            html.contains("<script src=\"/x.js\" defer></script>") && html.contains("<p>body</p>"),
            "{html}"
        );
    }
}
