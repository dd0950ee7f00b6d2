//! Configuration: YAML in, a validated [`Config`] out.
//!
//! A file names only what differs from the defaults in [`schema`]; `--set section.key=value`
//! overrides come on top. A file in the format of the authors' PyTorch code is recognised by its
//! sections and translated (`authors`). `load` reads both, `validate` checks that the numbers make sense
//! together. Every problem found is reported, one line each, with the file and line, the key and
//! the mend.

mod authors;
mod load;
pub mod names;
pub mod schema;
mod tree;
mod validate;

use std::io::Read;
use std::path::Path;

pub use authors::{Authors, AuthorsOptions};
pub use schema::Config;

use crate::files::text_of;
use crate::{Error, Result};

/// The recipe of the built-in demo: synthetic shapes, a small network, minutes on a CPU.
const DEMO: &str = include_str!("../../configs/demo.yaml");

/// Bytes of a configuration at most; /dev/zero has no end.
const LARGEST: u64 = 1 << 24;

/// The text of a configuration file.
fn read_text(path: &Path) -> Result<String> {
    let read = || {
        let mut bytes = Vec::new();
        let mut file = std::fs::File::open(path)?.take(LARGEST + 1);
        file.read_to_end(&mut bytes).map(|_| bytes)
    };
    let bytes = read().map_err(|e| Error::io(path, "read the configuration", e))?;
    let wrong =
        |problem: String, mend: &str| Err(Error::input(path.display().to_string(), problem, mend));
    if bytes.len() as u64 > LARGEST {
        let problem = format!("has more than {} MiB", LARGEST >> 20);
        return wrong(problem, "name a configuration in YAML");
    }
    match text_of(&bytes) {
        Some(text) => Ok(text),
        None => wrong(
            "is not text in UTF-8".into(),
            "name a configuration in YAML, saved as UTF-8",
        ),
    }
}

impl Config {
    /// The defaults, overlaid with the YAML file at `path` and then with `sets`, in order.
    ///
    /// Each of `sets` reads `section.key=value` with `value` in YAML. The result is typed but not
    /// yet checked for sense: see [`Config::validate`]. What is to be said about a file in the
    /// authors' format goes to the log (with feature `cli`).
    ///
    /// # Errors
    /// All of: an unreadable file, broken YAML, unknown keys (with the nearest known one), values
    /// of the wrong type, malformed overrides.
    pub fn load(path: Option<&Path>, sets: &[String]) -> Result<Config> {
        let (config, authors) = Config::read(path, sets, AuthorsOptions::default())?;
        #[cfg(feature = "cli")]
        authors.iter().for_each(Authors::log);
        #[cfg(not(feature = "cli"))]
        let _ = authors;
        Ok(config)
    }

    /// As [`Config::load`], with a choice for what a file in the authors' format leaves open, and
    /// with what such a file says besides; `None` for a file of our own.
    ///
    /// # Errors
    /// As [`Config::load`], and options given for a file of our own.
    pub fn read(
        path: Option<&Path>,
        sets: &[String],
        options: AuthorsOptions,
    ) -> Result<(Config, Option<Authors>)> {
        let Some(path) = path else {
            return load::resolve("defaults", "", sets, options);
        };
        let text = read_text(path)?;
        load::resolve(&path.display().to_string(), &text, sets, options)
    }

    /// As [`Config::load`] on YAML that lies in no file of its own; `origin` names it in messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(origin: &str, text: &str, sets: &[String]) -> Result<Config> {
        let options = AuthorsOptions::default();
        load::resolve(origin, text, sets, options).map(|(config, _)| config)
    }

    /// The built-in demo recipe overlaid with `sets`.
    ///
    /// # Errors
    /// As [`Config::load`], for `sets`.
    pub fn demo(sets: &[String]) -> Result<Config> {
        Config::parse("built-in demo.yaml", DEMO, sets)
    }

    /// The whole configuration as YAML, every default spelled out; [`Config::load`] reads it back
    /// to an equal value.
    ///
    /// # Errors
    /// [`Error::Internal`] when the serialiser fails.
    pub fn to_yaml(&self) -> Result<String> {
        serde_saphyr::to_string(self)
            .map_err(|e| Error::internal(format!("cannot write the configuration as YAML: {e}")))
    }

    /// As [`Config::to_yaml`], but only what differs from the defaults.
    ///
    /// # Errors
    /// As [`Config::to_yaml`].
    pub fn to_brief_yaml(&self) -> Result<String> {
        load::differences(self).and_then(|value| {
            serde_saphyr::to_string(&value).map_err(|e| {
                Error::internal(format!("cannot write the configuration as YAML: {e}"))
            })
        })
    }
}
