//! The accounts file: who may call. `docs/cli.md` describes it.
//!
//! Nothing that goes wrong with it is told with the text of the file, which holds secrets.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de};
use weir_engine::{Account, AccountError};

const FILE_BYTES_MAX: u64 = 8 << 20;
/// The permissions to read and to write for users who are neither the owner nor of the group.
const OTHERS: u32 = 0o006;

/// Why an accounts file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountsError {
    /// The file cannot be read.
    #[error("cannot read the accounts file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Every user of this machine may read the secrets, or add an account.
    #[error("every user of this machine may read or change the accounts file {}: chmod o-rw it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// The file is no TOML, or not of the form that is described.
    #[error("{}:{line}: {message}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The accounts break a rule.
    #[error("the accounts file {}: {source}", path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// The rule.
        source: AccountError,
    },
}

const NOT_A_TEXT: &str = "a name and a secret are texts in quotes";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Accounts {
    #[serde(default)]
    account: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Text,
    secret: Text,
}

/// A text whose faults are told without it.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text in quotes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Text, E> {
                Err(E::custom(NOT_A_TEXT))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Text, E> {
                self.visit_i64(0)
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Text, E> {
                self.visit_i64(0)
            }
        }
        from.deserialize_any(Visitor)
    }
}

/// Reads the accounts of a file.
///
/// # Errors
///
/// If it cannot be read, or by too many, or is not of the form that is described.
pub fn read(path: &Path) -> Result<Vec<Account>, AccountsError> {
    let failed = |source| AccountsError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.permissions().mode() & OTHERS != 0 {
        return Err(AccountsError::Open { path: path.to_owned() });
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 8 MiB")));
    }
    parse(&text, path)
}

fn parse(text: &str, path: &Path) -> Result<Vec<Account>, AccountsError> {
    let accounts: Accounts = toml::from_str(text).map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        AccountsError::Form { path: path.to_owned(), line, message: told(error.message()) }
    })?;
    let entries = accounts.account.into_iter();
    Ok(entries.map(|Entry { name, secret }| Account { name: name.0, secret: secret.0 }).collect())
}

/// Returns the message, if it is of those that name keys alone.
fn told(message: &str) -> String {
    let known = ["missing field", "unknown field", "duplicate", NOT_A_TEXT];
    match message.lines().next().filter(|line| known.iter().any(|start| line.starts_with(start))) {
        Some(line) => line.to_owned(),
        None => "this is not TOML, or has not the form that docs/cli.md describes".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn accounts_are_read() {
        let text =
            "[[account]]\nname = \"ann\"\nsecret = \"12345678\"\n[[account]]\nsecret = 'x'\nname = 'b'\n";
        let names: Vec<_> =
            parse(text, Path::new("a")).unwrap().into_iter().map(|a| (a.name, a.secret)).collect();
        assert_eq!(names, [("ann".into(), "12345678".into()), ("b".into(), "x".into())]);
    }

    #[test]
    fn no_fault_tells_a_secret() {
        for (text, line) in [
            ("[[account]]\nname = \"ann\"\nsecret = \"hush-hush\n", 3),
            ("[[account]]\nname = \"ann\"\nsecret = hush-hush\n", 3),
            ("[[account]]\nname = \"ann\"\nsecret = 424242\n", 3),
            ("[[account]]\nname = \"ann\"\nsecret = 42.4242\n", 3),
            ("[[account]]\nname = \"ann\"\nsecret = [\"hush-hush\"]\n", 3),
            ("[[account]]\nname = \"ann\"\nsecret = 4242-01-01\n", 3),
            ("[[account]]\nname = \"ann\"\nsecret = { hush-hush = 1 }\n", 3),
            ("[[account]]\nname = \"ann\"\nsecret = \"hush-hush\"\npassword = \"hush-hush\"\n", 4),
            ("[[account]]\nname = \"ann\"\n", 1),
            ("account = \"hush-hush\"", 1),
        ] {
            let error = parse(text, Path::new("a.toml")).unwrap_err().to_string();
            assert!(error.starts_with(&format!("a.toml:{line}: ")), "{text}: {error}");
            assert!(!error.contains("hush") && !error.contains("4242"), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_that_everybody_may_read_or_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("accounts.toml");
        fs::write(&path, "[[account]]\nname = \"ann\"\nsecret = \"12345678\"\n").unwrap();
        for mode in [0o644, 0o602, 0o606] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(AccountsError::Open { .. })), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1);
        assert!(read(dir.path()).is_err());
    }
}
