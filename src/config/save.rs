//! From a [`Config`] back to YAML: what a run folder and a checkpoint keep.

use super::schema::Config;
use crate::{Error, Result};

impl Config {
    /// The whole configuration as YAML, every default spelled out; [`Config::load`] reads it back
    /// to an equal value.
    ///
    /// # Errors
    /// [`Error::Internal`] when the serialiser fails.
    pub fn to_yaml(&self) -> Result<String> {
        serde_saphyr::to_string(self)
            .map_err(|e| Error::internal(format!("cannot write the configuration as YAML: {e}")))
    }
}
