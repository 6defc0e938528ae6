//! Check of the licences and banned crates of `deny.toml` with cargo alone. `cargo deny` checks more where it
//! is installed.

use std::collections::BTreeSet;

use crate::shell::{Context, Error, Result, cargo, read, root};

/// Fails when a dependency, on any platform, has a licence that is not allowed, or is banned.
pub(crate) fn check() -> Result {
    let text = std::fs::read_to_string(root().join("deny.toml")).context("deny.toml")?;
    let allowed = quoted(&text, "allow = [");
    let banned = quoted(&text, "deny = [");
    let excepted = exceptions(&text);
    let mut tree = cargo(&["tree", "--workspace", "--all-features", "--target", "all", "--prefix", "none"]);
    let packages = read(tree.args(["--no-dedupe", "--format", "{p}\t{l}"]))?;
    let mut problems = BTreeSet::new();
    // A mark tells packages that were listed before.
    let lines = packages.lines().map(|line| line.trim_end_matches(" (*)")).filter(|line| !line.is_empty());
    for line in lines {
        let (package, licence) = line.split_once('\t').unwrap_or((line, ""));
        let name = package.split(' ').next().unwrap_or(package);
        if banned.contains(name) {
            problems.insert(format!("{package} is banned by deny.toml"));
        }
        let mut allowed = allowed.clone();
        allowed.extend(excepted.iter().filter(|(of, _)| *of == name).map(|(_, licence)| licence));
        if !Expression::of(licence).satisfied_by(&allowed) {
            problems.insert(format!("{package} has the licence {licence:?}, which deny.toml does not allow"));
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Error::new(problems.into_iter().collect::<Vec<_>>().join("\n"))),
    }
}

/// The first quoted text of each line of a list.
fn quoted<'a>(text: &'a str, list: &str) -> BTreeSet<&'a str> {
    let lines = text.lines().skip_while(|line| *line != list).skip(1).take_while(|line| *line != "]");
    lines.filter_map(|line| line.split('"').nth(1)).collect()
}

/// Licences that single crates may have, with the crates.
fn exceptions(text: &str) -> Vec<(&str, &str)> {
    let lines =
        text.lines().skip_while(|line| *line != "exceptions = [").skip(1).take_while(|line| *line != "]");
    let pairs = lines.map(|line| line.split('"').skip(1).step_by(2));
    pairs.filter_map(|mut texts| Some((texts.next()?, texts.next()?))).collect()
}

/// Rest of an SPDX expression that is being parsed.
struct Expression<'a>(std::iter::Peekable<std::vec::IntoIter<&'a str>>);

impl<'a> Expression<'a> {
    fn of(text: &'a str) -> Self {
        // An old form separates alternatives by a slash.
        let words = text.split_inclusive(['(', ')', '/', ' ']).flat_map(|word| match word.chars().last() {
            Some('(' | ')' | '/' | ' ') => {
                let (before, mark) = word.split_at(word.len() - 1);
                [before, mark.trim()]
            }
            _ => [word, ""],
        });
        Self(words.filter(|word| !word.is_empty()).collect::<Vec<_>>().into_iter().peekable())
    }

    fn satisfied_by(mut self, allowed: &BTreeSet<&str>) -> bool {
        self.any(allowed) && self.0.next().is_none()
    }

    fn any(&mut self, allowed: &BTreeSet<&str>) -> bool {
        let mut good = self.all(allowed);
        while self.0.next_if(|word| matches!(*word, "OR" | "/")).is_some() {
            good |= self.all(allowed);
        }
        good
    }

    fn all(&mut self, allowed: &BTreeSet<&str>) -> bool {
        let mut good = self.one(allowed);
        while self.0.next_if_eq(&"AND").is_some() {
            good &= self.one(allowed);
        }
        good
    }

    fn one(&mut self, allowed: &BTreeSet<&str>) -> bool {
        match self.0.next() {
            Some("(") => self.any(allowed) & self.0.next_if_eq(&")").is_some(),
            Some(licence) => match self.0.next_if_eq(&"WITH").and_then(|_| self.0.next()) {
                Some(exception) => allowed.contains(format!("{licence} WITH {exception}").as_str()),
                None => allowed.contains(licence),
            },
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_may_have_a_licence_of_its_own() {
        let text = "exceptions = [\n  # why\n  { crate = \"a\", allow = [\"MPL-2.0\"] },\n]\n{ crate = \"b\", allow = [\"X\"] }";
        assert_eq!(exceptions(text), [("a", "MPL-2.0")]);
    }

    #[test]
    fn expressions_are_read_as_spdx_means_them() {
        let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
        for good in [
            "MIT",
            "MIT/GPL-2.0",
            "GPL-2.0 OR MIT",
            "MIT AND ISC",
            "(GPL-2.0 OR MIT) AND ISC",
            "Apache-2.0 WITH LLVM-exception",
            "GPL-2.0 AND X OR MIT",
        ] {
            assert!(Expression::of(good).satisfied_by(&allowed), "{good}");
        }
        for bad in [
            "",
            "GPL-2.0",
            "MIT AND GPL-2.0",
            "Apache-2.0",
            "Apache-2.0 WITH X",
            "(MIT",
            "MIT)",
            "MIT ISC",
            "(MIT OR ISC) AND GPL-2.0",
        ] {
            assert!(!Expression::of(bad).satisfied_by(&allowed), "{bad}");
        }
    }
}
