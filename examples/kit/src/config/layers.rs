//! Options of a service from three sources: flags, environment, a file. The service's own command line is the
//! schema and the only validator: variables and keys are named after its flags, and their values are read as
//! if they had been typed.
//!
//! Precedence, for each option as a whole: flag, variable, file, default. The service `manager` of a style
//! with variables `ORCH_...` reads `--node-timeout` from `ORCH_MANAGER_NODE_TIMEOUT`, and from the key
//! `node-timeout` of the TOML file that `--config` names. A flag that may be given several times is a list in
//! the file, and words separated by commas in a variable; one of the form `NAME=VALUE` may be a table. Paths
//! are those that would be typed, relative to the working directory.

use std::{ffi::OsString, path::PathBuf};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, Error,
    error::{ContextKind, ContextValue, ErrorKind},
    parser::ValueSource,
};

use super::{file::File, variable};
use crate::style::Style;

/// The option `--config`, for the options of a service.
#[derive(Clone, Debug, Args)]
pub struct ConfigFile {
    /// TOML file with further options by their long names.
    // The parser of a service adds the names of its variables.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// A value from another source than the command line.
struct Extra {
    /// Long name of the option.
    name: String,
    /// Words for the command line.
    words: Vec<OsString>,
    /// Variable, or file and line.
    origin: String,
}

/// Parses the command line of a program that is a service.
///
/// # Errors
/// As clap's own, with the source of what is wrong.
pub fn parse(
    style: &Style,
    service: &str,
    command: Command,
    argv: Vec<OsString>,
) -> Result<ArgMatches, Error> {
    let command = describe(command, style, service);
    let given = command.clone().ignore_errors(true).try_get_matches_from(&argv)?;
    let extras = extras(style, service, &command, &given)?;
    parse_with(command, argv, &extras)
}

/// Parses the command line of a program some of whose subcommands are services.
///
/// # Errors
/// As [`parse`].
pub fn parse_subcommands(
    style: &Style,
    services: &[&str],
    mut command: Command,
    argv: Vec<OsString>,
) -> Result<ArgMatches, Error> {
    for service in services {
        command = command.mut_subcommand(service, |command| describe(command, style, service));
    }
    let given = command.clone().ignore_errors(true).try_get_matches_from(&argv)?;
    let service = given.subcommand().filter(|(name, _)| services.contains(name));
    let extras = match service.and_then(|(name, given)| Some((name, given, command.find_subcommand(name)?))) {
        Some((name, given, service)) => extras(style, name, service, given)?,
        None => Vec::new(),
    };
    parse_with(command, argv, &extras)
}

/// Says in the help of `--config` which variables the service reads.
fn describe(command: Command, style: &Style, service: &str) -> Command {
    let prefix = prefix(style, service);
    let help = format!(
        "TOML file with further options by their long names. Each option can also be given by a variable, {prefix}_ and its name \
         in capitals with underscores. A flag comes before a variable, and that before the file. [default: {prefix}_CONFIG]"
    );
    command.mut_arg("config", |arg| arg.help(help))
}

/// Beginning of the names of a service's variables: `ORCH_MANAGER`.
fn prefix(style: &Style, service: &str) -> String {
    style.variable(&spelled(service))
}

fn parse_with(mut command: Command, mut argv: Vec<OsString>, extras: &[Extra]) -> Result<ArgMatches, Error> {
    // Services have no arguments, which would begin behind two dashes.
    let end = argv.iter().position(|word| word == "--").unwrap_or(argv.len());
    let typed = argv.clone();
    argv.splice(end..end, extras.iter().flat_map(|extra| extra.words.iter().cloned()));
    command.try_get_matches_from_mut(argv).map_err(|error| {
        let named =
            extras.iter().find(|extra| is_about(&error, &extra.name)).map(|extra| extra.origin.clone());
        // What is missing for an extra option is not named by it.
        let by_extras = || command.clone().try_get_matches_from(typed).is_ok();
        let all = || extras.iter().map(|extra| extra.origin.as_str()).collect::<Vec<_>>().join(", ");
        match named.or_else(|| (!extras.is_empty() && by_extras()).then(all)) {
            None => error,
            Some(origin) => {
                let text = error.to_string();
                let text = text.strip_prefix("error: ").unwrap_or(&text);
                let detail = text.split("\n\n").next().unwrap_or_default();
                command.error(error.kind(), format!("{origin}: {detail}"))
            }
        }
    })
}

/// Whether the error names the option.
fn is_about(error: &Error, name: &str) -> bool {
    let flag = format!("--{name}");
    let names = |text: &str| text.split([' ', '=']).next() == Some(flag.as_str());
    [ContextKind::InvalidArg, ContextKind::PriorArg].into_iter().any(|kind| match error.get(kind) {
        Some(ContextValue::String(text)) => names(text),
        Some(ContextValue::Strings(texts)) => texts.iter().any(|text| names(text)),
        _ => false,
    })
}

/// Options that were not given on the command line, from the environment and the file.
fn extras(style: &Style, service: &str, command: &Command, given: &ArgMatches) -> Result<Vec<Extra>, Error> {
    let wrong = |text: String| command.clone().error(ErrorKind::InvalidValue, text);
    let prefix = prefix(style, service);
    let config_variable = format!("{prefix}_CONFIG");
    let file = match (given.get_one::<PathBuf>("config"), variable(&config_variable)) {
        (Some(path), _) => Some(File::read(path)),
        (None, Some(path)) => {
            let named = |error| format!("{config_variable}: {error}");
            Some(File::read(path.as_ref()).map_err(named))
        }
        (None, None) => None,
    };
    let file = file.transpose().map_err(wrong)?;
    let options = || command.get_arguments().filter_map(|arg| Some((arg, option_name(arg)?)));
    let known: Vec<&str> = options().map(|(_, name)| name).collect();
    if let Some(unknown) = file.iter().flat_map(File::keys).find(|key| !known.contains(&&***key)) {
        let origin = file.as_ref().map(|file| file.origin(unknown)).unwrap_or_default();
        return Err(wrong(format!(
            "{origin}: there is no option {unknown:?}; there are {}",
            known.join(", ")
        )));
    }
    let is_typed = |arg: &Arg| given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let mut extras = Vec::new();
    for (arg, name) in options().filter(|(arg, _)| !is_typed(arg)) {
        let of_variable = values_of(&format!("{prefix}_{}", spelled(name)), arg).map_err(wrong)?;
        let of_file = || match &file {
            Some(file) => {
                Ok(file.values(name, takes_several(arg))?.map(|values| (values, file.origin(name))))
            }
            None => Ok(None),
        };
        let found = of_variable.map_or_else(of_file, |found| Ok(Some(found))).map_err(wrong)?;
        let Some((values, origin)) = found else { continue };
        let words = words(arg, name, values).map_err(|error| wrong(format!("{origin}: {error}")))?;
        extras.push(Extra { name: name.to_owned(), words, origin });
    }
    Ok(extras)
}

/// Values of a variable, and its name as their origin.
fn values_of(name: &str, arg: &Arg) -> Result<Option<(Vec<String>, String)>, String> {
    if std::env::var_os(name).is_some_and(|value| value.to_str().is_none()) {
        return Err(format!("{name}: it is not UTF-8"));
    }
    let Some(text) = variable(name) else { return Ok(None) };
    let words = match takes_several(arg) {
        true => text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(Into::into).collect(),
        false => vec![text.trim().to_owned()],
    };
    Ok(Some((words, name.to_owned())))
}

/// Long name of an option that other sources may give.
fn option_name(arg: &Arg) -> Option<&str> {
    let name = arg.get_long()?;
    let about_the_program = ["help", "version", "config"].contains(&name);
    (!about_the_program && !arg.is_global_set()).then_some(name)
}

fn takes_several(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// The option as it would be typed.
fn words(arg: &Arg, name: &str, values: Vec<String>) -> Result<Vec<OsString>, &'static str> {
    if !arg.get_action().takes_values() {
        return match values.as_slice() {
            [value] if value == "true" => Ok(vec![format!("--{name}").into()]),
            [value] if value == "false" => Ok(Vec::new()),
            _ => Err("it must be true or false"),
        };
    }
    Ok(values.into_iter().map(|value| format!("--{name}={value}").into()).collect())
}

/// In the form of a variable's name.
fn spelled(name: &str) -> String {
    name.replace('-', "_").to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use clap::Parser;

    use super::*;
    use crate::style::tests::STYLE;

    #[derive(Debug, Parser)]
    struct Options {
        #[command(flatten)]
        file: ConfigFile,
        #[arg(long, default_value_t = 1)]
        tasks: u32,
        #[arg(long, conflicts_with = "drain")]
        keep: bool,
        #[arg(long)]
        drain: bool,
        #[arg(long)]
        label: Vec<String>,
        #[arg(long, requires = "needed")]
        needy: Option<u32>,
        #[arg(long)]
        needed: Option<u32>,
    }

    /// Options of this file and these flags, in short; or the error.
    fn read(file: &str, flags: &[&str]) -> Result<String, String> {
        use clap::{CommandFactory as _, FromArgMatches as _};
        let mut on_disk = tempfile::NamedTempFile::new().unwrap();
        on_disk.write_all(file.as_bytes()).unwrap();
        let path = on_disk.path().to_str().unwrap();
        let argv = [&["x", "--config", path], flags].concat().iter().map(Into::into).collect();
        let matches = parse(&STYLE, "unit-test", Options::command(), argv);
        let short = |error: Error| error.to_string().replace(path, "FILE").lines().next().unwrap().to_owned();
        let options = Options::from_arg_matches(&matches.map_err(short)?).map_err(short)?;
        assert!(options.file.config.is_some());
        let Options { tasks, keep, drain, label, .. } = options;
        Ok(format!("{tasks} {keep} {drain} {}", label.join(" ")))
    }

    #[test]
    fn a_flag_has_precedence_over_the_file_and_the_file_over_the_default() {
        assert_eq!(read("", &[]).unwrap(), "1 false false ");
        assert_eq!(read("tasks = 7\nkeep = true", &[]).unwrap(), "7 true false ");
        assert_eq!(read("tasks = 7\nkeep = false", &["--tasks", "9", "--drain"]).unwrap(), "9 false true ");
        assert_eq!(read("label = [\"a=1\", \"b=2\"]", &[]).unwrap(), "1 false false a=1 b=2");
        assert_eq!(read("[label]\na = 1\nb = \"x y\"", &[]).unwrap(), "1 false false a=1 b=x y");
        assert_eq!(read("label = [\"a=1\"]", &["--label", "c=3"]).unwrap(), "1 false false c=3");
        assert_eq!(read("tasks = 7", &["--keep", "--"]).unwrap(), "7 true false ");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_file_and_line() {
        for (file, flags, words) in [
            ("\n\ntasks = \"many\"", &[][..], "FILE:3: invalid value 'many' for '--tasks <TASKS>'"),
            ("tasks = -1", &[], "FILE:1: invalid value '-1'"),
            (
                "taks = 1",
                &[],
                "FILE:1: there is no option \"taks\"; there are tasks, keep, drain, label, needy",
            ),
            ("config = \"x\"", &[], "FILE:1: there is no option \"config\""),
            ("\nkeep = 3", &[], "FILE:2: it must be true or false"),
            ("tasks = 1979-05-27", &[], "FILE:1: a datetime is not expected here"),
            ("tasks = 1\ntasks = 2", &[], "FILE:2: duplicate key"),
            ("tasks = ", &[], "FILE:1: "),
            ("tasks = 1\n\nta_sks = 2", &[], "FILE:3: there is no option"),
            ("some-thing = 1\nsome_thing = 2", &[], "FILE:2: some-thing is there already, in line 1"),
            ("tasks = []", &[], "FILE:1: it takes one value"),
            ("\ntasks = { a = 1 }", &[], "FILE:2: it takes one value"),
            ("\nneedy = 1", &[], "FILE:2: the following required arguments were not provided"),
            ("keep = true", &["--drain"], "FILE:1: the argument '--drain' cannot be used with '--keep'"),
        ] {
            let error = read(file, flags).unwrap_err();
            assert!(error.contains(words), "{file:?}: {error}");
        }
        let argv = ["x", "--config", "/nowhere/at/all"].map(Into::into).into();
        let missing = parse(&STYLE, "unit-test", <Options as clap::CommandFactory>::command(), argv);
        assert!(missing.unwrap_err().to_string().contains("/nowhere/at/all: No such file"));
    }
}
