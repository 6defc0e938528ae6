//! A TOML file of options.

use std::{borrow::Cow, fs, path::Path};

use toml::de::{DeTable, DeValue};

/// Options by name, with the lines on which they are.
#[derive(Debug)]
pub(super) struct File {
    path: String,
    /// Name, line, and the values or what is wrong with them.
    options: Vec<(String, usize, Result<Vec<String>, String>)>,
}

impl File {
    /// Reads a file. Underscores in names count as dashes.
    ///
    /// # Errors
    /// For people: it cannot be read, or is not TOML.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Self::parse(path.display().to_string(), &text)
    }

    fn parse(path: String, text: &str) -> Result<Self, String> {
        let line_at = |at: usize| text.get(..at).unwrap_or(text).matches('\n').count() + 1;
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map(|span| format!(":{}", line_at(span.start))).unwrap_or_default();
            format!("{path}{line}: {}", error.message())
        })?;
        let options = table.get_ref().iter().map(|(name, value)| {
            (name.get_ref().replace('_', "-"), line_at(name.span().start), words(value.get_ref()))
        });
        Ok(Self { options: options.collect(), path })
    }

    /// Names of the options in it.
    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        self.options.iter().map(|(name, ..)| name)
    }

    /// File and line of an option.
    pub(super) fn origin(&self, name: &str) -> String {
        let line = self.options.iter().find(|(key, ..)| key == name).map_or(1, |(_, line, _)| *line);
        format!("{}:{line}", self.path)
    }

    /// Values of an option as they would be typed.
    ///
    /// # Errors
    /// For people: a value of a kind that cannot be typed.
    pub(super) fn values(&self, name: &str) -> Result<Option<Vec<String>>, String> {
        let found = self.options.iter().find(|(key, ..)| key == name);
        let values = found.map(|(.., values)| values.clone()).transpose();
        values.map_err(|error| format!("{}: {error}", self.origin(name)))
    }
}

fn words(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    match value {
        DeValue::Array(all) => all.iter().map(|value| word(value.get_ref()).map(Cow::into_owned)).collect(),
        DeValue::Table(all) => {
            let pair = |(name, value): (&toml::Spanned<_>, &toml::Spanned<_>)| {
                Ok(format!("{}={}", name.get_ref(), word(value.get_ref())?))
            };
            all.iter().map(pair).collect()
        }
        value => word(value).map(|word| vec![word.into_owned()]),
    }
}

fn word<'a>(value: &'a DeValue<'_>) -> Result<Cow<'a, str>, String> {
    match value {
        DeValue::String(text) => Ok(Cow::Borrowed(text)),
        DeValue::Integer(number) => Ok(number.to_string().into()),
        DeValue::Float(number) => Ok(number.to_string().into()),
        DeValue::Boolean(yes) => Ok(yes.to_string().into()),
        other => Err(format!("a {} is not expected here", other.type_str())),
    }
}
