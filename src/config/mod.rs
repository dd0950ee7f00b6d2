//! Configuration: YAML in, a validated [`schema::Config`] out.

pub mod schema;
