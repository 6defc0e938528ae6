//! A TOML file of options.

use std::{borrow::Cow, fmt, fs, io::Read as _, path::Path};

use toml::de::{DeTable, DeValue};

/// Options by name, with the lines on which they are.
#[derive(Debug)]
pub(super) struct File {
    path: String,
    options: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    line: usize,
    value: Value,
}

/// Words of a value, or what is wrong with it.
#[derive(Clone, Debug)]
enum Value {
    One(String),
    Several(Vec<String>),
    Wrong(String),
}

/// The largest file, in bytes.
const BYTES_MAX: u64 = 1 << 20;

impl File {
    /// Reads a file. Underscores in names count as dashes.
    ///
    /// # Errors
    /// For people: it cannot be read, or is not TOML.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let failed = |error: &dyn fmt::Display| format!("{}: {error}", path.display());
        let file = fs::File::open(path).map_err(|error| failed(&error))?;
        if !file.metadata().map_err(|error| failed(&error))?.is_file() {
            return Err(failed(&"it is no file"));
        }
        let mut text = String::new();
        file.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| failed(&error))?;
        match text.len() as u64 > BYTES_MAX {
            true => Err(failed(&"it is larger than a file of options can be")),
            false => Self::parse(path.display().to_string(), &text),
        }
    }

    fn parse(path: String, text: &str) -> Result<Self, String> {
        let line_at = |at: usize| text.get(..at).unwrap_or(text).matches('\n').count() + 1;
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map(|span| format!(":{}", line_at(span.start))).unwrap_or_default();
            format!("{path}{line}: {}", error.message())
        })?;
        let mut options: Vec<Entry> = Vec::new();
        for (name, value) in table.get_ref() {
            let (name, line) = (name.get_ref().replace('_', "-"), line_at(name.span().start));
            if let Some(first) = options.iter().find(|entry| entry.name == name) {
                return Err(format!("{path}:{line}: {name} is there already, in line {}", first.line));
            }
            options.push(Entry { name, line, value: words(value.get_ref()) });
        }
        options.sort_by_key(|entry| entry.line);
        Ok(Self { options, path })
    }

    /// Names of the options in it.
    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        self.options.iter().map(|entry| &entry.name)
    }

    /// File and line of an option.
    pub(super) fn origin(&self, name: &str) -> String {
        let line = self.entry(name).map_or(1, |entry| entry.line);
        format!("{}:{line}", self.path)
    }

    /// Values of an option as they would be typed. `several` is whether it may have more than one.
    ///
    /// # Errors
    /// For people: a value of a kind that cannot be typed.
    pub(super) fn values(&self, name: &str, several: bool) -> Result<Option<Vec<String>>, String> {
        let Some(entry) = self.entry(name) else { return Ok(None) };
        match entry.value.clone() {
            Value::One(word) => Ok(Some(vec![word])),
            Value::Several(words) if several => Ok(Some(words)),
            Value::Several(_) => Err(format!("{}: it takes one value", self.origin(name))),
            Value::Wrong(error) => Err(format!("{}: {error}", self.origin(name))),
        }
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.options.iter().find(|entry| entry.name == name)
    }
}

fn words(value: &DeValue<'_>) -> Value {
    let several = |words: Result<Vec<String>, String>| words.map_or_else(Value::Wrong, Value::Several);
    match value {
        DeValue::Array(all) => {
            several(all.iter().map(|value| word(value.get_ref()).map(Cow::into_owned)).collect())
        }
        DeValue::Table(all) => {
            let pair = |(name, value): (&toml::Spanned<_>, &toml::Spanned<_>)| {
                Ok(format!("{}={}", name.get_ref(), word(value.get_ref())?))
            };
            several(all.iter().map(pair).collect())
        }
        value => word(value).map_or_else(Value::Wrong, |word| Value::One(word.into_owned())),
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
